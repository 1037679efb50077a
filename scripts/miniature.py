"""The paper in miniature: `make miniature`, or `python scripts/miniature.py --help`.

Pretrains two more small bases, runs the sweeps of experiment=mini at the points that the claims need,
two side by side, and writes outputs/miniature/report.html. Finished points are left alone, so a run that
was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import itertools
import os
import queue
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

try:
    from r1zero import sweep
    from r1zero.console import console
    from r1zero.errors import UserError
except ModuleNotFoundError as error:
    sys.exit(f"error: {error.name} is not installed; run `make setup`, or `pip install -e '.[cpu]'` ('.[gpu]' on GPUs)")

ROOT = Path(__file__).resolve().parents[1]
BASES = ("tiny_control", "tiny_weak")
TABLE1 = (("tiny", "question"), ("tiny", "none"), ("tiny", "qwen"), ("tiny", "r1"), ("tiny_weak", "question"))
"""Base model and template of each row of Table 1 in miniature."""
OUTPUTS = Path("outputs")


@dataclass(frozen=True)
class Part:
    """Points of one sweep: the product of the axes, over the first ``seeds`` seeds."""

    sweep: str
    axes: dict[str, tuple[str, ...]]
    seeds: int
    base: str | None = None


PLAN = (
    Part("fig8", {"algo": ("grpo", "drgrpo")}, 5),
    Part("fig6", {"template": ("r1",), "data": ("arithmetic",)}, 5),
    Part("fig8", {"algo": ("grpo_no_std_norm", "grpo_no_length_norm")}, 3),
    Part("control", {"algo": ("grpo", "drgrpo")}, 3, base="tiny_control"),
    Part("fig7", {"model": ("tiny_weak",), "algo": ("drgrpo",)}, 3, base="tiny_weak"),
    Part("fig6", {"template": ("qwen",), "data": ("arithmetic",)}, 3),
    Part(
        "fig6",
        {"template": ("question",), "data": ("arithmetic_chains", "arithmetic_products", "arithmetic_words")},
        3,
    ),
)
"""Five seeds where an interval must exclude zero, three elsewhere. Points that two figures share run once."""


@dataclass(frozen=True)
class Point:
    """One training run of the miniature."""

    overrides: tuple[str, ...]
    folder: Path
    group: str
    base: str | None


def points(plan: tuple[Part, ...], most_seeds: int) -> list[Point]:
    """All points, first seeds first, so that a run stopped early has something of every claim."""
    found: list[tuple[int, Point]] = []
    for part in plan:
        for seed in range(min(part.seeds, most_seeds)):
            axes = {**part.axes, "seed": (str(seed),)}
            for values in itertools.product(*axes.values()):
                varying = [f"{axis}={value}" for axis, value in zip(axes, values, strict=True)]
                folder = OUTPUTS / "mini" / part.sweep / sweep.name_of(varying, [])
                overrides = (*varying, "experiment=mini", f"sweep={part.sweep}")
                found.append((seed, Point(overrides, folder, f"mini/{part.sweep}", part.base)))
    return [point for _, point in sorted(found, key=lambda item: item[0])]


def pretrain(name: str, root: Path) -> str:
    """Make a base model unless it is there; returns an error in one line, or nothing."""
    folder = OUTPUTS / "bases" / name
    if (folder / "summary.json").is_file() and (folder / "policy" / "config.json").is_file():
        return ""
    console.print(f"pretraining {name}", highlight=False)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "console.log").open("w") as log:
        command = [sys.executable, str(root / "scripts" / "pretrain.py"), f"experiment={name}"]
        code = subprocess.call([*command, f"hydra.run.dir={folder}"], stdout=log, stderr=subprocess.STDOUT)
    return f"pretraining of {name} failed; see {folder}/console.log" if code else ""


def evaluate(model: str, template: str, folder: Path, root: Path) -> str:
    """Evaluate a base model greedily unless that is done; returns an error in one line, or nothing."""
    if (folder / "results.json").is_file():
        return ""
    folder.mkdir(parents=True, exist_ok=True)
    settings = ["benchmarks=miniature", "sampling.max_tokens=192", "rollout.kv_cache_gib=0.5"]
    command = [sys.executable, str(root / "scripts" / "evaluate.py"), f"model={model}", f"template={template}"]
    with (folder / "console.log").open("w") as log:
        code = subprocess.call([*command, *settings, f"hydra.run.dir={folder}"], stdout=log, stderr=subprocess.STDOUT)
    return f"evaluation of {model} with template {template} failed; see {folder}/console.log" if code else ""


class Workers:
    """A few threads that each take the next point and run it in a process of its own."""

    def __init__(self, todo: list[Point], count: int, root: Path) -> None:
        self.todo: queue.Queue[Point] = queue.Queue()
        for point in todo:
            self.todo.put(point)
        self.count, self.root = count, root
        self.errors: dict[str, str] = {}
        self.broken: dict[str, str] = {}
        self.locks = {base: threading.Lock() for base in BASES}

    def run(self) -> dict[str, str]:
        """Run everything; {point: error}."""
        threads = [threading.Thread(target=self._work, daemon=True) for _ in range(self.count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            while thread.is_alive():
                thread.join(0.5)
        return self.errors

    def _work(self) -> None:
        while True:
            try:
                point = self.todo.get_nowait()
            except queue.Empty:
                return
            name = f"{point.group}/{point.folder.name}"
            try:
                if point.base is not None:
                    with self.locks[point.base]:
                        if point.base not in self.broken:
                            self.broken[point.base] = pretrain(point.base, self.root)
                    if self.broken[point.base]:
                        self.errors[name] = self.broken[point.base]
                        continue
                names = sweep.Names(point.folder.name, point.group)
                code = sweep.run_point(str(self.root / "train.py"), point.overrides, point.folder, names)
                if code:
                    self.errors[name] = sweep.why(point.folder)
            except UserError as error:
                self.errors[name] = str(error)
            except KeyboardInterrupt:
                return


def main() -> int:
    """Run what is missing, then write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=2, help="runs side by side, one core each (default: 2)")
    parser.add_argument("--seeds", type=int, default=5, help="use at most so many seeds (default: 5)")
    parser.add_argument("--report-only", action="store_true", help="run nothing, report what is there")
    parser.add_argument("--out", type=Path, default=OUTPUTS / "miniature", help="folder of the report")
    arguments = parser.parse_args()
    # One thread each: two processes with two threads each are several times slower on two cores.
    os.environ["OMP_NUM_THREADS"] = "1"
    os.environ.setdefault("WANDB_MODE", "offline")
    todo = points(PLAN, arguments.seeds)
    errors: dict[str, str] = {}
    if not arguments.report_only:
        table = sweep.SweepTable("miniature", {f"{p.group[5:]}/{p.folder.name}": p.folder for p in todo})
        table.start()
        try:
            errors = Workers(todo, arguments.workers, ROOT).run()
        except KeyboardInterrupt:
            print("stopped; the same command goes on with what is missing", file=sys.stderr)
            return 130
        finally:
            table.close()
        for model, template in TABLE1:
            console.print(f"evaluating {model} with template {template}", highlight=False)
            error = evaluate(model, template, arguments.out / "table1" / f"{model}_{template}", ROOT)
            if error:
                errors[f"table1/{model}_{template}"] = error
    for name, error in errors.items():
        print(f"failed: {name}: {error}", file=sys.stderr)
    try:
        from r1zero.report.miniature import summary_lines, write_miniature

        path, found = write_miniature(OUTPUTS / "mini", arguments.out)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for line in summary_lines(found):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    console.print(f"report: {path}", soft_wrap=True)
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main())
