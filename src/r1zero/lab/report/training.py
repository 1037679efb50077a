"""`scripts/report.py figures`: figures and an HTML report from whatever runs are named."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from r1zero.errors import UserError
from r1zero.lab.report import figures, page
from r1zero.lab.report.runs import Run, around_wandb, find_runs, wandb_runs
from r1zero.launch.resume import flatten

WANDB = "wandb:"

NAMING = ("seed", "name", "group", "paths", "logger", "resume")
"""Settings that may differ between runs that a mean over seeds is taken of."""


def collect(sources: Sequence[str], api: Any = None) -> list[Run]:
    """Runs of folders and of W&B projects (``wandb:entity/project``)."""
    local = [Path(source) for source in sources if not source.startswith(WANDB)]
    runs = find_runs(local) if local else []
    for source in sources:
        if source.startswith(WANDB):
            runs += wandb_runs(source.removeprefix(WANDB), api)
    return runs


def write_figures(sources: Sequence[str], names: str | None = None, out: Path | None = None) -> list[Path]:
    """Draw the figures of some runs and write ``report.html`` beside them.

    Args:
        sources: run folders, folders above them, or ``wandb:entity/project``.
        names: comma-separated names of figures; None takes those that the runs can fill.
        out: folder to write; None is ``figures`` in the first folder, beside ``wandb`` where a part of that is named.

    Returns:
        the pictures, then the report.
    """
    runs = collect(sources)
    if out is None:
        first = sources[0]
        out = (Path("outputs") if first.startswith(WANDB) else around_wandb(Path(first))) / "figures"
    chosen = [name.strip() for name in names.split(",")] if names else figures.choose(runs)
    if not chosen:
        raise UserError("--figures names no figure")
    pictures = figures.draw(chosen, runs, out)
    unfinished = [run.name for run in runs if run.state != "finished"]
    notes = mixed(runs)
    for line in notes:
        print(f"note: {line}", file=sys.stderr)
    note = " ".join([f"Not finished: {', '.join(unfinished)}."] * bool(unfinished) + notes)
    sections = [
        page.Section("Figures", page.figures_section(pictures, note)),
        page.Section("Before and after", page.results_table(runs)),
        page.Section("Settings", page.settings_section(runs)),
        page.Section("Environment", page.environment_section(runs)),
    ]
    lead = f"{len(runs)} run(s): " + ", ".join(sorted({run.algo for run in runs}))
    return [*pictures.values(), page.write(out / "report.html", page.document("Training runs", lead, sections))]


def mixed(runs: Sequence[Run]) -> list[str]:
    """A sentence on every recipe whose runs differ in more than their seed, as those of a sweep over a rate do.

    Figures and intervals take the runs of a recipe for seeds of one another.
    """
    recipes: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for run in runs:
        flat = {k: v for k, v in flatten(run.config).items() if k.split(".")[0] not in NAMING}
        recipes.setdefault(run.recipe, []).append(flat)
    found = []
    for recipe, settings in recipes.items():
        keys = sorted({key for flat in settings for key in flat})
        varying = [key for key in keys if len({repr(flat.get(key)) for flat in settings}) > 1]
        if varying:
            more = f" and {len(varying) - 3} more" if len(varying) > 3 else ""
            found.append(
                f"The {len(settings)} runs of {', '.join(recipe)} differ in {', '.join(varying[:3])}{more}, not in "
                "their seed alone: means and bands mix them; name the runs of one setting."
            )
    return found
