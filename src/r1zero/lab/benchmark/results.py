"""From measured steps to medians, ratios, the printed table, and the table of the README."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path
from statistics import median
from typing import Any

from rich.table import Table

from r1zero.errors import UserError
from r1zero.lab.benchmark.limits import floors
from r1zero.lab.plan.hardware import Shape
from r1zero.launch.console import console
from r1zero.launch.files import read_json, write_whole
from r1zero.launch.run_folder import shown
from r1zero.train import plotting as style

MARKS = "<!-- benchmark -->", "<!-- /benchmark -->"
PARTS = ("rollout", "reward", "sync", "old_logprobs", "forward_backward", "optimizer", "everything else")
ORDER = ("tiny", "tiny_tuned", "tiny_fixed", "smollm135m", "smollm135m_half", "qwen_vocab")


def summarise(
    case: dict[str, Any], machine: dict[str, float], measured: dict[str, Any], shape: Shape
) -> dict[str, Any]:
    """Medians and spread of a case.

    Returns:
        ``sides``: for each side median, quartiles, medians by part, tokens per second and peak memory; ``ratio``: the
        median over turns of ours / TRL's with quartiles; ``limit``: share of the machine's limit; and all raw steps.
    """
    record: dict[str, Any] = {"case": {k: v for k, v in case.items() if k not in ("folder", "conf", "data")}}
    record |= {"machine": machine | {"cores": os.cpu_count(), "processor": platform.processor() or platform.machine()}}
    record["sides"] = {name: side(steps, bool(case["lengths"])) for name, steps in measured["steps"].items()}
    record |= {"first_step": measured["first_step"], "versions": measured["versions"]}
    ours = measured["steps"]["ours"]
    if "trl" in measured["steps"]:
        theirs = measured["steps"]["trl"]
        alone = bool(case["lengths"])
        pairs = [learner(a, alone) / learner(b, alone) for a, b in zip(ours, theirs, strict=True)]
        record["ratio"] = spread(pairs) | {
            "memory": record["sides"]["ours"]["peak"] / record["sides"]["trl"]["peak"],
        }
    if measured.get("bare"):
        record["bare"] = beside_bare(measured["bare"])
    shares = [limits_reached(shape, machine, step, case) for step in ours]
    record["limit"] = {name: median(share[name] for share in shares) for name in shares[0]}
    record["raw"] = {"steps": measured["steps"], "bare": measured.get("bare", [])}
    return record


def beside_bare(rounds: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Tokens/s of the engine over those of bare vLLM, by number of threads and variant: median over rounds, quartiles.

    ``same`` is 1 where both made the same tokens in every round.
    """
    found: dict[tuple[int, str], list[dict[str, Any]]] = {}
    for r in rounds:
        found.setdefault((r["threads"], r["variant"]), []).append(r)
    return [
        {"threads": threads, "variant": variant, "same": min(r["same"] for r in own)}
        | {"ours": median(r["tokens"] / r["ours"] for r in own)}
        | spread([r["tokens"] / r["ours"] / (r["bare_tokens"] / r["bare"]) for r in own])
        for (threads, variant), own in found.items()
    ]


def learner(step: dict[str, Any], alone: bool) -> float:
    """Seconds of a step; without the drawing of responses where the learner alone is measured."""
    return step["seconds"] - (step["parts"].get("rollout", 0.0) + step["parts"].get("sync", 0.0) if alone else 0.0)


def side(steps: list[dict[str, Any]], alone: bool) -> dict[str, Any]:
    """Medians of one side's steps."""
    parts = [split(step) for step in steps]
    return spread([learner(step, alone) for step in steps]) | {
        "parts": {name: median(part[name] for part in parts) for name in PARTS},
        "tokens": median(step["tokens"] for step in steps),
        "tokens_per_s": median(step["tokens"] / learner(step, alone) for step in steps),
        "peak": max(step["peak"] for step in steps),
    }


def split(step: dict[str, Any]) -> dict[str, float]:
    """Seconds of every part of a step; what no part claims is "everything else"."""
    parts = dict(step["parts"])
    if "forward" in parts:
        parts["forward_backward"] = parts["forward"] + parts["backward"]
    known = {name: float(parts.get(name, 0.0)) for name in PARTS[:-1]}
    return known | {"everything else": step["seconds"] - sum(known.values())}


def spread(values: list[float]) -> dict[str, float]:
    """Median and quartiles."""
    ordered = sorted(values)
    last = len(ordered) - 1
    return {
        "median": median(ordered),
        "low": ordered[round(0.25 * last)],
        "high": ordered[round(0.75 * last)],
    }


def limits_reached(
    shape: Shape, machine: dict[str, float], step: dict[str, Any], case: dict[str, Any]
) -> dict[str, float]:
    """Least time over measured time, of rollout and learner, of one of our steps."""
    work = {name: float(step[name]) for name in ("tokens", "prompt_tokens", "longest")}
    least = floors(shape, machine, work | {"active": 1 - step["inactive"]}, case)
    spent = {"rollout": step["parts"]["rollout"], "learn": step["parts"]["forward_backward"]}
    names = ["learn"] if case["lengths"] else ["rollout", "learn"]
    return {name: least[name] / spent[name] for name in names if spent[name] > 0}


def table(record: dict[str, Any]) -> Table:
    """The figures of a case for the console."""
    sides = record["sides"]
    out = Table(title=record["case"]["name"], title_justify="left")
    out.add_column("median of a step")
    for name in sides:
        out.add_column(name, justify="right")
    out.add_row("seconds", *(f"{s['median']:.3f} ({s['low']:.3f}-{s['high']:.3f})" for s in sides.values()))
    for part in PARTS:
        out.add_row(f"  {part}", *(f"{s['parts'][part]:.3f}" for s in sides.values()))
    out.add_row("tokens", *(f"{s['tokens']:.0f}" for s in sides.values()))
    out.add_row("tokens/s", *(f"{s['tokens_per_s']:.0f}" for s in sides.values()))
    out.add_row("peak memory, MB", *(f"{s['peak'] / 1e6:.0f}" for s in sides.values()))
    out.add_row("start to end of first step, s", *(f"{s:.1f}" for s in record["first_step"].values()))
    if "ratio" in record:
        ratio = record["ratio"]
        out.add_section()
        out.add_row("ours / TRL: time", f"{ratio['median']:.2f} ({ratio['low']:.2f}-{ratio['high']:.2f})")
        out.add_row("ours / TRL: memory", f"{ratio['memory']:.2f}")
    for row in record.get("bare", []):
        label = f"engine / {row['variant']}, tokens/s, threads: {row['threads']}"
        out.add_row(label, f"{row['median']:.3f} ({row['low']:.3f}-{row['high']:.3f})")
    for name, share in record["limit"].items():
        out.add_row(f"share of the machine's limit: {name}", f"{share:.1%}")
    return out


def markdown(records: list[dict[str, Any]]) -> str:
    """The README's table."""
    lines = [
        "| case | ours, s | TRL, s | time ratio | memory ratio | rollout / sync / learner / rest | of the limit |",
        "|---|---|---|---|---|---|---|",
    ]
    for record in records:
        ours, ratio = record["sides"]["ours"], record.get("ratio")
        theirs = record["sides"].get("trl")
        total = sum(ours["parts"].values())
        learn = ours["parts"]["forward_backward"] + ours["parts"]["old_logprobs"] + ours["parts"]["optimizer"]
        rest = ours["parts"]["everything else"] + ours["parts"]["reward"]
        shares = " / ".join(f"{v / total:.1%}" for v in (ours["parts"]["rollout"], ours["parts"]["sync"], learn, rest))
        limit = ", ".join(f"{name} {share:.0%}" for name, share in record["limit"].items())
        lines.append(
            f"| {record['case']['name']} | {ours['median']:.2f} | {theirs['median']:.2f} | "
            f"{ratio['median']:.2f} ({ratio['low']:.2f}-{ratio['high']:.2f}) | {ratio['memory']:.2f} | "
            f"{shares} | {limit} |"
            if theirs and ratio
            else f"| {record['case']['name']} | {ours['median']:.2f} | | | | {shares} | {limit} |"
        )
    return "\n".join(lines) + "\n"


def write_table(folder: Path, into: Path | None) -> int:
    """Make the README's table from the results below a folder, and put it between its markers in a file.

    Raises:
        UserError: there are no results, or the file has no markers.
    """
    records = [read_json(file) for file in sorted(folder.glob("*/results.json"))]
    if not records:
        raise UserError(f"table={folder}: there is no */results.json; measure something first")
    rank = {name: number for number, name in enumerate(ORDER)}
    records.sort(key=lambda r: (rank.get(r["case"]["name"], len(rank)), r["case"]["name"]))
    text = markdown(records)
    console.print(text, soft_wrap=True, markup=False, highlight=False)
    if into is not None:
        block = f"{MARKS[0]}\n{text}{MARKS[1]}"
        if into.is_file():
            old = into.read_text()
            new, count = re.subn(f"{MARKS[0]}.*?{MARKS[1]}", lambda _: block, old, flags=re.DOTALL)
            if count != 1:
                raise UserError(f"into={into}: the file must hold {MARKS[0]} and {MARKS[1]} once each")
            write_whole(into, new)
        else:
            write_whole(into, block + "\n")
        console.print(f"  {shown(into)}", soft_wrap=True)
    return 0


def draw(record: dict[str, Any], file: Path) -> None:
    """Stacked bars of the medians by part."""
    sides = record["sides"]
    figure, (axes,) = style.panels(1, 1, width=7, height=1.6 + 0.6 * len(sides))
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
    style.shared_legend(figure, [axes])
    style.save_png(figure, file, dpi=150)
