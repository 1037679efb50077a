"""What the end-to-end tests share: starting ``train.py``, and reading what a run leaves."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import torch

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "WANDB_MODE": "offline",
    "WANDB_SILENT": "true",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "VLLM_LOGGING_LEVEL": "ERROR",
}
SMALL = [
    "experiment=demo",
    "rollout=hf",
    "steps=4",
    "rollout.questions=4",
    "rollout.max_tokens=64",
    "algo.minibatch_size=16",
    "eval.limit=8",
    "eval.every=2",
    "checkpoint.every=2",
]
"""A run of seconds: 4 questions x 8 responses, two optimizer steps a rollout step."""

STEPS = ["steps=6", "optim.schedule=cosine", "optim.warmup_steps=3", "optim.lr=5e-4", "checkpoint.keep=9"]
"""Settings under which a resume has the most to get right."""

CLOCK = re.compile(r"^(time|throughput)/|seconds")
"""Columns of metrics.csv that measure time, which no two runs share."""


@dataclass
class Finished:
    """A process that has ended."""

    code: int
    out: str
    err: str

    @property
    def errors(self) -> list[str]:
        """Lines on stderr that are not warnings."""
        return [line for line in self.err.splitlines() if line.strip() and not line.startswith("WARNING: ")]


class Server:
    """Client of ``forkserver.py``."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.count = folder, 0
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("forkserver.py"))],
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

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        return self._answer()

    def start(
        self,
        args: Sequence[str],
        cwd: Path,
        fault: str = "",
        env: dict[str, str] | None = None,
        script: str = "train.py",
    ) -> Running:
        """Start ``train.py``, or another script."""
        self.count += 1
        out = str(self.folder / f"run{self.count}")
        request = {
            "args": list(args), "cwd": str(cwd), "out": out, "fault": fault, "env": env or {}, "script": script,
        }  # fmt: skip
        return Running(self, self._ask(request)["pid"], out)

    def run(self, *arguments: Any, **named: Any) -> Finished:
        """Run ``train.py``, or another script, to its end; see :meth:`start`."""
        return self.start(*arguments, **named).wait()

    def close(self) -> None:
        """End the server."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.kill()
        self.process.wait()


@dataclass
class Running:
    """A run under way; it leads a session of its own."""

    server: Server
    pid: int
    out: str

    def signal(self, number: int) -> None:
        """Send a signal to this process alone."""
        os.kill(self.pid, number)

    @property
    def ended(self) -> bool:
        """Whether it has ended, well or not; :meth:`wait` says how."""
        return psutil.Process(self.pid).status() == psutil.STATUS_ZOMBIE

    def wait(self) -> Finished:
        """Wait for the end, and see that nothing of it is left running."""
        code = self.server._ask({"wait": self.pid})["code"]
        assert_no_orphans(self.pid)
        return Finished(code, Path(self.out + ".out").read_text(), Path(self.out + ".err").read_text())


def assert_no_orphans(session: int, seconds: float = 60.0) -> None:
    """Fail when processes of a session outlive it: grader workers, engines, ranks."""
    deadline = time.monotonic() + seconds
    while left := members(session):
        if time.monotonic() > deadline:
            raise AssertionError(f"still running: {[' '.join(p.cmdline())[:120] for p in left]}")
        time.sleep(0.1)


def members(session: int) -> list[psutil.Process]:
    """Live processes of a session."""
    found = []
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == session and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (ProcessLookupError, psutil.NoSuchProcess):
            continue
    return found


def train(args: Sequence[str], cwd: Path, env: dict[str, str] | None = None, timeout: float = 600) -> Finished:
    """Run ``python train.py`` as a process of its own, imports and all."""
    return wait(start(args, cwd, env), timeout)


def start(
    args: Sequence[str], cwd: Path, env: dict[str, str] | None = None, command: Sequence[str] = (sys.executable,)
) -> subprocess.Popen[str]:
    """Start ``python train.py``."""
    return subprocess.Popen(
        [*command, str(ROOT / "train.py"), *args],
        cwd=cwd,
        env=os.environ | ENVIRONMENT | (env or {}),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait(process: subprocess.Popen[str], timeout: float = 600) -> Finished:
    """Wait for a process; kill its whole session when it takes too long."""
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    assert_no_orphans(process.pid)
    return Finished(process.returncode, out, err)


def until(condition: Callable[[], bool], seconds: float = 300.0, poll: float = 0.05) -> None:
    """Wait until something holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError("it never came to pass")
        time.sleep(poll)


# -- what a run leaves --------------------------------------------------------------------------------


def table(folder: Path) -> list[dict[str, str]]:
    """metrics.csv without what the clock measures; empty cells left out, so that column order plays no part."""
    with (folder / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [{k: v for k, v in row.items() if v != "" and not CLOCK.search(k)} for row in rows]


def status(folder: Path) -> dict[str, Any]:
    """status.json."""
    return json.loads((folder / "status.json").read_text())


def checkpoint(folder: Path, step: int) -> dict[str, Any]:
    """A checkpoint's content."""
    return torch.load(folder / "checkpoints" / f"step_{step:06d}.ckpt", weights_only=True)


def wandb_records(run: Path, seconds: float = 60.0) -> list[Any]:
    """Records of a finished W&B run on disk, as far as they are there after so many seconds.

    ``finish()`` may return before W&B's process has written them; the exit record is the last.
    """
    deadline = time.monotonic() + seconds
    while True:
        records = _records_on_disk(run)
        if time.monotonic() > deadline or any(record.WhichOneof("record_type") == "exit" for record in records):
            return records
        time.sleep(0.1)


def _records_on_disk(run: Path) -> list[Any]:
    """A log of protocol buffers in blocks of 32 KiB, as LevelDB's is."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, block, offset = next(run.glob("*.wandb")).read_bytes(), 32768, 7
    records, parts = [], b""
    while offset + 7 <= len(data):
        if block - offset % block < 7:  # what is left of a block is too short for a header
            offset += block - offset % block
            continue
        length, kind = int.from_bytes(data[offset + 4 : offset + 6], "little"), data[offset + 6]
        parts += data[offset + 7 : offset + 7 + length]
        offset += 7 + length
        if kind in (1, 4):  # whole, or the last part
            record = Record()
            record.ParseFromString(parts)
            records.append(record)
            parts = b""
    return records


def differing(a: Any, b: Any, where: str = "") -> list[str]:
    """Paths of what differs between two nests of dicts, lists, tensors and values; tensors by ``torch.equal``."""
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return [] if torch.equal(a, b) else [where]
    if isinstance(a, dict) and isinstance(b, dict):
        names = {*a, *b}
        return [d for k in sorted(names, key=str) for d in differing(a.get(k), b.get(k), f"{where}.{k}")]
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)) and len(a) == len(b):
        return [d for i, (x, y) in enumerate(zip(a, b, strict=True)) for d in differing(x, y, f"{where}.{i}")]
    return [] if a == b or (a != a and b != b) else [f"{where}: {a} and {b}"]


def weights(folder: Path) -> dict:
    from safetensors.torch import load_file

    return load_file(folder / "policy" / "model.safetensors")


def exited(run: Path) -> bool:
    """Whether a W&B run on disk was finished."""
    return any(record.WhichOneof("record_type") == "exit" for record in wandb_records(run))


def completions(folder: Path) -> pd.DataFrame:
    files = sorted((folder / "completions").iterdir())
    return pd.concat([pd.read_parquet(file) for file in files]).drop(columns="seconds").reset_index(drop=True)


def assert_same_run(one: Path, other: Path, steps: int) -> None:
    """Weights, optimizer, scheduler, loader position, metrics and samples of two runs are exactly equal."""
    assert differing(weights(one), weights(other)) == []
    a, b = checkpoint(one, steps), checkpoint(other, steps)
    for key in ("state_dict", "optimizer_states", "lr_schedulers", "r1zero", "loops"):
        assert [d for d in differing(a[key], b[key], key) if "batches_that_stepped" not in d] == []
    assert table(one) == table(other)
    assert (one / "updates.csv").read_text() == (other / "updates.csv").read_text()
    pd.testing.assert_frame_equal(completions(one), completions(other))
    first, second = (json.loads((f / "summary.json").read_text()) for f in (one, other))
    for key in ("tokens", "rollout_steps", "optimizer_steps", "sync"):
        assert first[key] == second[key]
    strip = lambda e: {k: {m: v for m, v in r.items() if m != "seconds"} for k, r in e.items() if k != "step"}  # noqa: E731
    assert strip(first["eval"]["first"]) == strip(second["eval"]["first"])
    assert strip(first["eval"]["last"]) == strip(second["eval"]["last"])


def documented_metrics() -> set[str]:
    """Names of the metrics in docs/reference/metrics.md, for one benchmark, the meter's columns and two sources."""
    from r1zero.algo.bias import RUNNING, VARIANTS

    text = (ROOT / "docs" / "reference" / "metrics.md").read_text()
    gaps = {"<benchmark>": ["arithmetic"], "<name>": [RUNNING, *VARIANTS, "asdiv", "math"]}
    names: set[str] = set()
    for row in re.findall(r"^\| (`.*?) \|", text, re.MULTILINE):
        found = re.findall(r"`([^`]+)`", row)
        family = found[0].rpartition("/")[0]
        for name in (name if "/" in name else f"{family}/{name}" for name in found):
            gap = next((gap for gap in gaps if gap in name), "")
            names |= {name.replace(gap, value) for value in gaps[gap]} if gap else {name}
    return names


def audited(folder: Path, *steps: int) -> dict[str, float]:
    """Recompute rollout steps; the largest difference of each item. Fails where one differs by more than its limit."""
    from r1zero.lab.audit.compare import compare
    from r1zero.lab.audit.folder import RunFolder
    from r1zero.lab.audit.replay import Replayer

    found: dict[str, float] = {}
    for step in steps:
        part = RunFolder(folder).at(step)
        items = compare(part, Replayer(part).replay(step))
        assert [(item.name, item.difference) for item in items if item.wrong] == [], step
        for item in items:
            if not item.note:
                found[item.name] = max(found.get(item.name, 0.0), item.difference)
    return found


def documented_rows(page: Path, heading: str) -> list[list[str]]:
    """Cells of the table of a page whose first line begins so."""
    lines = page.read_text().splitlines()
    first = next(at for at, line in enumerate(lines) if line.startswith(heading))
    found = []
    for line in lines[first + 2 :]:
        if not line.startswith("|"):
            break
        found.append([cell.strip() for cell in line.strip("|").split("|")])
    return found
