"""A run that is stopped at any operation on a file resumes to the same weights, or is refused with nothing changed.

All operations, moments and faults: ``R1ZERO_WRITE_POINTS=all pytest -s tests/e2e/test_write_points.py``.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from run_support import ENVIRONMENT, Server, assert_same_run, differing, status

RUN = [
    "experiment=demo",
    "rollout=hf",
    "steps=2",
    "rollout.questions=2",
    "rollout.max_tokens=8",
    "algo.minibatch_size=16",
    "eval.at_start=false",
    "eval.every=1",
    "eval.limit=2",
    "checkpoint.every=1",
    "checkpoint.keep=1",
    "logger=none",
    "name=run",
    "hydra.run.dir=run",
]
ALL = os.environ.get("R1ZERO_WRITE_POINTS") == "all"
SHORT = 12
"""Cases where not all of them are asked for."""
FAULTS = ("kill", "ENOSPC", "EIO", "EINTR")


class Warm:
    """Client of ``write_points.py``."""

    def __init__(self, folder: Path, arguments: list[str]) -> None:
        self.folder = folder
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).parents[1] / "write_points.py"), *arguments],
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
            env=os.environ | ENVIRONMENT,
        )
        assert self._answer() == {}

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        return json.loads(self.process.stdout.readline())

    def run(self, stop: int = 0, when: str = "before", fault: str = "kill") -> tuple[int, list[str], str]:
        """Run to the end or to the point; exit code, points, what was said on stderr."""
        assert self.process.stdin is not None
        out = str(self.folder / "said")
        self.process.stdin.write(json.dumps({"stop": stop, "when": when, "fault": fault, "out": out}) + "\n")
        answer = self._answer()
        return answer["code"], answer["points"], Path(out + ".err").read_text()

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def content(folder: Path) -> dict[str, bytes]:
    """Every file of a folder."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def said(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.strip() and not line.startswith("WARNING: ")]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Warm, Warm, list[str]]]:
    """The command, the command that resumes it, and its points; ``whole/`` is the run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("points")
    begin = Warm(folder, RUN)
    code, points, err = begin.run()
    assert code == 0, err
    shutil.copytree(folder / "run", folder / "whole")
    resume = Warm(folder, ["resume=run"])
    yield begin, resume, points
    begin.close()
    resume.close()


def cases(points: list[str]) -> Iterator[tuple[int, str, str]]:
    """Point, moment and fault: all of them, or each kind of point once with the faults by turns."""
    moments = {"write": ("before", "half", "after")}
    if ALL:
        for number, point in enumerate(points, 1):
            for when in moments.get(point.split()[0], ("before", "after")):
                for fault in FAULTS:
                    yield number, when, fault
        return
    turns = itertools.cycle(itertools.product(("before", "half", "after"), FAULTS))
    for number in range(1, len(points), max(len(points) // SHORT, 1)):
        yield number, *next(turns)


def outcome(begin: Warm, resume: Warm, case: tuple[int, str, str], server: Server) -> str:
    """Run, stop, resume; "resumed equal", "refused with nothing changed", or what was lost."""
    root = begin.folder
    shutil.rmtree(root / "run", ignore_errors=True)
    code, points, err = begin.run(*case)
    fault = case[2]
    if fault == "kill":
        assert code == -9, (case, err)
    else:
        assert "Traceback" not in err, (case, err)
        assert code == 0 or len(said(err)) == 1, (case, err)
        assert not list((root / "run").rglob("*.tmp")), case
        if (root / "run" / "status.json").exists():
            assert status(root / "run")["state"] not in ("starting", "running"), (case, points[-1])
    before = content(root / "run")
    stored = root / "run" / ".hydra" / "overrides.yaml"
    if stored.is_file() and stored.read_bytes() == (root / "whole" / ".hydra" / "overrides.yaml").read_bytes():
        code, _, err = resume.run()
    else:  # what the command line reads is not there
        done = server.run(["resume=run"], root)
        code, err = done.code, done.err
    if code == 0:
        assert_same_run(root / "whole", root / "run", 2)
        return "resumed equal"
    now = content(root / "run")
    if code == 1 and len(said(err)) == 1 and differing(before, now) == []:
        return "refused with nothing changed"
    return f"lost: exit {code}, {err.strip()[-300:]}, changed {differing(before, now)}"[:600]


@pytest.mark.timeout(0)
def test_nothing_is_lost_wherever_a_run_is_stopped(runs: tuple[Warm, Warm, list[str]], server: Server) -> None:
    begin, resume, points = runs
    count: Counter[str] = Counter()
    lost = []
    for case in cases(points):
        try:
            found = outcome(begin, resume, case, server)
        except AssertionError as error:
            found = f"lost: {str(error)[:400]}"
        count[found.partition(":")[0]] += 1
        if found.startswith("lost"):
            lost.append((points[case[0] - 1], *case, found))
            print(lost[-1], flush=True)
    print(
        f"points: {len(points)}, cases: {sum(count.values())}, resumed equal: {count['resumed equal']}, "
        f"refused with nothing changed: {count['refused with nothing changed']}, lost: {len(lost)}"
    )
    assert lost == []
    assert count["resumed equal"] > count["refused with nothing changed"] > 0
