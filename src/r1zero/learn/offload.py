"""The optimizer's states in the host's memory while the engine samples (``optim.offload_states``)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

STAY = frozenset({"cpu", "meta"})
"""Kinds of devices whose states stay where they are: a CPU's lie in the host's memory already."""


class HostStates:
    """Moves what AdamW holds to the host's memory, and back before anything reads it.

    A storage keeps its place: its bytes are copied to pinned memory and given up, and later allocated again under the
    same tensors. So whole tensors, the local shards of DTensors and moments in blocks of 8 bits are alike, and whoever
    holds a state need not know. The optimizer's own hooks bring states back, before a step and before a checkpoint.

    Gradients that DDP keeps in its buckets are zero while the engine samples: given up too, without a copy. Nothing but
    :meth:`bring_back_gradients` allocates them again, so it comes before the next backward pass.

    Args:
        optimizer: AdamW of any kind, built already.
    """

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer = optimizer
        self._away: list[tuple[torch.UntypedStorage, torch.Tensor]] = []
        self._gradients: list[tuple[torch.UntypedStorage, int]] = []
        self._room: dict[int, torch.Tensor] = {}
        """Host memory by number of the storage, kept from one time to the next: pinning is slow."""
        optimizer.register_step_pre_hook(lambda *_: self.bring_back())
        optimizer.register_state_dict_pre_hook(lambda *_: self.bring_back())
        optimizer.register_load_state_dict_pre_hook(lambda *_: self.bring_back())

    def send_away(self) -> None:
        """Leave the device to the engine; what is away already stays there."""
        states = [] if self._away else _storages(self._states())
        gradients = [] if self._gradients else _storages(self._kept_gradients())
        for number, storage in enumerate(states):
            room = self._room.get(number)
            if room is None or room.nbytes != storage.nbytes():
                pinned = storage.device.type == "cuda"
                room = self._room[number] = torch.empty(storage.nbytes(), dtype=torch.uint8, pin_memory=pinned)
            room.copy_(_bytes(storage), non_blocking=True)
            self._away.append((storage, room))
        self._gradients += [(storage, storage.nbytes()) for storage in gradients]
        for storage in [*states, *gradients]:
            storage.resize_(0)  # after the copy on the same stream: memory is reused in its order
        if torch.cuda.is_available():
            torch.cuda.synchronize()
            torch.cuda.empty_cache()  # vLLM takes its memory from the driver, not from torch's cache

    def bring_back(self) -> None:
        """Give the optimizer its states back, bit for bit."""
        away, self._away = self._away, []
        for storage, room in away:
            storage.resize_(room.nbytes)
            _bytes(storage).copy_(room, non_blocking=True)

    def bring_back_gradients(self) -> None:
        """Let gradients that are kept be added to again, from zero."""
        gradients, self._gradients = self._gradients, []
        for storage, size in gradients:
            storage.resize_(size)
            _bytes(storage).zero_()

    def _states(self) -> Iterator[torch.Tensor]:
        for state in self.optimizer.state.values():
            yield from (value for value in state.values() if isinstance(value, torch.Tensor) and value.dim())

    def _kept_gradients(self) -> Iterator[torch.Tensor]:
        for group in self.optimizer.param_groups:
            yield from (p.grad for p in group["params"] if p.grad is not None)


def _storages(tensors: Iterator[torch.Tensor]) -> list[torch.UntypedStorage]:
    """Each storage once, in order, of those that take a device's memory."""
    found: dict[int, torch.UntypedStorage] = {}
    for tensor in tensors:
        local: Any = tensor.to_local() if hasattr(tensor, "to_local") else tensor
        storage = local.untyped_storage()
        if local.device.type not in STAY and storage.nbytes():
            found.setdefault(storage.data_ptr(), storage)
    return list(found.values())


def _bytes(storage: torch.UntypedStorage) -> torch.Tensor:
    return torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)
