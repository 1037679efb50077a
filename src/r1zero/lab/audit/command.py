"""What ``scripts/audit.py`` does: recompute rollout steps of a run and say where they differ."""

from __future__ import annotations

import math
from pathlib import Path

from r1zero.errors import Options, exit_code


def main(arguments: list[str]) -> int:
    """Run the command line.

    Returns:
        Exit code: 0 where everything agrees, 1 where something differs or can't be audited.
    """
    options = _parser().parse_args(arguments)
    return exit_code(lambda: audit(Path(options.run), options.step, every=options.all))


def _parser() -> Options:
    parser = Options(
        prog="audit.py",
        description="Recompute a rollout step from what the run keeps in its folder, in float64 and by plain loops "
        "that share no code with training: advantages, loss, gradient norm, updated weights. Exit code 1 where they "
        "differ.",
    )
    parser.add_argument("run", metavar="RUN", help="run folder")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--step", type=int, metavar="K", help="rollout step (the newest whose weights are kept)")
    which.add_argument("--all", action="store_true", help="every step whose weights are kept")
    return parser


def audit(path: Path, step: int | None, *, every: bool) -> int:
    """Audit a run folder and print a table for each step.

    Raises:
        UserError: the folder does not hold what an audit needs.
    """
    from r1zero.lab.audit.folder import RunFolder

    folder = RunFolder(path)
    newest = folder.choose(step)
    steps = folder.auditable() if every else [newest]
    folder.step(steps[0])  # said before the model is loaded

    import transformers

    from r1zero.lab.audit.compare import Item, compare
    from r1zero.lab.audit.replay import Replayer

    transformers.utils.logging.disable_progress_bar()
    replayer: Replayer | None = None
    worst: dict[str, Item] = {}
    wrong: list[str] = []
    for number in steps:
        part = folder.at(number)
        if replayer is None or replayer.folder.config != part.config:
            replayer = Replayer(part)
        items = compare(part, replayer.replay(number))
        show(path, number, items)
        wrong += [f"{item.name} of step {number}" for item in items if item.wrong]
        for item in items:
            if not item.note and not (item.name in worst and item.difference <= worst[item.name].difference):
                worst[item.name] = item
    if len(steps) > 1:
        largest = ", ".join(f"{name} {item.difference:.1e}" for name, item in worst.items())
        print(f"{len(steps)} steps; largest differences: {largest}")
    if wrong:
        print(f"DIFFERS: {', '.join(wrong)}")
    else:
        print("all that is recomputed agrees")
    return int(bool(wrong))


def show(path: Path, step: int, items: list) -> None:
    """Print a step's table."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=f"{path.name}: rollout step {step}, recorded and recomputed", title_justify="left")
    for column in ("", "recorded", "recomputed"):
        table.add_column(column)
    for column in ("difference", "limit"):
        table.add_column(column, justify="right")
    table.add_column("")
    for item in items:
        difference = "-" if math.isnan(item.difference) and item.note else f"{item.difference:.1e}"
        limit = "" if item.note else f"{item.limit:.0e}"
        most = f", most in {item.where}" if item.where else ""
        verdict = item.note or (Text(f"DIFFERS{most}", style="red") if item.wrong else "agrees")
        table.add_row(item.name, item.recorded, item.recomputed, difference, limit, verdict)
    Console(markup=False).print(table)
