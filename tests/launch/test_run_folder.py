"""A run folder is a record: held by one process, changed by no refusal, written whole, checked by the doctor."""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hydra.core.utils import setup_globals
from omegaconf import OmegaConf

from r1zero.errors import UserError
from r1zero.lab.doctor.folder import findings, summary
from r1zero.launch import files
from r1zero.launch import lock as lock_module
from r1zero.launch.arguments import expand
from r1zero.launch.lock import HOLDER
from r1zero.launch.paths import own_folder
from r1zero.launch.record import damage, set_aside, work_in
from r1zero.launch.run_folder import Status, lock_folder, refuse_used, run_folder
from run_support import ROOT


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def no_locks(number: int) -> Any:
    def flock(file: Any, how: int) -> None:
        raise OSError(number, os.strerror(number))

    return flock


# -- A6: file systems without locks --------------------------------------------------------------------


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_named_and_a_file_names_the_holder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, number: int
) -> None:
    monkeypatch.setattr(fcntl, "flock", no_locks(number))
    with lock_folder(tmp_path):
        assert f"without locks ({os.strerror(number)})" in caplog.text
        assert json.loads((tmp_path / HOLDER).read_text()) == {"pid": os.getpid(), "host": platform.node()}
        with pytest.raises(UserError, match=rf"another run is using .* \({os.getpid()} on {platform.node()}\)"):
            lock_folder(tmp_path)
    assert not (tmp_path / HOLDER).exists()


def test_a_holder_that_was_killed_here_is_replaced_and_one_elsewhere_is_asked_about(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fcntl, "flock", no_locks(errno.ENOSYS))
    monkeypatch.setattr(lock_module, "lives", lambda pid: False)
    (tmp_path / HOLDER).write_text(json.dumps({"pid": 4242, "host": platform.node()}))
    lock_folder(tmp_path).close()
    (tmp_path / HOLDER).write_text(json.dumps({"pid": 4242, "host": "elsewhere"}))
    with pytest.raises(UserError, match=r"\(4242 on elsewhere\).* where that one is gone, remove .*\.lock\.holder"):
        lock_folder(tmp_path)


def test_a_lock_that_fails_otherwise_is_not_taken_for_another_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fcntl, "flock", no_locks(errno.EIO))
    with pytest.raises(OSError, match="Input/output error"):
        lock_folder(tmp_path)


# -- A4: a refusal changes nothing ---------------------------------------------------------------------


def test_a_run_that_is_refused_before_its_settings_are_accepted_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "status.json").write_text('{"state": "finished", "step": 3}')
    (tmp_path / "train.log").write_text("before\n")
    (tmp_path / ".lock").touch()
    before = content(tmp_path)
    with pytest.raises(UserError), run_folder(tmp_path, 4, "resume") as status:  # noqa: PT012
        status.write("running")
        logging.getLogger("r1zero").info("something")
        raise UserError("no")
    assert content(tmp_path) == before
    with run_folder(tmp_path, 4, "resume") as status:
        logging.getLogger("r1zero").info("held back")
        status.accept()
        logging.getLogger("r1zero").info("at once")
        assert json.loads((tmp_path / "status.json").read_text())["state"] == "running"
    log = (tmp_path / "train.log").read_text()
    assert log.startswith("before\n")
    assert log.index("held back") < log.index("at once")
    assert log.count("held back") == log.count("at once") == 1


def test_an_unexpected_error_before_that_is_stored(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), run_folder(tmp_path, 4, "resume"):  # noqa: PT012
        logging.getLogger("r1zero").info("what came before")
        raise ZeroDivisionError("a bug")
    assert json.loads((tmp_path / "status.json").read_text())["state"] == "failed"
    assert "what came before" in (tmp_path / "train.log").read_text()


def test_a_new_run_is_refused_where_an_earlier_one_took_steps(tmp_path: Path) -> None:
    refuse_used(tmp_path)
    (tmp_path / "metrics.csv").write_text("step,reward/mean\n")
    refuse_used(tmp_path)
    (tmp_path / "metrics.csv").write_text("step,reward/mean\n0,0.5\n")
    before = content(tmp_path)
    words = r"holds 1 row\(s\) of metrics.csv of an earlier run: continue with resume="
    with pytest.raises(UserError, match=words), run_folder(tmp_path, 4, None):
        pass
    assert content(tmp_path) == before | {".lock": b""}


# -- A7: a full disk -----------------------------------------------------------------------------------


def test_on_a_full_disk_the_status_is_written_over_and_nothing_half_written_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    status = Status(tmp_path, True, 4)
    status.write("running")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    status.write("failed", error="the disk is full")
    assert json.loads((tmp_path / "status.json").read_text())["state"] == "failed"
    assert os.listdir(tmp_path) == ["status.json"]


@pytest.mark.parametrize("name", ["fsync", "replace"])
def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    file = tmp_path / "a.json"
    files.write_whole(file, "old")

    def fail(*arguments: Any) -> None:
        raise OSError(errno.EIO, "no")

    with monkeypatch.context() as patch:
        patch.setattr(os, name, fail)
        with pytest.raises(OSError, match="no"):
            files.write_whole(file, "new")
    assert content(tmp_path) == {"a.json": b"old"}


# -- A3: checksums -------------------------------------------------------------------------------------


def test_a_folder_is_replaced_whole_with_its_checksums(tmp_path: Path) -> None:
    folder = tmp_path / "policy"
    for text in ("one", "two"):
        with files.whole_folder(folder) as aside:
            (aside / "weights").write_text(text)
    assert sorted(os.listdir(tmp_path)) == ["policy"]
    assert subprocess.run(["sha256sum", "--quiet", "-c", files.SUMS], cwd=folder).returncode == 0
    assert files.unlike_sums(folder) == []
    with pytest.raises(RuntimeError), files.whole_folder(folder) as aside:  # noqa: PT012
        (aside / "weights").write_text("three")
        raise RuntimeError
    assert (folder / "weights").read_text() == "two"
    (folder / "weights").write_text("owt")
    assert files.unlike_sums(folder) == ["weights"]


def test_a_swap_of_folders_that_was_interrupted_is_finished(tmp_path: Path) -> None:
    folder, old = tmp_path / "policy_best", tmp_path / "policy_best.old"
    old.mkdir()
    (old / "weights").write_text("whole")
    files.restore(folder)
    assert (folder / "weights").read_text() == "whole"
    old.mkdir()
    files.restore(folder)
    assert sorted(os.listdir(tmp_path)) == ["policy_best"]


@pytest.mark.parametrize("where", ["start", "middle", "end"])
def test_damage_of_a_checkpoint_is_found_wherever_it_is(tmp_path: Path, where: str) -> None:
    import torch

    path = tmp_path / "step_000001.ckpt"
    torch.save({"weights": torch.arange(1000.0)}, path)
    assert damage(path) == ""
    data = bytearray(path.read_bytes())
    at = {"start": 0, "middle": data.index(torch.arange(500.0, 510.0).numpy().tobytes()), "end": len(data) - 100}[where]
    data[at : at + 12] = b"\xff" * 12 if where != "end" else b""
    path.write_bytes(data)
    assert damage(path)
    path.write_bytes(b"")
    assert damage(path) == "it is empty"
    path.unlink()
    assert damage(path) == "No such file or directory"


def test_what_an_attempt_left_is_kept_beside_the_next(tmp_path: Path) -> None:
    for number in (1, 2):
        (tmp_path / "metrics.csv").write_text(f"step\n{number}\n")
        (tmp_path / "console.log").write_text("all of it")
        assert work_in(tmp_path)
        assert set_aside(tmp_path).name == f"attempt_{number}"
        assert not work_in(tmp_path)
    assert (tmp_path / "attempt_1" / "metrics.csv").read_text() == "step\n1\n"
    assert (tmp_path / "console.log").is_file()


# -- the doctor ----------------------------------------------------------------------------------------


def test_the_doctor_reports_the_machine() -> None:
    from r1zero.lab.doctor import environment

    assert {environment.processor().name, environment.memory().name} == {"processor", "memory"}
    done = subprocess.run([sys.executable, "scripts/doctor.py", "/nowhere"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (2, "error: /nowhere: there is no such folder\n")


DAMAGE = (
    b"", b"\0" * 99, bytes(range(256)), b"[]", b"[" * 3000, b"step,a\nabc,1\n1e400,2\n",
    b'{"state": [], "step": "x", "pid": "abc", "steps": {}}', b'{"state": "running", "pid": {}, "steps": "x"}',
)  # fmt: skip


@pytest.mark.parametrize("name", ["status.json", "config.yaml", "metrics.csv", ".hydra/overrides.yaml", ".lock.holder"])
def test_whatever_a_file_of_a_folder_holds_is_said_in_one_line(name: str, tmp_path: Path) -> None:
    (tmp_path / ".hydra").mkdir()
    for other in ("status.json", "config.yaml", "metrics.csv", ".hydra/overrides.yaml"):
        (tmp_path / other).write_text("[]" if other.startswith(".hydra") else "")
    for content in DAMAGE:
        (tmp_path / name).write_bytes(content)
        assert all("\n" not in line for line in findings(tmp_path))
        summary(tmp_path)
        for call in (lambda: expand([f"resume={tmp_path}"], ROOT / "conf"), lambda: work_in(tmp_path)):
            said = ""
            try:
                call()
            except UserError as error:
                said = str(error)
            assert "\n" not in said
            assert not said or str(tmp_path / name) in said


# -- the folder of a new run ---------------------------------------------------------------------------

DATED = "${now:%Y-%m-%d_%H-%M-%S}"


def hydras(folder: Path, name: str = DATED) -> Any:
    """Hydra's own config with a folder for runs and one for sweeps, in the year 1."""
    OmegaConf.register_new_resolver("now", lambda form: "0001-01-01_00-00-00", replace=True)
    dirs = {kind: {"dir": f"{folder}/a/{name}"} for kind in ("run", "sweep")}
    return OmegaConf.create(dirs | {"overrides": {"hydra": []}})


@pytest.fixture
def now() -> Iterator[None]:
    """Hydra's own resolver again, after a test."""
    yield
    OmegaConf.clear_resolver("now")
    setup_globals()


@pytest.mark.parametrize("kind", ["run", "sweep"])
def test_runs_that_start_in_one_second_have_folders_of_their_own(tmp_path: Path, kind: str, now: None) -> None:
    """Sixteen at a time, with a link to nowhere under the second's name as well."""
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "0001-01-01_00-00-00").symlink_to("nowhere")
    started = [hydras(tmp_path) for _ in range(16)]
    with ThreadPoolExecutor(16) as threads:
        list(threads.map(lambda hydra: own_folder(hydra, kind), started))
    names = {hydra[kind].dir for hydra in started}
    assert names == {str(tmp_path / "a" / f"0001-01-01_00-00-00_{number}") for number in range(2, 18)}
    assert all(Path(name).is_dir() for name in names)
    said = [[f"hydra.sweep.dir='{hydra.sweep.dir}'"] if kind == "sweep" else [] for hydra in started]
    assert [list(hydra.overrides.hydra) for hydra in started] == said


def test_a_folder_that_is_named_is_left_as_it_is(tmp_path: Path, now: None) -> None:
    hydra = hydras(tmp_path, "fixed")
    own_folder(hydra, "run")
    assert hydra.run.dir == f"{tmp_path}/a/fixed"
    assert not (tmp_path / "a").exists()


def test_where_no_folder_can_be_made_hydra_says_why(tmp_path: Path, now: None) -> None:
    (tmp_path / "a").write_text("")
    hydra = hydras(tmp_path)
    own_folder(hydra, "run")
    assert hydra.run.dir == f"{tmp_path}/a/0001-01-01_00-00-00"
