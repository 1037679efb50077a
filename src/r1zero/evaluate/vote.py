"""Majority vote: which responses give the same answer, by the verifier's own equivalence."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from r1zero.reward.gold import prepare_gold
from r1zero.reward.grader import GradeItem, Grader
from r1zero.reward.rules.latex import key


def answer_groups(grader: Grader, answers: Sequence[Sequence[str | None]]) -> list[list[int]]:
    """Number the distinct answers of each question; what belongs together does not depend on their order.

    Equal canonical spellings are one form. Two forms agree when the verifier accepts each as the answer to the
    other, and a group's forms all agree with one another: 28% agrees with 28 and with 0.28, which don't agree, so
    it joins only one of them. Forms are placed from the most frequent one on (of equally frequent ones in the order
    of their spelling), each into the group of most votes that it agrees with.

    Args:
        grader: The verifier that graded the responses.
        answers: Per question the extracted answers of its responses, None where there is none.

    Returns:
        Per question a group number per response, in order of appearance; -1 where there is no answer.
    """
    spelled = [[None if answer is None else key(answer) for answer in row] for row in answers]
    texts = [_shortest(row, forms) for row, forms in zip(answers, spelled, strict=True)]
    votes = [Counter(form for form in forms if form is not None) for forms in spelled]
    ranked = [[form for form, _ in sorted(count.items(), key=lambda pair: (-pair[1], pair[0]))] for count in votes]
    agree = _agreements(grader, ranked, texts)
    return [
        _numbered(forms, _placed(order, count, pairs))
        for forms, order, count, pairs in zip(spelled, ranked, votes, agree, strict=True)
    ]


def _shortest(row: Sequence[str | None], forms: Sequence[str | None]) -> dict[str, str]:
    """The text that stands for each form: its shortest, of equally long ones the first in the alphabet."""
    found: dict[str, str] = {}
    for answer, form in zip(row, forms, strict=True):
        if answer is not None and form is not None:
            found[form] = min(found.get(form, answer), answer, key=lambda text: (len(text), text))
    return found


def _agreements(grader: Grader, ranked: list[list[str]], texts: list[dict[str, str]]) -> list[set[frozenset[str]]]:
    """Pairs of forms of which each is right where the other is the gold answer."""
    pairs = [
        (at, one, two)
        for at, forms in enumerate(ranked)
        for index, one in enumerate(forms)
        for two in forms[index + 1 :]
    ]
    for turned in (False, True):
        asked = [(at, two, one) if turned else (at, one, two) for at, one, two in pairs]
        futures = [grader.submit(_item(grader, texts[at][one], texts[at][two])) for at, one, two in asked]
        pairs = [pair for pair, future in zip(pairs, futures, strict=True) if future.result().right]
    agree: list[set[frozenset[str]]] = [set() for _ in ranked]
    for at, one, two in pairs:
        agree[at].add(frozenset((one, two)))
    return agree


def _item(grader: Grader, answer: str, gold: str) -> GradeItem:
    return GradeItem(grader.wrap(answer), prepare_gold(gold) or (gold,))


def _placed(ranked: list[str], votes: Counter[str], agree: set[frozenset[str]]) -> dict[str, int]:
    groups: list[list[str]] = []
    for form in ranked:
        fitting = [group for group in groups if all(frozenset((form, other)) in agree for other in group)]
        if fitting:
            max(fitting, key=lambda group: sum(votes[other] for other in group)).append(form)
        else:
            groups.append([form])
    return {form: number for number, group in enumerate(groups) for form in group}


def _numbered(forms: Sequence[str | None], group_of: dict[str, int]) -> list[int]:
    order: dict[int, int] = {}
    return [-1 if form is None else order.setdefault(group_of[form], len(order)) for form in forms]


def majority(groups: Sequence[int], right: Sequence[float]) -> float:
    """How right the answer is that most responses give, from 0 to 1.

    Responses without an answer don't vote. Of equally frequent answers one is drawn, and this is the mean over the
    draws, so that nothing depends on the order of the responses.
    """
    votes = Counter(group for group in groups if group >= 0)
    if not votes:
        return 0.0
    most = max(votes.values())
    winners = [group for group, count in votes.items() if count == most]
    return sum(float(verdict) for group, verdict in zip(groups, right, strict=True) if group in winners) / (
        most * len(winners)
    )
