"""Files and folders that are written whole or not at all, and checksums that tell later whether they still are."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import math
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from r1zero.errors import UserError, whole_message

SUMS = "SHA256SUMS"
"""File with the checksums of a folder, as ``sha256sum -c`` reads them."""

HALF = ".tmp"
"""Ends the names of what is being written."""

DEEPEST = 100
"""Lists and objects inside of one another in a JSON text; deeper ones are no data, and no code here walks them."""


@contextlib.contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A path to write a file to, which takes the place of ``path`` once it is on disk.

    A kill or an error in the middle leaves ``path`` as it was; after an error nothing half-written stays either.
    """
    aside = path.with_suffix(HALF)
    try:
        yield aside
        sync(aside)
        os.replace(aside, path)
    except BaseException:
        with contextlib.suppress(OSError):
            remove(aside)
        raise
    sync(path.parent)


def write_whole(path: Path, text: str) -> None:
    """Replace a text file in one go; see :func:`whole`."""
    with whole(path) as aside:
        aside.write_text(text, encoding="utf-8")


def write_json(path: Path, content: Any) -> None:
    """Replace a JSON file in one go; a figure that there is none of (NaN) is null, as JSON has no NaN."""
    write_whole(path, json.dumps(without_nan(content), indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def parse_json(text: str) -> Any:
    """What a JSON text holds.

    Raises:
        ValueError: it is not JSON, is nested too deep, holds an integer of thousands of digits, or a name twice.
    """
    try:
        content = json.loads(text, object_pairs_hook=_each_once)
    except RecursionError:
        content = None
        deep = True
    else:
        deep = text.count("[") + text.count("{") > DEEPEST and _depth(content) > DEEPEST
    if deep:
        raise ValueError(f"nested more than {DEEPEST} deep")
    return content


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON, whose first value of a name would be lost where it has two."""
    found = dict(pairs)
    if len(found) < len(pairs):
        name = next(name for at, (name, _) in enumerate(pairs) if name in dict(pairs[:at]))
        raise ValueError(f"an object has {name!r} twice")
    return found


def _depth(value: Any) -> int:
    """How deep lists and objects are nested."""
    depth, inside = 0, [value]
    while inside := [
        item
        for held in inside
        if isinstance(held, (list, dict))
        for item in (held.values() if isinstance(held, dict) else held)
    ]:
        depth += 1
    return depth


def stored_json(path: Path) -> dict[str, Any]:
    """The object in a file of a run folder; an empty one where the file is missing or damaged."""
    try:
        return read_json(path)
    except UserError:
        return {}


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        UserError: naming the file that can't be read, is no UTF-8 text, or holds something else.
    """
    try:
        content = parse_json(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise UserError(f"{path} can't be read as JSON: {why}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} must hold a JSON object, not a {type(content).__name__}")
    return content


def stored_yaml(path: Path) -> Any:
    """What a YAML file holds.

    Raises:
        UserError: naming the file that can't be read.
    """
    import yaml

    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        why = error.strerror if isinstance(error, OSError) else whole_message(error)[:200]
        raise UserError(f"{path} can't be read as YAML: {why}") from error


def read_yaml(path: Path) -> dict[str, Any]:
    """The settings in a YAML file; raises as :func:`stored_yaml`, and where it holds something else."""
    content = stored_yaml(path) or {}
    if not isinstance(content, dict):
        raise UserError(f"{path} must hold settings, not a {type(content).__name__}")
    return content


def without_nan(content: Any) -> Any:
    """Dicts, lists and values with None in place of every NaN and infinity."""
    if isinstance(content, dict):
        return {key: without_nan(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [without_nan(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


@contextlib.contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A folder to write into, which takes the place of ``folder`` with a list of its checksums.

    The old folder keeps its name until the new one is on disk. Between the two renames it is called
    ``<name>.old``, from where :func:`tidy` brings it back after a kill.
    """
    aside, old = folder.with_name(folder.name + HALF), folder.with_name(folder.name + ".old")
    try:
        remove(aside)
        aside.mkdir(parents=True)
        yield aside
        write_sums(aside)
        for path in [*aside.rglob("*"), aside]:
            sync(path)
        if folder.exists():
            remove(old)
            os.replace(folder, old)
        os.replace(aside, folder)
    except BaseException:
        with contextlib.suppress(OSError):
            remove(aside)
        with contextlib.suppress(OSError):
            restore(folder)
        raise
    sync(folder.parent)
    remove(old)


def restore(folder: Path) -> None:
    """Finish or undo a swap of folders that was interrupted."""
    old = folder.with_name(folder.name + ".old")
    if old.exists() and not folder.exists():
        os.replace(old, folder)
    remove(old)


def write_sums(folder: Path) -> None:
    """Write ``SHA256SUMS`` over all other files of a folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != SUMS)
    write_whole(folder / SUMS, "".join(f"{sha256(path)}  {path.relative_to(folder)}\n" for path in files))


def unlike_sums(folder: Path, pattern: str = "*") -> list[str]:
    """Files of a folder that are missing or not what its ``SHA256SUMS`` says; none where it has no such list.

    Args:
        folder: to look at.
        pattern: only files of such names.

    Raises:
        OSError: a file can't be read.
    """
    sums = folder / SUMS
    if not sums.is_file():
        return []
    lines = [line.partition("  ") for line in sums.read_text(encoding="utf-8").splitlines()]
    wanted = [(folder / name, digest) for digest, _, name in lines if Path(name).match(pattern)]
    return [path.name for path, digest in wanted if not path.is_file() or sha256(path) != digest]


def sha256(path: Path) -> str:
    """Checksum of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync(path: Path) -> None:
    """Have a file, or the names in a folder, on disk; a file system that knows no such request is left alone."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def remove(path: Path) -> None:
    """Remove a file or folder; nothing happens where there is none."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
