"""Document streams: every document once a pass, shared by ranks, mixed by tokens, and left and gone on with exactly."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest

from r1zero.errors import UserError
from r1zero.pretrain.stream import Documents, Mixture, StreamedDocuments, count_tokens, heldout_documents


class Numbers:
    """A reader of ``count`` records; every seventh holds an empty text where ``gaps``."""

    def __init__(self, count: int, gaps: bool = False) -> None:
        self.count, self.gaps = count, gaps

    def read(self, start: int) -> Iterator[tuple[str, dict[str, Any]]]:
        for number in range(start, self.count):
            yield f"record {number}", {"text": "" if self.gaps and number % 7 == 3 else str(number)}


class Lengths:
    """Documents of one length; counts what it gave."""

    def __init__(self, length: int) -> None:
        self.length, self.number = length, 0

    def read(self, progress: float) -> list[int]:
        self.number += 1
        return [self.number] * self.length

    def state_dict(self) -> dict[str, Any]:
        return {"number": self.number}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.number = state["number"]


def text(record: Any, where: str) -> str:
    return record["text"]


def encode(document: str) -> list[int]:
    return [int(document)]


def stream(count: int = 50, gaps: bool = False, **settings: Any) -> StreamedDocuments:
    settings = {"name": "numbers", "seed": 0, "buffer": 8, **settings}
    return StreamedDocuments(Numbers(count, gaps), text, encode, **settings)  # type: ignore[arg-type]


def take(documents: Documents, count: int) -> list[int]:
    return [documents.read(0.0)[0] for _ in range(count)]


@pytest.mark.parametrize("buffer", [1, 8, 50, 1000])
def test_a_pass_hands_out_every_document_once(buffer: int) -> None:
    documents = stream(buffer=buffer, skip=5)
    passes = [take(documents, 45) for _ in range(3)]
    assert all(sorted(found) == list(range(5, 50)) for found in passes)
    assert (passes[0] == list(range(5, 50))) == (buffer == 1)
    if buffer > 1:
        assert passes[0] != passes[1]
        # Nothing comes before it was read: document n is drawn at the earliest when the buffer reaches it.
        assert all(at >= number - 5 - buffer + 1 for at, number in enumerate(passes[0]))


def test_the_order_is_a_function_of_seed_and_name() -> None:
    assert take(stream(), 120) == take(stream(), 120)
    assert take(stream(), 50) != take(stream(seed=1), 50)
    assert take(stream(), 50) != take(stream(name="others"), 50)


def test_records_without_text_are_left_out() -> None:
    assert sorted(take(stream(21, gaps=True), 18)) == [n for n in range(21) if n % 7 != 3]


@pytest.mark.parametrize("done", [0, 1, 20, 41, 42, 43, 49, 50, 75])
def test_a_saved_state_goes_on_with_the_same_documents(done: int) -> None:
    first = stream(gaps=True, skip=1)
    take(first, done)
    state = copy.deepcopy(first.state_dict())
    expected = take(first, 100)
    again = stream(gaps=True, skip=1)
    again.load_state_dict(state)
    assert take(again, 100) == expected


def test_a_kept_state_does_not_change_with_the_stream() -> None:
    first = stream()
    take(first, 10)
    state = first.state_dict()
    before = copy.deepcopy(state)
    take(first, 30)
    assert state == before


@pytest.mark.parametrize("world", [2, 3, 4])
def test_ranks_share_a_pass_without_overlap(world: int) -> None:
    found = []
    for rank in range(world):
        mine = len(range(5 + rank, 50, world))
        documents = stream(skip=5, rank=rank, world=world)
        found += take(documents, mine)
        assert sorted(take(documents, mine)) == list(range(5 + rank, 50, world))
    assert sorted(found) == list(range(5, 50))


def test_a_source_with_nothing_to_train_on_is_refused() -> None:
    with pytest.raises(UserError, match="no document to train on beside the 5 held-out ones"):
        stream(5, skip=5).read(0.0)
    with pytest.raises(UserError, match="for process 1"):
        stream(6, skip=5, rank=1, world=2).read(0.0)


def mixture() -> Mixture:
    return Mixture({"a": Lengths(3), "b": Lengths(40), "c": stream(30)}, {"a": 2.0, "b": 5.0, "c": 3.0})


def test_a_mixture_keeps_its_shares_of_the_tokens() -> None:
    documents = mixture()
    tokens = sum(len(documents.read(0.0)) for _ in range(10_000))
    assert sum(documents.tokens.values()) == tokens
    for name, share in (("a", 0.2), ("b", 0.5), ("c", 0.3)):
        assert documents.tokens[name] / tokens == pytest.approx(share, abs=0.005)


@pytest.mark.parametrize("done", [0, 17, 400])
def test_a_mixture_goes_on_exactly(done: int) -> None:
    first = mixture()
    for _ in range(done):
        first.read(0.0)
    again = mixture()
    again.load_state_dict(copy.deepcopy(first.state_dict()))
    assert [again.read(0.0) for _ in range(300)] == [first.read(0.0) for _ in range(300)]


def test_a_state_of_other_sources_is_refused() -> None:
    with pytest.raises(UserError, match="mixed the sources a, b, c, this one a"):
        Mixture({"a": Lengths(1)}, {"a": 1.0}).load_state_dict(mixture().state_dict())


def test_held_out_documents_and_the_tokens_of_a_pass() -> None:
    reader: Any = Numbers(20)
    assert heldout_documents(reader, text, encode, 4, "data.sources.x") == [[0], [1], [2], [3]]
    assert count_tokens(reader, text, encode, 4) == 16
    gaps: Any = Numbers(20, gaps=True)  # records 3, 10 and 17 are empty
    assert heldout_documents(gaps, text, encode, 4, "data.sources.x") == [[0], [1], [2]]
    assert count_tokens(gaps, text, encode, 4) == 14
    with pytest.raises(UserError, match=r"data\.sources\.x has 20 documents only, and 21 are to be held out"):
        heldout_documents(reader, text, encode, 21, "data.sources.x")
