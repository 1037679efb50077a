"""Counts the bytes of tensors that are alive during a computation, and their peak."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode


def plain(value: torch.Tensor) -> torch.Tensor:
    """The tensor that has the memory: a DTensor's shard, what an unfinished collective writes to."""
    return getattr(value, "_local_tensor", getattr(value, "elem", value))


class LiveBytes(TorchDispatchMode):
    """Follows the storage of every tensor that an operation returns until it is freed; the meta device has no bytes.

    Args:
        known: tensors whose storage is not counted (parameters, their gradients).
        base: tensors that are there already and are counted. Storages may then grow and shrink, as FSDP's do: all of
            them are added up again after every operation.
    """

    def __init__(self, known: Iterable[torch.Tensor] = (), base: Iterable[torch.Tensor] | None = None) -> None:
        super().__init__()
        self._resized: dict[int, Any] | None = None if base is None else {}
        self.now = self.peak = 0
        self._known = {tensor.untyped_storage()._cdata for tensor in known}
        self._sizes: dict[int, int] = {}
        for tensor in base or ():
            self._follow(tensor.untyped_storage())

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for value in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(value, torch.Tensor) and not value.is_meta:
                self._follow(plain(value).untyped_storage())
        if self._resized is not None:
            self.now = sum(storage().nbytes() for storage in list(self._resized.values()) if storage() is not None)
            self.peak = max(self.peak, self.now)
        return out

    def _follow(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key in self._sizes or key in self._known:
            return
        self._sizes[key] = storage.nbytes()
        if self._resized is not None:
            self._resized[key] = weakref.ref(storage)
        else:
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._forget, key)

    def _forget(self, key: int) -> None:
        self.now -= self._sizes.pop(key, 0)
        if self._resized is not None:
            self._resized.pop(key, None)
