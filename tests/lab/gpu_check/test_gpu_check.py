"""The checks for a card, through the same code on the CPU at the smallest sizes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from r1zero.errors import UserError
from r1zero.lab.doctor.trial import Trial
from r1zero.lab.gpu_check import command
from r1zero.lab.gpu_check.checks import ONE_CARD, SEVERAL_CARDS, Place, Wrong, slept, within
from run_support import Server


@pytest.fixture(autouse=True)
def torch_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "ask_torch", lambda: {"torch": "2", "cuda": None, "nccl": None, "available": False})


def test_the_checks_run_on_a_cpu(server: Server, tmp_path: Path, capsys: Any) -> None:
    """Trials, an engine that takes its weights again, two runs of async, an engine that fails once; and a table."""

    def begin(arguments: Any, limit: float) -> tuple[int, str]:
        done = server.run(arguments, tmp_path)
        return done.code, done.err

    out = tmp_path / "check"
    names = ("colocated", "eager", "cycle", "async", "engine", "offload")
    words = ["--cpu", "--engine", "hf", "--out", str(out), "--only", *names]
    assert command.main(words, begin) == 0, capsys.readouterr().out
    told = json.loads((out / "results.json").read_text())
    assert {row["check"]: row["state"] for row in told["checks"]} == {
        "colocated": "ok", "eager": "skip", "cycle": "ok", "async": "ok", "engine restart": "ok", "offload": "ok",
    }  # fmt: skip
    table = (out / "table.md").read_text()
    assert table.startswith("Measured on CPU, ")
    assert (
        "| cycle | sample, sleep, wake, load, sample: equal responses | 16 responses equal in 3 rounds | ok |" in table
    )


def test_a_check_that_fails_is_a_result(tmp_path: Path, capsys: Any) -> None:
    """The next one begins, and the exit code is 1."""
    words = ["--cpu", "--engine", "hf", "--out", str(tmp_path / "out"), "--only", "colocated", "nccl"]
    assert command.main(words, lambda arguments, limit: (1, "error: no such thing\n")) == 1
    out = capsys.readouterr().out.splitlines()
    assert out[0].startswith("fail colocated")
    assert out[0].endswith("the run ended with code 1: error: no such thing")
    assert out[1].startswith("ok   nccl on one card")
    assert out[2].startswith("1 ok, 1 failed, 0 left out")


@pytest.mark.parametrize(
    ("words", "message"), [([], "torch sees no GPU"), (["--cpu", "--only", "nothing"], "choose from colocated, eager")]
)
def test_what_makes_no_sense_is_one_line(tmp_path: Path, words: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        command.main([*words, "--out", str(tmp_path / "out")])


def test_several_cards_are_a_list_of_their_own(tmp_path: Path) -> None:
    rows = command.run(SEVERAL_CARDS, Place(tmp_path, True, "vllm"), cards=1)
    assert [row["state"] for row in rows] == ["skip"] * len(SEVERAL_CARDS)
    assert len({item.name for item in [*ONE_CARD, *SEVERAL_CARDS]}) == len(ONE_CARD) + len(SEVERAL_CARDS)


def test_figures_that_are_off_are_told(tmp_path: Path) -> None:
    assert within(105.0, 100.0, 0.1, "at rest").endswith("(+5.0%)")
    with pytest.raises(Wrong, match="planned"):
        within(120.0, 100.0, 0.1, "at rest")
    (tmp_path / "memory.jsonl").write_text(json.dumps({"step": 0, "awake": 5, "asleep": 5}) + "\n")
    with pytest.raises(Wrong, match=r"sleep frees 0\.0 GiB"):
        slept(Trial(tmp_path, 0, "", 1.0))
