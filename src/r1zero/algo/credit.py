r"""Credit allocation: how a response's advantage is shared out over its tokens.

A rule gives each response a row of token weights, and token t of response i has the advantage
A_i * weight_it. Uniform, all ones, is what GRPO and Dr. GRPO do. A rule of your own is a function

    def my_rule(batch, **params) -> list of float tensors, one [T_i] per response

named by its import path in ``algo.credit``. ``batch`` is a ``RolloutBatch`` with its advantages. A rule with
a second parameter ``decode`` is also given a function that turns token ids into text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import torch

from r1zero.algo.own import FaultyRule, call_with_two, private, takes_two
from r1zero.batch import RolloutBatch

Decode = Callable[[Sequence[int]], str]
Credit = Callable[..., list[torch.Tensor]]

ANSWER = re.compile(r"\\boxed\s*\{|<answer>")


def uniform(rollout: RolloutBatch, decode: Decode) -> list[torch.Tensor]:
    """Every token alike: the paper's rule."""
    return [torch.ones(len(c.ids)) for c in rollout.completions]


def length_aware(rollout: RolloutBatch, decode: Decode, power: float = 0.5, most: float = 2.0) -> list[torch.Tensor]:
    """Blame long wrong answers more and praise long right ones less: the opposite of GRPO's length bias.

    With L the mean length of the group, a wrong answer's tokens weigh (T_i / L) ** power, a right one's
    (L / T_i) ** power, never more than ``most`` and never less than its reciprocal.

    Args:
        rollout: the responses.
        decode: not used.
        power: 0 is uniform.
        most: bound of the weights, at least 1.
    """
    lengths = rollout.lengths
    groups = lengths.view(-1, rollout.group_size)
    relative = (groups / groups.mean(dim=1, keepdim=True)).flatten() ** power
    weights = torch.where(rollout.right, 1 / relative, relative).clamp(1 / most, most)
    return [torch.full((len(c.ids),), float(w)) for c, w in zip(rollout.completions, weights, strict=True)]


def answer_span(rollout: RolloutBatch, decode: Decode, share: float = 0.5) -> list[torch.Tensor]:
    r"""Give the final answer a fixed share of the response's credit, however long the working is.

    The span runs from the last ``\boxed{`` or ``<answer>`` to the end. Weights add up to T_i, as uniform
    ones do. A response without an answer, or with nothing else, is credited uniformly.

    Args:
        rollout: the responses.
        decode: token ids -> text.
        share: of the credit, in (0, 1).
    """
    if not 0 < share < 1:
        raise ValueError(f"answer_span: share={share} must lie between 0 and 1")
    return [_span_weights(c.ids, decode, share) for c in rollout.completions]


def _span_weights(ids: Sequence[int], decode: Decode, share: float) -> torch.Tensor:
    weights = torch.ones(len(ids))
    found = list(ANSWER.finditer(decode(ids)))
    if not found:
        return weights
    # The first token that touches the span: the shortest prefix whose text reaches past the span's start.
    low, high = 0, len(ids)
    while low < high:
        middle = (low + high) // 2
        if len(decode(ids[: middle + 1])) > found[-1].start():
            high = middle
        else:
            low = middle + 1
    inside = len(ids) - low
    if low and inside:
        weights[:low] = (1 - share) * len(ids) / low
        weights[low:] = share * len(ids) / inside
    return weights


CREDITS: dict[str, Credit] = {"uniform": uniform, "length_aware": length_aware, "answer_span": answer_span}


def allocate(rule: Credit, rollout: RolloutBatch, decode: Decode, params: dict[str, object]) -> list[torch.Tensor]:
    """Call a rule and check what it gives.

    Returns:
        float32 [T_i] for each response.

    Raises:
        FaultyRule: it gave another number of rows or tokens, or a weight that is not finite.
    """
    own, two = private(rollout), takes_two(rule, "decode", params)
    made = call_with_two(rule, own, "decode", decode, params) if two else rule(own, **params)
    weights = [torch.as_tensor(row, dtype=torch.float32) for row in made]
    if len(weights) != len(rollout.completions):
        raise FaultyRule(f"the credit rule gave {len(weights)} rows for {len(rollout.completions)} responses")
    for i, (row, completion) in enumerate(zip(weights, rollout.completions, strict=True)):
        if row.shape != (len(completion.ids),) or not torch.isfinite(row).all():
            raise FaultyRule(
                f"the credit rule gave response {i} weights of shape {tuple(row.shape)}; it needs "
                f"{len(completion.ids)} finite ones"
            )
    return weights
