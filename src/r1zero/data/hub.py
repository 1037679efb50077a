"""Rows of data sets in the Hugging Face formats: ids on the hub, its local cache, saved folders."""

from __future__ import annotations

import logging
import socket
import urllib.request
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from r1zero.config import DataConfig
from r1zero.data import fields
from r1zero.data.values import typed_rows
from r1zero.errors import UserError, whole_message

log = logging.getLogger("r1zero")


def read_hub(cfg: DataConfig) -> list[dict[str, Any]]:
    """Load a hub data set; without a connection, from the local hub cache when it is there.

    Raises:
        UserError: The hub can't be reached, the id does not exist, or the subset or split doesn't.
    """
    return _rows(_open(cfg))


def stream(cfg: DataConfig, key: str) -> Any:
    """Open a hub data set, or a local copy of one, as an iterable of records that are read as they are asked for.

    Args:
        cfg: ``path`` is a hub id, or a folder in the hub's layout or written by ``save_to_disk``.
        key: setting that holds the path, for messages.

    Raises:
        UserError: As :func:`read_hub` and :func:`read_folder`.
    """
    folder = Path(str(cfg.path)).expanduser()
    if not folder.is_dir():
        return _open(cfg, key, streaming=True)
    if is_saved(folder):
        return _saved(folder, cfg, key).to_iterable_dataset()  # mapped into memory page by page
    return _load(str(folder), cfg, key, streaming=True)


def is_saved(folder: Path) -> bool:
    """Whether ``save_to_disk`` wrote this folder."""
    return any((folder / name).is_file() for name in ("dataset_dict.json", "state.json"))


def has_hub_layout(folder: Path) -> bool:
    """Whether a folder is a copy of a hub data set: its README says which files are which, or it was saved as one."""
    readme = folder / "README.md"
    if is_saved(folder):
        return True
    if not readme.is_file():
        return False
    head = readme.read_text(encoding="utf-8", errors="replace").split("\n---", 1)[0]
    return head.startswith("---") and any(line.startswith("configs:") for line in head.splitlines())


def _open(cfg: DataConfig, key: str = "data.path", streaming: bool = False) -> Any:
    """Open a hub data set, or its copy in the cache; ``key`` is the setting that names it."""
    import datasets

    path, what = str(cfg.path), f"{key}={cfg.path}"
    try:
        if not has_address():
            raise ConnectionError
        return _load(path, cfg, key, revision=cfg.revision, streaming=streaming)
    except ConnectionError:
        folder = _cached(path, cfg.revision)
        if folder is None:
            raise UserError(
                f"{what} is neither a file or folder here nor in the local hub cache, and the hub can't be reached; "
                "go online, download it beforehand, or give a local path"
            ) from None
        return _load(folder, cfg, key, streaming=streaming)
    except datasets.exceptions.DatasetNotFoundError:
        raise UserError(
            f"{what} is neither a file or folder here nor a data set on the hub "
            f"(or it is private or gated, and you are not logged in){_at(cfg)}"
        ) from None


@lru_cache
def has_address() -> bool:
    """Whether the hub's name has an address: without one the library's five retries take 23 s for each set.

    Behind a proxy, which looks it up itself, the answer is yes.
    """
    from huggingface_hub import constants

    if urllib.request.getproxies():
        return True
    try:
        return bool(socket.getaddrinfo(urlsplit(constants.ENDPOINT).hostname, None))
    except OSError:
        return False


def read_folder(cfg: DataConfig) -> list[dict[str, Any]]:
    """Load a folder: one written by ``save_to_disk`` (Dataset or DatasetDict), or one of data files.

    Raises:
        UserError: The folder holds neither, or lacks the split.
    """
    folder = Path(str(cfg.path)).expanduser()
    if is_saved(folder):
        return _rows(_saved(folder, cfg))
    table = _load(str(folder), cfg)
    if left := [] if has_hub_layout(folder) else _of_other_kinds(folder, table.info.builder_name):
        more = f" and {len(left) - 4} more" if len(left) > 4 else ""
        log.warning("data.path=%s: not read, files of another kind: %s%s", folder, ", ".join(left[:4]), more)
    return _rows(table)


def _of_other_kinds(folder: Path, kind: str) -> list[str]:
    """Data files of a folder that are not of the kind that was read: the library takes the kind with most files."""
    kinds = {".jsonl": "json", ".json": "json", ".csv": "csv", ".tsv": "csv", ".parquet": "parquet"}
    files = (file for file in sorted(folder.rglob("*")) if not file.name.startswith((".", "dataset_info")))
    found = ((file, next((s for s in reversed(file.suffixes) if s in kinds), "")) for file in files if file.is_file())
    return [str(file.relative_to(folder)) for file, suffix in found if suffix and kinds[suffix] != kind]


def _saved(folder: Path, cfg: DataConfig, key: str = "data.path") -> Any:
    import datasets

    try:
        content = datasets.load_from_disk(str(folder))
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{key}={cfg.path} can't be read as a saved data set: {_brief(error)}") from None
    if isinstance(content, datasets.DatasetDict):
        if cfg.split not in content:
            split = key.removesuffix("path") + "split"
            raise UserError(f"{key}={cfg.path} has no split {cfg.split}; {split} is one of {', '.join(content)}")
        content = content[cfg.split]
    return content


def _load(
    path: str, cfg: DataConfig, key: str = "data.path", revision: str | None = None, streaming: bool = False
) -> Any:
    import datasets

    try:
        return datasets.load_dataset(path, cfg.subset, split=cfg.split, revision=revision, streaming=streaming)
    except datasets.exceptions.DatasetNotFoundError:
        raise
    except datasets.exceptions.DataFilesNotFoundError:
        raise UserError(f"{key}={path} holds no data files that can be read") from None
    except RuntimeError as error:
        if "scripts are no longer supported" not in str(error):
            raise
        raise UserError(
            f"{key}={path} is made by a script, which is not run; many such sets have a plain copy at "
            f"{key.removesuffix('path')}revision=refs/convert/parquet"
        ) from None
    except (ValueError, IndexError, FileNotFoundError, datasets.exceptions.DatasetsError) as error:
        # unknown subset, unknown split, unreadable files: the library's own line names the choices
        raise UserError(f"{key}={path} can't be loaded{_at(cfg)}: {_brief(error)}") from None


def _cached(path: str, revision: str | None) -> str | None:
    """Snapshot folder of a data set in the local hub cache, None when it is not there."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return snapshot_download(path, repo_type="dataset", revision=revision, local_files_only=True)
    except (LocalEntryNotFoundError, HFValidationError):
        return None


def _rows(table: Any) -> list[dict[str, Any]]:
    rows = []
    try:
        for item in typed_rows(table.features.arrow_schema, table):
            row = fields.as_row(item)
            assert row is not None  # rows of a data set are always records
            rows.append(row)
    except (OSError, ImportError) as error:  # images and sounds are decoded as they are read
        raise UserError(f"row {len(rows)} of the data set can't be read: {_brief(error)}") from None
    return rows


def _at(cfg: DataConfig) -> str:
    parts = [f"{name} {value}" for name in ("subset", "split", "revision") if (value := getattr(cfg, name))]
    return f" ({', '.join(parts)})" if parts else ""


def _brief(error: BaseException) -> str:
    while error.__cause__ is not None:  # the library's outer message is often a bare "an error occurred"
        error = error.__cause__
    return whole_message(error)[:300] or type(error).__name__
