"""ProgressCallback: a bar over rollout steps, a line per evaluation, a table at the end."""

from __future__ import annotations

import time
from typing import Any

import pytorch_lightning as pl
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from r1zero.batch import PromptBatch
from r1zero.launch.console import console, titled
from r1zero.learn.module import PolicyGradientModule
from r1zero.train.context import RunContext

LINE_SECONDS = 20.0
"""Without a terminal there is no bar; then at most one line in so many seconds."""


class StepBar:
    """A bar over steps on a terminal; elsewhere a line now and then, and one for the last step.

    Args:
        label: what is counted.
        steps: of the whole run.
        done: steps done already.
    """

    def __init__(self, label: str, steps: int, done: int) -> None:
        self.steps = steps
        self._last_line = 0.0
        self._progress: Progress | None = None
        if console.is_terminal:
            self._progress = Progress(
                TextColumn(label, style="bold", markup=False),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TextColumn("<"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[figures]}", markup=False),
                console=console,
            )
            self._progress.start()
            self._task = self._progress.add_task("steps", total=steps, completed=done, figures="")

    def show(self, done: int, figures: str) -> None:
        """Say that ``done`` steps are done, with the figures of the last one."""
        if self._progress is not None:
            self._progress.update(self._task, completed=done, figures=figures)
        elif time.monotonic() - self._last_line > LINE_SECONDS or done == self.steps:
            self._last_line = time.monotonic()
            console.print(f"step {done}/{self.steps}  {figures}")

    def close(self) -> None:
        """Leave the terminal as it was; safe to call twice."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None


class BarCallback(pl.Callback):
    """Has a bar that is closed however the run ends."""

    def __init__(self, context: Any) -> None:
        self.context = context
        self._bar: StepBar | None = None

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Close the bar."""
        self.close()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Leave the terminal as it was."""
        self.close()

    def close(self) -> None:
        """Stop the bar; safe to call twice."""
        if self._bar is not None:
            self._bar.close()


class ProgressCallback(BarCallback):
    """Shows how far the run is and how well it does."""

    def __init__(self, context: RunContext) -> None:
        super().__init__(context)
        context.after_evaluation.append(self._print_evaluation)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Open the bar."""
        assert isinstance(pl_module, PolicyGradientModule)
        if self.context.is_main:
            self._bar = StepBar("rollout step", self.context.cfg.steps, pl_module.rollout_step)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Move the bar."""
        assert isinstance(batch, PromptBatch)
        assert isinstance(pl_module, PolicyGradientModule)
        assert batch.rollout is not None
        if self._bar is not None:
            self._bar.show(batch.step + 1, step_line(batch.rollout.metrics | pl_module.step_metrics))

    def _print_evaluation(self, module: PolicyGradientModule, result: dict[str, Any]) -> None:
        if self.context.is_main:
            console.print(evaluation_line(result))


def step_line(metrics: dict[str, float]) -> str:
    """The figures of one rollout step on one line."""
    parts = [f"reward {metrics['reward/mean']:.3f}", f"length {metrics['length/mean']:.1f}"]
    for name, label in (("length/correct", "right"), ("length/incorrect", "wrong")):
        if metrics[name] == metrics[name]:
            parts.append(f"{label} {metrics[name]:.1f}")
    spent = {name: metrics[f"time/{name}"] for name in ("rollout", "reward", "sync", "learn")}
    total = max(sum(spent.values()), 1e-9)
    split = [f"{name} {seconds / total:.0%}" for name, seconds in spent.items()]
    return "  ".join(parts) + f"  {total:.2f} s ({' '.join(split)})"


def evaluation_line(result: dict[str, Any]) -> Text:
    """One evaluation on one line: every benchmark, then the average."""
    parts = [
        f"{name} {figures['accuracy']:.3f} ({figures['length']:.0f} tokens)"
        for name, figures in result.items()
        if name not in ("step", "average")
    ]
    if len(parts) > 1:
        parts.append(f"average {result['average']['accuracy']:.3f}")
    return titled("evaluation", f" at step {result['step']}: " + "  ".join(parts), "cyan")


def closing_table(summary: dict[str, Any]) -> Table:
    """Before -> after on every benchmark."""
    table = Table(title=f"{summary['name']}: before and after {summary['rollout_steps']} rollout steps")
    for column in ("benchmark", "accuracy", "", "length right", "length wrong", "truncated"):
        table.add_column(column, justify="left" if column == "benchmark" else "right")
    first, last = summary["eval"]["first"], summary["eval"]["last"]
    several = len(last) > 3  # step, average and one benchmark: the average says nothing more
    for name in last:
        if name == "step" or (name == "average" and not several):
            continue
        a, b = first.get(name, {}), last[name]

        def arrow(key: str, pattern: str, a: dict[str, float] = a, b: dict[str, float] = b) -> str:
            values = [x.get(key) for x in (a, b)]
            return " -> ".join("-" if v is None or v != v else format(v, pattern) for v in values)

        gain = f"{b['accuracy'] - a['accuracy']:+.3f}" if a else "-"
        table.add_row(
            name,
            arrow("accuracy", ".3f"),
            gain,
            arrow("length_correct", ".1f"),
            arrow("length_incorrect", ".1f"),
            arrow("truncated_frac", ".1%"),
        )
    return table
