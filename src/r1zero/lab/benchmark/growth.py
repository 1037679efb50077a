"""How the learner's time and memory grow with the length of responses: the same work at several lengths, and a fit."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from r1zero.launch.console import console
from r1zero.launch.files import write_json
from r1zero.launch.run_folder import shown
from r1zero.train import plotting as style


def exponent(tokens: Sequence[float], seconds: Sequence[float]) -> float:
    """Slope of log seconds over log tokens, least squares: 1 where the cost is linear."""
    return float(np.polyfit(np.log(tokens), np.log(seconds), 1)[0])


def without_attention(tokens: Sequence[float], seconds: Sequence[float]) -> tuple[list[float], float]:
    """Split t = a n + b n^2 by least squares of relative errors; the second term is attention's own.

    Args:
        tokens: n, of one response; at least 3 lengths.
        seconds: of a step with a fixed number of responses.

    Returns:
        seconds less the second term, and that term's share of the time at the greatest length. b is at least 0.
    """
    n, t = np.asarray(tokens, float), np.asarray(seconds, float)
    columns = np.stack([n / t, n**2 / t], axis=1)
    _, b = np.linalg.lstsq(columns, np.ones_like(t), rcond=None)[0]
    b = max(float(b), 0.0)
    return list(t - b * n**2), float(b * n[-1] ** 2 / t[-1])


def report(points: Sequence[dict[str, Any]], run_dir: Path, name: str) -> None:
    """Write ``growth.json`` and ``growth.png``, print the table and the fit.

    Args:
        points: one a length, shortest first: ``length``, ``tokens`` of a step, ``seconds`` of the learner, ``peak``.
        run_dir: folder of the files.
        name: of the case.
    """
    lengths, seconds = [p["length"] for p in points], [p["seconds"] for p in points]
    rest, share = without_attention(lengths, seconds)
    fit = {
        "exponent": exponent(lengths, seconds),
        "exponent_without_attention": exponent(lengths, rest) if min(rest) > 0 else math.nan,
        "attention_share_at_longest": share,
        "memory_growth": points[-1]["peak"] / points[0]["peak"],
    }
    content = {"case": name, "points": list(points), "fit": fit}
    write_json(run_dir / "growth.json", content)
    draw(lengths, seconds, rest, run_dir / "growth.png", fit)
    out = Table(title=f"{name}: growth with the length of responses", title_justify="left")
    for column in ("tokens a response", "tokens a step", "learner, s", "us a token", "peak memory, MB"):
        out.add_column(column, justify="right")
    for p in points:
        each = f"{1e6 * p['seconds'] / p['tokens']:.1f}"
        out.add_row(str(p["length"]), f"{p['tokens']:.0f}", f"{p['seconds']:.2f}", each, f"{p['peak'] / 1e6:.0f}")
    console.print(out)
    console.print(
        f"time grows as tokens ^ {fit['exponent']:.2f}; without attention's own term ({share:.0%} of the time at "
        f"{lengths[-1]} tokens) ^ {fit['exponent_without_attention']:.2f}",
        soft_wrap=True,
        highlight=False,
    )
    for file in ("growth.json", "growth.png"):
        console.print(f"  {shown(run_dir / file)}", soft_wrap=True)


def draw(
    lengths: Sequence[float], seconds: Sequence[float], rest: Sequence[float], file: Path, fit: dict[str, float]
) -> None:
    """Seconds over length, both axes logarithmic, with the line of linear growth through the shortest."""
    figure, (axes,) = style.panels(1, 1, width=6, height=4)
    axes.loglog(lengths, seconds, "o-", label=f"measured, exponent {fit['exponent']:.2f}")
    label = f"without attention's own term, exponent {fit['exponent_without_attention']:.2f}"
    axes.loglog(lengths, rest, "s--", label=label)
    axes.loglog(lengths, [rest[0] * n / lengths[0] for n in lengths], ":", color="0.5", label="linear")
    axes.set_xticks(lengths, [str(n) for n in lengths])
    axes.set_xticks([], minor=True)
    axes.set_xlabel("tokens of a response")
    axes.set_ylabel("forward and backward, s a step")
    axes.legend()
    style.save_png(figure, file, dpi=150)
