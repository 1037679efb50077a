"""1,000 made-up inputs: no hang past the deadline, no exception, no growth of memory, sound verdicts."""

from __future__ import annotations

import contextlib
import random
import time

import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from r1zero.config import RewardConfig
from r1zero.reward.extract import answer_tag, boxed
from r1zero.reward.gold import prepare_gold
from r1zero.reward.grader import GradeItem, Grader
from r1zero.reward.outcome import Status
from r1zero.reward.rules import compare
from r1zero.reward.rules.latex import canonical, key

TIMEOUT = 2.0
GOLDS = ["5", "\\frac{1}{2}", "x+1", "1,2,3", "(1,2]", "\\begin{pmatrix}1\\\\2\\end{pmatrix}", "\\text{even}", "52_8"]
GOLDS += ["\\infty", "x \\geq 2", "1\\pm\\sqrt{2}", "3:15", "\\min(1,2)", "2\\text{ cm}", "y=2x+3", "28\\%"]
PIECES = [
    *"0123456789xyzabcei+-*/^_(){}[]|!,.;:=<>&'\"$%#~ \n\t\\",
    "\\frac", "\\sqrt", "\\cdot", "\\times", "\\pm", "\\left(", "\\right)", "\\{", "\\}", "\\text{", "\\infty", "\\pi",
    "\\boxed{", "\\binom", "\\sum", "\\int", "\\prod", "\\lim", "\\log", "\\sin", "\\cup", "\\in", "\\leq", "\\ldots",
    "\\begin{pmatrix}", "\\end{pmatrix}", "\\\\", "\\overline{", "^{", "_{", "9**9**9", "^{9^{9^9}}", "999999999!",
    "10^{10^{10}}", "\\binom{10^9}{10^8}", "e^{e^{e^{e^9}}}", "1e999999999", "0.000000001", "1,000", "12 345",
    "</think>", "<answer>", "</answer>",
    " and ", " or ", "\\text{ or }", "not ", "maybe", "\\%", "\\$",
    "\u2212", "\u00bd",
    "\u0665", "\u221a", "\u00b2", "\ud800", "\udfff", "\x00", "\x1b", "\u200b", "\u202e", "\ufeff",
    "\U0001d7d3", "\u6216",
]  # fmt: skip

latex = st.lists(st.sampled_from(PIECES), max_size=40).map("".join)
garbage = st.text(max_size=200)
surrogates = st.text(st.characters(min_codepoint=0xD7F0, max_codepoint=0xE010), max_size=20)
nested = st.tuples(
    st.sampled_from(["(", "{", "[", "\\sqrt{", "\\frac{1}{", "^{", "\\{", "\\text{", "-", "|", "\\left(", "1/(", "f("]),
    st.sampled_from([")", "}", "]", "\\}", "", "|", "!"]),
    st.integers(1, 3000),
).map(lambda made: made[0] * made[2] + "1" + made[1] * made[2])
repeated = st.tuples(latex, st.integers(1, 2000)).map(lambda made: (made[0] * made[1])[:100_000])
huge = st.tuples(
    st.integers(2, 10**30), st.sampled_from(["^", "!", "^{", "**", "e", "!^"]), st.integers(2, 10**30)
).map(lambda made: f"{made[0]}{made[1]}{made[2]}")
answers = st.one_of(latex, garbage, surrogates, nested, repeated, huge)


@pytest.fixture(scope="module")
def grader():
    with Grader(RewardConfig(name="fuzz", timeout=TIMEOUT, workers=2)) as grader:
        grader.grade("\\boxed{\\min(1,2)}", ("1+\\max(0,0)",))
        yield grader


def memory(grader: Grader) -> float:
    """Resident MiB of this process and of all workers."""
    server = psutil.Process(grader.pool.pids()[0])
    found = 0.0
    for process in [psutil.Process(), server, *server.children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):  # a worker that has just been replaced
            found += process.memory_info().rss / 2**20
    return found


def test_thousand_inputs(grader):
    """50 batches of 20 answers of every kind, in boxes, tags and bare."""
    before = memory(grader)
    seen: list[int] = []

    @settings(
        max_examples=50,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example],
    )
    @given(st.lists(st.tuples(answers, st.sampled_from(GOLDS), st.integers(0, 2)), min_size=20, max_size=20))
    def batch(made):
        items = []
        for answer, gold, place in made:
            response = [f"so \\boxed{{{answer}}}.", f" so </think> <answer> {answer} </answer>", answer][place]
            items.append(GradeItem(response, (gold,), extractor=["boxed", "answer_tag", "boxed"][place]))
        begin = time.perf_counter()
        outcomes = grader.grade_batch(items)
        seconds = time.perf_counter() - begin
        seen.append(len(outcomes))
        late = sum(outcome.status is Status.timeout for outcome in outcomes)
        assert seconds < 60.0 + TIMEOUT * late
        for item, outcome in zip(items, outcomes, strict=True):
            assert outcome.status is not Status.crash, (item, outcome)
            assert outcome.seconds <= TIMEOUT + 30.0
            assert outcome.reward == float(outcome.status is Status.right)

    batch()
    assert sum(seen) >= 1000
    assert memory(grader) - before < 300.0


@settings(max_examples=300, deadline=None, database=None, derandomize=True)
@given(answers)
def test_equality_is_reflexive(text):
    """An answer with any content equals itself, and its canonical spelling."""
    short = text[:500]
    assert isinstance(key(short), str)
    if canonical(short):
        assert compare.decide(short, short).right


@settings(max_examples=300, deadline=None, database=None, derandomize=True)
@given(latex, latex)
def test_extractors_and_golds_never_raise(text, more):
    for response in (text, f"{text}</think>{more}<answer>{text}</answer>", f"\\boxed{{{text}}}{more}"):
        assert (boxed(response).answer is None) is (boxed(response).status is not None)
        assert (answer_tag(response).answer is None) is (answer_tag(response).status is not None)
        prepare_gold(response)


@pytest.mark.parametrize("gold", GOLDS)
def test_exact_rules_are_bounded(gold):
    """What runs in the caller's process ends in a fraction of a second on the worst that 2,000 characters can say."""
    chance = random.Random(0)
    worst = [
        "(" * 1000 + "1" + ")" * 1000,
        "1=" * 900 + "1",
        "1,2" * 500,
        "\\pm1," * 300,
        "\\text{a}" * 200,
        "1+" * 999 + "1",
    ]
    worst += [
        "\\frac{1}{" * 200 + "1" + "}" * 200,
        "|" * 1999,
        "{" * 1999,
        "x^" * 900 + "2",
        "-" * 1999 + "1",
        "1:" * 900,
    ]
    worst += [
        ",".join(str(chance.random()) for _ in range(90)),
        ",".join(f"\\sqrt{{{n}}}" for n in range(150)),
        "1 " * 900,
    ]
    worst += [
        "\\begin{pmatrix}" + "1&" * 800 + "1\\end{pmatrix}",
        "\\cup" * 400,
        "a" * 1999,
        "9" * 1999,
        "1a" * 900,
        "x\\in" * 300,
    ]
    worst += ["+".join(f"\\sin({n}x)" for n in range(100)), "*".join(f"(x+{n})^{{99}}" for n in range(30))]
    for answer in worst:
        begin = time.process_time()
        for left, right in ((answer, gold), (gold, answer)):
            with contextlib.suppress(compare.NeedsCas):
                compare.decide(left, right)
        assert time.process_time() - begin < 2.0, answer[:40]
