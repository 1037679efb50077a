"""`scripts/report.py figures`: figures and an HTML report from whatever runs are named."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from r1zero.errors import UserError
from r1zero.report import figures, page
from r1zero.report.runs import Run, find_runs, wandb_runs

WANDB = "wandb:"


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
        out: folder to write; None is ``figures`` in the first folder.

    Returns:
        the pictures, then the report.
    """
    runs = collect(sources)
    if out is None:
        first = sources[0]
        out = Path("outputs") / "figures" if first.startswith(WANDB) else Path(first) / "figures"
    chosen = [name.strip() for name in names.split(",")] if names else figures.choose(runs)
    if not chosen:
        raise UserError("--figures names no figure")
    pictures = figures.draw(chosen, runs, out)
    unfinished = [run.name for run in runs if run.state != "finished"]
    note = f"Not finished: {', '.join(unfinished)}." if unfinished else ""
    sections = [
        page.Section("Figures", page.figures_section(pictures, note)),
        page.Section("Before and after", page.results_table(runs)),
        page.Section("Settings", page.settings_section(runs)),
        page.Section("Environment", page.environment_section(runs)),
    ]
    lead = f"{len(runs)} run(s): " + ", ".join(sorted({run.algo for run in runs}))
    return [*pictures.values(), page.write(out / "report.html", page.document("Training runs", lead, sections))]
