"""Streams of tokenised documents that can be left and resumed exactly: read, shuffled, mixed.

Every draw is a function of (seed, source, pass, number of the draw), so there is no random state to keep: what is
saved is the position in the source, the shuffle buffer and the counts.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from r1zero.errors import UserError
from r1zero.pretrain.formats import Form
from r1zero.pretrain.readers import Reader

Encode = Callable[[str], list[int]]
"""Text of a document -> its token ids, with what marks its beginning and its end."""


class Documents(Protocol):
    """Where tokenised documents come from; its state says how to go on."""

    def read(self, progress: float) -> list[int]:
        """The next document's token ids. ``progress`` in [0, 1) is the share of the run that is done."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """What :meth:`load_state_dict` needs."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved state."""
        ...


class StreamedDocuments:
    """Documents of a text source, pass after pass, each drawn from a buffer of the next ``buffer`` ones.

    A pass hands out every document once: the buffer runs empty before the next pass begins. Rank r of R takes
    records r, r + R, ... of those that are trained on.

    Args:
        reader: Gives the records.
        form: Makes a document of a record.
        encode: Makes token ids of a document.
        name: Of the source; part of its seed.
        seed: Of the run.
        buffer: Size of the shuffle buffer; 1 keeps the order.
        skip: First records that are left out: the held-out ones.
        rank: Index of this process.
        world: Number of processes.
    """

    def __init__(
        self,
        reader: Reader,
        form: Form,
        encode: Encode,
        *,
        name: str,
        seed: int,
        buffer: int = 1000,
        skip: int = 0,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.reader, self.form, self.encode = reader, form, encode
        self.name, self.seed, self.size, self.skip = name, seed, buffer, skip
        self.rank, self.world = rank, world
        self.epoch, self.position, self.drawn = 0, skip, 0
        self.buffer: list[str] = []
        self._records: Iterator[tuple[str, dict[str, Any]]] | None = None

    def read(self, progress: float) -> list[int]:
        """See :class:`Documents`. Raises ``UserError`` for a source that has nothing left after the held-out part."""
        while True:
            self._fill()
            if self.buffer:
                break
            if not self.drawn:
                raise UserError(
                    f"data source '{self.name}' has no document to train on beside the {self.skip} held-out ones"
                    + (f" for process {self.rank}" if self.world > 1 else "")
                    + "; lower data.heldout_documents or give it more text"
                )
            self.epoch, self.position, self.drawn, self._records = self.epoch + 1, self.skip, 0, None
        at = random.Random(f"{self.seed}/{self.name}/{self.epoch}/{self.drawn}").randrange(len(self.buffer))
        self.drawn += 1
        self.buffer[at], self.buffer[-1] = self.buffer[-1], self.buffer[at]
        return self.encode(self.buffer.pop())

    def _fill(self) -> None:
        """Read on until the buffer is full or the source has ended."""
        if self._records is None:
            self._records = self.reader.read(self.position)
        while len(self.buffer) < self.size:
            found = next(self._records, None)
            if found is None:
                return
            mine = (self.position - self.skip) % self.world == self.rank
            self.position += 1
            if mine and (text := self.form(found[1], found[0])).strip():
                self.buffer.append(text)

    def state_dict(self) -> dict[str, Any]:
        """See :class:`Documents`."""
        return {"epoch": self.epoch, "position": self.position, "drawn": self.drawn, "buffer": list(self.buffer)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See :class:`Documents`."""
        self.epoch, self.position, self.drawn = state["epoch"], state["position"], state["drawn"]
        self.buffer, self._records = list(state["buffer"]), None


class Mixture:
    """Documents of several sources in fixed shares of the tokens.

    The next document comes from the source that is furthest behind its share of the tokens handed out so far.
    """

    def __init__(self, sources: dict[str, Documents], weights: dict[str, float]) -> None:
        total = sum(weights.values())
        self.sources, self.shares = sources, {name: weights[name] / total for name in sources}
        self.tokens = dict.fromkeys(sources, 0)

    def read(self, progress: float) -> list[int]:
        """See :class:`Documents`."""
        name = min(self.sources, key=lambda source: self.tokens[source] / self.shares[source])
        ids = self.sources[name].read(progress)
        self.tokens[name] += len(ids)
        return ids

    def state_dict(self) -> dict[str, Any]:
        """See :class:`Documents`."""
        states = {name: source.state_dict() for name, source in self.sources.items()}
        return {"tokens": dict(self.tokens), "sources": states}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See :class:`Documents`. Raises ``UserError`` when the saved run mixed other sources."""
        if list(state["sources"]) != list(self.sources):
            raise UserError(
                f"the run to resume mixed the sources {', '.join(state['sources'])}, this one {', '.join(self.sources)}"
            )
        self.tokens = dict(state["tokens"])
        for name, source in self.sources.items():
            source.load_state_dict(state["sources"][name])


def heldout_documents(reader: Reader, form: Form, encode: Encode, count: int, what: str) -> list[list[int]]:
    """Token ids of the first ``count`` documents; of these, empty ones are left out as in training.

    Raises:
        UserError: There are fewer, or all are empty.
    """
    texts = [form(record, where) for where, record in itertools.islice(reader.read(0), count)]
    if len(texts) < count:
        raise UserError(f"{what} has {len(texts)} documents only, and {count} are to be held out: lower "
                        "data.heldout_documents")  # fmt: skip
    found = [encode(text) for text in texts if text.strip()]
    if not found:
        raise UserError(f"{what}: all of the first {count} documents are empty; raise data.heldout_documents")
    return found


def count_tokens(reader: Reader, form: Form, encode: Encode, skip: int) -> int:
    """Tokens of one pass over a source without its held-out part."""
    texts = (form(record, where) for where, record in reader.read(skip))
    return sum(len(encode(text)) for text in texts if text.strip())
