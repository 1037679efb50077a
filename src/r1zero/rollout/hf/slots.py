"""The rows of a running batch: a response that has ended gives its row to one that waits, or the batch shrinks."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers.cache_utils import DynamicCache

from r1zero.launch import compat
from r1zero.rollout.hf.cache import is_plain, roomy_cache

Array = np.ndarray[Any, Any]


class Slots:
    """Rows that decode together, at most ``most`` of them.

    Where the model keeps keys and values of all tokens, ended rows are refilled one by one; other models (sliding
    windows, recurrent layers) start the waiting responses when all others have ended.

    Args:
        model: of transformers, in evaluation mode.
        most: rows.
        prompts: all token ids that will be admitted.
        max_tokens: longest response.
    """

    def __init__(self, model: Any, most: int, prompts: Sequence[list[int]], max_tokens: int) -> None:
        self.model, self.most, self.prompts = model, most, prompts
        self.plain = is_plain(model.config)
        self.ahead = min(max_tokens, 192)
        self.width = max(map(len, prompts), default=0)
        self.longest = self.width + max_tokens - 1
        """Last position that is read: rows that have ended and still stand here do not go beyond it."""
        self.rows = np.empty(0, dtype=np.int64)
        """Response in each row."""
        self.lengths = np.empty(0, dtype=np.int64)
        """Tokens held of each row."""
        self.cache: Any = None
        self.mask = torch.empty(0, 0, dtype=torch.bool, device=model.device)
        # This kernel takes a mask of four dimensions as it is; for others transformers makes one of two dimensions.
        self._whole_mask = self.plain and compat.attention_of(model) == "sdpa"
        takes = inspect.signature(model.forward).parameters
        self._last = {"logits_to_keep": 1} if "logits_to_keep" in takes else {}

    @property
    def used(self) -> int:
        """Columns of keys and values."""
        return 0 if self.cache is None else int(self.cache.get_seq_length())

    def free(self) -> int:
        """Rows that may be admitted now."""
        return self.most - len(self.rows) if self.plain or not len(self.rows) else 0

    def admit(self, rows: Array, prompts: Array) -> torch.Tensor:
        """Read the prompts of responses ``rows`` [R], each prompt once; logits of their first tokens [R, V]."""
        if not len(self.rows):
            self.cache = None
        which, back = np.unique(prompts, return_inverse=True)
        chosen = [self.prompts[i] for i in which]
        width = self.width if self.cache is None and self.plain else max(map(len, chosen))
        ids = torch.zeros(len(chosen), width, dtype=torch.long)  # id 0 pads; the mask hides it
        mask = torch.zeros(len(chosen), width, dtype=torch.bool)
        for row, prompt in enumerate(chosen):
            ids[row, width - len(prompt) :] = torch.tensor(prompt)
            mask[row, width - len(prompt) :] = True
        cache: Any = DynamicCache(config=self.model.config)
        device = self.model.device
        logits = self.model(
            input_ids=ids.to(device),
            attention_mask=mask.to(device),
            position_ids=(mask.cumsum(-1) - 1).clamp(min=0).to(device),
            past_key_values=cache,
            use_cache=True,
            **self._last,
        ).logits[:, -1]
        index = torch.from_numpy(back).to(device)
        self._place(cache, mask.to(device)[index], index)
        self.rows = np.concatenate([self.rows, rows])
        self.lengths = np.concatenate([self.lengths, [len(self.prompts[i]) for i in prompts]]).astype(np.int64)
        return logits[index]

    def _place(self, read: Any, mask: torch.Tensor, index: torch.Tensor) -> None:
        """Put keys and values of prompts into the rows behind those at work."""
        if not self.plain:
            read.reorder_cache(index)
            self.cache, self.mask = read, mask
            return
        first, width = len(self.rows), mask.shape[1]
        if self.cache is None:
            self.cache = roomy_cache(self.model.config, self.most, self.ahead)
            for layer, new in zip(self.cache.layers, read.layers, strict=True):
                layer.hold(new.keys, new.values)
            self.mask = mask.new_zeros(self.most, width + self.ahead)
        else:
            self._shift()
        end = self.used
        rows = slice(first, first + len(mask))
        for layer, new in zip(self.cache.layers, read.layers, strict=True):
            layer.keys[rows, :, end - width : end] = new.keys[index]
            layer.values[rows, :, end - width : end] = new.values[index]
        self.mask[rows, :end] = False
        self.mask[rows, end - width : end] = mask

    def _shift(self) -> None:
        """Give up columns that no row uses, once they are half of all."""
        spare = self.used - max(self.width, int(self.lengths.max(initial=0)))
        if spare * 2 < self.used:
            return
        self.mask[:, : self.used - spare] = self.mask[:, spare : self.used].clone()
        for layer in self.cache.layers:
            layer.shift(spare)

    def step(self, tokens: torch.Tensor) -> torch.Tensor:
        """Read one token [R] a row; logits of the next [R, V]."""
        rows, column = len(self.rows), self.used
        if self.plain:
            if column >= self.mask.shape[1]:
                self.mask = torch.nn.functional.pad(self.mask, (0, column // 2 + 1))
            self.mask[:rows, column] = True
            mask = self.mask[:rows, : column + 1]
        else:
            mask = self.mask = torch.nn.functional.pad(self.mask, (0, 1), value=True)
        logits = self.model(
            input_ids=tokens[:, None],
            attention_mask=mask[:, None, None] if self._whole_mask else mask,
            position_ids=torch.from_numpy(self.lengths).to(tokens.device)[:, None],
            past_key_values=self.cache,
            use_cache=True,
        ).logits[:, -1]
        self.lengths = np.minimum(self.lengths + 1, self.longest)
        return logits

    def drop(self, kept: Array) -> Array:
        """Leave the rows that are not ``kept`` [R]; the order of those that stay, as places before it."""
        places = np.flatnonzero(kept)
        if self.plain:  # the last ones move into the gaps
            gaps = np.flatnonzero(~kept[: len(places)])
            sources = places[len(places) - len(gaps) :]
            order = np.arange(len(places))
            order[gaps] = sources
            if len(gaps):
                self._move(torch.from_numpy(sources), torch.from_numpy(gaps))
        else:
            order = places
            if len(order):
                self.cache.reorder_cache(torch.from_numpy(order))
                self.mask = self.mask[torch.from_numpy(order).to(self.mask.device)]
        self.rows, self.lengths = self.rows[order], self.lengths[order]
        return order

    def _move(self, sources: torch.Tensor, targets: torch.Tensor) -> None:
        sources, targets = sources.to(self.mask.device), targets.to(self.mask.device)
        self.mask[targets] = self.mask[sources]
        for layer in self.cache.layers:
            layer.move(sources, targets)
