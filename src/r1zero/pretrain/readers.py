"""Reads the records of a text source one by one from any position: files, folders and patterns of files, hub ids.

Nothing is held in memory but the record at hand (of a parquet file: a batch of rows).
"""

from __future__ import annotations

import glob
import gzip
import io
import itertools
import json
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from r1zero.config import DataConfig
from r1zero.data import fields, hub
from r1zero.data.sources import HUB_ID
from r1zero.data.values import typed_rows
from r1zero.errors import UserError, first_line
from r1zero.launch.files import parse_json
from r1zero.pretrain.config import SourceConfig

SUFFIXES = (".jsonl", ".jsonl.gz", ".parquet", ".txt", ".txt.gz")
DATA_SUFFIXES = (*SUFFIXES, ".json", ".json.gz", ".csv", ".arrow")
"""Suffixes of data files in a copy of a hub data set."""
SHARD = re.compile(r"(?P<split>\w[\w.]*)-\d{5}-of-\d{5}\..*")
"""A file of a hub data set: train-00000-of-00002.parquet."""
SPLITS = frozenset(("train", "test", "validation", "valid", "val", "dev", "eval"))

Record = dict[str, Any]


def files_of(path: str, what: str, split: str = "train") -> list[Path]:
    """The files that a path names, in the order of their names; none for what :class:`HubReader` reads.

    That is a hub id, and a folder that is a copy of a hub data set: with a README that names its files, or with
    its files in folders below.

    Raises:
        UserError: The path is a local one and names no file that can be read, or an empty one.
    """
    place = Path(path).expanduser()
    if place.is_dir():
        found = sorted(file for file in place.iterdir() if file.name.endswith(SUFFIXES))
        below = not found and any(file.name.endswith(DATA_SUFFIXES) for file in place.rglob("*"))
        if below or hub.has_hub_layout(place):
            return []
        found = of_split(found, split, f"{what}: folder {path}")
    elif place.exists():
        found = [place]
    elif any(mark in path for mark in "*?["):
        found = sorted(Path(name) for name in glob.glob(str(place)))
        if not found:
            raise UserError(f"{what}: no file matches {path} (working directory {Path.cwd()})")
    elif path.endswith(SUFFIXES) or not HUB_ID.fullmatch(path):
        raise UserError(f"{what}: path={path} does not exist (working directory {Path.cwd()})")
    else:
        return []
    if not found:
        raise UserError(f"{what}: folder {path} holds no file of a known kind; known are {', '.join(SUFFIXES)}")
    for file in found:
        if not file.name.endswith(SUFFIXES):
            raise UserError(f"{what}: {file} has no known suffix; known are {', '.join(SUFFIXES)}")
        if not file.is_file():
            raise UserError(f"{what}: {file} is neither a file nor a folder; save what it gives in a file first")
        if file.stat().st_size == 0:
            raise UserError(f"{what}: {file} is an empty file")
    return found


def of_split(files: list[Path], split: str, what: str) -> list[Path]:
    """The files of a folder without those of other splits: the hub's shards, or test.jsonl beside train.jsonl.

    Raises:
        UserError: None is left.
    """
    stems = {file: file.name.partition(".")[0] for file in files}
    side_by_side = split in stems.values()

    def split_of(file: Path) -> str:
        if shard := SHARD.fullmatch(file.name):
            return shard["split"]
        return stems[file] if side_by_side and stems[file] in SPLITS else split

    kept = [file for file in files if split_of(file) == split]
    if files and not kept:
        raise UserError(f"{what} has no files of split {split}, only of {', '.join(sorted(set(map(split_of, files))))}")
    return kept


class FileReader:
    """Records of local files, one file after the other; ``start`` skips records without parsing them."""

    def __init__(self, files: list[Path], separate: str = "paragraph") -> None:
        self.files, self.separate = files, separate

    def read(self, start: int) -> Iterator[tuple[str, Record]]:
        """(where it stands, record) from record number ``start`` on, counted over all files."""
        for file in self.files:
            if file.name.endswith(".parquet"):
                rows = parquet_rows(file)
                if start >= rows:
                    start -= rows
                    continue
                yield from read_parquet(file, start)
                start = 0
                continue
            pieces = lines_of(file) if ".jsonl" in file.name else documents_of(file, self.separate)
            for where, piece in pieces:
                if start:
                    start -= 1
                    continue
                yield where, parsed(piece, where) if ".jsonl" in file.name else {"text": piece}


class HubReader:
    """Records of a hub data set, streamed; none of it is kept on disk beyond the library's own cache.

    A folder that is a copy of one is read in the same way.
    """

    def __init__(self, source: SourceConfig, what: str, path: str, key: str = "path") -> None:
        self.source, self.path, self.key = source, path, f"{what}.{key}"

    def read(self, start: int) -> Iterator[tuple[str, Record]]:
        """See :meth:`FileReader.read`."""
        source = self.source
        cfg = DataConfig(
            name=self.key, path=self.path, subset=source.subset, split=source.split, revision=source.revision
        )
        table = hub.stream(cfg, self.key)
        rows = table.skip(start) if start else table
        typed = typed_rows(table.features.arrow_schema, rows) if table.features else map(dict, rows)
        for number, item in enumerate(typed, start=start):
            yield f"{self.path} record {number}", item


Reader = FileReader | HubReader


def reader_of(source: SourceConfig, what: str, key: str = "path") -> Reader:
    """The reader of a source's ``path``, or of its ``heldout_path``.

    Raises:
        UserError: In one line, the path can't be one.
    """
    path = source.heldout_path if key == "heldout_path" else source.path
    if path is None:
        raise UserError(f"{what}.path is not set: give a hub id, a {', '.join(SUFFIXES)} file, or a folder of such")
    files = files_of(path, what, source.split)
    return FileReader(files, source.separate) if files else HubReader(source, what, path, key)


def first_record(reader: Reader, what: str) -> Record:
    """The first record; raises ``UserError`` when there is none."""
    found = next(reader.read(0), None)
    if found is None:
        raise UserError(f"{what} holds no documents")
    return found[1]


def text_lines(file: Path) -> Iterator[tuple[int, str]]:
    """Numbered lines of a UTF-8 file, plain or gzipped. Raises ``UserError`` with the line for anything else."""
    number = 0
    try:
        with gzip.open(file, "rb") if file.suffix == ".gz" else file.open("rb") as raw:
            stream = io.TextIOWrapper(raw, encoding="utf-8-sig")
            for number, line in enumerate(stream, start=1):
                yield number, line
    except UnicodeDecodeError:
        raise UserError(f"{file} is not UTF-8 text after line {number}") from None
    except (gzip.BadGzipFile, EOFError, zlib.error):
        raise UserError(f"{file} is not a whole gzip file: it breaks off after line {number}") from None
    except OSError as error:
        raise UserError(f"{file} can't be read: {error.strerror}") from None


def lines_of(file: Path) -> Iterator[tuple[str, str]]:
    """(where, line) for every line that is not blank."""
    return ((f"{file} line {number}", line) for number, line in text_lines(file) if line.strip())


def documents_of(file: Path, separate: str) -> Iterator[tuple[str, str]]:
    """(where, document) of a plain text file."""
    if separate == "line":
        yield from ((where, line.rstrip("\n")) for where, line in lines_of(file))
        return
    held: list[str] = []
    begun = 1
    for number, line in itertools.chain(text_lines(file), [(0, "")]):
        if number and (line.strip() or (separate == "file" and held)):
            begun = begun if held else number
            held.append(line)
        elif held:
            yield f"{file} line {begun}", "".join(held).strip()
            held = []


def parsed(line: str, where: str) -> Record:
    """A line of JSON as a record."""
    try:
        record = fields.as_row(parse_json(line))
    except json.JSONDecodeError as error:
        raise UserError(f"{where} is not JSON: {error.msg} at column {error.colno}") from None
    except ValueError as error:
        raise UserError(f"{where} can't be read: {error}") from None
    if record is None:
        raise UserError(f"{where} is not an object with fields")
    return record


def parquet_rows(file: Path) -> int:
    """Rows of a parquet file, from its footer."""
    return _parquet(file).metadata.num_rows


def read_parquet(file: Path, start: int) -> Iterator[tuple[str, Record]]:
    """Rows from number ``start`` on; whole row groups before it are not read."""
    import pyarrow

    table = _parquet(file)
    number = 0
    for group in range(table.metadata.num_row_groups):
        size = table.metadata.row_group(group).num_rows
        if number + size <= start:
            number += size
            continue
        try:
            for batch in table.iter_batches(batch_size=256, row_groups=[group]):
                for row in typed_rows(batch.schema, batch.to_pylist()):
                    if number >= start:
                        yield f"{file} row {number}", row
                    number += 1
        except (pyarrow.ArrowException, OSError) as error:
            raise UserError(f"{file} can't be read as parquet: {first_line(error)}") from None


def _parquet(file: Path) -> Any:
    import pyarrow
    import pyarrow.parquet

    try:
        return pyarrow.parquet.ParquetFile(file)
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"{file} can't be read as parquet: {first_line(error)}") from None
