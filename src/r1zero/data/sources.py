"""Where the rows of a question set come from: a local file or folder, or the hub.

Nothing heavy is imported at the top: :func:`check_source` runs before torch and datasets are loaded.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from r1zero.config import DataConfig
from r1zero.data import fields
from r1zero.errors import UserError

SUFFIXES = (".jsonl", ".json", ".csv", ".parquet")
GENERATORS = ("arithmetic",)

HUB_ID = re.compile(r"[A-Za-z0-9][\w.\-]*(/[\w.\-]+)?")


def describe(cfg: DataConfig) -> str:
    """Name of the set in messages."""
    return f"data '{cfg.name}' ({cfg.path})" if cfg.path else f"data '{cfg.name}'"


def source_kind(cfg: DataConfig) -> str:
    """What the configuration points at: "generator", "file", "folder" or "hub".

    Raises:
        UserError: Nothing is set, the generator is unknown, or a path can only be a local one and does
            not exist.
    """
    if cfg.generator is not None:
        if cfg.generator not in GENERATORS:
            raise UserError(f"data.generator={cfg.generator} is unknown; choose one of {', '.join(GENERATORS)}")
        return "generator"
    if cfg.path is None:
        raise UserError("data.path is not set: give a hub id, a .jsonl, .json, .csv or .parquet file, or a folder")
    path = Path(cfg.path).expanduser()
    if path.is_dir():
        return "folder"
    if path.exists():
        if path.suffix.lower() not in SUFFIXES:
            raise UserError(f"data.path={cfg.path} has no known suffix; known are {', '.join(SUFFIXES)}")
        return "file"
    if path.suffix.lower() in SUFFIXES or not HUB_ID.fullmatch(cfg.path):
        raise UserError(f"data.path={cfg.path} does not exist (working directory {Path.cwd()})")
    return "hub"


def check_source(cfg: DataConfig) -> None:
    """Find early, without heavy imports, what makes a set unusable: a missing path, a file without the fields.

    Of a file only the first row is read; hub ids and folders are looked at when they are loaded.

    Raises:
        UserError: In one line, what is wrong with ``data.path`` or the fields.
    """
    kind = source_kind(cfg)
    if kind == "file":
        path = Path(str(cfg.path)).expanduser()
        if path.stat().st_size == 0:
            raise UserError(f"data.path={cfg.path} is an empty file")
        if path.suffix.lower() in (".jsonl", ".csv"):
            reader = _jsonl if path.suffix.lower() == ".jsonl" else _csv
            first = next(reader(path), None)
            if first is None:
                raise UserError(f"data.path={cfg.path} holds no rows")
            fields.resolve(first, cfg.question_key, cfg.answer_key, describe(cfg))
    elif kind == "folder" and not any(Path(str(cfg.path)).expanduser().iterdir()):
        raise UserError(f"data.path={cfg.path} is an empty folder")


def read_rows(cfg: DataConfig) -> list[dict[str, Any]]:
    """All rows of a file, a folder or a hub data set, in their order.

    Raises:
        UserError: The source can't be read, or holds no rows.
    """
    kind = source_kind(cfg)
    if kind == "file":
        path = Path(str(cfg.path)).expanduser()
        readers = {".jsonl": _jsonl, ".json": _json, ".csv": _csv, ".parquet": _parquet}
        rows = list(readers[path.suffix.lower()](path))
    else:
        from r1zero.data import hub

        rows = hub.read_folder(cfg) if kind == "folder" else hub.read_hub(cfg)
    if not rows:
        raise UserError(f"data.path={cfg.path} holds no rows")
    return rows


def _jsonl(path: Path) -> Iterator[dict[str, Any]]:
    with _text(path) as file:
        for number, line in enumerate(_lines(file, path), start=1):
            if not line.strip():
                continue
            try:
                item = json.loads(line)
            except json.JSONDecodeError as error:
                raise UserError(f"{path} line {number} is not JSON: {error.msg} at column {error.colno}") from None
            yield _row(item, path, f"line {number}")


def _json(path: Path) -> Iterator[dict[str, Any]]:
    with _text(path) as file:
        text = "".join(_lines(file, path))
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        if error.msg == "Extra data":  # one object a line under the suffix .json, as many sets have it
            yield from _jsonl(path)
            return
        raise UserError(f"{path} line {error.lineno} is not JSON: {error.msg} at column {error.colno}") from None
    if isinstance(content, Mapping):
        lists = [value for value in content.values() if isinstance(value, list)]
        if len(lists) != 1:
            raise UserError(f"{path} must hold an array of rows, or an object with one such array; it holds an object "
                            f"with: {', '.join(content)}")  # fmt: skip
        content = lists[0]
    if not isinstance(content, list):
        raise UserError(f"{path} must hold an array of rows; it holds a {type(content).__name__}")
    for index, item in enumerate(content):
        yield _row(item, path, f"element {index}")


def _csv(path: Path) -> Iterator[dict[str, Any]]:
    csv.field_size_limit(1 << 24)
    with _text(path, newline="") as file:
        reader = csv.DictReader(_lines(file, path))
        for row in reader:
            if None in row or None in row.values():
                raise UserError(f"{path} line {reader.line_num} has another number of fields than the header")
            yield row


def _parquet(path: Path) -> Iterator[dict[str, Any]]:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches():
                yield from (_row(item, path, "a row") for item in batch.to_pylist())
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"{path} can't be read as parquet: {_first_line(error)}") from None


def _row(item: Any, path: Path, place: str) -> dict[str, Any]:
    row = fields.as_row(item)
    if row is None:
        raise UserError(f"{path} {place} is a {type(item).__name__}, not an object with fields")
    return row


def _text(path: Path, newline: str | None = None) -> Any:
    try:
        return path.open(encoding="utf-8-sig", newline=newline)
    except OSError as error:
        raise UserError(f"{path} can't be read: {error.strerror}") from None


def _lines(file: Any, path: Path) -> Iterator[str]:
    """Lines of a text file; bytes that are not UTF-8 become the user's error, with the line."""
    number = 0
    try:
        for number, line in enumerate(file, start=1):  # noqa: B007
            yield line
    except UnicodeDecodeError:
        raise UserError(f"{path} is not UTF-8 text after line {number}") from None


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
