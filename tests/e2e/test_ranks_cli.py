"""Two gloo ranks, each with an engine of its own: one folder, one log, disjoint questions."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path

import pandas as pd
import psutil
import pytest

from r1zero.batch import Prompt
from r1zero.config import DataConfig, SourceConfig
from r1zero.data.loader import PromptLoader
from r1zero.data.prompts import load_questions
from r1zero.launch.rank_watch import ORPHAN
from run_support import SMALL, Server, audited, members, start, status, table, until, wait

TWO = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "steps=2", "eval.every=0", "eval.at_start=false"]
TWO += ["checkpoint.every=1"]

pytestmark = pytest.mark.slow


def samples(folder: Path, step: int, rank: int) -> pd.DataFrame:
    return pd.read_parquet(folder / "completions" / f"step_{step:06d}_rank{rank}.parquet")


def assert_two_ranks_ran(folder: Path) -> None:
    rows = table(folder)
    assert status(folder)["state"] == "finished"
    assert len(list((folder / "completions").iterdir())) == 4
    for step in range(2):
        parts = [samples(folder, step, rank) for rank in (0, 1)]
        assert [len(part) for part in parts] == [16, 16]
        assert set(parts[0]["question"]).isdisjoint(parts[1]["question"])
        together = pd.concat(parts)
        # Means over the responses of both ranks, not one rank's and not a mean of means.
        assert float(rows[step]["reward/mean"]) == pytest.approx(together["reward"].mean())
        assert float(rows[step]["length/mean"]) == pytest.approx(together["tokens"].mean())
        right = together[together["status"] == "right"]
        if len(right):
            assert float(rows[step]["length/correct"]) == pytest.approx(right["tokens"].mean())
        assert float(rows[step]["length/max"]) == together["tokens"].max()
        assert int(float(rows[step]["progress/optimizer_step"])) == 2 * (step + 1)
        assert float(rows[step]["sync/logprob_diff_mean"]) < 1e-5
    assert float(rows[1]["progress/tokens"]) == sum(
        samples(folder, s, r)["tokens"].sum() for s in (0, 1) for r in (0, 1)
    )
    assert json.loads((folder / "summary.json").read_text())["rollout_steps"] == 2


@pytest.mark.vllm
def test_lightning_starts_two_ranks_with_vllm(server: Server, tmp_path: Path) -> None:
    done = server.run([*SMALL, *TWO, "rollout=vllm", "rollout.kv_cache_gib=0.3", "hydra.run.dir=run"], tmp_path)
    assert done.code == 0, done.err
    assert [p.name for p in tmp_path.iterdir()] == ["run"]
    assert done.out.count("2 rank(s)") == 1, "one rank speaks"
    assert done.out.count("tokens sampled in") == 1
    assert_two_ranks_ran(tmp_path / "run")


def mixture(folder: Path) -> DataConfig:
    """5, 4 and 3 questions of three files; of the third those before 2023, which are its first 6."""
    sources = {}
    for name, count in (("asdiv", 5), ("math", 4), ("aime", 3)):
        rows = [{"problem": f"{name}: {i} + 1 = ?", "answer": i + 1, "Year": 2017 + i} for i in range(9)]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        where = {"Year": {"below": 2023}} if name == "aime" else {}
        sources[name] = SourceConfig(path=str(folder / f"{name}.jsonl"), count=count, where=where)
    return DataConfig(name="mix3k", sources=sources, rows=12)


def test_torchrun_starts_two_ranks_in_one_folder(tmp_path: Path) -> None:
    """Each rank composes its own config; the time in the folder's name must be the same for all.

    A mixture is asked in the order that one rank has.
    """
    questions = load_questions(mixture(tmp_path))
    launcher = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
    mixed = ["data=mix3k", "data.rows=12"]
    for name, count in (("asdiv", 5), ("math", 4), ("aime", 3)):
        mixed += [f"data.sources.{name}.path={tmp_path / name}.jsonl", f"data.sources.{name}.count={count}"]
    done = wait(start([*SMALL, *TWO, *mixed, "seed=3", "paths.outputs=out"], tmp_path, command=launcher))
    assert done.code == 0, done.err
    (folder,) = (tmp_path / "out" / "demo").iterdir()
    assert done.out.count("2 rank(s)") == 1
    assert_two_ranks_ran(folder)
    one = PromptLoader([Prompt(q, q.text, [1]) for q in questions], 4, 2, seed=3)
    for step, batch in enumerate(one):
        asked = pd.concat(samples(folder, step, rank) for rank in (0, 1))["question"].tolist()
        assert asked == [p.question.text for p in batch.prompts for _ in range(8)]
    shares = {name: float(table(folder)[0][f"source/{name}/share"]) for name in ("asdiv", "math", "aime")}
    assert sum(shares.values()) == pytest.approx(1)
    assert {"weights", "update", "loss", "advantages", "sampler (nats)"} <= audited(folder, 0, 1).keys()


def test_srun_starts_two_ranks_in_one_folder(tmp_path: Path) -> None:
    """What srun sets for its tasks is all there is to go by: Lightning takes them for ranks, and so does the folder."""
    job = {"SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2", "SLURM_JOB_ID": "4711", "SLURM_STEP_ID": "3"}
    job |= {"SLURM_JOB_NAME": "rl", "SLURM_NODEID": "0", "SLURM_NNODES": "1", "SLURM_NODELIST": "localhost"}
    ranks = [job | {"SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)} for rank in (0, 1)]
    started = [start([*SMALL, *TWO, "paths.outputs=out"], tmp_path, env=env) for env in ranks]
    first, second = (wait(process) for process in started)
    assert (first.code, second.code) == (0, 0), first.err + second.err
    (folder,) = (tmp_path / "out" / "demo").iterdir()
    assert folder.name == "slurm_4711.3"
    assert first.out.count("2 rank(s)") == 1
    assert second.out == "", "one rank speaks"
    assert_two_ranks_ran(folder)


def test_a_sweep_over_two_ranks_is_one_sweep(tmp_path: Path) -> None:
    """The second rank starts no sweep of its own."""
    done = wait(start([*SMALL, *TWO, "-m", "seed=5", "hydra.sweep.dir=sweep"], tmp_path))
    assert done.code == 0, done.err
    (folder,) = (p for p in (tmp_path / "sweep").iterdir() if p.is_dir())
    assert_two_ranks_ran(folder)


def test_ctrl_c_ends_both_ranks_with_one_checkpoint(server: Server, tmp_path: Path) -> None:
    """The signal reaches one rank; both finish the step, and the resumed run goes on."""
    args = [*SMALL, *TWO, "steps=100", "hydra.run.dir=run"]
    folder = tmp_path / "run"
    process = server.start(args, tmp_path)
    until(lambda: (folder / "completions" / "step_000000_rank1.parquet").exists() or process.ended)
    process.signal(signal.SIGINT)
    done = process.wait()
    assert done.code == 130, done.err
    state = status(folder)
    assert state["state"] == "interrupted"
    step = state["step"]
    assert (folder / "checkpoints" / f"step_{step:06d}.ckpt").is_file()
    done = server.run(["resume=run", f"steps={step + 1}"], tmp_path)
    assert done.code == 0, done.err
    assert status(folder)["step"] == step + 1


@pytest.mark.parametrize("rank", [1, 0])
def test_a_rank_that_dies_ends_the_run_with_the_reason(server: Server, tmp_path: Path, rank: int) -> None:
    """kill -9 of one rank: the other, waiting in a collective for half an hour, ends soon and says why."""
    process = server.start([*SMALL, *TWO, "steps=1000", "hydra.run.dir=run"], tmp_path)
    folder = tmp_path / "run"
    until(lambda: (folder / "completions" / "step_000000_rank1.parquet").exists() or process.ended)
    (second,) = (p for p in psutil.Process(process.pid).children() if any("train.py" in word for word in p.cmdline()))
    (second if rank else psutil.Process(process.pid)).kill()
    until(lambda: not members(process.pid), 180)
    done = process.wait()
    said = [line for line in done.errors if "error: " in line]
    if rank:
        assert done.code == 1
        assert said == ["error: rank 1 ended with signal SIGKILL: the other ranks are ended too"]
        assert status(folder)["state"] == "failed"
        assert status(folder)["error"] == said[0].removeprefix("error: ")
    else:
        assert done.code == -9
        # What it hears first: the collective's word, or, in the middle of sampling, that its parent has gone.
        lost = "another rank has ended, and this one can't continue without it; the message of the other says why"
        assert said in ([f"[rank 1] error: {lost}"], [f"[rank 1] error: {ORPHAN}"])
