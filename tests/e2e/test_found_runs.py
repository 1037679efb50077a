"""What trying the product found about run folders and sweeps: nothing is lost, whatever was damaged or mistyped."""

from __future__ import annotations

import io
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import torch

from run_support import ENVIRONMENT, ROOT, SMALL, Server, assert_same_run, start, status, until, wait

TIME = "%Y-%m-%d_%H-%M-%S"
SHORT = [*SMALL, "eval.at_start=false", "eval.every=0", "benchmarks=none", "logger=none"]


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def doctor(folder: Path) -> list[str]:
    done = subprocess.run([sys.executable, ROOT / "scripts" / "doctor.py", folder], capture_output=True, text=True)
    lines = done.stdout.splitlines()
    assert done.returncode == int("whole (" not in lines[0]), done.stderr
    return lines


@pytest.fixture
def copied(undisturbed: Path, tmp_path: Path) -> Path:
    """A run with checkpoints of the steps 2, 4 and 6, as it is after a kill."""
    folder = tmp_path / "run"
    shutil.copytree(undisturbed, folder)
    return folder


def test_checkpoints_that_can_not_be_read_are_named_and_nothing_is_emptied(server: Server, copied: Path) -> None:
    """A1: cut in half, or an error of the disk; metrics.csv and completions/ stay."""
    for path in copied.glob("checkpoints/*.ckpt"):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    before = content(copied)
    done = server.run(["resume=run", "steps=8", "logger=none"], copied.parent)
    assert done.code == 1
    (line,) = done.errors
    for step in (2, 4, 6):
        assert f"run/checkpoints/step_00000{step}.ckpt can't be read (" in line
    assert "To start over there, remove checkpoints, metrics.csv and completions of run" in line
    assert content(copied) == before
    shutil.rmtree(copied / "checkpoints")
    before = content(copied)
    done = server.run(["resume=run", "steps=8", "logger=none"], copied.parent)
    assert done.code == 1
    assert done.errors[0].startswith("error: run holds 7 row(s) of metrics.csv and no checkpoint to resume from")
    assert content(copied) == before


def test_a_damaged_tensor_is_found_and_the_checkpoint_before_is_taken(server: Server, copied: Path) -> None:
    """A3: 512 bytes are overwritten; torch would load them. The doctor names the file."""
    newest = copied / "checkpoints" / "step_000006.ckpt"
    state = torch.load(newest, weights_only=True)["state_dict"]
    data, largest = newest.read_bytes(), max(state.values(), key=lambda tensor: tensor.numel())
    at = data.index(largest.numpy().tobytes()[:64])
    newest.write_bytes(data[:at] + b"\xff" * 512 + data[at + 512 :])
    weights = copied / "policy" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"abcd")
    found = doctor(copied)
    assert [line for line in found if "step_000006.ckpt: the checksum of" in line]
    assert [line for line in found if line.endswith("policy/model.safetensors: it is not what was written")]
    assert len(found) == 2
    done = server.run(["resume=run", "steps=6", "logger=none"], copied.parent)
    assert done.code == 0  # it has finished
    (copied / "status.json").unlink()
    done = server.run(["resume=run", "logger=none"], copied.parent)
    assert done.code == 0, done.err
    assert "step_000006.ckpt can't be read (the checksum of" in done.err
    assert "continuing from run/checkpoints/step_000004.ckpt" in done.err
    assert len(doctor(copied)) == 1


def test_a_second_run_in_a_folder_that_is_held_changes_nothing(server: Server, tmp_path: Path) -> None:
    """A2: its settings least of all; the first one is killed before a checkpoint, and goes on with its own."""
    folder = tmp_path / "run"
    first = server.start([*SHORT, "seed=3", "hydra.run.dir=run"], tmp_path, "stop_in_rollout:1")
    until(lambda: (folder / "status.json").exists() and status(folder)["state"] == "running")
    until(lambda: (folder / "stopped").exists())
    before = content(folder)
    second = server.run([*SHORT, "seed=4", "steps=2", "hydra.run.dir=run"], tmp_path)
    assert second.code == 1
    assert second.errors == [
        f"error: another run is using run ({first.pid} on {os.uname().nodename}); wait for it or choose another folder"
    ]
    assert content(folder) == before
    first.signal(signal.SIGKILL)
    first.wait()
    done = server.run(["resume=run", "steps=1"], tmp_path)
    assert done.code == 0, done.err
    assert "seed: 3" in (folder / "config.yaml").read_text()


def test_a_refused_evaluation_changes_nothing_and_a_cut_part_is_drawn_again(server: Server, tmp_path: Path) -> None:
    """A4: other settings on resume; a part of the responses that is cut, one whose bytes were changed."""
    script = {"script": "scripts/evaluate.py"}
    args = ["model=tiny", "template=question", "rollout=hf", "benchmarks=arithmetic", "limit=8", "chunk=4"]
    args += ["sampling.max_tokens=16", "bootstrap=50", "hydra.run.dir=run"]
    done = server.run(args, tmp_path, **script)
    assert done.code == 0, done.err
    folder = tmp_path / "run"
    before = content(folder)
    done = server.run(["resume=run", "sampling.n=3", "sampling.temperature=1"], tmp_path, **script)
    assert done.code == 1
    assert done.errors == [
        "error: resume=run: its responses were drawn with sampling.n=1, not 3; give the same settings, or start a new "
        "evaluation"
    ]
    assert content(folder) == before
    parts = sorted(folder.glob("responses/arithmetic/*.parquet"))
    parts[0].write_bytes(parts[0].read_bytes()[:-100])
    damaged = bytearray(parts[1].read_bytes())
    damaged[100:140] = bytes(40)
    parts[1].write_bytes(damaged)
    done = server.run(["resume=run"], tmp_path, **script)
    assert done.code == 0, done.err
    assert [line.split(" can't be read")[0] for line in done.err.splitlines() if "are drawn again" in line] == [
        f"WARNING: run/responses/arithmetic/{part.name}" for part in parts
    ]
    again = pd.concat(pd.read_parquet(part) for part in parts).drop(columns="seconds")
    first = pd.concat(pd.read_parquet(io.BytesIO(before[f"responses/arithmetic/{p.name}"])) for p in parts)
    pd.testing.assert_frame_equal(again, first.drop(columns="seconds"))


def test_points_of_lists_paths_and_long_names_have_folders_of_their_own(tmp_path: Path) -> None:
    """A8, C6: the folders' names and what is composed; the points themselves are not run."""
    from r1zero.launch.arguments import folder_name

    one, two = folder_name("template.stop-['#']"), folder_name("template.stop-['!']")
    assert one.startswith("template.stop---")
    assert one != two
    assert folder_name("algo-grpo_seed-0", ["algo=grpo", "seed=0"]) == "algo-grpo_seed-0"
    axes = [f"optim.long_name_of_a_setting_{axis}" for axis in range(10)]
    names = {folder_name("_".join(f"{a}-{n >> i & 1}" for i, a in enumerate(axes))) for n in range(1024)}
    assert len(names) == 1024
    assert max(len(name.encode()) for name in names) <= 160
    first = folder_name("a-x_b-y_b-z", ["a=x_b-y", "b=z"])
    assert first != folder_name("a-x_b-y_b-z", ["a=x", "b=y_b-z"])


def test_a_point_that_took_no_step_runs_again_with_other_settings(tmp_path: Path) -> None:
    """A9: the first time its model's folder is missing, the second time it is named right; then it is protected."""
    args = ["-m", "seed=0,1", *SHORT, "steps=1", "hydra.sweep.dir=sweep"]
    done = wait(start([*args, "rollout.kv_cache_gib=0.5", "+trainer.foo=1"], tmp_path))
    assert done.code == 1
    assert "0 of 2 points finished" in done.out
    done = wait(start(args, tmp_path))
    assert done.code == 0, done.err
    assert "2 of 2 points finished" in done.out
    done = wait(start([*args, "optim.lr=1e-5"], tmp_path))
    assert done.code == 1
    assert "0 of 2 points finished" in done.out
    assert "seed-0 holds a run with other settings (optim.lr=1e-05)" in done.err


@pytest.mark.parametrize(
    ("name", "argument"),
    [("o'brien", "hydra.run.dir=o'brien"), ("a,b", "hydra.run.dir=a,b"), ("[/b]", "hydra.run.dir=[/b]")],
)
def test_any_name_of_a_folder_will_do(server: Server, tmp_path: Path, name: str, argument: str) -> None:
    """C6, C13: apostrophes, commas, brackets; as a run folder and on resume."""
    done = server.run([*SHORT, "steps=1", argument], tmp_path)
    assert done.code == 0, done.err
    assert status(tmp_path / name)["state"] == "finished"
    done = server.run([f"resume={name}"], tmp_path)
    assert done.code == 0, done.err
    assert done.out.startswith(f"nothing to do: {name} finished")


@pytest.mark.parametrize("argument", ["name=../../x", "name=/tmp/x", "=3", "name="])
def test_names_that_are_none_are_refused_in_one_line(server: Server, tmp_path: Path, argument: str) -> None:
    """C13."""
    done = server.run([argument, "experiment=demo"], tmp_path)
    assert done.code == 1
    assert len(done.errors) == 1
    assert "not the name of a folder" in done.errors[0] or "written key=value" in done.errors[0]
    assert not list(tmp_path.iterdir())


def test_a_sweep_over_paths_and_options(server: Server, undisturbed: Path, tmp_path: Path) -> None:
    """C6: folders and options in one list, files in another, names with a quote and a comma among them."""
    shutil.copytree(undisturbed / "policy", tmp_path / "o'brien")
    rows = '{"question": "1 + 1 = ?", "answer": "2"}\n' * 8
    for name in ("a.jsonl", "b,c.jsonl"):
        (tmp_path / name).write_text(rows)
    lists = [r"model=tiny,'o\'brien'", "data='b,c.jsonl',a.jsonl"]
    done = server.run(["-m", *lists, *SHORT, "steps=1", "hydra.sweep.dir=sweep"], tmp_path)
    assert done.code == 0, done.err
    assert "4 of 4 points finished" in done.out
    assert len(list((tmp_path / "sweep").glob("*/policy"))) == 4


def test_the_config_of_hydra_itself_is_printed(tmp_path: Path) -> None:
    """C6: ``--cfg hydra --resolve``."""
    done = subprocess.run(
        [sys.executable, ROOT / "train.py", "--cfg", "hydra", "--resolve"],
        cwd=tmp_path,
        env=os.environ | ENVIRONMENT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "output_subdir: null" in done.stdout
    assert not list(tmp_path.iterdir()), "what is only shown makes no folder"


def test_a_new_run_never_goes_on_in_a_folder_of_the_same_second(server: Server, tmp_path: Path) -> None:
    """An evaluation that began within the second of one that had ended took its folder for one to go on with."""
    small = ["model=tiny", "template=question", "benchmarks=arithmetic", "limit=2", "rollout=hf"]
    small += ["sampling.max_tokens=32", "name=e"]
    first = server.run([*small, "hydra.run.dir=outputs/e/FIRST"], tmp_path, script="scripts/evaluate.py")
    assert first.code == 0, first.err
    now = int(time.time())
    taken = [tmp_path / "outputs/e" / time.strftime(TIME, time.localtime(now + s)) for s in range(900)]
    for folder in taken:
        folder.symlink_to("FIRST")
    before = content(tmp_path / "outputs/e/FIRST")
    again = server.run([*small, "sampling.n=4", "sampling.temperature=0.6"], tmp_path, script="scripts/evaluate.py")
    assert again.code == 0, again.err
    assert content(tmp_path / "outputs/e/FIRST") == before
    (made,) = (tmp_path / "outputs/e").glob("*_2")
    assert status(made)["state"] == "finished"
    refused = server.run(["rescore=outputs/e/FIRST", "reward.timeout=-1"], tmp_path, script="scripts/evaluate.py")
    assert refused.code == 1
    assert not list((tmp_path / "outputs/e/FIRST").glob("rescored/*"))


def test_a_doctor_of_a_whole_run_finds_nothing(undisturbed: Path) -> None:
    (line,) = doctor(undisturbed)
    assert line.endswith("whole (run finished, step 6 of 6, 3 checkpoint(s))")
    assert_same_run(undisturbed, undisturbed, 6)
