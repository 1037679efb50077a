"""Checkpoints are whole or absent, the newest are kept, and nothing in them is executed (issue 1, item 8)."""

from __future__ import annotations

import logging
import os
import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from r1zero.config import CheckpointConfig
from r1zero.errors import UserError
from r1zero.launch.run_folder import disk_full
from r1zero.train.callbacks.checkpoint import (
    FORMAT,
    CheckpointCallback,
    DirectCheckpointIO,
    check_checkpoint,
    discard_half_written,
    newest_checkpoint,
)


class FakeTrainer:
    """Saves a dict by the real writer."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.strategy = SimpleNamespace(barrier=lambda name: None)

    def save_checkpoint(self, path: Path) -> None:
        DirectCheckpointIO().save_checkpoint({"weights": torch.arange(1000)}, path)
        if self.error is not None:
            raise self.error


def callback(tmp_path: Path, keep: int = 2) -> CheckpointCallback:
    cfg = SimpleNamespace(checkpoint=CheckpointConfig(every=1, keep=keep), steps=10)
    return CheckpointCallback(SimpleNamespace(run_dir=tmp_path, cfg=cfg, is_main=True))  # type: ignore[arg-type]


def names(tmp_path: Path) -> list[str]:
    return sorted(os.listdir(tmp_path / "checkpoints"))


def test_the_newest_are_kept(tmp_path: Path) -> None:
    saver = callback(tmp_path, keep=2)
    trainer: Any = FakeTrainer()
    for step in (1, 2, 9, 10):
        saver.save(trainer, step)
    assert names(tmp_path) == ["step_000009.ckpt", "step_000010.ckpt"]
    saver.save(trainer, 10)  # a step is saved once
    newest = newest_checkpoint(tmp_path)
    assert newest is not None
    assert newest.name == "step_000010.ckpt"


@pytest.mark.parametrize(
    "error",
    [
        OSError(28, "No space left on device"),
        RuntimeError("I/O error: No space left on device (os error 28)"),  # as safetensors says it
    ],
)
def test_a_full_disk_is_one_line_and_leaves_what_was_saved(tmp_path: Path, error: Exception) -> None:
    saver = callback(tmp_path)
    saver.save(FakeTrainer(), 1)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"the disk is full: checkpoint .*step_000002\.ckpt could not be written"):
        saver.save(FakeTrainer(error), 2)  # type: ignore[arg-type]
    assert names(tmp_path) == ["step_000001.ckpt"]


def test_other_errors_are_not_taken_for_a_full_disk(tmp_path: Path) -> None:
    with pytest.raises(PermissionError):
        callback(tmp_path).save(FakeTrainer(PermissionError(13, "no")), 1)  # type: ignore[arg-type]
    assert names(tmp_path) == []
    assert not disk_full(ValueError("28"))


def test_the_kernel_says_full_through_torch(tmp_path: Path) -> None:
    """torch's writer raises an error of its own on top of the system's."""
    link = tmp_path / "full"
    link.symlink_to("/dev/full")
    with pytest.raises(Exception) as caught:  # noqa: PT011
        DirectCheckpointIO().save_checkpoint({"weights": torch.zeros(100_000)}, link)
    assert disk_full(caught.value)


def test_a_damaged_checkpoint_is_skipped_with_a_message(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    saver = callback(tmp_path, keep=3)
    for step in (1, 2, 3):
        saver.save(FakeTrainer(), step)  # type: ignore[arg-type]
    third = tmp_path / "checkpoints" / "step_000003.ckpt"
    third.write_bytes(third.read_bytes()[:-100])
    (tmp_path / "checkpoints" / "step_000002.ckpt").write_bytes(b"")
    with caplog.at_level(logging.WARNING):
        newest = newest_checkpoint(tmp_path)
    assert newest is not None
    assert newest.name == "step_000001.ckpt"
    assert "step_000003.ckpt can't be read" in caplog.text
    assert "step_000002.ckpt can't be read" in caplog.text


def test_nothing_in_a_checkpoint_is_executed(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, tuple[str]]:
            return os.mkdir, (str(tmp_path / "executed"),)

    folder = tmp_path / "checkpoints"
    folder.mkdir()
    (folder / "step_000001.ckpt").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(UserError, match="no checkpoint is left to resume from"):
        newest_checkpoint(tmp_path)
    torch.save({"state_dict": Evil()}, folder / "step_000002.ckpt")
    with pytest.raises(UserError, match=r"step_000002\.ckpt asks for posix\.mkdir to be called; nothing .* executed"):
        newest_checkpoint(tmp_path)
    assert not (tmp_path / "executed").exists()


def test_half_written_files_are_removed_with_a_message(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "step_000004.tmp").write_bytes(b"half")
    (tmp_path / "policy.tmp").mkdir()
    with caplog.at_level(logging.WARNING):
        discard_half_written(tmp_path)
    assert caplog.text.count("half-written") == 2
    assert os.listdir(tmp_path) == ["checkpoints"]
    assert names(tmp_path) == []


def test_a_checkpoint_must_fit_program_and_model(tmp_path: Path) -> None:
    path = tmp_path / "checkpoints" / "step_000001.ckpt"
    path.parent.mkdir()
    module: Any = nn.Linear(2, 3)
    good = {"r1zero_format": FORMAT, "r1zero_release": "1", "state_dict": module.state_dict()}
    torch.save(good, path)
    check_checkpoint(path, module)
    torch.save(good | {"r1zero_format": FORMAT + 1, "r1zero_release": "9.9"}, path)
    with pytest.raises(UserError, match=r"has format 2 \(written by r1zero 9.9\)"):
        check_checkpoint(path, module)
    torch.save({"state_dict": module.state_dict()}, path)
    with pytest.raises(UserError, match=r"has format None \(written by r1zero unknown\)"):
        check_checkpoint(path, module)
    torch.save(good | {"state_dict": nn.Linear(2, 4).state_dict()}, path)
    with pytest.raises(UserError, match="holds another model: weight is 4x2 there and 3x2 in the model"):
        check_checkpoint(path, module)
    torch.save(good | {"state_dict": nn.Linear(2, 3, bias=False).state_dict()}, path)
    with pytest.raises(UserError, match="bias is absent there and 3 in the model"):
        check_checkpoint(path, module)


def test_a_folder_is_taken_from_a_strategy_that_writes_folders_alone(tmp_path: Path) -> None:
    """Its index is unpickled, beyond what ``weights_only`` sees."""
    folder = tmp_path / "checkpoints" / "step_000001.ckpt"
    folder.mkdir(parents=True)
    assert newest_checkpoint(tmp_path) == folder
    module: Any = nn.Linear(2, 3)
    check_checkpoint(folder, module, SimpleNamespace(_save_distributed_checkpoint=True))
    for strategy in (None, SimpleNamespace(_save_distributed_checkpoint=False)):
        with pytest.raises(UserError, match="is a folder, and this trainer writes files"):
            check_checkpoint(folder, module, strategy)
