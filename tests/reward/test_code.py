"""Unit tests as a reward: what passes, and hostile programs that earn nothing and reach nothing."""

from __future__ import annotations

import tempfile
import threading
import time
from pathlib import Path

import pytest

from r1zero.config import RewardConfig, RewardFunctionConfig
from r1zero.data.programs import FAMILIES, generate
from r1zero.errors import UserError
from r1zero.reward import code, sandbox
from r1zero.reward.code import same, unit_tests
from r1zero.reward.grader import Grader
from r1zero.reward.outcome import Status
from r1zero.reward.sandbox import Limits

META = {"function": "f", "tests": [{"args": [n], "want": 3 * n + 2} for n in (7, -4, 0)]}
SHIELDS = sandbox.run({"code": "", "function": "f", "calls": []}, Limits(30.0)).shields


def answer(program: str) -> str:
    return f"Let me see.\n```python\n{program}\n```\n"


def pays(program: str, **settings: object) -> float:
    return unit_tests(answer(program), META, **({"seconds": 60.0} | settings))


def test_a_right_program_passes_and_a_wrong_one_does_not():
    assert pays("def f(x):\n    return 3 * x + 2") == 1.0
    assert pays("import math\nprint('noise')\nf = lambda x: math.floor(3 * x) + 2") == 1.0
    assert pays("def f(x):\n    return 3 * x + 1") == 0.0
    assert pays("def f(x):\n    return 3 * x + 2 if x else 0") == 0.0
    assert pays("def f(x):\n    return 3 * x + 2 if x else 0", partial=True) == pytest.approx(2 / 3)
    assert pays("def g(x):\n    return 3 * x + 2") == 0.0
    assert pays("def f(x) return 3") == 0.0


def test_the_last_block_is_the_program():
    right, wrong = "def f(x):\n    return 3 * x + 2", "def f(x):\n    return 0"
    assert unit_tests(answer(wrong) + answer(right), META, seconds=60.0) == 1.0
    assert unit_tests(answer(right) + answer(wrong), META, seconds=60.0) == 0.0
    assert unit_tests(f"```\n{right}\n```", META, seconds=60.0) == 1.0
    for text in ("", right, "```python\n" + right, "`f`"):
        assert unit_tests(text, META) == 0.0


HOSTILE = {
    "endless loop": "while True: pass",
    "endless sleep": "import time\ntime.sleep(60)",
    "endless output": "def f(x):\n    while True: print('x' * 10000, flush=True)",
    "fork bomb": "import os\nwhile True:\n    try: os.fork()\n    except OSError: break\nf = None",
    "threads": "import threading\nwhile True: threading.Thread(target=lambda: None).start()",
    "memory": "x = []\nwhile True: x.append(bytearray(2**28))",
    "disk": "n = 0\nwhile True:\n    open(str(n), 'wb').write(b'x' * 2**26)\n    n += 1",
    "printed results": 'print(\'{"value": 23}\\n{"value": -10}\\n{"value": 2}\')\nimport sys\nsys.exit(0)',
    "exit 0": "import sys\nsys.exit(0)",
    "hard exit": "import os\nos._exit(0)",
    "exit in the call": "import os\ndef f(x): os._exit(0)",
    "checker patched": "import json, math\njson.loads = lambda *a: {'value': 1}\nmath.isclose = lambda *a, **k: True\n"
    "def f(x): return 0",
    "module patched": "import sys\nsys.modules['__main__'].same = lambda *a: True\ndef f(x): return 0",
    "equal to everything": "class A(int):\n    def __eq__(self, o): return True\n    __hash__ = int.__hash__\n"
    "def f(x): return A(0)",
    "tests read from the frames": "import sys, gc\n"
    "tests = [t for o in gc.get_objects() if isinstance(o, dict) for t in [o.get('want'), o.get('tests')] if t]\n"
    "frame, found = sys._getframe(), {}\n"
    "while frame: found.update(frame.f_locals); frame = frame.f_back\n"
    "def f(x): return {c[0]: c[1] for c in found['request']['calls'] if len(c) > 1}.get(x) or (tests or [0])[0]",
    "tests read from the parent": "import os\n"
    "def f(x):\n    open(f'/proc/{os.getppid()}/cmdline').read() or open(f'/proc/{os.getppid()}/mem', 'rb').read(9)\n"
    "    return 3 * x + 2",
    "parent killed": "import os\nos.kill(os.getppid(), 9)\ndef f(x): return 3 * x + 2",
    "everybody killed": "import os\nos.kill(-1, 9)\ndef f(x): return 3 * x + 2",
    "another program": "import os\nos.execv('/bin/sh', ['sh', '-c', 'true'])\ndef f(x): return 3 * x + 2",
    "network": "import socket\nsocket.create_connection(('127.0.0.1', 9), 1)\ndef f(x): return 3 * x + 2",
    "deep JSON": "def f(x):\n    a = []\n    for _ in range(500): a = [a]\n    return a",
    "not JSON": "def f(x): return {3 * x + 2}",
    "nan": "def f(x): return float('nan')",
}
NEEDS = {"fork bomb": "processes", "parent killed": "processes", "everybody killed": "processes",
         "another program": "processes", "tests read from the parent": "files"}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_programs_earn_nothing(name, tmp_path, monkeypatch):
    """Each ends in time, pays 0, and leaves no process and no file behind."""
    if NEEDS.get(name, "network") not in SHIELDS:
        pytest.skip(f"this system has no shield for {name}")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # nobody else's folders lie there
    begin = time.monotonic()
    assert pays(HOSTILE[name], partial=True, seconds=2.0) == 0.0
    assert time.monotonic() - begin < 120.0
    assert list(tmp_path.iterdir()) == []


def shown(program: str, **request: object) -> str:
    wrapped = f"def f(x):\n    try:\n        {program}\n    except BaseException as error: return type(error).__name__"
    return sandbox.run({"code": wrapped, "function": "f", "calls": [[0]]} | request, Limits(20.0)).output


def test_what_a_program_can_not_reach(tmp_path):
    """Files of others, the environment, other processes, the network; a file of its own it may write."""
    if set(SHIELDS) != set(sandbox.SHIELDS):
        pytest.skip(f"this system has {SHIELDS} of {sandbox.SHIELDS}")
    secret = tmp_path / "tests.json"
    secret.write_text("[5]")
    assert "PermissionError" in shown(f"return open({str(secret)!r}).read()")
    assert "PermissionError" in shown(f"return open({str(tmp_path / 'new')!r}, 'w').write('x')")
    assert "PermissionError" in shown(f"import os; return os.unlink({str(secret)!r})")
    assert secret.read_text() == "[5]"
    assert "PermissionError" in shown("return open('/etc/passwd').read()")
    assert "PermissionError" in shown("import os; return os.fork()")
    assert "PermissionError" in shown("import os; return os.kill(os.getppid(), 0)")
    assert "PermissionError" in shown("import socket; return str(socket.socket())")
    assert "ValueError" in shown("import resource as r; return r.setrlimit(r.RLIMIT_CPU, (99, 99))")
    assert '"abc"' in shown("open('mine', 'w').write('abc'); return open('mine').read()")
    assert "PATH" not in shown("import os; return dict(os.environ)")


def test_a_notice_names_what_is_open(monkeypatch):
    assert (code._notice() is None) == (set(SHIELDS) == set(sandbox.SHIELDS))
    monkeypatch.setattr(code, "run", lambda request, limits: sandbox.Run("", False, ("processes",)))
    told = code._notice()
    assert told is not None
    assert "read and write your files, use the network" in told
    assert "start processes" not in told


def test_whole_programs_read_and_print():
    tests = [{"stdin": f"{n}\n1\n", "stdout": f"{n + 1}\n"} for n in (1, 5)]
    program = "import sys\na = int(input())\nprint(a + int(sys.stdin.readline()), ' ')"
    assert unit_tests(answer(program), {"tests": tests}, seconds=60.0) == 1.0
    assert unit_tests(answer("print(2)"), {"tests": tests}, seconds=60.0) == 0.0
    assert unit_tests(answer("print(2)"), {"tests": tests}, seconds=60.0, partial=True) == 0.5


@pytest.mark.parametrize(
    ("got", "want", "equal"),
    [
        (1, 1, True), (1, True, False), (True, 1, False), (1, 1.0, True), (0.1 + 0.2, 0.3, True), (1.0, 1, True),
        ("1", 1, False), (None, None, True), (None, 0, False), ([1, [2]], [1, [2]], True), ([1], [1, 2], False),
        ({"a": [1]}, {"a": [1.0]}, True), ({"a": 1}, {"b": 1}, False), ([True], [1], False), 
        (10**30, 10**30 + 1, False),
        ([], {}, False), (float("nan"), 1.0, False),
    ],
)  # fmt: skip
def test_values_are_compared_as_json(got, want, equal):
    assert same(got, want) is equal


@pytest.mark.parametrize(
    "meta",
    [{}, {"tests": []}, {"tests": "x"}, {"tests": [5]}, {"tests": [{"args": [1], "want": 1}]},
     {"tests": [{"args": 1, "want": 1}], "function": "f"}, {"tests": [{"stdin": "", "stdout": 5}]}],
    ids=str,
)  # fmt: skip
def test_tests_of_another_shape_are_told(meta):
    with pytest.raises(ValueError, match="tests"):
        unit_tests(answer("def f(x): return 1"), meta)
    assert unit_tests("", {}, gold=("4",)) == 0.0


def test_several_at_once_in_the_graders_workers():
    """Through worker processes, with questions of the generator: the reference passes, another's does not."""
    questions = generate("train", 12, 0)
    assert {question.meta["family"] for question in questions} == {family.name for family in FAMILIES}
    function = RewardFunctionConfig(path="r1zero.reward.code.unit_tests", timeout=30.0, params={"seconds": 10.0})
    config = RewardConfig(name="t", workers=2, functions={"tests": function})
    solved = {"linear": "f = lambda x: {a}*x+{b}", "count": "def f(xs): return xs.count({a})"}
    with Grader(config) as grader:
        grader.check_functions()
        for question in questions:
            if question.meta["family"] in solved:
                digits = [int(c) for c in question.text if c.isdigit()]
                program = solved[question.meta["family"]].format(a=digits[0], b=digits[-1])
                outcome = grader.grade(answer(program), (), meta=question.meta)
                assert (outcome.right, outcome.status, outcome.reward) == (True, Status.right, 1.0)
                assert grader.grade(answer("def f(x): return 0"), (), meta=question.meta).status is Status.wrong
        assert grader.grade("\\boxed{4}", ("4",)).reward == 1.0


def test_questions_are_the_seeds_and_the_splits_are_disjoint():
    train, held = generate("train", 50, 1), generate("heldout", 50, 1)
    assert len({question.text for question in (*train, *held)}) == 100
    assert [question.text for question in generate("train", 50, 1)] == [question.text for question in train]
    assert [question.text for question in generate("train", 50, 2)] != [question.text for question in train]
    for question in (*train, *held):
        assert question.gold == ()
        assert len(question.meta["tests"]) == 8
        assert len({repr(test["want"]) for test in question.meta["tests"]}) > 1
    by_text = {q.text: q.meta["tests"] for q in generate("train", 150, 2)}
    assert all(by_text[q.text] == q.meta["tests"] for q in train if q.text in by_text)


@pytest.mark.parametrize(
    ("params", "line"),
    [
        ({"count": 9999}, "9999 questions were asked for, but split=train has"),
        ({"split": "test"}, "split=test is unknown"),
        ({"tests": 0}, "tests=0 must lie between"),
        ({"terms": 3}, "setting 'terms' is unknown"),
        ({"heldout_percent": 0}, "heldout_percent=0"),
    ],
)
def test_settings_that_make_no_sense_are_told(params, line):
    with pytest.raises(UserError, match=line):
        generate(**({"split": "train", "count": 5, "seed": 0} | params))


def test_a_program_and_its_limits_leave_the_caller_alone():
    """Only the child is confined; two threads may run programs at the same time."""
    results: list[float] = []
    threads = [
        threading.Thread(target=lambda: results.append(pays("def f(x):\n    return 3 * x + 2"))) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [1.0, 1.0]
    assert Path("/etc/passwd").read_text()
