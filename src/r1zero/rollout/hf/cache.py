"""Keys and values of rows that come and go, in transformers' own cache classes."""

from __future__ import annotations

from typing import Any

import torch
from transformers.cache_utils import DynamicCache, DynamicLayer

STEP = 64
"""Columns that room is made for at a time."""


class RoomyLayer(DynamicLayer):
    """A layer's keys and values [rows, heads, room, d] with room ahead: a token is written in place, nothing is joined.

    All rows share the column that is written next, so a row's prompt and response end there whatever their length.

    Args:
        rows: most rows.
        ahead: columns wanted beside those that the first update fills.
    """

    keys: torch.Tensor
    values: torch.Tensor

    def __init__(self, rows: int, ahead: int) -> None:
        super().__init__()
        self.rows, self.ahead, self.used = rows, ahead, 0

    def hold(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Take room for rows like these, [rows, heads, T, d], whose columns are used from here on."""
        rows, heads, self.used = self.rows, keys.shape[1], keys.shape[2]
        room = -(-(self.used + self.ahead) // STEP) * STEP
        self.keys = keys.new_zeros(rows, heads, room, keys.shape[3])
        self.values = values.new_zeros(rows, heads, room, values.shape[3])
        self.is_initialized = True

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        """Write new columns [rows, heads, T, d] and give back all that are used."""
        first, rows = self.used, key_states.shape[0]
        self.used += key_states.shape[2]
        if self.used > self.keys.shape[2]:
            more = -(-max(self.used, self.used * 3 // 2) // STEP) * STEP - self.keys.shape[2]
            self.keys, self.values = (torch.nn.functional.pad(t, (0, 0, 0, more)) for t in (self.keys, self.values))
        self.keys[:rows, :, first : self.used] = key_states
        self.values[:rows, :, first : self.used] = value_states
        return self.keys[:rows, :, : self.used], self.values[:rows, :, : self.used]

    def get_seq_length(self) -> int:
        """Columns in use."""
        return self.used

    def move(self, sources: torch.Tensor, targets: torch.Tensor) -> None:
        """Copy rows onto others."""
        for t in (self.keys, self.values):
            t[targets, :, : self.used] = t[sources, :, : self.used]

    def shift(self, columns: int) -> None:
        """Give up the first columns."""
        for t in (self.keys, self.values):
            t[:, :, : self.used - columns] = t[:, :, columns : self.used].clone()
        self.used -= columns


def is_plain(config: Any) -> bool:
    """Whether each layer of a model keeps keys and values of all tokens, and nothing else."""
    return all(type(layer) is DynamicLayer for layer in DynamicCache(config=config).layers)


def roomy_cache(config: Any, rows: int, ahead: int) -> DynamicCache:
    """A cache with room for ``rows`` rows and ``ahead`` columns beside the first; for plain models."""
    cache = DynamicCache(config=config)
    cache.layers = [RoomyLayer(rows, ahead) for _ in cache.layers]
    return cache
