"""What a run folder holds, and whether it is whole (docs/run-folder.md). Imports nothing heavy."""

from __future__ import annotations

import csv
import os
import zipfile
from pathlib import Path

from r1zero.errors import UserError, whole_message
from r1zero.launch.files import read_yaml, unlike_sums

CHECKPOINTS = "step_*.ckpt"

KEPT = (".lock", ".lock.holder", "console.log")
"""Files of a folder that belong to no attempt."""


def checkpoints(run_dir: Path) -> list[Path]:
    """Checkpoints of a run, the newest first."""
    return sorted((run_dir / "checkpoints").glob(CHECKPOINTS), reverse=True)


def steps_in(table: Path) -> list[int]:
    """The column ``step`` of a ``metrics.csv``; a last line that was cut short is left out.

    Raises:
        UserError: it is no table of figures.
    """
    if not table.is_file():
        return []
    try:
        whole = table.read_text(encoding="utf-8").rpartition("\n")[0]
        return [int(float(row["step"])) for row in csv.DictReader(whole.splitlines()) if row.get("step")]
    except (ValueError, OverflowError, csv.Error) as error:
        raise UserError(f"{table} can't be read as a table of figures: {whole_message(error)[:200]}") from error


MADE_BY = {"step_tokens": "pretrain", "temperatures": "analyze", "algo": "train", "sampling": "evaluate"}
"""Settings that tell the commands apart, the first that a config has."""


def made_by(run_dir: Path) -> str:
    """Name of the command whose folder it is; "" where its settings are not there or can't be read."""
    try:
        settings = read_yaml(run_dir / "config.yaml")
    except UserError:
        return ""
    return next((command for key, command in MADE_BY.items() if key in settings), "")


def work_in(run_dir: Path) -> str:
    """What of a run's work a folder holds, in a few words; nothing where no step was taken."""
    if found := checkpoints(run_dir):
        return f"{len(found)} checkpoint(s)"
    if rows := steps_in(run_dir / "metrics.csv"):
        return f"{len(rows)} row(s) of metrics.csv"
    if any((run_dir / "completions").glob("step_*")) or any((run_dir / "responses").glob("*/part_*")):
        return "responses"
    return next((name for name in ("summary.json", "results.json") if (run_dir / name).is_file()), "")


def damage(path: Path) -> str:
    """What is wrong with a checkpoint, in a few words; nothing where every byte is what was written.

    A checkpoint file is a zip archive, which has a checksum for each tensor; one that is a folder has a list of
    checksums.
    """
    try:
        if path.is_dir():
            unlike = unlike_sums(path)
            return f"{', '.join(unlike)} is not what was written" if unlike else ""
        if not path.stat().st_size:
            return "it is empty"
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
            return f"the checksum of {broken} differs" if broken else ""
    except OSError as error:
        return error.strerror or str(error)
    except (zipfile.BadZipFile, EOFError, ValueError, NotImplementedError) as error:
        return f"it is cut short or was overwritten: {error}"


def set_aside(folder: Path) -> Path:
    """Move what an attempt has left in a folder into ``attempt_<n>`` there, so that another one can begin."""
    number = 1 + len(list(folder.glob("attempt_*")))
    place = folder / f"attempt_{number}"
    place.mkdir()
    for item in list(folder.iterdir()):
        if item.name not in KEPT and not item.name.startswith("attempt_"):
            os.replace(item, place / item.name)
    return place
