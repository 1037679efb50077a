"""The grader as training uses it: order, statuses, any thread, plug-ins, health (traps 45, 46, 48, 49)."""

from __future__ import annotations

import logging
import math
import threading
import time
from concurrent.futures import Future

import pytest

from r1zero.config import RewardConfig, RewardFunctionConfig
from r1zero.errors import UserError
from r1zero.launch.run_folder import set_up_logging
from r1zero.reward import grader as grader_module
from r1zero.reward.functions import exact_match, length_penalty, tag_format
from r1zero.reward.grader import GradeItem, Grader
from r1zero.reward.health import RewardError, check_health, summarise
from r1zero.reward.outcome import Outcome, Status
from r1zero.reward.rules import mathverify


@pytest.fixture(scope="module")
def grader():
    with Grader(RewardConfig(name="test", timeout=30.0, workers=2)) as grader:
        yield grader


def test_outcomes_come_in_order_with_their_status(grader):
    """Right, wrong, no box, cut off, no gold: one status each, in the order of the items."""
    cases = [
        (GradeItem("so \\boxed{4}", ("4",)), "right"),
        (GradeItem("so \\boxed{\\min(1,2)}", ("1",)), "right"),
        (GradeItem("so \\boxed{5}", ("4",)), "wrong"),
        (GradeItem("so 4", ("4",)), "no_answer"),
        (GradeItem("so \\boxed{4}", ("4",), truncated=True), "truncated"),
        (GradeItem("so \\boxed{4}", ()), "bad_gold"),
        (GradeItem("</think> <answer> 4 </answer>", ("4",), extractor="answer_tag"), "right"),
        (GradeItem("<answer> 4 </answer>", ("4",), extractor="answer_tag"), "unformatted"),
        (GradeItem(None, ("4",)), "no_answer"),
        (GradeItem("so \\boxed{7}", ("6", "7")), "right"),
    ]
    outcomes = grader.grade_batch([item for item, _ in cases] * 20)
    assert [outcome.status.value for outcome in outcomes] == [status for _, status in cases] * 20
    assert all(outcome.reward == float(outcome.status is Status.right) for outcome in outcomes)
    assert outcomes[1].rule == "math_verify"


def test_the_question_never_counts(grader):
    """A box in the question is not the answer of a response without one."""
    item = GradeItem("I don't know.", ("4",), question="Answer in \\boxed{4}.")
    assert grader.grade_batch([item])[0].status is Status.no_answer


def test_grading_works_in_a_thread(grader):
    """math-verify's alarm needs the main thread; the workers have their own (trap 45)."""
    outcomes = []
    thread = threading.Thread(target=lambda: outcomes.append(grader.grade("\\boxed{\\max(8,1)}", ("8",))))
    thread.start()
    thread.join(timeout=120)
    assert outcomes[0].status is Status.right
    assert outcomes[0].rule == "math_verify"


def test_submit_streams(grader):
    """What exact rules decide is there when submit returns."""
    future = grader.submit(GradeItem("so \\boxed{0.5}", ("\\frac{1}{2}",)))
    assert future.done()
    assert future.result().rule == "number"


@pytest.mark.parametrize(
    "answer",
    [
        "9^{9^{9^{9}}}", "10^{\\left(5^{5^{5^{5}}}\\right)}", "99999999!", "(10^9)!", "\\binom{10^9}{10^8}",
        "\\sum_{k=1}^{10^{12}}\\frac{1}{k^k}", "\\int_0^1\\sin(x^x)dx", "\\prod_{k=1}^{10^9}k",
        "3!!!!!!!!", "2**2**2**2**99",
        "\\sqrt{" * 400 + "2" + "}" * 400, "1+" * 6000 + "1", "x" * 50_000, "7" * 100_000, "{" * 100_000,
        "e^{e^{e^{e^{10}}}}", "\\log_{2}(9^{9^9})", "(x+1)^{9999}", "\\binom{99999}{5000}", "10^{-10^{10}}",
    ],
)  # fmt: skip
@pytest.mark.parametrize("gold", ["12", "\\frac{1}{3}", "x+1", "\\min(1,2)"])
def test_huge_values_are_wrong_at_once(grader, answer, gold):
    """Cost caps: no worker is spent on what can't be computed."""
    begin = time.process_time()
    outcome = grader.grade(f"\\boxed{{{answer}}}", (gold,))
    assert outcome.status in (Status.wrong, Status.no_answer)
    assert time.process_time() - begin < 3.0


def test_math_verify_reads_each_gold_once():
    """Eight responses to a question cost one reading of its gold answer (traps 47, 49)."""
    mathverify.parse_answer.cache_clear()
    for n in range(8):
        mathverify.equal(f"\\min({n},5)", "\\max(1,2)")
    info = mathverify.parse_answer.cache_info()
    assert (info.misses, info.hits) == (9, 7)


def test_math_verify_gets_the_gold_first():
    """verify is not symmetric: x=5 answers 5, and so does 5 the gold x=5, but 25 is no circle (trap 47)."""
    assert mathverify.equal("x^2+y^2=25", "25")
    assert not mathverify.equal("25", "x^2+y^2=25")
    assert mathverify.equal("[2,\\infty)", "x\\geq 2")
    assert not mathverify.equal("x\\geq 2", "[2,\\infty)")


def config(**functions: dict) -> RewardConfig:
    made = {name: RewardFunctionConfig(**fields) for name, fields in functions.items()}
    return RewardConfig(name="test", timeout=30.0, workers=2, functions=made)


def test_rewards_are_summed_by_weight():
    """0.75 * verifier + 0.2 * format - 0.5 * excess, each under its name; a truncated response gets 0."""
    settings = config(
        format={"path": "r1zero.reward.functions.tag_format", "weight": 0.2},
        length={"path": "r1zero.reward.functions.length_penalty", "weight": 0.5, "params": {"free": 100, "limit": 200}},
    )
    settings.weight = 0.75
    right = " so </think> <answer> 4 </answer>"
    with Grader(settings, "answer_tag") as grader:
        outcomes = grader.grade_batch(
            [
                GradeItem(right, ("4",), tokens=150),
                GradeItem(right, ("5",), tokens=50),
                GradeItem("4", ("4",), tokens=1000),
                GradeItem(right, ("4",), tokens=150, truncated=True),
            ]
        )
    assert [outcome.reward for outcome in outcomes] == pytest.approx([0.75 + 0.2 - 0.25, 0.2, -0.5, 0.0])
    assert outcomes[0].components == {"verifier": 1.0, "format": 1.0, "length": -0.5}
    assert [outcome.status.value for outcome in outcomes] == ["right", "wrong", "unformatted", "truncated"]


def test_the_verifier_may_weigh_nothing():
    settings = config(exact={"path": "r1zero.reward.functions.exact_match"})
    settings.weight = 0.0
    with Grader(settings) as grader:
        outcomes = grader.grade_batch([GradeItem("\\boxed{0.5}", ("1/2",)), GradeItem("\\boxed{1/2}", ("1/2",))])
    assert [(outcome.status.value, outcome.reward) for outcome in outcomes] == [("right", 0.0), ("right", 1.0)]


@pytest.mark.parametrize(
    ("name", "status", "detail"),
    [
        ("raise_error", Status.crash, "reward function bad: KeyError: 'no such thing'"),
        ("hang", Status.timeout, "reward function bad: no verdict within 1 s"),
        ("not_a_number", Status.crash, "reward function bad: ValueError"),
        ("die", Status.crash, "reward function bad: the worker process died"),
        (
            "missing",
            Status.crash,
            "reward function bad: ImportError: path=worker_functions.missing: module worker_functions has no",
        ),
    ],
)
def test_a_plug_in_that_fails_counts_zero_and_shows(name, status, detail):
    """It fails the outcome, so that the health check sees it; the verifier's part of the reward stays."""
    limit = {"timeout": 1.0} if name == "hang" else {}
    with Grader(config(bad={"path": f"worker_functions.{name}"} | limit)) as grader:
        outcome = grader.grade("\\boxed{4}", ("4",))
    assert outcome.status is status
    assert outcome.failed
    assert outcome.detail.startswith(detail)
    assert outcome.reward == 1.0
    assert outcome.components == {"verifier": 1.0, "bad": 0.0}


def test_a_plug_in_gets_what_it_names():
    with Grader(config(all={"path": "worker_functions.everything", "params": {"extra": 1}})) as grader:
        assert grader.grade("\\boxed{4}", ("4",)).components["all"] == 7.0


def test_mistakes_of_the_user_are_named():
    with pytest.raises(UserError, match="extractor 'regex' is unknown"):
        Grader(RewardConfig(name="test"), "regex")
    with pytest.raises(UserError, match=r"reward\.timeout=0 must be above 0"):
        Grader(RewardConfig(name="test", timeout=0.0))
    with pytest.raises(UserError, match=r"reward\.workers=0"):
        Grader(RewardConfig(name="test", workers=0))
    for path in ("no.such.module.function", "justaname", ""):
        with pytest.raises(UserError, match=r"reward\.functions\.mine\.path=.*there is no module"):
            Grader(config(mine={"path": path}))


def test_example_functions():
    assert tag_format(" so </think> <answer> 4 </answer>") == 1.0
    assert tag_format(" a < b </think>\n<answer> 4 < 5 </answer>\n") == 1.0
    for bad in ("4", "<answer> 4 </answer>", "</think> <answer> 4 </answer> so", "</think> x <answer> 4 </answer>"):
        assert tag_format(bad) == 0.0
    assert tag_format("</think> <answer> 4 </answer> <answer> 5 </answer>") == 0.0
    assert [length_penalty(n, 100, 200) for n in (0, 100, 150, 200, 999)] == [0.0, 0.0, -0.5, -1.0, -1.0]
    with pytest.raises(ValueError, match="number of generated tokens"):
        length_penalty(None, 1, 2)
    with pytest.raises(ValueError, match="0 <= free < limit"):
        length_penalty(1, 2, 2)
    assert (exact_match(" 4 ", ("4",)), exact_match("04", ("4",)), exact_match(None, ("4",))) == (1.0, 0.0, 0.0)


def outcomes(**counts: int) -> list[Outcome]:
    return [Outcome(Status(status), 0.0, "a", "number") for status, count in counts.items() for _ in range(count)]


def test_health_figures_by_hand():
    """10 outcomes: 1 timeout, 1 crash, 4 without an answer, 4 compared, of which 1 by math-verify."""
    graded = outcomes(timeout=1, crash=1, no_answer=1, unformatted=1, truncated=1, bad_gold=1, right=2, wrong=1)
    graded.append(Outcome(Status.wrong, 0.0, "a", "math_verify", seconds=0.5))
    figures = summarise(graded)
    assert figures == {
        "timeouts": 0.1,
        "failures": 0.2,
        "unparsed": 0.4,
        "fast_path_frac": pytest.approx(3 / 6),
        "seconds_p99": 0.5,
    }
    spread = [Outcome(Status.right, 1.0, "1", "text", seconds=float(n)) for n in range(1, 101)]
    assert summarise(spread)["seconds_p99"] == 99.0
    assert summarise([])["fast_path_frac"] == 1.0
    assert not any(math.isnan(value) for value in summarise([]).values())


@pytest.mark.parametrize(("failed", "expected"), [(0, None), (1, None), (2, "warn"), (20, "warn"), (21, "stop")])
def test_health_warns_above_one_percent_and_stops_above_twenty(failed, expected, caplog):
    """Of 100 answers 1 may fail in silence, 2 to 20 warn, 21 stop training with one line."""
    graded = outcomes(right=100 - failed, timeout=failed)
    if expected is None:
        assert not check_health(graded)
        assert caplog.records == []
    elif expected == "warn":
        assert check_health(graded)
        assert [(r.name, r.levelname) for r in caplog.records] == [("r1zero", "WARNING")]
        assert f"failed on {failed} of 100" in caplog.text
    else:
        with pytest.raises(RewardError, match="21 of 100 answers") as caught:
            check_health(graded)
        assert isinstance(caught.value, UserError)
        assert "\n" not in str(caught.value)


def test_a_failing_verifier_is_said_on_the_console_at_most_once_in_ten_minutes(tmp_path, monkeypatch, capsys):
    """The console gets the first line; train.log gets all of them."""
    now = [50.0]
    monkeypatch.setattr(grader_module.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(logging, "raiseExceptions", True)
    own, root = logging.getLogger("r1zero"), logging.getLogger()
    before = own.handlers[:], root.handlers[:], root.level
    try:
        set_up_logging(tmp_path, True)
        grader = Grader(RewardConfig(name="test"))
        for failed in (2, 0, 3, 4):
            grader.check_health(outcomes(right=100 - failed, timeout=failed))
            now[0] += 150
        said = capsys.readouterr().err.splitlines()
        assert [line.split("; ")[0] for line in said] == ["WARNING: the verifier failed on 2 of 100 answers (2%)"]
        now[0] += 1
        grader.check_health(outcomes(right=95, crash=5))
        assert "failed on 5 of 100" in capsys.readouterr().err
        assert [n for n in range(9) if f"failed on {n} of 100" in (tmp_path / "train.log").read_text()] == [2, 3, 4, 5]
    finally:
        own.handlers[:], root.handlers[:] = before[:2]
        root.setLevel(before[2])
        logging.captureWarnings(False)


def test_a_grader_checks_health_by_its_own_limits(caplog):
    settings = RewardConfig(name="test", warn_failures=0.5, stop_failures=0.6)
    Grader(settings).check_health(outcomes(right=1, crash=1))
    assert caplog.records == []
    with pytest.raises(RewardError):
        Grader(settings).check_health(outcomes(right=1, crash=2))


def test_a_closed_grader_opens_again():
    """close frees the processes; a later answer starts new ones."""
    grader = Grader(RewardConfig(name="test", workers=1))
    first = grader.grade("\\boxed{\\min(1,2)}", ("1",))
    grader.close()
    grader.close()
    second = grader.grade("\\boxed{\\min(1,2)}", ("1",))
    grader.close()
    assert (first.status, second.status) == (Status.right, Status.right)


class Answers:
    """A pool whose workers answer as they are told."""

    def __init__(self, *results: dict[str, object]) -> None:
        self.results, self.jobs = list(results), []

    def submit(self, job, timeout=None):
        self.jobs.append((job, timeout))
        future: Future[dict[str, object]] = Future()
        future.set_result(self.results.pop(0))
        return future

    def close(self) -> None:
        pass


@pytest.mark.parametrize(
    "answer",
    [{}, {"right": "no", "rule": "x"}, {"right": 1, "rule": "x"}, {"right": True}, {"error": "crash", "seconds": "x"}],
    ids=str,
)
def test_a_result_without_sense_is_a_crash(monkeypatch, answer):
    """No future stays open, whatever arrives."""
    with Grader(config(bad={"path": "worker_functions.fine"})) as grader:
        monkeypatch.setattr(grader, "_pool", Answers(answer, {"value": 1.0}))
        future = grader.submit(GradeItem("\\boxed{\\min(1,2)}", ("1",)))
        assert future.result(timeout=1).status is Status.crash


@pytest.mark.parametrize("value", ["5", None, [1], True, math.nan, math.inf])
def test_a_reward_that_is_no_number_is_a_crash(monkeypatch, value):
    with Grader(config(bad={"path": "worker_functions.fine"})) as grader:
        monkeypatch.setattr(grader, "_pool", Answers({"value": value}))
        outcome = grader.submit(GradeItem("\\boxed{4}", ("4",))).result(timeout=1)
    assert outcome.status is Status.crash
    assert outcome.reward == 0.0


def test_a_hanging_answer_costs_its_deadline_once(monkeypatch):
    """100 answers of 3 distinct pairs: 3 jobs for the workers, whether asked for at once or one after the other."""
    monkeypatch.setattr(grader_module.compare, "against_any", needs_algebra)
    late = {"error": "timeout", "detail": "no verdict within 3 s", "seconds": 3.0}
    with Grader(RewardConfig(name="test")) as grader:
        pool = Answers(late, late, {"right": True, "rule": "math_verify", "seconds": 1.0})
        monkeypatch.setattr(grader, "_pool", pool)
        items = [GradeItem(f"so \\boxed{{{'abc'[n % 3]}}} or {n}", ("z",)) for n in range(100)]
        got = grader.grade_batch(items)
    assert len(pool.jobs) == 3
    assert [outcome.status.value for outcome in got] == (["timeout", "timeout", "right"] * 34)[:100]
    assert sum(outcome.seconds for outcome in got) < 8.0


def needs_algebra(*_: object, **__: object) -> None:
    raise grader_module.compare.NeedsCas


def test_verdicts_are_remembered_by_answer_gold_and_prose_and_bounded(monkeypatch):
    monkeypatch.setattr(grader_module.compare, "against_any", needs_algebra)
    monkeypatch.setattr(grader_module, "REMEMBERED", 2)
    right = {"right": True, "rule": "r"}
    with Grader(RewardConfig(name="test")) as grader:
        pool = Answers(*[right] * 5)
        monkeypatch.setattr(grader, "_pool", pool)
        for answer, gold in ("ax", "ay", "ax", "bx", "ax", "ay"):  # the last one was dropped by then
            grader.grade(f"\\boxed{{{answer}}}", (gold,))
        assert len(pool.jobs) == 4
        grader.grade("</think> <answer> a </answer>", ("x",), extractor="answer_tag")
        assert len(pool.jobs) == 5


def test_kept_columns_reach_a_plug_in():
    with Grader(config(m={"path": "worker_functions.with_meta", "weight": 0.5})) as grader:
        outcomes = [grader.grade(text, ("4",), meta={"wanted": "so"}) for text in ("so", "no")]
    assert [outcome.components["m"] for outcome in outcomes] == [1.0, 0.0]


def test_a_function_has_a_deadline_of_its_own():
    longer = {"path": "worker_functions.slow", "params": {"seconds": 1.5}, "timeout": 30.0}
    shorter = {"path": "worker_functions.slow", "params": {"seconds": 0.5}, "timeout": 0.1}
    settings = config(a=longer, b=shorter)
    settings.timeout = 1.0
    with Grader(settings) as grader:
        outcome = grader.grade("\\boxed{4}", ("4",))
    assert outcome.components == {"verifier": 1.0, "a": 1.0, "b": 0.0}
    assert (outcome.status, outcome.detail) == (Status.timeout, "reward function b: no verdict within 0.1 s")
    assert outcome.right  # the verifier's verdict, whatever a function does


def test_without_gold_the_functions_decide():
    """Right from half of the sum of the positive weights; the verifier's weight does not count."""
    functions = {"h": {"path": "worker_functions.half"}, "cost": {"path": "worker_functions.fine", "weight": -0.001}}
    with Grader(RewardConfig(name="t", weight=0.7, timeout=30.0, functions=config(**functions).functions)) as grader:
        half = grader.grade("half", ())
        less = grader.grade("no", ())
        with_gold = grader.grade("half \\boxed{4}", ("4",))
    assert half.components == {"h": 0.5, "cost": 4.0}
    assert half.reward == pytest.approx(0.496)
    assert (half.right, half.status) == (False, Status.wrong)
    assert (less.right, less.status) == (False, Status.wrong)
    assert with_gold.reward == pytest.approx(0.7 + 0.5 - 0.001 * 14)
    with Grader(config(h={"path": "worker_functions.half", "weight": 2.0})) as grader:
        assert [grader.grade(text, ()).right for text in ("half", "no")] == [True, False]
        assert grader.grade("half", ()).reward == 1.0


@pytest.mark.parametrize(
    ("function", "line"),
    [
        ({"path": "worker_functions.missing"}, "can't be loaded .ImportError: path=worker_functions.*has no function"),
        ({"path": "worker_functions.needs_more"}, "it takes 'answer_sheet', which is neither among question"),
        ({"path": "worker_functions.fine", "params": {"depth": 3}}, "it takes no 'depth', which its params name"),
        ({"path": "worker_functions.with_meta", "params": {"meta": {}}}, "params.meta has a name that every"),
        ({"path": "worker_functions.SLEEPER"}, "can't be loaded .TypeError"),
    ],
)
def test_a_function_that_does_not_fit_is_told_before_the_run(function, line):
    with Grader(config(mine=function)) as grader, pytest.raises(UserError, match=line) as told:
        grader.check_functions()
    assert "\n" not in str(told.value)
    assert str(told.value).startswith("reward.functions.mine.path=worker_functions.")


def test_functions_that_fit_pass_and_may_say_something(caplog):
    fine = {"path": "worker_functions.needs_more", "params": {"answer_sheet": "x"}}
    functions = config(a=fine, b={"path": "worker_functions.with_notice"})
    with Grader(functions) as grader, caplog.at_level(logging.WARNING, "r1zero"):
        grader.check_functions()
    assert [record.getMessage() for record in caplog.records] == ["reward.functions.b: nothing is private here"]


def test_an_extractor_of_the_users_own():
    """It runs in a worker; the verifier, the plug-ins and the audit of golds see what it found."""
    with Grader(config(e={"path": "r1zero.reward.functions.exact_match"}), "worker_functions.last_word") as grader:
        grader.check_functions()
        outcome = grader.grade("it is \\boxed{3} or rather 4", ("4",))
        assert (outcome.status, outcome.extracted, outcome.reward) == (Status.right, "4", 2.0)
        assert grader.grade("it is 4.0 ", ("4",)).components == {"verifier": 1.0, "e": 0.0}
        assert grader.grade(" ", ("4",)).status is Status.no_answer
        assert grader.audit_golds([("4",), ("two words",)]) == []
    with Grader(RewardConfig(name="test", timeout=30.0), "worker_functions.bad_extractor") as grader:
        outcome = grader.grade("4", ("4",))
    assert outcome.status is Status.crash
    assert "template.extractor: TypeError" in outcome.detail


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("no.such.module.f", "template.extractor=no.such.module.f is not allowed: there is no module"),
        ("os.system", r"template.extractor=os.system is not allowed"),
        ("worker_functions.nothing", "has no function nothing"),
        ("worker_functions.takes_two", "must take one argument"),
    ],
)
def test_an_extractor_that_does_not_fit_is_told(path, line):
    with pytest.raises(UserError, match=line), Grader(RewardConfig(name="test"), path) as grader:
        grader.check_functions()


@pytest.mark.parametrize("timeout", [0.0, -1.0, math.nan, math.inf])
def test_deadlines_are_positive_and_finite(timeout):
    with pytest.raises(UserError, match=r"reward\.functions\.a\.timeout=.* must be above 0"):
        Grader(config(a={"path": "worker_functions.fine", "timeout": timeout}))
    with pytest.raises(UserError, match=r"reward\.timeout=.* must be above 0"):
        Grader(RewardConfig(name="test", timeout=timeout))
