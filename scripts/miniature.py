"""The paper in miniature: `make miniature`, or `python scripts/miniature.py --help`.

Pretrains the small bases that the claims need, runs the sweeps of experiment=mini at the points that they need,
two side by side, and writes outputs/miniature/report.html.
Finished points are left alone, so a run that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import itertools
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

try:
    from r1zero.errors import Options, UserError, exit_code
    from r1zero.launch import jobs, sweep
    from r1zero.launch.console import console
except ModuleNotFoundError as error:
    sys.exit(f"error: {error.name} is not installed; run `make setup`, or `pip install -e '.[cpu]'` ('.[gpu]' on GPUs)")

ROOT = Path(__file__).resolve().parents[1]
BASES = {"tiny_control": None, "tiny_terms": None, "tiny_plain": None, "tiny_web": "tiny_plain", "tiny_qa": "tiny_web"}
"""Experiments of pretraining that make the bases, each with the one that it goes on from; bases before others. The
last three are states of one small Llama (Fig. 7)."""
TABLE1 = tuple(("tiny", template) for template in ("question", "none", "qwen", "r1"))
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
    Part(
        "coverage", {"template": ("question", "r1"), "data": ("arithmetic_wide", "arithmetic_narrow")}, 5, "tiny_terms"
    ),
    *(Part("knowledge", {"model": (model,)}, 3, model) for model in ("tiny_qa", "tiny_web", "tiny_plain")),
    Part("fig6", {"template": ("qwen",), "data": ("arithmetic",)}, 3),
)
"""Seeds by docs/results/power.md: what each claim's interval takes. Points that two figures share run once."""

COMPARE = (Part("fig8", {"algo": ("grpo", "drgrpo")}, 3),)
"""GRPO beside Dr. GRPO, three seeds of the points of claims (a) and (b): the whole miniature goes on from them."""


@dataclass(frozen=True)
class Design:
    """What one ``--design`` runs: points, the bases that they need, and rows of Table 1."""

    plan: tuple[Part, ...]
    bases: Mapping[str, str | None]
    table1: tuple[tuple[str, str], ...] = ()


WHOLE = Design(PLAN, BASES, TABLE1)
DESIGNS = {
    "whole": WHOLE,
    "compare": Design(COMPARE, {}),
}


@dataclass(frozen=True)
class Point:
    """One training run of the miniature."""

    overrides: tuple[str, ...]
    folder: Path
    group: str
    base: str | None

    @property
    def name(self) -> str:
        """The sweep and the point in it."""
        return f"{self.group.removeprefix('mini/')}/{self.folder.name}"


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


def pretrain(name: str) -> str:
    """Make a base model unless it is there."""
    console.print(f"base {name}", highlight=False)
    return jobs.pretraining(ROOT, name, OUTPUTS / "bases" / name)


def train(point: Point) -> str:
    """Run a point unless it has finished."""
    names = sweep.Names(point.folder.name, point.group)
    return jobs.process(ROOT / "train.py", point.overrides, point.folder, names)


def evaluate(model: str, template: str, folder: Path) -> str:
    """Evaluate a base model greedily unless that is done."""
    console.print(f"evaluating {model} with template {template}", highlight=False)
    settings = ["benchmarks=miniature", "sampling.max_tokens=192", "rollout.kv_cache_gib=0.5"]
    overrides = [f"model={model}", f"template={template}", *settings]
    return jobs.process(ROOT / "scripts" / "evaluate.py", overrides, folder)


def plan_jobs(todo: list[Point], table1: Path, design: Design = WHOLE) -> list[jobs.Job]:
    """Bases first, then the points, then Table 1; each waits for the base that it needs alone."""
    bases = [
        jobs.Job(name, partial(pretrain, name), (origin,) if origin else ()) for name, origin in design.bases.items()
    ]
    runs = [jobs.Job(point.name, partial(train, point), (point.base,) if point.base else ()) for point in todo]
    rows = [
        jobs.Job(
            f"table1/{model}_{template}",
            partial(evaluate, model, template, table1 / f"{model}_{template}"),
            (model,) if model in design.bases else (),
        )
        for model, template in design.table1
    ]
    return [*bases, *runs, *rows]


def report(out: Path, seeds: int, against: Path | None) -> None:
    """Write the report of whatever is there; print its verdicts, and what another run of the miniature shares."""
    from r1zero.lab.report.agreement import agreement
    from r1zero.lab.report.miniature import summary_lines, write_miniature

    planned = [point.folder for point in points(PLAN, seeds)]
    path, found = write_miniature(planned, out, sorted((OUTPUTS / "mini").glob("*/*_seed-*")))
    console.print("\n".join(summary_lines(found)), highlight=False, markup=False, soft_wrap=True)
    console.print(f"report: {path}", soft_wrap=True)
    if against:
        console.print("\n".join(agreement(found, planned, against)), highlight=False, markup=False, soft_wrap=True)


def compare(folders: list[Path]) -> None:
    """Print claims (a) and (b), and where the curves are to be drawn from."""
    from r1zero.lab.report.claims import verdicts
    from r1zero.lab.report.runs import find_runs

    for v in verdicts(find_runs([folder for folder in folders if folder.is_dir()])):
        if v.key in ("a", "b"):
            console.print(
                f"{v.claim}: {v.word}\n  {v.measured}; {v.note}", highlight=False, markup=False, soft_wrap=True
            )
    console.print(f"curves: python scripts/report.py figures {folders[0].parent} --figures fig5", soft_wrap=True)


def count(text: str) -> int:
    """A number of the command line, at least 1: without a worker nothing would run, and nothing would be said."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} must be at least 1")
    return number


def main() -> int:
    """Run what is missing, then write the report."""
    parser = Options(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=count, help="runs side by side (default: 2 of one thread, else 1)")
    parser.add_argument("--threads", type=count, default=1, help="threads of each run (default: 1)")
    parser.add_argument("--seeds", type=count, default=5, help="use at most so many seeds (default: 5)")
    parser.add_argument(
        "--design",
        choices=DESIGNS,
        default="whole",
        help="whole: all claims; compare: GRPO beside Dr. GRPO alone (default: whole)",
    )
    parser.add_argument("--report-only", action="store_true", help="run nothing, report what is there")
    parser.add_argument("--out", type=Path, default=OUTPUTS / "miniature", help="folder of the report")
    parser.add_argument(
        "--against",
        type=Path,
        metavar="OUTPUTS",
        help="outputs folder of another machine or with other --threads: print which verdicts and figures are equal",
    )
    arguments = parser.parse_args()
    if arguments.against and arguments.design != "whole":
        raise UserError("--against compares the verdicts of the whole miniature: leave --design out")
    if arguments.against and arguments.against.resolve() == OUTPUTS.resolve():
        raise UserError(f"--against {arguments.against} is this run itself: name the outputs folder of another one")
    if arguments.against:
        from r1zero.lab.report.agreement import verdicts_of

        verdicts_of(arguments.against)
    # As many as there are cores: two processes with two threads each are several times slower on two cores.
    workers = arguments.workers or max(1, 2 // arguments.threads)
    os.environ["OMP_NUM_THREADS"] = str(arguments.threads)
    os.environ.setdefault("WANDB_MODE", "offline")
    design = DESIGNS[arguments.design]
    todo = points(design.plan, arguments.seeds)
    errors: dict[str, str] = {}
    if not arguments.report_only:
        table = sweep.SweepTable("miniature", {point.name: point.folder for point in todo})
        table.start()
        try:
            errors = jobs.Jobs(plan_jobs(todo, arguments.out / "table1", design), workers).run()
        finally:
            table.close()
    for name, error in errors.items():
        print(f"failed: {name}: {error}", file=sys.stderr)
    if arguments.design == "compare":
        compare([point.folder for point in todo])
    else:
        report(arguments.out, arguments.seeds, arguments.against)
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(exit_code(main, "stopped; the same command continues with what is missing"))
