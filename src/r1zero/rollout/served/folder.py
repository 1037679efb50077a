"""Weights on their way: a folder of safetensors in shared memory, or on a disk that both sides see.

Only the newest version is kept, for servers that come back. A trainer holds a lock on its folder, so what one
that was killed left behind is found and removed by the next.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch

from r1zero.errors import UserError

SHARD = 2**30
"""Bytes after which a new file is begun: no more than this is held in memory besides the model."""


def weights_root(setting: str | None) -> Path:
    """The folder below which weights may lie: ``rollout.weights_dir``, or this user's own in shared memory.

    Raises:
        UserError: it can't be made, or belongs to somebody else.
    """
    if setting:
        root = Path(setting).expanduser().resolve()
    else:
        shared = Path("/dev/shm")
        base = shared if shared.is_dir() and os.access(shared, os.W_OK) else Path(tempfile.gettempdir())
        root = base / f"r1zero-{os.getuid()}"
    try:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        owner = root.lstat()
    except OSError as error:
        raise UserError(f"rollout.weights_dir={root} can't be used: {error.strerror}") from error
    if not setting and (owner.st_uid != os.getuid() or root.is_symlink() or owner.st_mode & 0o022):
        raise UserError(f"{root} belongs to another user or is open to others; set rollout.weights_dir=<folder>")
    return root


class WeightStore:
    """One trainer's folder below the root; the newest version in it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        _remove_abandoned(root)
        self.path = Path(tempfile.mkdtemp(prefix="run-", dir=root))
        self._lock: Any = (self.path / "lock").open("w")
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        self.path.mkdir(exist_ok=True)  # another trainer may have swept before the lock was held
        self.current: Path | None = None

    def write(self, weights: Iterable[tuple[str, torch.Tensor]], name: str) -> Path:
        """Write named tensors, one shard at a time, and give the folder; it counts from :meth:`keep` on.

        Raises:
            UserError: there is no room; the newest version and this one must fit at the same time.
        """
        try:
            return self._write(weights, name)
        except Exception as error:
            if getattr(error, "errno", None) != errno.ENOSPC and "No space left" not in str(error):
                raise
            raise UserError(
                f"no room for the weights in {self.root}, which must hold them twice: set rollout.weights_dir to a "
                "folder on a disk that servers and trainer see"
            ) from error
        finally:
            shutil.rmtree(self.path / f"{name}.part", ignore_errors=True)

    def _write(self, weights: Iterable[tuple[str, torch.Tensor]], name: str) -> Path:
        from safetensors.torch import save_file

        aside = self.path / f"{name}.part"
        aside.mkdir()
        shard: dict[str, torch.Tensor] = {}
        size = number = 0
        for key, tensor in weights:
            shard[key] = tensor.detach().cpu().contiguous()
            size += tensor.numel() * tensor.element_size()
            if size >= SHARD:
                save_file(shard, aside / f"model-{number:05d}.safetensors")
                shard, size, number = {}, 0, number + 1
        if shard:
            save_file(shard, aside / f"model-{number:05d}.safetensors")
        whole = self.path / name
        os.replace(aside, whole)
        return whole

    def keep(self, folder: Path) -> None:
        """Make a folder the newest version and drop all others."""
        self.current = folder
        for other in self.path.glob("version-*"):
            if other != folder:
                shutil.rmtree(other, ignore_errors=True)

    def close(self) -> None:
        """Remove everything; safe to call twice."""
        shutil.rmtree(self.path, ignore_errors=True)
        self._lock.close()


def read_weights(folder: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """Named tensors of a folder, one at a time."""
    from safetensors import safe_open

    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as shard:
            for name in shard.keys():  # noqa: SIM118 - no mapping
                yield name, shard.get_tensor(name)


def _remove_abandoned(root: Path) -> None:
    """Remove the folders of trainers that are gone: nobody holds their lock."""
    for folder in root.glob("run-*"):
        with contextlib.suppress(OSError), (folder / "lock").open("r+") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
