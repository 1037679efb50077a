"""Least seconds that a step's work takes on this machine, from what the machine was measured to do."""

from __future__ import annotations

from typing import Any

from r1zero.lab.plan.hardware import Shape


def floors(shape: Shape, machine: dict[str, float], step: dict[str, float], case: dict[str, Any]) -> dict[str, float]:
    """Least seconds of rollout and learner.

    Learner: 6 operations per parameter and token for everything that computes (prompt and response of the
    responses that can move the policy), the head on generated tokens alone. Rollout: every decoding step reads all
    weights once, the longest response has as many steps as tokens; and 2 operations per parameter and token.

    Args:
        shape: of the model.
        machine: ``flops`` and ``bandwidth``.
        step: ``tokens`` generated, ``prompt_tokens`` beside them, ``longest`` response, ``active`` share.
        case: ``dtype`` of the case.
    """
    width = 4 if case["dtype"] == "float32" else 2
    body = shape.params - shape.embedding * (1 if shape.tied else 2)
    generated, active = step["tokens"], step["active"]
    # The head of the prompt's tokens is never needed; the embedding is looked up, not multiplied.
    learn = 6 * active * (body * (generated + step["prompt_tokens"]) + shape.embedding * generated) / machine["flops"]
    reads = step["longest"] * width * (body + shape.embedding) / machine["bandwidth"]
    products = 2 * (body + shape.embedding) * generated / machine["flops"]
    return {"rollout": max(reads, products), "learn": learn}
