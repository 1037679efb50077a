"""The picture of a long run: what the process holds, and how far sampler and learner are apart, step by step."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from r1zero.train import plotting as style
from r1zero.train.plotting import BLUE, GREEN, GREY, PURPLE, VERMILION

PANELS = (
    ("memory_mib", "Resident memory", "MiB", BLUE),
    ("sync_difference", "Sampler and learner differ by", "nats a token", VERMILION),
    ("descriptors", "Open descriptors", "number", GREEN),
    ("processes", "Processes", "number", PURPLE),
)


def soak_table(samples: pd.DataFrame, sync: Sequence[float], kills: Sequence[int]) -> pd.DataFrame:
    """One row per rollout step.

    Args:
        samples: columns step, memory_mib, descriptors, processes; any number of rows per step.
        sync: mean |sampler - learner| log-probability difference of each step, nats.
        kills: the rollout step that was under way at each kill of the other run.

    Returns:
        columns step, memory_mib (mean), descriptors (mean), processes (largest), sync_difference, kills.
    """
    grouped = samples.groupby("step")
    table = grouped[["memory_mib", "descriptors"]].mean()
    table["processes"] = grouped["processes"].max()
    table = table.reindex(range(len(sync)))
    table["sync_difference"] = list(sync)
    table["kills"] = pd.Series(list(kills), dtype=int).value_counts().reindex(table.index, fill_value=0)
    return table.rename_axis("step").reset_index()


def draw_soak(table: pd.DataFrame, folder: Path) -> Path:
    """Write ``soak.png``, ``soak.svg`` and ``soak.csv``; returns the path of the PNG.

    Args:
        table: as ``soak_table`` makes it.
        folder: where to write; made if absent.
    """
    figure, axes = style.panels(2, 2, width=4.6, height=2.6)
    killed = table.loc[table["kills"] > 0, "step"]
    for axis, (column, title, unit, colour) in zip(axes, PANELS, strict=True):
        rows = table[["step", column]].dropna()
        for number, step in enumerate(killed):
            label = f"kill -9 of the second run ({table['kills'].sum()})" if not number else None
            axis.axvline(step, color=GREY, linewidth=0.8, alpha=0.6, label=label)
        axis.plot(rows["step"], rows[column], color=colour, linewidth=1.2, label="undisturbed run")
        axis.set(title=title, ylabel=unit, xlabel="rollout step")
        style.from_zero(axis)
    style.shared_legend(figure, axes[:1])
    path = style.save(figure, table, folder, "soak")
    style.plt.close(figure)
    return path
