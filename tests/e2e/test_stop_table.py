"""The table of docs/signals.md: each signal in each phase of a run, of one rank and of two.

All of them: ``R1ZERO_SIGNALS=all``; otherwise one signal a phase, by turns, of one rank. Of two, one gets the signal.
"""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import pytest

from run_support import ROOT, SMALL, Server, status

PHASES = ("start", "rollout", "reward", "learn", "checkpoint", "evaluation", "export")
NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")
ALL = os.environ.get("R1ZERO_SIGNALS") == "all"
CASES = [
    (ranks, phase, name)
    for ranks in ((1, 2) if ALL else (1,))
    for i, phase in enumerate(PHASES)
    for j, name in enumerate(NAMES)
    if ALL or i % len(NAMES) == j
]
RUN = [
    *SMALL,
    "steps=4",
    "callbacks.best=null",
    "checkpoint.keep=2",
    "rollout.questions=2",
    "eval.limit=2",
    "checkpoint.every=1",
    "logger=none",
]
RANKS = {1: [], 2: ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2"]}


def table() -> dict[str, tuple[str, str]]:
    """Phase: (what happens, the newest checkpoint afterwards), as the page says it."""
    rows = re.findall(r"^\| (\w+) \| ([^|]+) \| ([^|]+) \|", (ROOT / "docs" / "signals.md").read_text(), re.MULTILINE)
    return {phase: (what.strip(), saved.strip()) for phase, what, saved in rows}


@pytest.mark.parametrize(("ranks", "phase", "name"), CASES)
def test_a_signal_does_what_the_page_says(server: Server, tmp_path: Path, ranks: int, phase: str, name: str) -> None:
    number = getattr(signal, name)
    done = server.run([*RUN, *RANKS[ranks], "hydra.run.dir=run"], tmp_path, f"signal_in_{phase}:{int(number)}")
    assert done.code == 128 + number, done.err
    assert "Traceback" not in done.err
    folder = tmp_path / "run"
    assert status(folder)["state"] == "interrupted"
    assert not list(folder.rglob("*.tmp"))
    what, saved = table()[phase]
    files = [path.name for path in sorted(folder.glob("checkpoints/*"))]
    assert files == ([] if saved == "none" else [f"step_{int(saved):06d}.ckpt" for saved in saved.split(", ")])
    finishes = what.startswith("the step is finished")
    assert (f"{name}: this rollout step is finished and saved" in done.out) == finishes
    assert (folder / "policy").is_dir() == finishes


def test_every_phase_is_on_the_page() -> None:
    assert set(PHASES) <= set(table())
