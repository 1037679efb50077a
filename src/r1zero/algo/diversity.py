"""How different the responses of a group are from one another."""

from __future__ import annotations

from collections.abc import Hashable, Sequence


def ngrams(ids: Sequence[int], n: int) -> list[tuple[int, ...]]:
    """All runs of n neighbouring tokens; a shorter text is one run."""
    if len(ids) <= n:
        return [tuple(ids)]
    return list(zip(*(ids[k:] for k in range(n)), strict=False))


def distinct_n(texts: Sequence[Sequence[int]], n: int) -> float:
    """Different n-grams over all n-grams of a group's responses: 1 when nothing is repeated."""
    runs = [run for ids in texts for run in ngrams(ids, n)]
    return len(set(runs)) / len(runs)


def self_similarity(texts: Sequence[Sequence[int]], n: int) -> float:
    """Mean Jaccard similarity of the n-gram sets over all pairs of a group: 1 when all responses are alike."""
    sets = [set(ngrams(ids, n)) for ids in texts]
    pairs = [(a, b) for k, a in enumerate(sets) for b in sets[k + 1 :]]
    return sum(len(a & b) / len(a | b) for a, b in pairs) / len(pairs)


def distinct_answers(answers: Sequence[Hashable | None]) -> int:
    """Different answers of a group; responses without one are left out."""
    return len({answer for answer in answers if answer is not None})
