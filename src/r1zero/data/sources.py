"""Where the rows of a question set come from: a local file or folder, or the hub.

Nothing heavy is imported at the top: :func:`check_source` runs before torch and datasets are loaded.
"""

from __future__ import annotations

import csv
import gzip
import importlib
import io
import json
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from r1zero.config import DataConfig, Gold
from r1zero.data import fields
from r1zero.data.arithmetic import whole
from r1zero.data.keep import check_kept
from r1zero.data.mixture import elsewhere, of_source, parts
from r1zero.data.values import typed_rows
from r1zero.data.where import check_where, select
from r1zero.errors import UserError, first_line
from r1zero.launch.files import parse_json

SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".parquet")
PACKED = (".gz", ".zst")
"""Suffixes of compression, behind those of text files."""
GENERATORS = {"arithmetic": ("level",), "programs": ("function", "family", "tests")}
"""The columns of each, which ``data.keep`` may name."""
LOOKED_AT = 64
"""Rows of a file that are looked at before anything heavy is loaded."""
FILTERED_BYTES = 32 << 20
"""Size up to which a file is read whole before anything heavy is loaded, to see that its filters find a row."""
PARQUET_ROWS = 4096
"""Rows that are read at a time."""

HUB_ID = re.compile(r"[A-Za-z0-9][\w.\-]*(/[\w.\-]+)?")


def describe(cfg: DataConfig) -> str:
    """Name of the set in messages."""
    return f"data '{cfg.name}' ({cfg.path})" if cfg.path else f"data '{cfg.name}'"


def source_kind(cfg: DataConfig) -> str:
    """What the configuration points at: "mixture", "generator", "file", "folder" or "hub".

    Raises:
        UserError: Nothing is set, the generator is unknown, or a path can only be a local one and does
            not exist.
    """
    if cfg.sources:
        return "mixture"
    if cfg.generator is not None:
        if cfg.generator not in GENERATORS:
            raise UserError(f"data.generator={cfg.generator} is unknown; choose one of {', '.join(GENERATORS)}")
        return "generator"
    if cfg.path is None:
        raise UserError(f"data.path is not set: give a hub id, a file ({', '.join(SUFFIXES)}), or a folder")
    path = Path(cfg.path).expanduser()
    if path.is_dir():
        return "folder"
    if path.exists():
        if not path.is_file():
            raise UserError(f"data.path={cfg.path} is neither a file nor a folder; save what it gives in a file first")
        if suffix_of(path) not in SUFFIXES:
            raise UserError(
                f"data.path={cfg.path} has no known suffix; known are {', '.join(SUFFIXES)}, "
                f"and text packed as {' or '.join(PACKED)}"
            )
        return "file"
    if suffix_of(path) in SUFFIXES or not HUB_ID.fullmatch(cfg.path):
        raise UserError(f"data.path={cfg.path} does not exist (working directory {Path.cwd()})")
    return "hub"


def check_source(cfg: DataConfig) -> None:
    """Find early, without heavy imports, what makes a set unusable: a missing path, a file without the fields.

    Of a file the first rows are read, all of them where there are filters and it is not large; hub ids and folders are
    looked at when they are loaded.

    Raises:
        UserError: In one line, what is wrong with ``data.path`` or the fields.
    """
    kind = source_kind(cfg)
    if kind == "mixture":
        for part, _ in parts(cfg):
            of_source(part, check_source)
    if kind == "generator":
        for key, value in elsewhere(cfg).items():
            if value and key != "generator":
                raise UserError(f"data {cfg.name} makes its questions, so {key}={value} has no use: choose data=file")
        generator_of(cfg)
        check_kept(dict.fromkeys(GENERATORS[str(cfg.generator)]), cfg.keep, describe(cfg))
    if kind == "file":
        path = Path(str(cfg.path)).expanduser()
        if path.stat().st_size == 0:
            raise UserError(f"data.path={cfg.path} is an empty file")
        first = list(islice(READERS[suffix_of(path)](path, cfg.split), LOOKED_AT))
        if not first:
            raise UserError(f"data.path={cfg.path} holds no rows")
        usual, verify = fields.typical(first), cfg.gold is Gold.verify
        found = fields.resolve(usual, cfg.question_key, cfg.answer_key, describe(cfg), gold=verify)
        check_kept(usual, cfg.keep, describe(cfg))
        check_where(usual, cfg, describe(cfg))
        if cfg.where and path.stat().st_size <= FILTERED_BYTES:
            select(read_rows(cfg), cfg, describe(cfg))
        try:
            found.question_of(first[0])
        except ValueError as error:
            raise UserError(f"{describe(cfg)} row 0: {error}") from None
    elif kind == "folder" and not any(Path(str(cfg.path)).expanduser().iterdir()):
        raise UserError(f"data.path={cfg.path} is an empty folder")


def generator_of(cfg: DataConfig) -> tuple[Any, dict[str, Any]]:
    """The module of a set's generator, and the arguments of its ``generate``, checked; ``seed`` where the set has one.

    Raises:
        UserError: A setting in ``data.params`` is unknown or impossible.
    """
    module = importlib.import_module(f"r1zero.data.{cfg.generator}")
    plain: Any = OmegaConf.to_container(cfg.params) if OmegaConf.is_config(cfg.params) else cfg.params
    params = {"split": cfg.split} | {str(name): value for name, value in plain.items()}
    count, seed = params.pop("count", None), params.pop("seed", 0)
    if not whole(count, 1, 10**9):
        raise UserError(f"{describe(cfg)}: data.params.count={count} must be the number of questions to make")
    if not whole(seed, -(10**18), 10**18):
        raise UserError(f"{describe(cfg)}: data.params.seed={seed} must be a whole number")
    module.check(**params)
    return module, params | {"count": count} | ({"seed": seed} if "seed" in plain else {})


def read_rows(cfg: DataConfig) -> list[dict[str, Any]]:
    """All rows of a file, a folder or a hub data set, in their order.

    Raises:
        UserError: The source can't be read, or holds no rows.
    """
    kind = source_kind(cfg)
    if kind == "file":
        path = Path(str(cfg.path)).expanduser()
        rows = list(READERS[suffix_of(path)](path, cfg.split))
    else:
        from r1zero.data import hub

        rows = hub.read_folder(cfg) if kind == "folder" else hub.read_hub(cfg)
    if not rows:
        raise UserError(f"data.path={cfg.path} holds no rows")
    return rows


def suffix_of(path: Path) -> str:
    """The suffix that says what a file is, in lower case, without that of its compression."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    packed = len(suffixes) > 1 and suffixes[-1] in PACKED and suffixes[-2] != ".parquet"
    return suffixes[-2] if packed else suffixes[-1] if suffixes else ""


def _jsonl(path: Path, split: str = "") -> Iterator[dict[str, Any]]:
    with _text(path) as file:
        for number, line in enumerate(_lines(file, path), start=1):
            if not line.strip():
                continue
            try:
                item = parse_json(line)
            except json.JSONDecodeError as error:
                raise UserError(f"{path} line {number} is not JSON: {error.msg} at column {error.colno}") from None
            except ValueError as error:
                raise UserError(f"{path} line {number} can't be read: {first_line(error)}") from None
            yield _row(item, path, f"line {number}")


def _json(path: Path, split: str = "") -> Iterator[dict[str, Any]]:
    with _text(path) as file:
        text = "".join(_lines(file, path))
    try:
        content = parse_json(text)
    except json.JSONDecodeError as error:
        if error.msg == "Extra data":  # one object a line under the suffix .json, as many sets have it
            yield from _jsonl(path)
            return
        raise UserError(f"{path} line {error.lineno} is not JSON: {error.msg} at column {error.colno}") from None
    except ValueError as error:
        raise UserError(f"{path} can't be read: {first_line(error)}") from None
    if isinstance(content, Mapping):
        content = _rows_in(content, split, path)
    if not isinstance(content, list):
        raise UserError(f"{path} must hold an array of rows; it holds a {type(content).__name__}")
    for index, item in enumerate(content):
        yield _row(item, path, f"element {index}")


def _rows_in(content: Mapping[str, Any], split: str, path: Path) -> Any:
    """The array of rows in an object: the only one whose elements are records, else the one named as the split."""
    found = {name: value for name, value in content.items() if isinstance(value, list) and fields.are_rows(value)}
    if len(found) > 1 and split in found:
        return found[split]
    if len(found) != 1:
        several = f"several: choose one by data.split from {', '.join(found)}"
        held = several if found else f"an object with: {', '.join(content)}"
        raise UserError(f"{path} must hold an array of rows, or an object with one such array; it holds {held}")
    return next(iter(found.values()))


def _tsv(path: Path, split: str = "") -> Iterator[dict[str, Any]]:
    return _csv(path, split, delimiter="\t")


def _csv(path: Path, split: str = "", delimiter: str = ",") -> Iterator[dict[str, Any]]:
    csv.field_size_limit(1 << 24)
    with _text(path, newline="") as file:
        reader = csv.DictReader(_lines(file, path), delimiter=delimiter)
        try:
            _once(reader.fieldnames or (), path)
            for row in reader:
                if None in row or None in row.values():
                    raise UserError(f"{path} line {reader.line_num} has another number of fields than the header")
                yield row
        except csv.Error as error:
            raise UserError(f"{path} line {reader.line_num + 1} can't be read: {error}") from None


def _parquet(path: Path, split: str = "") -> Iterator[dict[str, Any]]:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            _once(file.schema_arrow.names, path)
            for batch in file.iter_batches(PARQUET_ROWS):
                rows = typed_rows(batch.schema, batch.to_pylist())
                yield from (_row(item, path, "a row") for item in rows)
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"{path} can't be read as parquet: {first_line(error)}") from None


READERS: dict[str, Callable[[Path, str], Iterator[dict[str, Any]]]] = {
    ".jsonl": _jsonl,
    ".json": _json,
    ".csv": _csv,
    ".tsv": _tsv,
    ".parquet": _parquet,
}


def _once(names: Sequence[str], path: Path) -> None:
    """Refuse a name that two columns have: a row could hold one of them alone."""
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise UserError(f"{path} has several columns named {', '.join(map(repr, twice))}; give each a name of its own")


def _row(item: Any, path: Path, place: str) -> dict[str, Any]:
    row = fields.as_row(item)
    if row is None:
        raise UserError(f"{path} {place} is a {type(item).__name__}, not an object with fields")
    return row


def _text(path: Path, newline: str | None = None) -> Any:
    packed = path.suffix.lower()
    try:
        if packed == ".gz":
            return gzip.open(path, "rt", encoding="utf-8-sig", newline=newline)
        if packed == ".zst":
            import pyarrow

            stream = pyarrow.input_stream(str(path), compression="zstd")
            return io.TextIOWrapper(stream, encoding="utf-8-sig", newline=newline)
        return path.open(encoding="utf-8-sig", newline=newline)
    except OSError as error:
        raise UserError(f"{path} can't be read: {error.strerror or first_line(error)}") from None


def _lines(file: Any, path: Path) -> Iterator[str]:
    """Lines of a text file; bytes that are not UTF-8 become the user's error, with the line."""
    number = 0
    try:
        for number, line in enumerate(file, start=1):  # noqa: B007
            yield line
    except UnicodeDecodeError:
        raise UserError(f"{path} is not UTF-8 text after line {number}") from None
    except (EOFError, OSError, zlib.error) as error:
        raise UserError(f"{path} can't be read after line {number}: {first_line(error)}") from None
