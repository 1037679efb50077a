"""The picture of a pretraining run: losses, learning rate, speed."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from r1zero.train import plotting as style
from r1zero.train.plotting import BLUE, CYCLE, GREEN, GREY, VERMILION


def draw_curves(run_dir: Path) -> Path:
    """Draw ``curves.png`` beside ``metrics.csv``; returns its path."""
    table = pd.read_csv(run_dir / "metrics.csv")
    figure, axes = style.panels(1, 3, height=3.6)
    train = table[["step", "train/loss"]].dropna()
    axes[0].plot(train["step"], train["train/loss"], color=BLUE, alpha=0.3, linewidth=1)
    smooth = train["train/loss"].rolling(max(1, len(train) // 40), min_periods=1, center=True).mean()
    axes[0].plot(train["step"], smooth, color=BLUE, linewidth=2, label="training")
    heldout = [c for c in table if c.startswith("heldout/") and c.endswith("/loss")]
    for column, colour in zip(heldout, (VERMILION, *CYCLE[2:]), strict=False):
        rows = table[["step", column]].dropna()
        label = "held out" if column == "heldout/loss" else f"held out: {column.split('/')[1]}"
        axes[0].plot(rows["step"], rows[column], marker="o", markersize=4, color=colour, label=label)
    axes[0].set(title="Loss", ylabel="nats per token")
    axes[0].legend(frameon=False, fontsize=9)
    rates = table[["step", "optim/lr"]].dropna()
    axes[1].plot(rates["step"], rates["optim/lr"], color=GREEN, linewidth=2)
    axes[1].set(title="Learning rate")
    axes[1].set_ylim(bottom=0)
    speed = table[["step", "speed/tokens_per_second"]].dropna()
    axes[2].plot(speed["step"], speed["speed/tokens_per_second"], color=GREY, linewidth=1)
    axes[2].set(title="Speed", ylabel="tokens per second")
    axes[2].set_ylim(bottom=0)
    for axis in axes:
        axis.set_xlabel("optimizer step")
    return style.save_png(figure, run_dir / "curves.png")
