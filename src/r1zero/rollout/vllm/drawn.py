"""Log-probabilities of sampled tokens, taken where vLLM draws them.

Asked for its own, vLLM cuts three arrays, makes four lists and appends to six for every token of every response: a
seventh of a rollout of a small model. The numbers are the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from r1zero.launch import compat
from r1zero.rollout.engine import Sampling

GREEDY = 1e-2
"""Temperatures below are raised or taken for greedy by vLLM, which then makes log-probabilities on request alone."""


class DrawnLogprobs:
    """Those of the requests that are under way.

    Args:
        llm: vLLM's engine; where its draws can't be watched (on GPUs, in worker processes), :meth:`takes` is false.
    """

    def __init__(self, llm: Any) -> None:
        self._rows: dict[str, list[float]] = {}
        self._samples: dict[str, list[str]] = {}
        self._watched = compat.watch_draws(llm, self._note)

    def takes(self, sampling: Sampling) -> bool:
        """Whether requests with these settings need no log-probabilities of vLLM's own."""
        return self._watched and sampling.logprobs and not sampling.whole and sampling.temperature >= GREEDY

    def expect(self, name: str, n: int) -> None:
        """Take down what is drawn for a request, as vLLM named it at its start, of ``n`` responses."""
        self._samples[name.rpartition("-")[0]] = names = compat.sample_names(name, n)
        self._rows.update((sample, []) for sample in names)

    def take(self, request: str) -> list[list[float]] | None:
        """Log-probabilities of a finished request's responses, nats; None where they were not expected."""
        names = self._samples.pop(request, None)
        return None if names is None else [self._rows.pop(name) for name in names]

    def forget(self) -> None:
        """Drop all requests."""
        self._rows.clear()
        self._samples.clear()

    def _note(self, names: Sequence[str], unfinished: Any, tokens: torch.Tensor, logprobs: torch.Tensor | None) -> None:
        """A decoding step: samples in the order of rows, rows whose prompt is not whole yet, draws [R] and [R, V]."""
        if not self._rows or logprobs is None:
            return
        values = logprobs.gather(1, tokens.long()[:, None])[:, 0].tolist()
        for name, early, value in zip(names, unfinished, values, strict=True):
            if not early and (row := self._rows.get(name)) is not None:
                row.append(value)
