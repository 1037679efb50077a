"""Responses and golds that try to be run: none is, and each verdict costs bounded time and memory."""

from __future__ import annotations

import base64
import pickle
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from r1zero.config import RewardConfig
from r1zero.reward.gold import prepare_gold
from r1zero.reward.grader import GradeItem, Grader
from r1zero.reward.outcome import Status

GOLDS = ["x+1", "\\frac{1}{2}", "(1,2]", "\\begin{pmatrix}1\\\\2\\end{pmatrix}", "f(x)", "\\text{even}", "2^{10}"]


class Touch:
    """Pickled, it makes a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return open, (str(self.path), "w")


def programs(canary: Path) -> list[str]:
    """Texts that make the file ``canary`` wherever something evaluates, expands or executes them."""
    shell, python = f"touch {canary}", f"__import__('os').system('touch {canary}')"
    escaped = python.replace("_", "\\_")
    return [
        python, escaped, f"eval({python!r})", f"exec({python!r})", f"1+{python}", f"x if {python} else y",
        f"(lambda: {python})()", f"[{python} for x in (1,)][0]", f"f'{{{python}}}'", f"sin({python})",
        f"\\text{{{python}}}", f"\\mathrm{{{escaped}}}", f"\\operatorname{{eval}}({python})",
        f"\\frac{{{python}}}{{1}}",
        f"\\sqrt{{{python}}}", f"x_{{{python}}}", f"x^{{{python}}}", f"{{{python}}}", f"\\left({python}\\right)",
        f"Symbol('x').func({python})", f"sympify(\"{python}\")", f"parse_expr(\"{python}\")", f"S(\"{python}\")",
        f"().__class__.__bases__[0].__subclasses__()[0].__init__.__globals__['os'].system('{shell}')",
        f"\\immediate\\write18{{{shell}}}", f"\\input{{|\"{shell}\"}}", f"\\openout\\x={canary}",
        f"\\input{{{canary}}}",
        f"\\directlua{{os.execute('{shell}')}}", f"\\csname {python}\\endcsname", f"\\def\\x{{{python}}}\\x",
        f"$({shell})", f"`{shell}`", f"; {shell}", f"'; {shell} #", f"| {shell}", f"&& {shell}", f"\n{shell}\n",
        f"{{{{ cycler.__init__.__globals__.os.system('{shell}') }}}}", f"{{% set x = {python} %}}", f"${{{python}}}",
        f"!!python/object/apply:os.system ['{shell}']", f"@import '{canary}'", f"<script>{python}</script>",
        base64.b64encode(pickle.dumps(Touch(canary))).decode(), pickle.dumps(Touch(canary), protocol=0).decode(),
    ]  # fmt: skip


COSTLY = [
    "9**9**9**9", "10^{10^{10^{10}}}", "(((9^9)^9)^9)^9", "999999999!", "((3!)!)!", "\\binom{10^9}{10^8}",
    "\\sum_{i=1}^{10^{12}} i!", "\\prod_{i=1}^{10^9} i", "\\int_0^1 x^{x^{x^x}} dx", "(x+y+z+w)^{5000}",
    "(1+x)^{10^6}", "\\sqrt{" * 5000 + "2" + "}" * 5000, "(" * 100_000 + "1" + ")" * 100_000, "{" * 200_000,
    "\\frac{1}{" * 3000 + "1" + "}" * 3000, "x^" * 20_000 + "2", "1+" * 50_000 + "1", "9" * 300_000,
    "+".join(f"\\sqrt{{{n}}}" for n in range(2, 300)), "\\boxed{" * 10_000 + "1" + "}" * 10_000,
    "1e999999999", "0." + "0" * 100_000 + "1", "\\frac{" + "7" * 5000 + "}{" + "3" * 5000 + "}", "|" * 100_000,
]  # fmt: skip


@pytest.fixture(scope="module")
def grader():
    with Grader(RewardConfig(name="hostile", timeout=2.0, workers=2, memory_gib=2.0)) as grader:
        grader.grade("\\boxed{\\min(1,2)}", ("1+\\max(0,0)",))
        yield grader


def items(answers: list[str], golds: list[str]) -> list[GradeItem]:
    """Every answer in a box, in a tag and bare, against every gold."""
    made = []
    for answer in answers:
        for place in (f"so \\boxed{{{answer}}}.", answer):
            made += [GradeItem(place, (gold,), extractor="boxed") for gold in golds]
        made += [GradeItem(f" so </think> <answer> {answer} </answer>", (golds[0],), extractor="answer_tag")]
    return made


def test_no_program_in_a_response_or_a_gold_is_run(grader, tmp_path, monkeypatch):
    """Python, shell, TeX, jinja, YAML and pickle, as answers and as golds; in this process and in the workers."""
    canary = tmp_path / "canary"
    texts = programs(canary)
    with monkeypatch.context() as patch:
        patch.setattr(grader.pool, "timeout", 60.0)  # none is to fail, on a machine that is busy either
        outcomes = grader.grade_batch(items(texts, GOLDS))
    assert not any(outcome.reward for outcome in outcomes)
    assert not any(outcome.failed for outcome in outcomes)
    for text in texts:
        prepare_gold(text)
    grader.grade_batch([GradeItem(f"\\boxed{{{text}}}", (other,)) for text in texts for other in ("x+1", text)])
    assert not canary.exists()
    exec(compile(texts[0], "proof", "eval"))  # the first of them does work where it is run
    assert canary.exists()


def test_costly_answers_cost_a_bounded_time_and_memory(grader):
    process = psutil.Process(grader.pool.pids()[0])
    begin = time.process_time()
    outcomes = grader.grade_batch(items(COSTLY, ["x+1", "2^{10}"]))
    assert time.process_time() - begin < 30.0
    assert not any(outcome.reward for outcome in outcomes)
    assert not any(outcome.status is Status.crash for outcome in outcomes)
    assert max(outcome.seconds for outcome in outcomes) < 60.0
    assert sum(outcome.status is Status.timeout for outcome in outcomes) < 10
    assert sum(p.memory_info().rss for p in [process, *process.children(recursive=True)]) < 2 * 2**30
