r"""Lists, sets and points.

Grammar: members between `,`, `;`, "and", "or", in no brackets or in `\{\}` (no order) or in `()` and `[]` (in order);
    members may be named (`x=1, y=2`), and `a\pm b` stands for two.
Compares: the same number of members, each with one of the gold's by all rules; named members by their names.
Pays: another order of a list or set; a point without brackets; `3, 4` for `x=3, y=4`; a point that is repeated; several
    members that all equal a single gold.
Never pays: a member more or less; a number repeated; a set for a point or an interval; values of swapped names;
    another bracket of a pair; a thousand for a point.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from r1zero.reward.rules import values
from r1zero.reward.rules.equation import is_name
from r1zero.reward.rules.latex import key
from r1zero.reward.rules.number import parse_number
from r1zero.reward.rules.structure import Shape, shape, sides, split, tokens
from r1zero.reward.rules.word import raw_text

if TYPE_CHECKING:
    from r1zero.reward.rules.compare import Compare

EXAMPLES = (
    ("-2, 1", "1,-2", True), (r"\{3,5,7\}", "7, 5 \\text{ and } 3", True), ("1,2", "(1,2)", True),
    ("3, 4", "x=3, y=4", True),
    (r"1+\sqrt{2}, 1-\sqrt{2}", r"1\pm\sqrt{2}", True), ("(5,2),(7,2)", "p=5,q=2;p=7,q=2", True),
    (r"\frac12\text{ or }0.5", "0.5", True), ("3,5", "3,5,7", False), ("(2,1)", "(1,2)", False), ("5, 6", "5", False),
    (r"\{1,2,3\}", "(1,2,3)", False), ("4, 3", "x=3, y=4", False), ("16,3,1", "16,3,1,1", False),
)  # fmt: skip

_PLUS_MINUS = {r"\pm", r"\mp"}
_RELATIONS = frozenset({"<", ">", r"\leq", r"\geq"})
_JOINTS = (frozenset({r"\text{or}", "or"}), frozenset({r"\text{and}", "and"}))
_ROOT = re.compile(r"(x|z|t|r|\\lambda)_\d")
MAX_MEMBERS = 60


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
    return None if got is None or got.kind == "tuple" else _values(got.members)


def _spelled(value: str) -> list[str] | None:
    """Members of a list with every plus-minus spelled out; None when there is nothing to spell."""
    got = shape(value)
    if got is None or got.kind == "tuple":
        return None
    members: list[str] = []
    spelled = False
    for member in _values(got.members):
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
    if any(member[:1] == "(" for member in theirs) and len({key(member) for member in theirs}) == len(theirs):
        ours = list({key(member): member for member in ours}.values())  # a point that is repeated is one point
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
    if ours is None or theirs is None or ours.kind == theirs.kind == "single":
        return None
    if len(raw_text(gold).split()) > 8 and not re.search(r"[,;]\d", gold):
        return None
    if any(_has_thousand(text, got.kind) for text, got in ((answer, ours), (gold, theirs))):
        return False
    kinds = {ours.kind, theirs.kind}
    if not inner and "tuple" in kinds and (parse_number(answer) or parse_number(gold)):
        return False  # (1, 100) is not 1,100
    joined = any(split(answer, one) != [answer] and split(gold, two) != [gold] for one, two in (_JOINTS, _JOINTS[::-1]))
    if joined and _RELATIONS & set(tokens(gold)):
        return False  # x<1 or x>3 is not x<1 and x>3
    if r"\ldots" in tokens(answer) or r"\ldots" in tokens(gold):
        return ours.kind == theirs.kind and _in_order(list(ours.members), list(theirs.members), compare)
    if "tuple" not in kinds:
        if len(theirs.members) > MAX_MEMBERS:
            return None
        if theirs.kind == "single" and len(ours.members) > 1:
            alike = ours.kind == "list" and len(ours.members) <= 4 and all(compare(m, gold) for m in ours.members)
            return True if alike else _listed(ours, theirs, compare)
        return _listed(ours, theirs, compare)
    if kinds == {"tuple"}:
        pair = len(ours.members) == 2 or {ours.brackets, theirs.brackets} & {"(]", "[)"}
        if pair and ours.brackets != theirs.brackets:
            return False
        return _in_order(list(ours.members), list(theirs.members), compare)
    if "set" in kinds:
        return False
    if kinds == {"tuple", "list"}:
        grouped = [_grouped(got.members) for got in (ours, theirs)]
        if any(grouped):
            return False  # one point is not several
        if "[" in (ours.brackets + theirs.brackets) and len(ours.members) < 3:
            return False
        return _in_order(_values(ours.members), _values(theirs.members), compare)
    single = answer if ours.kind == "single" else gold
    if parse_number(single, not inner) or values.constant(single) is not None:
        return False  # a point or an interval is not a number
    return None


def _has_thousand(value: str, kind: str) -> bool:
    """Whether brackets hold what can only be a thousand written with a comma, "(1,000)"."""
    return kind == "tuple" and re.fullmatch(r"[(\[]\d{1,3}(?:,\d{3})*,0\d\d(?:,\d{3})*[)\]]", value) is not None


def _in_order(ours: list[str], theirs: list[str], compare: Compare) -> bool:
    return len(ours) == len(theirs) and all(compare(one, two) for one, two in zip(ours, theirs, strict=True))


def _listed(ours: Shape, theirs: Shape, compare: Compare) -> bool:
    """Two collections without brackets of order, by the names of their members where both have some."""
    if not ours.members or not theirs.members:
        return ours.members == theirs.members
    ours_grouped, theirs_grouped = _grouped(ours.members), _grouped(theirs.members)
    if ours_grouped or theirs_grouped:
        return same_members(ours_grouped or list(ours.members), theirs_grouped or list(theirs.members), compare)
    left, right = _named(ours.members), _named(theirs.members)
    our_names, their_names = {name for name, _ in left}, {name for name, _ in right}
    if "" in our_names or "" in their_names:
        if "" in our_names and len(their_names - {""}) > 1 and "" not in their_names:
            return _in_order(list(ours.members), [value for _, value in right], compare)
        mine = list(ours.members) if "" in our_names else [value for _, value in left]
        wanted = list(theirs.members) if "" in their_names else [value for _, value in right]
        return same_members(mine, wanted, compare)
    if our_names != their_names or len(left) != len(right):
        return False
    return all(
        same_members([v for n, v in left if n == name], [v for n, v in right if n == name], compare)
        for name in sorted(our_names)
    )


def _named(members: tuple[str, ...]) -> list[tuple[str, str]]:
    """Name and value of each member; a name holds for the members behind it ("n=2,3,4"); "" where there is none.

    The roots ``x_1=.., x_2=..`` of one equation have one name.
    """
    pairs: list[tuple[str, str]] = []
    name = ""
    for member in members:
        pieces = sides(member)
        if pieces and len(pieces) == 2 and is_name(pieces[0]):
            name = pieces[0].replace("{", "").replace("}", "")
            pairs.append((name, pieces[1]))
        elif pieces:
            return [("", one) for one in members]
        else:
            pairs.append((name, member))
    roots = [_ROOT.fullmatch(one) for one, _ in pairs]
    if roots and roots[0] and all(roots):
        return [(roots[0].group(1), value) for _, value in pairs]
    return pairs if any(one for one, _ in pairs) else [("", one) for one in members]


def _values(members: tuple[str, ...]) -> list[str]:
    pairs = _named(members)
    return [value for _, value in pairs]


def _grouped(members: tuple[str, ...]) -> list[str]:
    """Points that repeated names spell: (5,2) and (7,2) for p=5, q=2, p=7, q=2; [] for anything else."""
    pairs = [sides(member) for member in members]
    if len(members) < 4 or not all(pieces and len(pieces) == 2 and is_name(pieces[0]) for pieces in pairs):
        return []
    names = [pieces[0].replace("{", "").replace("}", "") for pieces in pairs if pieces]
    size = len(dict.fromkeys(names))
    if size < 2 or size == len(names) or len(names) % size or names != names[:size] * (len(names) // size):
        return []
    found = [pieces[1] for pieces in pairs if pieces]
    return ["(" + ",".join(found[start : start + size]) + ")" for start in range(0, len(found), size)]
