"""One rollout step again: its losses, gradients and AdamW updates, from recorded responses and weights."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch

from r1zero.errors import UserError, first_line
from r1zero.lab.audit.folder import RunFolder
from r1zero.lab.audit.model import Model, Weights
from r1zero.lab.audit.objective import Share, Tokens, advantages, learning_rate, overlong, share, value_of


@dataclass
class Replay:
    """What a rollout step must have given."""

    step: int
    rows: list[dict[str, Any]]
    rewards: list[float]
    """Graded ones, less the punishment of overlong responses and the KL to the reference."""
    kl_sizes: list[float]
    """Part of each reward that is KL, were its terms all of one sign: what its rounding is relative to."""
    advantages: list[float] | None
    """None: by a function of the user's own, taken as recorded."""
    minibatches: list[list[int]]
    before: Weights = field(default_factory=dict)
    after: Weights | None = None
    """None where the optimizer's state is not one that this recomputes."""
    losses: list[float] = field(default_factory=list)
    """Policy loss of each optimizer step; empty where the objective is the user's own."""
    sizes: list[float] = field(default_factory=list)
    """Sums of the absolute values of its terms."""
    norms: list[float] = field(default_factory=list)
    """Gradient norms before clipping."""
    kl: float = math.nan
    """Mean over tokens of the responses that the run's figures are taken over."""
    kl_size: float = 0.0
    """Mean |reference - policy| over tokens, which the estimates are made from."""
    rates: list[float] = field(default_factory=list)
    """Learning rate of each optimizer step."""
    sampler_difference: float = math.nan
    """Mean |sampler - recomputed| over the tokens that are trained on, nats."""


class Replayer:
    """Replays rollout steps of a run.

    Args:
        folder: the run.

    Raises:
        UserError: the model that the run started from is not where it was.
    """

    def __init__(self, folder: RunFolder) -> None:
        self.folder, self.algo, self.optim = folder, folder.algo, folder.optim
        try:
            self.model = Model(folder.config["model"], folder.rollout["temperature"])
        except (OSError, ValueError) as error:
            path = folder.config["model"]["path"]
            raise UserError(f"the run's model {path} can't be loaded: {first_line(error)}") from error

    def replay(self, step: int) -> Replay:
        """Recompute a rollout step.

        Raises:
            UserError: the folder does not hold what that needs.
        """
        rows = self.folder.step(step)
        weights, moments = self._start(step)
        old, difference = self._old(weights, rows)
        rewards, kl_sizes = self._rewards(rows, old)
        # The penalty is compared as part of the reward: division by a small deviation would magnify its rounding.
        given = [row["reward"] for row in rows] if self.algo.get("kl_in_reward") else rewards
        made = advantages(given, [sum(trained(row)) for row in rows], self.folder.rollout["group_size"], self.algo)
        members: list[list[int]] = [[] for _ in range(self.folder.updates)]
        for row in rows:
            for number in row["optimizer_steps"]:
                members[number].append(row["response"])
        result = Replay(step, rows, rewards, kl_sizes, made, members, sampler_difference=difference)
        first = self.folder.optimizer_steps_before(step)
        result.rates = [self._rate(first + number) for number in range(len(members))]
        used = [row["advantage"] for row in rows] if made is None else made
        if self.algo["loss"] != "policy_gradient":
            return result
        result.before = {name: tensor.detach().clone() for name, tensor in weights.items()}
        kl_values: list[tuple[float, float]] = []
        for number, minibatch in enumerate(members):
            for tensor in weights.values():
                tensor.grad = None
            loss, size = 0.0, 0.0
            num_tokens = sum(sum(trained(rows[i])) for i in minibatch)
            for i in minibatch:
                if not (used[i] or self.algo["kl_coef"] or self.algo["entropy_coef"]) or not any(trained(rows[i])):
                    continue  # adds zeros
                part = self._share(weights, rows[i], old[i], used[i], num_tokens)
                total = part.policy + self.algo["kl_coef"] * part.kl - self.algo["entropy_coef"] * part.entropy
                if isinstance(total, torch.Tensor) and total.requires_grad:
                    total.backward()
                loss += value_of(part.policy)
                size += part.size
                if rows[i].get("measured", True):
                    kl_values += part.kl_values
            result.losses.append(loss)
            result.sizes.append(size)
            result.norms.append(
                math.sqrt(sum(float((w.grad**2).sum()) for w in weights.values() if w.grad is not None))
            )
            if moments is not None:
                self._update(weights, moments, result.norms[-1], result.rates[number])
        if moments is not None:
            result.after = {name: tensor.detach() for name, tensor in weights.items()}
        if kl_values:
            result.kl, result.kl_size = (sum(values) / len(kl_values) for values in zip(*kl_values, strict=True))
        return result

    def _rate(self, number: int) -> float:
        """Learning rate of an optimizer step of the run."""
        return learning_rate(self.optim, number, self.folder.config["steps"] * self.folder.updates)

    def _start(self, step: int) -> tuple[Weights, dict[str, dict[str, Any]] | None]:
        """Weights before a step, in float64 and ready for gradients, and the optimizer's moments by name."""
        if step in self.folder.checkpoints():
            stored, states = self.folder.weights(step)
        else:
            stored, states = self.model.base, {}
        names = self.model.names(stored)
        weights = {name: stored[name].double().clone().requires_grad_() for name in names}
        moments: dict[str, dict[str, Any]] = {}
        for number, name in enumerate(names):
            state = states.get(number, states.get(f"policy.model.{name}", {}))
            if state and "exp_avg" not in state:
                return weights, None
            moments[name] = {
                "step": int(state.get("step", 0)),
                "mean": state["exp_avg"].double() if state else torch.zeros_like(weights[name].detach()),
                "square": state["exp_avg_sq"].double() if state else torch.zeros_like(weights[name].detach()),
            }
        return weights, moments

    @torch.no_grad()
    def _old(self, weights: Weights, rows: list[dict[str, Any]]) -> tuple[list[list[float]], float]:
        """Log-probabilities before the first update, and how far the sampler's are from them on average."""
        found, differences = [], []
        for row in rows:
            logprobs, _ = self.model.tokens(weights, row["prompt_ids"].tolist(), row["ids"].tolist())
            found.append([float(value) for value in logprobs])
            if row["logprobs"] is not None:
                both = zip(found[-1], row["logprobs"].tolist(), trained(row), strict=True)
                differences += [abs(a - b) for a, b, counts in both if counts]
        return found, sum(differences) / len(differences) if differences else math.nan

    def _rewards(self, rows: list[dict[str, Any]], old: list[list[float]]) -> tuple[list[float], list[float]]:
        """What the run must have learned from, and ``kl_sizes``."""
        limit, part = self.folder.rollout["max_tokens"], self.algo["overlong"]
        rewards = [row["graded"] - overlong(row["tokens"], limit, part) for row in rows]
        coefficient, sizes = self.algo.get("kl_in_reward", 0.0), [0.0] * len(rows)
        for i, row in enumerate(rows if coefficient else []):
            sampled = row["sampled"] if row.get("sampled") is not None else [True] * len(row["ids"])
            terms = [a - b for a, b, ours in zip(old[i], self._reference(row), sampled, strict=True) if ours]
            rewards[i] -= coefficient * sum(terms)
            sizes[i] = coefficient * sum(map(abs, terms))
        return rewards, sizes

    @torch.no_grad()
    def _reference(self, row: dict[str, Any]) -> list[float]:
        """Log-probabilities of a response under the model that the run began with."""
        prompt, ids = row["prompt_ids"].tolist(), row["ids"].tolist()
        return [float(value) for value in self.model.tokens(self.model.reference, prompt, ids)[0]]

    def _share(
        self, weights: Weights, row: dict[str, Any], old: list[float], advantage: float, num_tokens: int
    ) -> Share:
        """What one response adds to the loss."""
        prompt, ids = row["prompt_ids"].tolist(), row["ids"].tolist()
        new, entropy = self.model.tokens(weights, prompt, ids, entropy=bool(self.algo["entropy_coef"]))
        reference = self._reference(row) if self.algo["kl_coef"] else None
        credit = [1.0] * len(ids) if row["credit"] is None else row["credit"].tolist()
        sampler = None if row["logprobs"] is None else row["logprobs"].tolist()
        tokens = Tokens(new, old, sampler, reference, entropy, [advantage * c for c in credit], trained(row))
        return share(
            tokens,
            self.algo,
            constant=self.algo["norm_constant"] or self.folder.rollout["max_tokens"],
            num_responses=self.algo["minibatch_size"],
            num_tokens=num_tokens,
        )

    @torch.no_grad()
    def _update(self, weights: Weights, moments: dict[str, dict[str, Any]], norm: float, rate: float) -> None:
        """Clip the gradients and take one step of AdamW."""
        most, (first, second) = self.optim["max_grad_norm"], self.optim["betas"]
        factor = min(1.0, most / (norm + 1e-6)) if most else 1.0
        for name, weight in weights.items():
            if weight.grad is None:
                continue
            gradient, state = weight.grad * factor, moments[name]
            state["step"] += 1
            state["mean"] = first * state["mean"] + (1 - first) * gradient
            state["square"] = second * state["square"] + (1 - second) * gradient**2
            mean = state["mean"] / (1 - first ** state["step"])
            square = state["square"] / (1 - second ** state["step"])
            step = rate * mean / (square.sqrt() + self.optim["eps"])
            moved = weight * (1 - rate * self.optim["weight_decay"]) - step
            weight.copy_(moved.float())  # the run keeps its weights in float32


def trained(row: dict[str, Any]) -> list[bool]:
    """Which tokens of a response are trained on."""
    return [True] * len(row["ids"]) if row["mask"] is None else row["mask"].tolist()
