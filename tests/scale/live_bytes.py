"""Counts the bytes of tensors that are alive during a computation, and their peak."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Any
from unittest import mock

import torch
from torch.utils._python_dispatch import TorchDispatchMode


def plain(value: torch.Tensor) -> torch.Tensor:
    """The tensor that has the memory: a DTensor's shard, what an unfinished collective writes to."""
    return getattr(value, "_local_tensor", getattr(value, "elem", value))


class LiveBytes(TorchDispatchMode):
    """Follows the storage of every tensor that an operation returns until it is freed; the meta device has no bytes.

    Storages may grow and shrink, as FSDP's do.

    Args:
        known: tensors whose storage is not counted (parameters, their gradients).
        base: tensors that are there already and are counted.
    """

    def __init__(self, known: Iterable[torch.Tensor] = (), base: Iterable[torch.Tensor] = ()) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known = {tensor.untyped_storage()._cdata for tensor in known}
        self._sizes: dict[int, int] = {}
        self._patches: list[Any] = []
        for tensor in base:
            self._follow(tensor.untyped_storage())

    def __enter__(self) -> Any:
        resize = torch.UntypedStorage.resize_

        def resized(storage: torch.UntypedStorage, size: int) -> Any:
            """What changes a storage's size is no operation."""
            found = resize(storage, size)
            if storage._cdata in self._sizes:
                self._follow(storage)
            return found

        self._patches.append(mock.patch.object(torch.UntypedStorage, "resize_", resized))
        self._patches[-1].start()
        return super().__enter__()

    def __exit__(self, *raised: Any) -> None:
        self._patches.pop().stop()
        super().__exit__(*raised)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for value in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(value, torch.Tensor) and not value.is_meta:
                self._follow(plain(value).untyped_storage())
        return out

    def _follow(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            return
        before = self._sizes.get(key)
        if before is None:
            weakref.finalize(storage, self._forget, key)
        self._sizes[key] = size
        self.now += size - (before or 0)
        self.peak = max(self.peak, self.now)

    def _forget(self, key: int) -> None:
        self.now -= self._sizes.pop(key, 0)
