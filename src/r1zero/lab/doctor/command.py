"""``python scripts/doctor.py [RUN ...]``: the invariants of run folders, or the machine and a run of three steps."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from r1zero.errors import Options
from r1zero.lab.doctor import environment, folder, trial
from r1zero.lab.doctor.environment import Check


def main(arguments: Sequence[str]) -> int:
    """Look and print; exit code 1 where a folder has findings or a check failed, 2 where there is no such folder."""
    parser = Options(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", type=Path, metavar="RUN", help="run folders; without one: the machine")
    parser.add_argument(
        "--no-run", action="store_true", help="look at the machine alone, without the run of three steps"
    )
    parser.add_argument("--json", type=Path, default=Path("outputs/doctor.json"), metavar="FILE", help="(%(default)s)")
    asked = parser.parse_args(arguments)
    if not asked.runs:
        return look_at_machine(asked.json, not asked.no_run)
    code = 0
    for run in asked.runs:
        if not run.is_dir():
            print(f"error: {run}: there is no such folder", file=sys.stderr)
            return 2
        lines = folder.findings(run)
        for line in lines:
            print(f"{run}: {line}")
        if not lines:
            print(f"{run}: whole ({folder.summary(run)})")
        code = code or int(bool(lines))
    return code


def look_at_machine(file: Path, with_run: bool) -> int:
    """Print each check as it is made, then store them all."""
    made: list[Check] = []
    for check in environment.report():
        made.append(check)
        print(check, flush=True)
    file.parent.mkdir(parents=True, exist_ok=True)
    if with_run:
        for check in three_steps(made, file.with_suffix(".log")):
            made.append(check)
            print(check, flush=True)
    file.write_text(json.dumps([dataclasses.asdict(check) for check in made], indent=1) + "\n")
    failed = [check.name for check in made if check.state == "fail"]
    print(f"{len(made)} checks, {', '.join(failed) + ' failed' if failed else 'none failed'}; {file}")
    return int(bool(failed))


def three_steps(made: Sequence[Check], log: Path) -> Iterator[Check]:
    """A run with what the machine has: its card where torch can use it, vLLM where it can be imported."""
    states = {check.name: check.state for check in made}
    gpu = states["cards"] in ("ok", "note")
    engine = "vllm" if states["vLLM"] == "ok" else "hf"
    with tempfile.TemporaryDirectory(prefix="r1zero-doctor-") as place:
        model = trial.random_model(trial.LARGE, Path(place) / "model") if gpu else None
        done = trial.run(Path(place) / "run", trial.settings_for(gpu, engine, model), limit=900)
        if done.code:
            log.write_text(done.log)
        yield from trial.checks(done, gpu, log)
