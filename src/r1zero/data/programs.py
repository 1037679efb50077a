"""Small programming questions from a seed, each with unit tests, e.g. "Write f(x) in Python: 3*x+2.".

As in :mod:`r1zero.data.arithmetic` the split is a property of the question, by a hash of its text. The wanted
values come from a reference function of ours; there are no gold answers, so ``data.gold`` is none.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from r1zero.data.arithmetic import whole
from r1zero.errors import UserError

if TYPE_CHECKING:
    from r1zero.batch import Question

SPLITS = ("train", "heldout")


@dataclass(frozen=True)
class Family:
    """One kind of question: what f is given ("number", "numbers", "word" or "pair"), the text, the reference.

    Text and reference are made from two numbers ``a`` and ``b`` between 2 and 9.
    """

    name: str
    given: str
    text: str
    reference: Callable[[int, int], Callable[..., Any]]


FAMILIES = (
    Family("linear", "number", "{a}*x+{b}", lambda a, b: lambda x: a * x + b),
    Family("square", "number", "x squared minus {a}", lambda a, b: lambda x: x * x - a),
    Family("remainder", "number", "x modulo {a}, plus {b}", lambda a, b: lambda x: x % a + b),
    Family("clamp", "number", "x, but at most {a}", lambda a, b: lambda x: min(x, a)),
    Family("sum_above", "numbers", "the sum of those over {a}", lambda a, b: lambda xs: sum(x for x in xs if x > a)),
    Family("count", "numbers", "how many are {a}", lambda a, b: lambda xs: xs.count(a)),
    Family("without", "numbers", "the list without any {a}", lambda a, b: lambda xs: [x for x in xs if x != a]),
    Family("reversed", "numbers", "the list reversed, each +{a}", lambda a, b: lambda xs: [x + a for x in xs[::-1]]),
    Family("repeated", "word", "s repeated {a} times", lambda a, b: lambda s: s * a),
    Family("first", "word", "the first {a} letters of s", lambda a, b: lambda s: s[:a]),
    Family("rotated", "word", "s moved left by {a}, cyclic", lambda a, b: lambda s: s[a % len(s) :] + s[: a % len(s)]),
    Family("larger", "pair", "the larger of {a}*x, {b}*y", lambda a, b: lambda x, y: max(a * x, b * y)),
)
_NAMES = {"number": "x", "numbers": "xs", "word": "s", "pair": "x, y"}


def check(split: str, tests: int = 8, heldout_percent: int = 20, **unknown: Any) -> None:
    """Raises ``UserError`` for a split or settings that :func:`generate` can't work with."""
    if unknown:
        raise UserError(f"programs: setting '{sorted(unknown)[0]}' is unknown; known are tests, heldout_percent")
    if split not in SPLITS:
        raise UserError(f"programs: split={split} is unknown; choose one of {', '.join(SPLITS)}")
    if not whole(tests, 1, 100):
        raise UserError(f"programs: tests={tests} must lie between 1 and 100")
    if not whole(heldout_percent, 1, 99):
        raise UserError(f"programs: heldout_percent={heldout_percent} must lie between 1 and 99")


def generate(
    split: str, count: int, seed: int, tests: int = 8, heldout_percent: int = 20, **unknown: Any
) -> list[Question]:
    """Make ``count`` different questions of ``split`` (train or heldout), in an order fixed by ``seed``.

    Args:
        split: train or heldout.
        count: Questions.
        seed: Governs which questions, and their order; the tests of a question follow from its text alone.
        tests: Unit tests of a question.
        heldout_percent: Share of all questions that is held out.
        unknown: Settings that there are not.

    Returns:
        Questions without gold answers; ``meta`` holds ``function``, ``tests`` and ``family``.

    Raises:
        UserError: A setting is wrong, or there are fewer different questions than asked for.
    """
    from r1zero.batch import Question

    check(split, tests, heldout_percent, **unknown)
    every: dict[str, tuple[Family, Callable[..., Any]]] = {}
    for family in FAMILIES:
        for a in range(2, 10):
            for b in range(2, 10):
                what = family.text.format(a=a, b=b)
                text = f"Write f({_NAMES[family.given]}) in Python: {what}."
                every.setdefault(text, (family, family.reference(a, b)))
    chosen = [text for text in every if _held_out(text, heldout_percent) == (split == "heldout")]
    if count > len(chosen):
        raise UserError(f"programs: {count} questions were asked for, but split={split} has {len(chosen)}")
    # One family as often as another, though some have more questions: the order is drawn, then dealt out in turn.
    rng = random.Random(f"{split}/{seed}")
    rng.shuffle(chosen)
    seen: dict[str, int] = {}
    turn: dict[str, int] = {}
    for text in chosen:
        name = every[text][0].name
        turn[text] = seen[name] = seen.get(name, 0) + 1
    chosen.sort(key=lambda text: turn[text])
    return [
        Question(text, (), "programs", row, {"function": "f", "family": every[text][0].name,
                                             "tests": _tests(text, *every[text], tests)})
        for row, text in enumerate(chosen[:count])
    ]  # fmt: skip


def _tests(text: str, family: Family, reference: Callable[..., Any], count: int) -> list[dict[str, Any]]:
    """Unit tests whose wanted values are not all the same, so that no constant passes."""
    rng = random.Random(text)
    while True:
        made = [_arguments(family.given, rng) for _ in range(count)]
        found = [{"args": arguments, "want": reference(*arguments)} for arguments in made]
        if count == 1 or len({repr(test["want"]) for test in found}) > 1:
            return found


def _arguments(given: str, rng: random.Random) -> list[Any]:
    if given == "number":
        return [rng.randint(-20, 20)]
    if given == "numbers":
        return [[rng.randint(0, 10) for _ in range(rng.randint(0, 8))]]
    if given == "word":
        return ["".join(rng.choice("abcdefgh") for _ in range(rng.randint(1, 12)))]
    return [rng.randint(-9, 9), rng.randint(-9, 9)]


def _held_out(text: str, percent: int) -> bool:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") % 100 < percent
