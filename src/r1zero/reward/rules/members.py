"""Rules for answers with members: lists, sets, points, intervals, unions, matrices."""

from __future__ import annotations

import re

from r1zero.reward.rules import numeric, words
from r1zero.reward.rules.latex import key
from r1zero.reward.rules.numbers import parse_number
from r1zero.reward.rules.scalars import Compare
from r1zero.reward.rules.structure import (
    Interval,
    inequality,
    interval,
    matrix,
    membership,
    shape,
    sides,
    split,
    tokens,
)

_PLUS_MINUS = {r"\pm", r"\mp"}


def plus_minus(answer: str, gold: str, compare: Compare, inner: bool) -> bool | None:
    r"""``a \pm b`` is the list of its two values."""
    ours, theirs = _spelled(answer), _spelled(gold)
    if ours is None and theirs is None:
        return None
    left, right = ours or _members(answer), theirs or _members(gold)
    if left is None or right is None or len(left) > 16 or len(right) > 16:
        return None
    return same_members(left, right, compare)


def _members(value: str) -> list[str] | None:
    got = shape(value)
    return None if got is None or got.kind == "tuple" else _unlabelled(got.members)[0]


def _spelled(value: str) -> list[str] | None:
    """Members of a list with every plus-minus spelled out; None when there is nothing to spell."""
    got = shape(value)
    if got is None or got.kind == "tuple":
        return None
    members: list[str] = []
    spelled = False
    for member in _unlabelled(got.members)[0]:
        parts = tokens(member)
        signs = [token for token in parts if token in _PLUS_MINUS]
        if not signs:
            members.append(member)
        elif len(signs) == 1 or signs == [r"\pm", r"\mp"]:
            spelled = True
            for sign, opposite in (("+", "-"), ("-", "+")):
                turned = {r"\pm": sign, r"\mp": opposite}
                members.append("".join(turned.get(token, token) for token in parts).removeprefix("+"))
        else:
            return None
    return members if spelled else None


def same_members(ours: list[str], theirs: list[str], compare: Compare) -> bool:
    """Whether two unordered collections have the same members, each as often."""
    if len(ours) != len(theirs):
        return False
    left = list(ours)
    keys = [key(member) for member in left]
    for member in theirs:  # equal spellings first: cheap, and most members have one
        if key(member) in keys:
            index = keys.index(key(member))
            del keys[index], left[index]
        else:
            break
    rest = theirs[len(ours) - len(left) :]
    for member in rest:
        for index, candidate in enumerate(left):
            if compare(candidate, member):
                del left[index]
                break
        else:
            return False
    return True


def collection(answer: str, gold: str, compare: Compare, inner: bool) -> bool | None:
    """Lists and sets without order, points and intervals with order and brackets; the same count of members."""
    ours, theirs = shape(answer), shape(gold)
    if ours is None or theirs is None:
        return None
    if ours.kind == theirs.kind == "single":
        return None
    if len(words.raw_text(gold).split()) > 8 and not re.search(r"[,;]\d", gold):
        return None
    if _has_thousand(answer, ours.kind) or _has_thousand(gold, theirs.kind):
        return False
    if not inner and "tuple" in (ours.kind, theirs.kind) and (parse_number(answer) or parse_number(gold)):
        return False  # (1, 100) is not 1,100
    if r"\ldots" in tokens(answer) or r"\ldots" in tokens(gold):
        same = ours.kind == theirs.kind and len(ours.members) == len(theirs.members)
        return same and all(compare(left, right) for left, right in zip(ours.members, theirs.members, strict=True))
    flat = ("list", "set", "single")
    if ours.kind in flat and theirs.kind in flat:
        if (ours.kind == "single" and sides(answer) and len(ours.members) < len(theirs.members)) or len(
            theirs.members
        ) > 60:
            return None
        left, our_label = _unlabelled(ours.members)
        right, their_label = _unlabelled(theirs.members)
        if our_label and their_label and our_label != their_label:
            return False
        if not left or not right:
            return left == right
        return same_members(left, right, compare)
    if ours.kind == theirs.kind == "tuple":
        if len(ours.members) != len(theirs.members):
            return False
        if len(ours.members) == 2 and ours.brackets != theirs.brackets:
            return False
        return all(compare(left, right) for left, right in zip(ours.members, theirs.members, strict=True))
    if {ours.kind, theirs.kind} == {"tuple", "list"} and "[" not in (ours.brackets + theirs.brackets)[:1]:
        if len(ours.members) != len(theirs.members):
            return False
        same = all(compare(left, right) for left, right in zip(ours.members, theirs.members, strict=True))
        return True if same else False if theirs.kind == "tuple" else None
    if "single" in (ours.kind, theirs.kind):
        single = answer if ours.kind == "single" else gold
        if parse_number(single, not inner) or (numeric.constant(single) is not None):
            return False  # a point or an interval is no number
    return None


def _has_thousand(value: str, kind: str) -> bool:
    """Whether brackets hold what can only be a thousand written with a comma, "(1,000)"."""
    return kind == "tuple" and re.fullmatch(r"[(\[]\d{1,3}(?:,\d{3})*,0\d\d(?:,\d{3})*[)\]]", value) is not None


def _unlabelled(members: tuple[str, ...]) -> tuple[list[str], str]:
    """Members without a letter that names them all ("x=1, x=2" or "n=2,3,4"), and that letter."""
    split_members = [sides(member) for member in members]
    labels = {pieces[0] for pieces in split_members if pieces and len(pieces) == 2}
    if len(labels) != 1 or split_members[0] is None:
        return list(members), ""
    label = labels.pop()
    if not re.fullmatch(r"[a-zA-Z](?:_\{?\w+\}?)?|\\[a-z]+", label):
        return list(members), ""
    everywhere = all(pieces for pieces in split_members)
    only_first = not any(split_members[1:])
    if not everywhere and not only_first:
        return list(members), ""
    if everywhere and len(members) == 1:
        return list(members), ""
    return [pieces[1] if pieces else member for pieces, member in zip(split_members, members, strict=True)], label


def intervals(answer: str, gold: str, compare: Compare, inner: bool) -> bool | None:
    r"""Inequalities and intervals: ``x \geq 2`` = ``2 \leq x`` = ``[2,\infty)``; ``x \in I`` is I; unions unordered."""
    letter, bare = membership(answer)
    other, wanted = membership(gold)
    if letter or other:
        if letter and other and letter != other:
            return False
        if (letter and other) or not (inequality(bare) or inequality(wanted)):
            return compare(bare, wanted, inner)
    if r"\cup" in tokens(answer) or r"\cup" in tokens(gold):
        left, right = split(answer, {r"\cup"}), split(gold, {r"\cup"})
        if (
            left
            and right
            and len(left) == len(right)
            and all(left)
            and all(right)
            and same_members(left, right, compare)
        ):
            return True
        return None
    theirs = inequality(gold)
    if theirs is None:
        return None
    ours = inequality(answer) or interval(answer)
    if ours is None:
        return None
    if ours.letter and ours.letter != theirs.letter:
        return False
    return _same_interval(ours, theirs, compare)


def _same_interval(ours: Interval, theirs: Interval, compare: Compare) -> bool:
    if (ours.low_closed, ours.high_closed) != (theirs.low_closed, theirs.high_closed):
        return False
    return compare(ours.low, theirs.low) and compare(ours.high, theirs.high)


def matrices(answer: str, gold: str, compare: Compare, inner: bool) -> bool | None:
    """Matrices entry by entry, whatever their brackets; a row is no column; a factor goes into the entries."""
    ours, theirs = matrix(answer), matrix(gold)
    if ours is None or theirs is None:
        return None
    if len(ours.rows) != len(theirs.rows) or len(ours.rows[0]) != len(theirs.rows[0]):
        return False
    left = [_scaled(ours.factor, cell) for row in ours.rows for cell in row]
    right = [_scaled(theirs.factor, cell) for row in theirs.rows for cell in row]
    return all(compare(one, two) for one, two in zip(left, right, strict=True))


def _scaled(factor: str, cell: str) -> str:
    if not factor or factor == "+":
        return cell
    return f"-({cell})" if factor == "-" else f"({factor})({cell})"
