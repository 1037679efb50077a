"""A run that is stopped at any operation on a file resumes to the same weights, or is refused with nothing changed.

So does one that is stopped while it resumes. Some of the operations, moments and faults; all of them:
``R1ZERO_WRITE_POINTS=all pytest -s tests/e2e/test_write_points.py``.
"""

from __future__ import annotations

import hashlib
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
"""Cases of a run where not all of them are asked for."""
FAULTS = ("kill", "ENOSPC", "EIO", "EINTR")
CHANGED = "checkpoint.every=2"
"""A setting that a resumed run may have anew, so that it has more to write; the numbers stay the same."""
STORED = ".hydra/overrides.yaml"

Case = tuple[int, str, str]


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

    def run(self, cases: list[Case]) -> tuple[int, list[str], str, dict[Case, tuple[int, str]]]:
        """Run to the end; exit code, points, what was said on stderr, and how each case ended."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"ends": str(self.folder / "ends"), "cases": cases}) + "\n")
        points: list[str] = []
        ended: dict[Case, tuple[int, str]] = {}
        while True:
            answer = self._answer()
            if "point" in answer:
                points.append(answer["point"])
            elif "case" in answer:
                ended[tuple(answer["case"])] = (answer["code"], answer["err"])
            else:
                return answer["code"], points, answer["err"], ended

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def content(folder: Path) -> dict[str, bytes]:
    """Every file of a folder."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def state(folder: Path) -> str:
    """Digest of all that a resume reads: logs are left out, and of the status its process, its clock and its error."""
    digest = hashlib.sha256(" ".join(sorted(str(p.relative_to(folder)) for p in folder.rglob("*"))).encode())
    for name, data in content(folder).items():
        if name == "status.json":
            kept = json.loads(data)
            data = json.dumps({key: kept[key] for key in ("state", "steps", "step") if key in kept}).encode()
        if name != "train.log":
            digest.update(f"{name} {len(data)} ".encode() + data)
    return digest.hexdigest()


def said(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.strip() and not line.startswith("WARNING: ")]


class Subject:
    """A folder with ``whole/``, the run that nothing disturbed, and what came of resuming each state of ``run/``."""

    def __init__(self, root: Path, server: Server) -> None:
        self.root, self.server = root, server
        self.found: dict[str, str] = {}
        self.resumes: dict[bytes, Warm] = {}
        self.begin = Warm(root, RUN)
        self.points, _ = self.take(self.begin, [])
        shutil.copytree(root / "run", root / "whole")
        self.know()

    def take(
        self, command: Warm, cases: list[Case], start: Path | None = None
    ) -> tuple[list[str], dict[Case, tuple[int, str]]]:
        """Run to the end, from a folder if any; the points, and how each case ended."""
        for name in ("ends", "run"):
            shutil.rmtree(self.root / name, ignore_errors=True)
        self.start = state(start) if start else ""
        if start:
            shutil.copytree(start, self.root / "run")
        code, points, err, ended = command.run(cases)
        assert code == 0, err
        return points, ended

    def know(self) -> None:
        """Have the command ready that resumes what is in ``run/``."""
        self.resumes[(self.root / "run" / STORED).read_bytes()] = Warm(self.root, ["resume=run"])

    def killed(self) -> Path:
        """A run that was killed where rows and responses of a step lie beyond its checkpoint."""
        stop = (self.points.index("open checkpoints/step_000002.tmp") + 1, "before", "kill")
        self.take(self.begin, [stop])
        return self.end(stop).rename(self.root / "killed")

    def end(self, case: Case) -> Path:
        return self.root / "ends" / "-".join(map(str, case))

    def outcome(self, case: Case, code: int, err: str) -> str:
        """ "resumed equal", "refused with nothing changed", or what was lost."""
        end = self.end(case)
        if case[2] == "kill":
            assert code == -9, err
        else:
            assert "Traceback" not in err, err
            assert code == 0 or len(said(err)) == 1, err
            assert not list(end.rglob("*.tmp"))
            if (end / "status.json").exists() and state(end) != self.start:
                assert status(end)["state"] not in ("starting", "running")
        left = state(end)
        if left not in self.found:
            shutil.rmtree(self.root / "run", ignore_errors=True)
            end.rename(self.root / "run")
            self.found[left] = self.resumed()
        return self.found[left]

    def resumed(self) -> str:
        whole, run = self.root / "whole", self.root / "run"
        before = content(run)
        if resume := self.resumes.get(before.get(STORED, b"")):
            code, _, err, _ = resume.run([])
        else:  # what the command line reads is not there
            done = self.server.run(["resume=run"], self.root)
            code, err = done.code, done.err
        if code == 0:
            assert_same_run(whole, run, 2)
            return "resumed equal"
        now = content(run)
        if code == 1 and len(said(err)) == 1 and differing(before, now) == []:
            return "refused with nothing changed"
        return f"lost: exit {code}, {err.strip()[-300:]}, changed {differing(before, now)}"[:600]


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory, server: Server) -> Iterator[Subject]:
    made = Subject(tmp_path_factory.mktemp("points"), server)
    yield made
    for command in (made.begin, *made.resumes.values()):
        command.close()


def cases(points: list[str]) -> list[Case]:
    """Point, moment and fault: all of them, or some points with moments and faults by turns."""
    if not ALL:
        turns = itertools.cycle(itertools.product(("before", "half", "after"), FAULTS))
        return [(n, *next(turns)) for n in range(1, len(points), max(len(points) // SHORT, 1))]
    return [
        (number, when, fault)
        for number, point in enumerate(points, 1)
        for when in (("before", "half", "after") if point.startswith("write ") else ("before", "after"))
        for fault in FAULTS
    ]


def stop_everywhere(subject: Subject, command: Warm, points: list[str], start: Path | None = None) -> Counter[str]:
    """Stop a command in all cases and resume; how many of each outcome there are. Fails where anything is lost."""
    count: Counter[str] = Counter()
    lost = []
    before = len(subject.found)
    for case, (code, err) in subject.take(command, cases(points), start)[1].items():
        try:
            found = subject.outcome(case, code, err)
        except AssertionError as error:
            found = f"lost: {str(error)[:400]}"
        count[found.partition(":")[0]] += 1
        if found.startswith("lost"):
            lost.append((points[case[0] - 1], *case, found))
            print(lost[-1], flush=True)
    print(
        f"points: {len(points)}, cases: {sum(count.values())}, states of the folder: {len(subject.found) - before}, "
        f"resumed equal: {count['resumed equal']}, "
        f"refused with nothing changed: {count['refused with nothing changed']}, lost: {len(lost)}"
    )
    assert lost == []
    return count


@pytest.mark.timeout(0)
def test_nothing_is_lost_wherever_a_run_is_stopped(subject: Subject) -> None:
    count = stop_everywhere(subject, subject.begin, subject.points)
    assert count["resumed equal"] > count["refused with nothing changed"] > 0


@pytest.mark.timeout(0)
def test_nothing_is_lost_wherever_a_resumed_run_is_stopped(subject: Subject) -> None:
    """It also has to go back to its checkpoint, and to store the settings that have changed."""
    killed = subject.killed()
    shutil.copytree(killed, subject.root / "run", dirs_exist_ok=True)
    command = Warm(subject.root, ["resume=run", CHANGED])
    try:
        points, _ = subject.take(command, [], killed)
        subject.know()
        count = stop_everywhere(subject, command, points, killed)
    finally:
        command.close()
    assert count["resumed equal"] > 0
