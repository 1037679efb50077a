"""Packing documents into rows of one length, with their boundaries respected.

Each document keeps its own position ids from 0, and attends to itself alone: transformers reads the
restarts of the position ids and builds the block-diagonal mask (sdpa, eager) or the variable-length
call (flash_attention_2) from them, provided no attention mask is given. A packed loss therefore equals
the unpacked one token for token.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

IGNORE = -100


@dataclass
class Rows:
    """Packed rows: ``ids``, ``positions``, ``labels`` are int64 [R, L].

    ``labels[r, t]`` is the token that follows ``ids[r, t]`` in the same document, else -100.
    ``step_targets`` counts this device's labels of the whole optimizer step that these rows are a part of;
    ``parts`` is the number of such parts. ``source`` names where held-out rows come from.
    """

    ids: torch.Tensor
    positions: torch.Tensor
    labels: torch.Tensor
    step_targets: int
    parts: int = 1
    source: str = ""

    def to(self, device: Any, **kwargs: Any) -> Rows:
        """Move the tensors; Lightning calls this."""
        ids, positions, labels = (t.to(device, **kwargs) for t in (self.ids, self.positions, self.labels))
        return Rows(ids, positions, labels, self.step_targets, self.parts, self.source)


class Packer:
    """Fills rows of ``length`` tokens with whole documents, the first that fits from a short window.

    A document longer than a row is cut into pieces of a row each. ``state_dict`` holds the documents that
    were read and not yet packed, so that a resumed run continues with the same rows.
    """

    def __init__(self, length: int, window: int = 64) -> None:
        self.length, self.window = length, window
        self.waiting: list[list[int]] = []

    def row(self, documents: Iterator[list[int]]) -> list[list[int]]:
        """Take documents (token ids) and return those of the next row; none when the documents have ended."""
        room: int = self.length
        row: list[list[int]] = []
        while True:
            while len(self.waiting) < self.window:
                ids = next(documents, None)
                if ids is None:
                    break
                self.waiting += self._pieces(ids)
            at = next((i for i, ids in enumerate(self.waiting) if len(ids) <= room), None)
            if at is None:
                return row
            row.append(self.waiting.pop(at))
            room -= len(row[-1])

    def _pieces(self, ids: list[int]) -> list[list[int]]:
        return [ids[at : at + self.length] for at in range(0, len(ids), self.length)]

    def state_dict(self) -> dict[str, Any]:
        """What :meth:`load_state_dict` needs."""
        return {"waiting": [list(ids) for ids in self.waiting]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a saved state, whose rows may have been longer: what waits must fit into a current one."""
        self.waiting = [piece for ids in state["waiting"] for piece in self._pieces(list(ids))]


def to_tensors(rows: list[list[list[int]]], length: int, pad: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Lay rows of documents out as (ids, positions, labels), each int64 [R, L].

    The unused end of a row holds ``pad`` with position 0 and no label: each such token is a document of its own.
    """
    ids = torch.full((len(rows), length), pad)
    positions = torch.zeros((len(rows), length), dtype=torch.long)
    labels = torch.full((len(rows), length), IGNORE)
    for r, row in enumerate(rows):
        at = 0
        for document in row:
            end = at + len(document)
            tokens = torch.tensor(document)
            ids[r, at:end] = tokens
            positions[r, at:end] = torch.arange(len(document))
            labels[r, at : end - 1] = tokens[1:]
            at = end
    return ids, positions, labels
