"""Majority vote: which responses give the same answer, by the verifier's own equivalence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from r1zero.reward.gold import prepare_gold
from r1zero.reward.grader import GradeItem, Grader


@dataclass
class Group:
    """The answers to one question in order of appearance, and the group each text belongs to."""

    leaders: list[str] = field(default_factory=list)
    known: dict[str, int] = field(default_factory=dict)


def answer_groups(grader: Grader, answers: Sequence[Sequence[str | None]]) -> list[list[int]]:
    """Number the distinct answers of each question.

    An answer joins the first earlier one that the verifier finds equal to it; equal texts are never compared.

    Args:
        grader: The verifier that graded the responses.
        answers: Per question the extracted answers of its responses, None where there is none.

    Returns:
        Per question a group number per response; -1 where there is no answer.
    """
    groups = [Group() for _ in answers]
    waiting = [list(dict.fromkeys(a for a in row if a is not None)) for row in answers]
    while any(waiting):  # one answer of every question at a time, so that the workers have something to do
        turn = [(at, row.pop(0)) for at, row in enumerate(waiting) if row]
        pending = [
            (at, answer, [grader.submit(item) for item in _items(grader, answer, groups[at].leaders)])
            for at, answer in turn
        ]
        for at, answer, futures in pending:
            group = groups[at]
            hits = [number for number, future in enumerate(futures) if future.result().right]
            if hits:
                group.known[answer] = hits[0]
            else:
                group.known[answer] = len(group.leaders)
                group.leaders.append(answer)
    return [
        [-1 if answer is None else group.known[answer] for answer in row]
        for row, group in zip(answers, groups, strict=True)
    ]


def _items(grader: Grader, answer: str, leaders: list[str]) -> list[GradeItem]:
    response = grader.wrap(answer)
    return [GradeItem(response, prepare_gold(leader) or (leader,)) for leader in leaders]


def majority(groups: Sequence[int], right: Sequence[bool]) -> bool:
    """Whether the answer that most responses give is right.

    Responses without an answer don't vote; of equally frequent answers the one that came first wins.
    """
    counts: dict[int, int] = {}
    for group in groups:
        if group >= 0:
            counts[group] = counts.get(group, 0) + 1
    if not counts:
        return False
    winner = max(counts, key=lambda group: (counts[group], -group))
    return bool(right[list(groups).index(winner)])
