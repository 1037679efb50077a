"""The LightningDataModule of pretraining: endless documents -> packed rows, resumed exactly."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from r1zero.errors import UserError
from r1zero.pretrain.config import WorkingConfig
from r1zero.pretrain.packing import IGNORE, Packer, Rows, to_tensors
from r1zero.pretrain.stream import Documents, Encode
from r1zero.pretrain.text import MadeText


class MadeDocuments:
    """Documents ``rank``, ``rank + world``, ... of a text that is made from a seed, tokenised.

    The curriculum: during the first ``clean_share`` of the run, errors are scaled by ``clean_scale``.
    """

    def __init__(self, text: MadeText, encode: Encode, working: WorkingConfig, rank: int = 0, world: int = 1) -> None:
        self.text, self.encode, self.working, self.world = text, encode, working, world
        self.number = rank

    def read(self, progress: float) -> list[int]:
        """See :class:`Documents`."""
        document = self.text.document(self.number, spoil_at(progress, self.working))
        self.number += self.world
        return self.encode(document)

    def state_dict(self) -> dict[str, Any]:
        """See :class:`Documents`."""
        return {"number": self.number}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See :class:`Documents`."""
        self.number = state["number"]


def spoil_at(progress: float, settings: WorkingConfig) -> float:
    """The factor on all chances of errors at this point of the run."""
    return settings.clean_scale if progress < settings.clean_share else 1.0


class PackedLoader:
    """Yields the micro-batches of ``steps`` optimizer steps; one iteration over it is the whole run.

    ``rows`` rows of ``length`` tokens make this rank's share of an optimizer step; they are cut into
    ``parts`` micro-batches, the last of which may be smaller. ``state_dict`` (taken by Lightning's checkpoints)
    holds the position in documents, the packer's waiting documents and the steps done, of every rank: Lightning
    keeps what the first one says.
    """

    def __init__(
        self,
        documents: Documents,
        *,
        length: int,
        rows: int,
        parts: int,
        steps: int,
        pad: int,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        if -(-rows // -(-rows // parts)) != parts:
            raise UserError(f"{rows} rows per optimizer step can't be cut into {parts} micro-batches")
        self.documents, self.length, self.rows, self.parts = documents, length, rows, parts
        self.steps, self.pad, self.rank, self.world = steps, pad, rank, world
        self.packer = Packer(length)
        self.step = 0

    def __len__(self) -> int:
        """Micro-batches of the whole run."""
        return self.steps * self.parts

    def __iter__(self) -> Iterator[Rows]:
        """Go on from the step reached."""
        while self.step < self.steps:
            stream = self._stream()
            rows = [self.packer.row(stream) for _ in range(self.rows)]
            self.step += 1
            ids, positions, labels = to_tensors(rows, self.length, self.pad)
            targets = int((labels != IGNORE).sum())
            size = -(-self.rows // self.parts)
            for at in range(0, self.rows, size):
                part = slice(at, at + size)
                yield Rows(ids[part], positions[part], labels[part], targets, self.parts)

    def _stream(self) -> Iterator[list[int]]:
        while True:
            yield self.documents.read(self.step / self.steps)

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs; exact at the end of an optimizer step. All ranks must ask together."""
        if self.world == 1:
            return self.own_state()
        states: list[Any] = [None] * self.world
        torch.distributed.all_gather_object(states, self.own_state())
        return {"ranks": states}

    def own_state(self) -> dict[str, Any]:
        """This rank's place."""
        return {"step": self.step, "documents": self.documents.state_dict(), "packer": self.packer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved state. Raises ``UserError`` where another number of devices saved it."""
        states = state.get("ranks", [state])
        if len(states) != self.world:
            raise UserError(
                f"the checkpoint holds the place in the text of {len(states)} device(s), this run has {self.world}: "
                f"continue with trainer.devices={len(states)}, or start a new run with model.path=<its policy folder>"
            )
        state = states[self.rank]
        self.step = state["step"]
        self.documents.load_state_dict(state["documents"])
        self.packer.load_state_dict(state["packer"])


def heldout_rows(documents: dict[str, list[list[int]]], length: int, rows: int, pad: int) -> list[Rows]:
    """Pack the held-out documents of each source into batches of up to ``rows`` rows, none of two sources."""
    batches = []
    for source, found in documents.items():
        packer, stream = Packer(length), iter(found)
        packed = []
        while row := packer.row(stream):
            packed.append(row)
        for at in range(0, len(packed), rows):
            ids, positions, labels = to_tensors(packed[at : at + rows], length, pad)
            batches.append(Rows(ids, positions, labels, int((labels != IGNORE).sum()), source=source))
    if not batches:
        raise UserError("there are no held-out documents; raise data.heldout_documents")
    return batches


class PretrainData(pl.LightningDataModule):
    """Training rows from a :class:`PackedLoader`, held-out rows from a fixed list.

    Args:
        documents: Makes the document stream of (rank, world size).
        heldout: Token ids of the held-out documents of each source.
        length: Tokens of a row.
        rows: Rows per optimizer step over all devices.
        parts: Micro-batches that a device's rows are cut into.
        steps: Optimizer steps.
        pad: Token id of unused ends of rows.
    """

    def __init__(
        self,
        documents: Callable[[int, int], Documents],
        heldout: dict[str, list[list[int]]],
        *,
        length: int,
        rows: int,
        parts: int,
        steps: int,
        pad: int,
    ) -> None:
        super().__init__()
        self.documents, self.length, self.rows, self.parts = documents, length, rows, parts
        self.steps, self.pad = steps, pad
        self.heldout = heldout_rows(heldout, length, max(1, rows // parts), pad)

    def train_dataloader(self) -> PackedLoader:
        """This device's loader, which keeps its own state."""
        assert self.trainer is not None
        rank, world = self.trainer.global_rank, self.trainer.world_size
        return PackedLoader(
            self.documents(rank, world),
            length=self.length,
            rows=self.rows // world,
            parts=self.parts,
            steps=self.steps,
            pad=self.pad,
            rank=rank,
            world=world,
        )

    def val_dataloader(self) -> DataLoader:
        """The same rows at every measurement, on every device."""
        return DataLoader(self.heldout, batch_size=None)  # type: ignore[arg-type]
