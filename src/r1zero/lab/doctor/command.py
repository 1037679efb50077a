"""``python scripts/doctor.py [RUN ...]``: the invariants of run folders, or the machine."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from r1zero.lab.doctor import environment, folder


def main(arguments: Sequence[str]) -> int:
    """Look and print; exit code 1 where a folder has findings, 2 where there is no such folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", type=Path, metavar="RUN", help="run folders; without one: the machine")
    runs = parser.parse_args(arguments).runs
    if not runs:
        for name, found in environment.report():
            print(f"{name:10} {found}")
        return 0
    code = 0
    for run in runs:
        if not run.is_dir():
            print(f"error: {run}: there is no such folder", file=sys.stderr)
            return 2
        lines = folder.findings(run)
        for line in lines:
            print(f"{run}: {line}")
        if not lines:
            print(f"{run}: whole ({folder.summary(run)})")
        code = code or int(bool(lines))
    return code
