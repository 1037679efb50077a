"""``python scripts/gpu_check.py``: runs the checks in turn, writes results.json and a table for the documentation."""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from r1zero.errors import Options, UserError
from r1zero.lab.doctor.environment import ask_torch
from r1zero.lab.doctor.trial import Start, start
from r1zero.lab.gpu_check.checks import ONE_CARD, SEVERAL_CARDS, Item, NotHere, Place, Wrong
from r1zero.launch.run_folder import stack_versions

BUDGET_S = 480.0
"""Seconds after which no further check begins."""


def main(arguments: Sequence[str], begin: Start = start) -> int:
    """Run what is asked for; exit code 1 where a check failed.

    Raises:
        UserError: no card, an unknown check, or nothing to run.
    """
    parser = Options(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cpu", action="store_true", help="the same code on a CPU, with the embedded model")
    parser.add_argument("--several", action="store_true", help="the checks of several cards, in place of those of one")
    parser.add_argument(
        "--only", nargs="+", metavar="CHECK", help="these checks alone, by the first words of their names"
    )
    parser.add_argument("--engine", choices=("vllm", "hf"), help="(vllm where it is installed)")
    parser.add_argument("--out", type=Path, default=Path("outputs/gpu_check"), metavar="FOLDER", help="(%(default)s)")
    asked = parser.parse_args(arguments)
    seen = ask_torch()
    if not asked.cpu and not seen["available"]:
        raise UserError("torch sees no GPU: scripts/doctor.py says why; --cpu runs the same checks on the CPU")
    items = chosen(SEVERAL_CARDS if asked.several else ONE_CARD, asked.only)
    shutil.rmtree(asked.out, ignore_errors=True)  # its runs are trials, and a folder with a run takes no other
    asked.out.mkdir(parents=True)
    engine = asked.engine or ("vllm" if find_spec("vllm") else "hf")
    place = Place(asked.out.absolute(), not asked.cpu, engine, begin)
    cards = [card["name"] for card in seen.get("cards", [])] if not asked.cpu else []
    about = {
        "machine": f"{len(cards)} x {cards[0]}" if cards else f"CPU, {platform.machine()}",
        "date": time.strftime("%Y-%m-%d"),
        "torch": {key: seen[key] for key in ("torch", "cuda", "nccl")},
        "versions": stack_versions(),
    }
    rows = run(items, place, len(cards))
    (asked.out / "results.json").write_text(json.dumps(about | {"checks": rows}, indent=1) + "\n")
    (asked.out / "table.md").write_text(table(about, rows))
    counts = {state: sum(row["state"] == state for row in rows) for state in ("ok", "fail", "skip")}
    print(f"{counts['ok']} ok, {counts['fail']} failed, {counts['skip']} left out; {asked.out}/results.json, table.md")
    return int(counts["fail"] > 0)


def chosen(items: Sequence[Item], only: Sequence[str] | None) -> list[Item]:
    """The items whose names begin with one of the words; all of them without words."""
    if only is None:
        return list(items)
    if unknown := [word for word in only if not any(item.name.startswith(word) for item in items)]:
        raise UserError(f"--only {unknown[0]}: choose from {', '.join(item.name for item in items)}")
    return [item for item in items if any(item.name.startswith(word) for word in only)]


def run(items: Sequence[Item], place: Place, cards: int) -> list[dict[str, Any]]:
    """Results in turn, each printed as it comes; an error of a check is its result, and the next one begins."""
    rows: list[dict[str, Any]] = []
    begun = time.perf_counter()
    for item in items:
        started = time.perf_counter()
        if started - begun > BUDGET_S:
            state, found = "skip", f"not begun: {BUDGET_S / 60:.0f} minutes are over; --only {item.name.split()[0]}"
        elif place.gpu and cards < item.cards:
            state, found = "skip", f"it needs {item.cards} cards"
        else:
            try:
                state, found = "ok", item.look(place)
            except NotHere as error:
                state, found = "skip", f"it needs {error}"
            except Wrong as error:
                state, found = "fail", str(error)
            except Exception as error:
                state, found = "fail", f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
        seconds = time.perf_counter() - started
        rows.append({"check": item.name, "state": state, "found": found, "expected": item.expected, "seconds": seconds})
        print(f"{state:4} {item.name:16} {seconds:4.0f} s  {found}", flush=True)
    return rows


def table(about: dict[str, Any], rows: Sequence[dict[str, Any]]) -> str:
    """A Markdown table with the machine, for docs/scale."""
    versions = ", ".join(f"{name} {number}" for name, number in about["versions"].items())
    lines = [
        f"Measured on {about['machine']}, {about['date']} ({versions}).",
        "",
        "| check | expected | seen | |",
        "|---|---|---|---|",
    ]
    lines += [f"| {r['check']} | {r['expected']} | {r['found'].replace('|', '/')} | {r['state']} |" for r in rows]
    return "\n".join(lines) + "\n"
