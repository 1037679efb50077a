"""The doctor's checks: what fits and what does not, and a real run of three steps."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from r1zero.lab.doctor import command, environment, trial
from r1zero.lab.doctor.environment import Check, cards, cuda
from run_support import Server


def seen(cuda: str | None = "13.0", available: bool = False) -> dict[str, Any]:
    return {"torch": "2.13.0", "cuda": cuda, "available": available}


@pytest.mark.parametrize(
    ("driver", "torch", "state", "says"),
    [
        (("535.104.05", "12.2"), seen(), "fail", "update the driver, or install a torch for CUDA 12.2 or older"),
        (("580.65.06", "13.0"), seen(None), "fail", "install the extra gpu in place of cpu"),
        (("580.65.06", "13.0"), seen(), "fail", "torch finds no card that it can use"),
        (("580.65.06", "13.0"), seen(available=True), "ok", "they fit"),
        (None, seen(None), "skip", "torch 2.13.0 for CPUs"),
    ],
)
def test_driver_and_wheel(driver: Any, torch: dict[str, Any], state: str, says: str) -> None:
    """B6: a driver that is older than the wheel's CUDA leaves torch on the CPU; one line names both."""
    check = cuda(driver, torch)
    assert check.state == state
    assert says in str(check)
    assert "\n" not in str(check)
    if driver is not None:
        assert driver[0] in str(check)
        assert torch["cuda"] is None or torch["cuda"] in str(check)


def test_the_drivers_release_is_read_from_its_own_tool(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "| NVIDIA-SMI 535.104.05   Driver Version: 535.104.05   CUDA Version: 12.2     |"
    monkeypatch.setattr(subprocess, "run", lambda *a, **k: subprocess.CompletedProcess(a, 0, text, ""))
    assert environment.driver_release() == ("535.104.05", "12.2")
    assert "CUDA up to 12.2" in environment.driver().found


def test_a_card_that_others_use() -> None:
    card = {"name": "H100", "free": 80 * 10**9, "total": 85 * 10**9}
    assert cards({"cards": [card]}).state == "ok"
    assert cards({"cards": [card, card | {"free": 10**9}]}).state == "note"


def test_vllm_of_another_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """It imports, and its kernels are those of the torch that it was built for."""
    monkeypatch.setattr(environment, "requires", lambda name: ["numpy", "torch==1.9.0+cu1"])
    monkeypatch.setattr(environment, "version", lambda name: "2.13.0+cpu")
    monkeypatch.setattr(subprocess, "run", lambda *a, **k: subprocess.CompletedProcess(a, 0, "", ""))
    check = environment.vllm()
    assert (check.state, "for torch 1.9.0+cu1, and torch 2.13.0+cpu is installed" in check.found) == ("fail", True)


def test_a_check_that_breaks_is_a_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Any) -> None:
    """And the others are made; the file holds them all; the exit code says that one failed."""

    def broken() -> Check:
        raise OSError("no such device")

    for name in ("driver", "vllm", "hub"):
        monkeypatch.setattr(environment, name, lambda name=name: Check(name, "ok", ""))
    monkeypatch.setattr(environment, "ask_torch", lambda: seen(None))
    monkeypatch.setattr(environment, "disk", broken)
    assert command.look_at_machine(tmp_path / "deep" / "doctor.json", with_run=False) == 1
    out = capsys.readouterr().out
    assert "fail disk       OSError: no such device" in out
    stored = json.loads((tmp_path / "deep" / "doctor.json").read_text())
    assert [check["name"] for check in stored] == [
        "versions", "system", "processor", "memory", "driver", "CUDA", "cards", "NCCL", "vllm", "flash-attn", "disk",
        "shm", "hub",
    ]  # fmt: skip


def test_three_steps_on_this_machine(server: Server, tmp_path: Path) -> None:
    """A real run: its weights arrive, its checkpoints are whole; damage to one is named."""

    def begin(arguments: Any, limit: float) -> tuple[int, str]:
        done = server.run(arguments, tmp_path)
        return done.code, done.err

    done = trial.run(tmp_path / "run", trial.settings_for(False, "hf", None), begin=begin)
    found = {check.name: check for check in trial.checks(done, False, tmp_path / "log")}
    assert {name: check.state for name, check in found.items()} == {
        "run": "ok", "sync": "ok", "sleep": "skip", "checkpoint": "ok",
    }, done.said  # fmt: skip
    assert [row["step"] for row in done.memory] == [0, 1, 2]
    assert all(row["rest"] > 0 and row["after"] > 0 for row in done.memory)
    newest = max((tmp_path / "run" / "checkpoints").glob("*.ckpt"))
    newest.write_bytes(newest.read_bytes()[:-100])
    assert {c.name: c.state for c in trial.checks(done, False, tmp_path)}["checkpoint"] == "fail"
    shutil.rmtree(tmp_path / "run")
    failed = trial.run(tmp_path / "run", ["rollout=hf", "steps=0"], begin=begin)
    (check,) = trial.checks(failed, False, tmp_path / "log")
    assert check.state == "fail"
    assert "steps=0 must be at least 1" in check.found


@pytest.mark.parametrize(("awake", "asleep", "state"), [(60, 8, "ok"), (60, 59.9, "fail")])
def test_an_engine_that_does_not_sleep_is_told(tmp_path: Path, awake: float, asleep: float, state: str) -> None:
    row = {"step": 0, "awake": awake * 2**30, "asleep": asleep * 2**30}
    (tmp_path / "memory.jsonl").write_text(json.dumps(row) + "\n")
    assert trial.sleep_check(trial.Trial(tmp_path, 0, "", 1.0), gpu=True).state == state
