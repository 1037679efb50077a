"""A matplotlib figure as one that plotly draws: lines, bands, bars and points, to hover over in report.html."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from matplotlib.collections import PolyCollection
from matplotlib.colors import to_hex
from plotly.subplots import make_subplots

from r1zero.train import plotting

DASHES = {"-": "solid", "--": "dash", ":": "dot", "-.": "dashdot"}


def save(figure: Any, numbers: pd.DataFrame, folder: Path, name: str) -> Path:
    """As ``plotting.save``, and ``name``.plotly.json beside it for the report; returns the PNG's path."""
    folder.mkdir(parents=True, exist_ok=True)
    figure.canvas.draw()  # labels of ticks are known after drawing alone
    (folder / f"{name}.plotly.json").write_text(from_matplotlib(figure).to_json())
    return plotting.save(figure, numbers, folder, name)


def from_matplotlib(figure: Any) -> go.Figure:
    """The panels of a figure with their titles, labels and scales; one legend entry for a label in several panels."""
    axes = [axis for axis in figure.axes if axis.get_visible() and axis.get_subplotspec() is not None]
    grid = axes[0].get_subplotspec().get_gridspec()
    specs = [[{"secondary_y": True} for _ in range(grid.ncols)] for _ in range(grid.nrows)]
    plot = make_subplots(grid.nrows, grid.ncols, subplot_titles=[""] * (grid.nrows * grid.ncols), specs=specs)
    plot.layout.annotations = []
    seen: set[str] = set()
    for axis in axes:
        spec = axis.get_subplotspec()
        row, column = spec.rowspan.start + 1, spec.colspan.start + 1
        second = axis.yaxis.get_label_position() == "right"  # a twin of the panel's axis
        for trace in _traces(axis):
            label = trace.name or ""
            trace.showlegend = bool(label) and label not in seen
            trace.legendgroup = label or None
            seen.add(label)
            plot.add_trace(trace, row=row, col=column, secondary_y=second)
        for name, update, which in (("x", plot.update_xaxes, {}), ("y", plot.update_yaxes, {"secondary_y": second})):
            scale = getattr(axis, f"get_{name}scale")()
            limits = getattr(axis, f"get_{name}lim")()
            labels = [text.get_text() for text in getattr(axis, f"get_{name}ticklabels")()]
            ticks: dict[str, Any] = {}
            if any(text and not text[0].isdigit() and text[0] not in "-+.−$" for text in labels):
                ticks = {"tickvals": list(getattr(axis, f"get_{name}ticks")()), "ticktext": labels}
            update(
                title_text=getattr(axis, f"get_{name}label")(),
                type="log" if scale == "log" else "linear",
                range=[float(np.log10(v)) if scale == "log" else float(v) for v in limits],
                row=row,
                col=column,
                **which,
                **ticks,
            )
        if axis.get_title():
            reference = plot.get_subplot(row, column)
            x, y = reference.xaxis.domain, reference.yaxis.domain
            plot.add_annotation(
                text=f"<b>{axis.get_title()}</b>",
                x=sum(x) / 2,
                y=y[1],
                xref="paper",
                yref="paper",
                xanchor="center",
                yanchor="bottom",
                showarrow=False,
            )
    plot.update_layout(
        template="simple_white",
        height=340 * grid.nrows + 90,
        margin={"l": 60, "r": 20, "t": 40, "b": 50},
        legend={"orientation": "h", "y": -0.18 / grid.nrows},
        hovermode="x unified" if len(axes) == 1 else "closest",
    )
    return plot


def _traces(axis: Any) -> list[Any]:
    """What is drawn in one panel."""
    found: list[Any] = []
    for band in axis.collections:
        if isinstance(band, PolyCollection) and band.get_paths() and len(band.get_facecolor()):
            vertices = np.asarray(band.get_paths()[0].vertices)
            colour: Any = band.get_facecolor()[0]
            fill = f"rgba({','.join(str(round(c * 255)) for c in colour[:3])},{colour[3]:.2f})"
            found.append(
                go.Scatter(
                    x=vertices[:, 0].tolist(),
                    y=vertices[:, 1].tolist(),
                    fill="toself",
                    fillcolor=fill,
                    line={"width": 0},
                    mode="lines",
                    hoverinfo="skip",
                )
            )
    for line in axis.get_lines():
        x, y = (np.asarray(v, dtype=float).tolist() for v in (line.get_xdata(), line.get_ydata()))
        marked, drawn = line.get_marker() not in (None, "None", "", " "), line.get_linestyle() in DASHES
        label = str(line.get_label())
        colour = to_hex(line.get_color())
        found.append(
            go.Scatter(
                x=x,
                y=y,
                name="" if label.startswith("_") else label,
                marker={"color": colour},
                mode="+".join(["lines"] * drawn + ["markers"] * marked) or "lines",
                line={
                    "color": colour,
                    "width": line.get_linewidth(),
                    "dash": DASHES.get(line.get_linestyle(), "solid"),
                },
            )
        )
    for group in axis.containers:
        bars = [bar for bar in group if hasattr(bar, "get_height")] if type(group).__name__ == "BarContainer" else []
        if bars:
            label = str(group.get_label())
            found.append(
                go.Bar(
                    x=[bar.get_x() + bar.get_width() / 2 for bar in bars],
                    y=[bar.get_height() for bar in bars],
                    base=[bar.get_y() for bar in bars],
                    width=[bar.get_width() for bar in bars],
                    name="" if label.startswith("_") else label,
                    marker={"color": to_hex(bars[0].get_facecolor())},
                )
            )
    return found
