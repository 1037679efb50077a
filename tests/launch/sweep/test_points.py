"""Points of a sweep: their product and names, what a folder says, one process each (traps 55, 56)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from r1zero.errors import UserError
from r1zero.launch import sweep
from run_support import until

NAMES = sweep.Names("p", "g/s")

SCRIPT = """
import json, os, sys, time
from pathlib import Path
args = dict(a.split("=", 1) for a in sys.argv[1:])
folder = Path(args["hydra.run.dir"].strip("'"))
(folder / ".hydra").mkdir(parents=True, exist_ok=True)
(folder / "calls.jsonl").open("a").write(json.dumps(sys.argv[1:]) + "\\n")
kept = [a for a in sys.argv[1:] if not a.startswith("hydra.")]
import yaml
(folder / ".hydra" / "overrides.yaml").write_text(yaml.safe_dump(kept))
def status(state, **more):
    content = {"state": state, "steps": 4, "pid": os.getpid(), "host": os.uname().nodename, **more}
    (folder / "status.tmp").write_text(json.dumps(content))
    (folder / "status.tmp").replace(folder / "status.json")
status("running")
if "sleep" in args:
    print("waiting", flush=True)
    time.sleep(float(args["sleep"]))
if args.get("fail") == "named":
    status("failed", error="the disk is full")
    sys.exit(1)
if args.get("fail") == "silent":
    print("error: something went wrong", file=sys.stderr)
    os._exit(3)
status("finished")
"""


@pytest.fixture
def script(tmp_path: Path) -> str:
    (tmp_path / "point.py").write_text(SCRIPT)
    return str(tmp_path / "point.py")


def calls(folder: Path) -> list[list[str]]:
    return [json.loads(line) for line in (folder / "calls.jsonl").read_text().splitlines()]


def test_points_are_the_product_of_all_axes_and_the_command_line_wins() -> None:
    found = sweep.expand_points({"algo": "grpo,drgrpo", "seed": "0,1"}, ["experiment=mini", "seed=7,8,9"])
    assert len(found) == 6
    assert ["algo=grpo", "experiment=mini", "seed=7"] in found
    assert sweep.name_of(found[0], ["experiment"]) == "algo-grpo_seed-7"


def test_a_finished_point_is_left_alone(script: str, tmp_path: Path) -> None:
    folder = tmp_path / "p"
    for _ in range(2):
        assert sweep.run_point(script, ["seed=1", "sweep=fig8"], folder, NAMES) == 0
    (call,) = calls(folder)
    assert call == ["seed=1", "sweep=fig8", "name='p'", "group='g/s'", f"hydra.run.dir='{folder}'", "hydra.mode=RUN"]


def test_a_failed_point_is_named_with_its_error_and_runs_again(script: str, tmp_path: Path) -> None:
    named, silent = tmp_path / "named", tmp_path / "silent"
    assert sweep.run_point(script, ["fail=named"], named, NAMES) == 1
    assert sweep.why(named) == "the disk is full"
    assert sweep.run_point(script, ["fail=silent"], silent, NAMES) == 3
    assert sweep.read_state(silent).state == "interrupted"  # its process is gone without a word
    assert sweep.why(silent) == "something went wrong"
    assert sweep.run_point(script, ["fail=named"], named, NAMES) == 1
    assert len(calls(named)) == 2


def test_an_unfinished_point_goes_on_from_its_checkpoint(script: str, tmp_path: Path) -> None:
    folder = tmp_path / "p"
    sweep.run_point(script, ["fail=named"], folder, NAMES)
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / "step_000002.ckpt").touch()
    sweep.run_point(script, ["fail=named"], folder, NAMES)
    first, second = calls(folder)
    assert f"resume='{folder}'" in second
    assert not any(a.startswith("resume=") for a in first)


def test_a_folder_with_other_settings_or_in_use_is_refused(script: str, tmp_path: Path) -> None:
    folder = tmp_path / "p"
    sweep.run_point(script, ["seed=1"], folder, NAMES)
    with pytest.raises(UserError, match=r"holds a run with other settings \(seed=1, seed=2\)"):
        sweep.run_point(script, ["seed=2"], folder, NAMES)
    busy = tmp_path / "busy"
    busy.mkdir()
    (busy / "status.json").write_text(
        json.dumps({"state": "running", "steps": 4, "pid": os.getpid(), "host": os.uname().nodename})
    )
    who = rf"another process \({os.getpid()} on {os.uname().nodename}\); .* remove {busy}/status\.json"
    with pytest.raises(UserError, match=who):
        sweep.run_point(script, ["seed=1"], busy, NAMES)


def test_the_state_of_a_point_is_read_from_its_folder(tmp_path: Path) -> None:
    assert sweep.read_state(tmp_path) == sweep.PointState()
    status = {"state": "running", "steps": 10, "pid": os.getpid(), "host": os.uname().nodename}
    (tmp_path / "status.json").write_text(json.dumps(status))
    rows = "step,reward/mean,time/step\n" + "".join(f"{i},0.{i},2.0\n" for i in range(8))
    (tmp_path / "metrics.csv").write_text(rows)
    found = sweep.read_state(tmp_path)
    assert (found.state, found.step, found.steps) == ("running", 8, 10)
    assert found.reward == pytest.approx(0.5)  # steps 3 to 7
    assert found.eta == pytest.approx(4.0)
    (tmp_path / "metrics.csv").write_text(rows + "10,,\n")  # the last evaluation's row
    assert sweep.read_state(tmp_path).step == 8


def test_the_state_of_a_pretraining_is_read_from_its_figures(tmp_path: Path) -> None:
    """It has no rewards, numbers its steps from 1, and begins with a row of held-out figures alone."""
    status = {"state": "running", "steps": 10, "pid": os.getpid(), "host": os.uname().nodename}
    (tmp_path / "status.json").write_text(json.dumps(status))
    rows = "step,heldout/loss,train/loss,time/step\n0,5.9,,\n" + "".join(f"{i},,4.{i},2.0\n" for i in range(1, 8))
    (tmp_path / "metrics.csv").write_text(rows + "7,5.1,,\n")
    found = sweep.read_state(tmp_path)
    assert (found.state, found.step, found.steps, found.reward) == ("running", 7, 10, None)
    assert found.eta == pytest.approx(6.0)


def test_a_point_that_does_not_know_its_length_has_no_time_left(tmp_path: Path) -> None:
    """A pretraining of so many passes counts its tokens first: 0 steps are no end that lies behind it."""
    status = {"state": "running", "steps": 0, "pid": os.getpid(), "host": os.uname().nodename}
    (tmp_path / "status.json").write_text(json.dumps(status))
    (tmp_path / "metrics.csv").write_text("step,train/loss,time/step\n1,4.0,2.0\n")
    assert sweep.read_state(tmp_path).eta is None


def test_a_point_of_another_user_is_under_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its process may not be asked, and it is there: a second one in its folder would spoil both."""

    def not_allowed(pid: int, number: int) -> None:
        raise PermissionError

    status = {"state": "running", "steps": 9, "pid": 4242, "host": os.uname().nodename}
    (tmp_path / "status.json").write_text(json.dumps(status))
    monkeypatch.setattr(os, "kill", not_allowed)
    assert sweep.read_state(tmp_path).state == "running"


def test_the_table_says_what_became_of_every_point(script: str, tmp_path: Path, capsys) -> None:
    folders = {name: tmp_path / name for name in ("good", "bad", "never")}
    table = sweep.SweepTable("fig8", folders)
    table.start()
    sweep.run_point(script, ["seed=1"], folders["good"], NAMES)
    sweep.run_point(script, ["fail=named"], folders["bad"], NAMES)
    assert table.close() == ["bad", "never"]
    out = capsys.readouterr().out
    assert "1 of 3 points finished" in out
    assert "not finished: bad: the disk is full" in out


def test_a_point_ends_when_its_sweep_is_killed(script: str, tmp_path: Path) -> None:
    folder = tmp_path / "p"
    code = (
        "from pathlib import Path; from r1zero.launch import sweep\n"
        f"sweep.run_point({script!r}, ['sleep=600'], Path({str(folder)!r}), None)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code])
    until(lambda: sweep.read_state(folder).state == "running")
    parent.kill()
    parent.wait()
    until(lambda: sweep.read_state(folder).state == "interrupted")
