"""Continuous batching over one model: draws responses until all have ended."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from r1zero.errors import UserError
from r1zero.rollout.engine import Sampling
from r1zero.rollout.hf.draw import pick, streams, uniform, warpers
from r1zero.rollout.hf.ends import Ends
from r1zero.rollout.hf.slots import Array, Slots
from r1zero.rollout.text import NOT_FINITE

SHARE = 8
"""One row in so many may stand idle: to fill or drop rows costs a copy, an idle row a bit of each step."""


@dataclass(frozen=True)
class Drawn:
    """One response: ids, whether a stop ended it, log-probabilities of its tokens, and [T, V] of all where wanted."""

    ids: list[int]
    stopped: bool
    logprobs: list[float]
    whole: torch.Tensor | None


def decode(
    slots: Slots, ends: Ends, sampling: Sampling, seed: int, on_step: Callable[[], None] | None = None
) -> list[Drawn]:
    """Sample ``sampling.n`` responses for each prompt of ``slots``.

    Raises:
        UserError: the model's logits are no distribution.
    """
    n, count = sampling.n, len(slots.prompts) * sampling.n
    states, warp = streams(seed, count), warpers(sampling)
    record: list[tuple[Array, Array, Array]] = []
    whole: list[list[torch.Tensor]] = [[] for _ in range(count)]
    lengths, stopped = np.zeros(count, dtype=np.int64), np.zeros(count, dtype=bool)

    def going(rows: Array) -> Array:
        return ~stopped[rows] & (lengths[rows] < sampling.max_tokens)

    def draw(rows: Array, logits: torch.Tensor) -> torch.Tensor:
        """One token for each of these responses [R], of logits [R, V]; on the model's device."""
        logits = logits.float()  # before anything is divided or summed up
        for warper in warp:
            logits = warper(None, logits)
        logprobs = logits.log_softmax(-1)
        if sampling.temperature == 0:
            tokens = logprobs.argmax(-1)
        else:
            tokens = pick(logprobs, uniform(states[rows], lengths[rows]))
        tokens = tokens.clamp(max=logprobs.shape[1] - 1)  # only beyond it where the logits are NaN
        drawn = logprobs.gather(1, tokens[:, None])[:, 0].cpu().numpy()
        if not np.isfinite(drawn).all():  # one NaN or infinity among the logits makes all of a row NaN
            raise UserError(NOT_FINITE)
        at_work = going(rows)
        ids, rows = tokens.cpu().numpy()[at_work], rows[at_work]
        record.append((rows, ids, drawn[at_work]))
        if sampling.whole:
            for row, values in zip(rows, logprobs.cpu()[torch.from_numpy(at_work)], strict=True):
                whole[row].append(values)
        lengths[rows] += 1
        stopped[rows] = ends(rows, ids)
        return tokens

    waiting, last = 0, torch.empty(0, dtype=torch.long, device=slots.model.device)
    while waiting < count or len(slots.rows):
        if on_step is not None:
            on_step()
        if waiting < count and slots.free() * SHARE >= slots.most:
            rows = np.arange(waiting, min(waiting + slots.free(), count))
            waiting += len(rows)
            last = torch.cat([last, draw(rows, slots.admit(rows, rows // n))])
        else:
            last = draw(slots.rows, slots.step(last))
        kept = going(slots.rows)
        if not kept.any() or (~kept).sum() * SHARE >= len(kept):
            last = last[torch.from_numpy(slots.drop(kept)).to(last.device)]
    return assemble(record, stopped, whole if sampling.whole else None)


def assemble(record: list[tuple[Array, Array, Array]], stopped: Array, whole: Any) -> list[Drawn]:
    """Responses of what was drawn step by step."""
    if not record:
        return []
    rows, ids, logprobs = (np.concatenate(column) for column in zip(*record, strict=True))
    order = np.argsort(rows, kind="stable")
    cuts = np.cumsum(np.bincount(rows, minlength=len(stopped)))[:-1]
    return [
        Drawn(i.tolist(), bool(stop), p.tolist(), None if whole is None else torch.stack(whole[row]))
        for row, (i, p, stop) in enumerate(
            zip(np.split(ids[order], cuts), np.split(logprobs[order], cuts), stopped, strict=True)
        )
    ]
