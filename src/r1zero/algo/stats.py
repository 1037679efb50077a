"""Scalar summaries that are exact over micro-batches and ranks: means as (sum, count), extremes as max."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping

import torch

from r1zero.errors import UserError

ReduceFn = Callable[[torch.Tensor, str], torch.Tensor]
"""(tensor, "sum" | "max") -> the tensor reduced over ranks."""


class Tally:
    """Collects means, sums and maxima, then reduces them over ranks in two collectives.

    A mean over responses stays a mean over responses when ranks hold different numbers of them.
    Every rank must add the same names, in any order. NaN says that nothing was counted; a value that is NaN or
    infinite itself shows as infinity, in means, sums and maxima, so that neither is taken for the other.
    """

    def __init__(self) -> None:
        self._sums: dict[str, torch.Tensor] = defaultdict(lambda: torch.zeros(2, dtype=torch.float64))
        self._totals: dict[str, float] = defaultdict(float)
        self._maxima: dict[str, float] = {}
        self._waiting: list[tuple[Callable[..., None], str, list[torch.Tensor]]] = []
        """Numbers that lie on an accelerator: what takes them, under which name."""

    def mean(self, name: str, values: torch.Tensor, mask: torch.Tensor | None = None) -> None:
        """Add values [..] (only where ``mask`` is True) to the mean ``name``."""
        values = values.detach()
        if mask is None or values.device.type == "cpu":
            picked = values if mask is None else values[mask]
            self._take(self._add_mean, name, picked.double().sum(), torch.tensor(float(picked.numel())))
        else:  # picking waits for the accelerator to say how many there are
            self._take(self._add_mean, name, torch.where(mask, values.double(), 0.0).sum(), mask.sum())

    def total(self, name: str, value: torch.Tensor | float) -> None:
        """Add to the sum ``name``."""
        number = value.detach() if isinstance(value, torch.Tensor) else torch.tensor(value, dtype=torch.float64)
        self._take(self._add_total, name, number)

    def maximum(self, name: str, values: torch.Tensor | float, mask: torch.Tensor | None = None) -> None:
        """Update the maximum ``name`` (only where ``mask`` is True); an empty tensor declares the name alone."""
        values = values.detach() if isinstance(values, torch.Tensor) else torch.tensor(values, dtype=torch.float64)
        if mask is not None:
            values = values[mask] if values.device.type == "cpu" else torch.where(mask, values, -math.inf)
        self._take(self._add_maximum, name, values.max() if values.numel() else torch.tensor(-math.inf))

    def _take(self, add: Callable[..., None], name: str, *numbers: torch.Tensor) -> None:
        """Numbers on the CPU are added at once, others wait for :meth:`read`, with one copy for all of them."""
        if all(number.device.type == "cpu" for number in numbers):
            add(name, *(number.item() for number in numbers))
        else:
            self._waiting.append((add, name, list(numbers)))

    def read(self, number: torch.Tensor | float = 0.0) -> float:
        """Have the accelerator's numbers, this one among them: one copy to the host, in which it is waited for."""
        waiting, self._waiting = self._waiting, []
        pending = [number] if isinstance(number, torch.Tensor) else []
        pending += [one for _, _, numbers in waiting for one in numbers]
        if not pending:
            return float(number)
        device = next((one.device for one in pending if one.device.type != "cpu"), pending[0].device)
        found = iter(torch.stack([one.detach().to(device, torch.float64).reshape(()) for one in pending]).tolist())
        first = next(found) if isinstance(number, torch.Tensor) else float(number)
        for add, name, numbers in waiting:
            add(name, *(next(found) for _ in numbers))
        return first

    def _add_mean(self, name: str, value: float, count: float) -> None:
        self._sums[name] += torch.tensor([value, count], dtype=torch.float64)

    def _add_total(self, name: str, value: float) -> None:
        self._totals[name] += value

    def _add_maximum(self, name: str, value: float) -> None:
        self._maxima[name] = max(self._maxima.get(name, -math.inf), math.inf if math.isnan(value) else value)

    def current_mean(self, name: str, reduce_fn: ReduceFn | None = None) -> float | None:
        """The mean ``name`` so far, over all ranks; None where nothing was counted, NaN where a NaN was."""
        self.read()
        values = self._sums[name].clone()
        if reduce_fn is not None:
            values = reduce_fn(values, "sum")
        return float(values[0] / values[1]) if values[1] > 0 else None

    def current_total(self, name: str) -> float:
        """The sum ``name`` so far, on this rank."""
        self.read()
        return self._totals[name]

    def reduce(self, reduce_fn: ReduceFn | None = None) -> dict[str, float]:
        """The figures over all ranks: {name: value}."""
        self.read()
        means, totals, maxima = sorted(self._sums), sorted(self._totals), sorted(self._maxima)
        sums = torch.tensor(
            [*(self._sums[n].tolist() for n in means), *([self._totals[n], 1.0] for n in totals)], dtype=torch.float64
        )
        peaks = torch.tensor([self._maxima[n] for n in maxima], dtype=torch.float64)
        if reduce_fn is not None:
            sums = reduce_fn(sums, "sum") if sums.numel() else sums
            peaks = reduce_fn(peaks, "max") if peaks.numel() else peaks
        out = {n: _shown(float(s / c)) if c > 0 else math.nan for n, (s, c) in zip(means, sums, strict=False)}
        out.update({n: _shown(float(row[0])) for n, row in zip(totals, sums[len(means) :], strict=True)})
        out.update({n: (float(v) if v > -math.inf else math.nan) for n, v in zip(maxima, peaks, strict=True)})
        return out


def _shown(value: float) -> float:
    return value if math.isfinite(value) else math.inf


def check_finite(figures: Mapping[str, float], where: str, advice: str) -> None:
    """Refuse a figure that was computed and is no number. NaN passes: nothing was counted.

    Raises:
        UserError: naming it.
    """
    if broken := sorted(name for name, value in figures.items() if math.isinf(value)):
        raise UserError(f"{where}: {', '.join(broken[:4])} came out as NaN or infinite: {advice}")


def reduce_over_ranks(values: torch.Tensor, how: str, device: torch.device) -> torch.Tensor:
    """Sum ("sum") or maximum ("max") of a tensor over ranks; itself where there is one rank."""
    dist = torch.distributed
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return values
    moved = values.to(device)
    dist.all_reduce(moved, op=dist.ReduceOp.SUM if how == "sum" else dist.ReduceOp.MAX)
    return moved.to(values.device)


def rollout_summary(
    tally: Tally,
    rewards: torch.Tensor,
    right: torch.Tensor,
    lengths: torch.Tensor,
    truncated: torch.Tensor,
    advantages: torch.Tensor,
    group_size: int,
) -> None:
    """Add the figures of one rollout step to a tally.

    Args:
        tally: what they are added to.
        rewards: float [N].
        right: the verifier's verdict, bool [N].
        lengths: sampled tokens, float [N].
        truncated: bool [N], cut by the token limit.
        advantages: float [N].
        group_size: G.
    """
    tally.mean("reward/mean", rewards)
    tally.mean("reward/second_moment", rewards.square())
    tally.mean("length/mean", lengths)
    tally.maximum("length/max", lengths)
    tally.mean("length/correct", lengths, right)
    tally.mean("length/incorrect", lengths, ~right)
    tally.mean("length/truncated_frac", truncated.float())
    flat_groups = (advantages.view(-1, group_size) == 0).all(dim=1)
    tally.mean("group/zero_advantage_frac", flat_groups.float())
    solved = right.view(-1, group_size).float().mean(dim=1)
    tally.mean("group/all_correct_frac", (solved == 1).float())
    tally.mean("group/none_correct_frac", (solved == 0).float())
