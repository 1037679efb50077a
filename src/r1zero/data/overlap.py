"""How many questions of a benchmark are in the training set too (trap 36)."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from r1zero.batch import Question

_WORD = re.compile(r"[^\W_]+")


@dataclass(frozen=True)
class Match:
    """A held-out question (index ``held``) and the training question most like it (index ``train``).

    ``share`` is the part of the held-out question's word n-grams that this one training question holds;
    ``exact`` says that both are equal after removing white space.
    """

    held: int
    train: int
    share: float
    exact: bool


@dataclass(frozen=True)
class Overlap:
    """Matches between a training set and a held-out set of ``questions`` questions."""

    questions: int
    matches: tuple[Match, ...]

    @property
    def exact(self) -> int:
        """Held-out questions that are in the training set, white space aside."""
        return sum(match.exact for match in self.matches)

    @property
    def near(self) -> int:
        """Held-out questions of which a training question holds most word n-grams; exact ones are among them."""
        return len(self.matches)

    def __str__(self) -> str:
        """One line for a log."""
        return f"{self.exact} exact and {self.near - self.exact} near of {self.questions} questions"


def overlap(train: Sequence[Question], held: Sequence[Question], n: int = 10, share: float = 0.5) -> Overlap:
    """Find the held-out questions that the training set holds, whole or in large part.

    A question of fewer than ``n`` words has no n-gram; it matches a training question of the same words.
    Near matches are a list to read: variants of one exercise with other numbers are among them.

    Args:
        train: Training questions.
        held: Held-out questions.
        n: Words of an n-gram.
        share: Least part of a held-out question's distinct n-grams that one training question must hold.

    Returns:
        The best match of each held-out question that has one, in the order of ``held``.
    """
    grams = [_grams(question.text, n) for question in held]
    holders: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for index, found in enumerate(grams):
        for gram in found:
            holders[gram].append(index)
    bare: dict[str, list[int]] = defaultdict(list)
    for index, question in enumerate(held):
        bare["".join(question.text.split())].append(index)

    best: dict[int, Match] = {}
    for row, question in enumerate(train):
        common = Counter(index for gram in _grams(question.text, n) for index in holders.get(gram, ()))
        equal = set(bare.get("".join(question.text.split()), ()))
        for index in common.keys() | equal:
            match = Match(index, row, common[index] / len(grams[index]) if grams[index] else 1.0, index in equal)
            if not match.exact and match.share < share:
                continue
            if index not in best or (match.exact, match.share) > (best[index].exact, best[index].share):
                best[index] = match
    return Overlap(len(held), tuple(best[index] for index in sorted(best)))


def _grams(text: str, n: int) -> set[tuple[str, ...]]:
    """Distinct word n-grams of a text; all its words as one gram where it has fewer."""
    words = _WORD.findall(text.lower())
    if len(words) < n:
        return {tuple(words)} if words else set()
    return {tuple(words[at : at + n]) for at in range(len(words) - n + 1)}
