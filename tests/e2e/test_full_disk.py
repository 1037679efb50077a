"""A full disk ends a run in one line, with what was saved before whole, and the run goes on once there is space."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from r1zero.launch.run_folder import disk_full
from run_support import SMALL, Server, status, table


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 10 MiB; a checkpoint of the run is 4.5 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=10m", "tmpfs", str(disk)], check=False)
    if mounted.returncode:
        pytest.skip("this user may not mount a file system")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_disk_that_fills_up_at_checkpoint_time(server: Server, small_disk: Path, tmp_path: Path) -> None:
    folder = small_disk / "run"
    args = [*SMALL, "checkpoint.every=1", "checkpoint.keep=9", "eval.every=0", f"hydra.run.dir={folder}"]
    done = server.run(args, tmp_path)
    assert done.code == 1
    assert len(done.err.splitlines()) == 1
    assert done.err.startswith("error: the disk is full: checkpoint disk/run/checkpoints/step_00000")
    assert "earlier checkpoints are whole. Free some space and continue with resume=disk/run" in done.err
    saved = sorted(p.name for p in folder.glob("checkpoints/*"))
    assert saved
    assert all(name.endswith(".ckpt") for name in saved)
    assert status(folder)["state"] == "failed"
    subprocess.run(["mount", "-o", "remount,size=60m", str(small_disk)], check=True)
    done = server.run([f"resume={folder}"], tmp_path)
    assert done.code == 0, done.err
    assert [row["progress/rollout_step"] for row in table(folder)] == [f"{n}" for n in range(4)] + ["4.0"]


@pytest.mark.parametrize(
    ("file", "advice"),
    [("checkpoints/step_000002.tmp", "remove run and start again"), ("metrics.tmp", "continue with resume=run")],
)
def test_whichever_file_finds_no_space(server: Server, tmp_path: Path, file: str, advice: str) -> None:
    """/dev/full in a file's place: the kernel itself says that no space is left."""
    full = tmp_path / "run" / file
    full.parent.mkdir(parents=True, exist_ok=True)
    full.symlink_to("/dev/full")
    done = server.run([*SMALL, "eval.every=0", "eval.at_start=false", "hydra.run.dir=run"], tmp_path)
    assert done.code == 1
    assert len(done.err.splitlines()) == 1
    assert done.err.startswith("error: the disk is full")
    assert advice in done.err
    assert status(tmp_path / "run")["state"] == "failed"


def test_a_disk_that_is_still_full_at_resume_costs_no_settings(
    server: Server, undisturbed: Path, tmp_path: Path
) -> None:
    """The settings of a resumed run are stored anew; what the next attempt goes on from stays whole meanwhile."""
    folder = tmp_path / "run"
    shutil.copytree(undisturbed, folder)
    stored = [folder / "config.yaml", folder / ".hydra" / "overrides.yaml"]
    before = [file.read_bytes() for file in stored]
    for file in stored:
        file.with_suffix(".tmp").symlink_to("/dev/full")
    done = server.run(["resume=run", "steps=7", "logger=none"], tmp_path)
    assert done.code == 1
    assert [line for line in done.errors if not line.startswith("error: the disk is full")] == []
    assert [file.read_bytes() for file in stored] == before


def test_errors_that_are_each_others_context_are_looked_at_once() -> None:
    first, second = ValueError("a"), ValueError("b")
    first.__context__, second.__context__ = second, first
    assert not disk_full(first)
    second.__cause__ = OSError(28, "No space left on device")
    assert disk_full(first)
