"""Where responses end."""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np

from r1zero.rollout.engine import Sampling
from r1zero.rollout.hf.slots import Array


class Ends:
    """Ends each response at its first stop id or stop string (trap 16).

    Stop strings are looked for in the text of the response without special tokens, as vLLM does.

    Args:
        sampling: holds the stops.
        tokenizer: of the model.
        count: responses.
    """

    def __init__(self, sampling: Sampling, tokenizer: Any, count: int) -> None:
        self._stop_ids = np.array(sorted(set(sampling.stop_ids)), dtype=np.int64)
        self._stops = sampling.stop
        self._tokenizer = tokenizer
        self._silent = set(tokenizer.all_special_ids)
        # A token that has text has at least one byte of it, so this many reach back over any stop string.
        reach = max((len(stop.encode()) for stop in sampling.stop), default=0) + 2
        self._tails: list[deque[int]] = [deque(maxlen=reach) for _ in range(count if self._stops else 0)]

    def __call__(self, rows: Array, ids: Array) -> Array:
        """Whether the responses ``rows`` [R] end with these ids [R]: bool [R]."""
        ended = np.isin(ids, self._stop_ids)
        if self._stops:
            self._match(rows, ids, ended)
        return ended

    def _match(self, rows: Array, ids: Array, ended: Array) -> None:
        known = len(self._tokenizer)
        places = [at for at, i in enumerate(ids.tolist()) if not ended[at] and i < known and i not in self._silent]
        if not places:
            return  # decoding an empty batch gives one empty text
        for at in places:
            self._tails[rows[at]].append(int(ids[at]))
        tails = self._tokenizer.batch_decode([list(self._tails[rows[at]]) for at in places])
        for at, tail in zip(places, tails, strict=True):
            ended[at] = any(stop in tail for stop in self._stops)
