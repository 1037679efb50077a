"""One picture of a case: where the time of a step goes, on either side."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from r1zero.lab.benchmark.results import PARTS


def draw(record: dict[str, Any], file: Path) -> None:
    """Stacked bars of the medians by part."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    sides = record["sides"]
    figure, axes = plt.subplots(figsize=(7, 1.2 + 0.6 * len(sides)), layout="constrained")
    left = dict.fromkeys(sides, 0.0)
    for part in PARTS:
        values = [max(side["parts"][part], 0.0) for side in sides.values()]
        if max(values) == 0:
            continue
        axes.barh(list(sides), values, left=list(left.values()), label=part)
        left = {name: left[name] + value for name, value in zip(left, values, strict=True)}
    axes.invert_yaxis()
    axes.set_xlabel("seconds of a step, medians")
    axes.set_title(record["case"]["name"], loc="left")
    axes.legend(ncols=4, fontsize="small", loc="upper center", bbox_to_anchor=(0.5, -0.4), frameon=False)
    figure.savefig(file, dpi=150, bbox_inches="tight")
    plt.close(figure)
