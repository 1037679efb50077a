"""Training over samplers on Ray: the very run of an engine in the trainer's process, on one rank and on several."""

from __future__ import annotations

import contextlib
import re
import signal
import threading
from pathlib import Path

import psutil
import pytest

from run_support import (
    SMALL,
    Server,
    assert_same_run,
    checkpoint,
    completions,
    members,
    status,
    table,
    until,
)  # fmt: skip

pytestmark = pytest.mark.ray
HF = [*SMALL[2:], "rollout=ray", "rollout.samplers=2", "rollout.ray.engine=hf"]


def own_folder(session: int) -> Path:
    """Where the Ray of a run keeps its sockets and logs."""
    lines = []
    for process in members(session):
        with contextlib.suppress(psutil.Error):
            lines += process.cmdline()
    return Path(re.findall(r"/tmp/r1zero-ray-\w+", " ".join(lines))[0])


def in_shared_memory() -> list[str]:
    """What a Ray of ours could leave there."""
    shared = Path("/dev/shm")
    return [p.name for p in shared.iterdir() if p.name.startswith(("plasma", "r1zero"))] if shared.is_dir() else []


@pytest.mark.vllm
@pytest.mark.slow
def test_the_weights_are_those_of_a_run_with_the_engine_in_its_own_process(server: Server, tmp_path: Path) -> None:
    """``experiment=demo rollout=ray rollout.samplers=2`` and ``rollout=vllm rollout.parts=2``, bit for bit, although
    a sampler is killed. Nothing is left: no process, no shared memory, no folder, no word on the terminal."""
    args = ["experiment=demo", *SMALL[3:], "steps=3", "checkpoint.keep=9"]
    args += ["rollout.kv_cache_gib=0.1", "rollout.max_num_seqs=64"]
    folders: list[Path] = []
    run = server.start([*args, "rollout=ray", "rollout.samplers=2", f"hydra.run.dir={tmp_path / 'ray'}"], tmp_path)

    def kill() -> None:
        until(lambda: (tmp_path / "ray/metrics.csv").exists() and len(table(tmp_path / "ray")) > 0)
        folders.append(own_folder(run.pid))
        samplers = [p for p in members(run.pid) if "ray::Sampler" in " ".join(p.cmdline())]
        assert len(samplers) == 2
        samplers[0].kill()

    killer = threading.Thread(target=kill)
    killer.start()
    ended = run.wait()
    killer.join()
    assert (ended.code, ended.errors) == (0, [])
    assert [folder.exists() for folder in folders] == [False]
    assert in_shared_memory() == []
    own = server.run([*args, "rollout=vllm", "rollout.parts=2", f"hydra.run.dir={tmp_path / 'own'}"], tmp_path)
    assert own.code == 0, own.err  # vLLM's C++ side has said a word on stderr
    assert_same_run(tmp_path / "ray", tmp_path / "own", 3)


@pytest.mark.slow
def test_ranks_that_sample_ahead_go_on_exactly(server: Server, tmp_path: Path) -> None:
    """Two ranks share two samplers and are one step ahead of the learner. Killed and resumed, they train on the very
    responses that waited, of every rank, and end with the weights of a run that nothing disturbed."""
    args = [
        *HF,
        "experiment=demo",
        "trainer=ddp",
        "trainer.accelerator=cpu",
        "trainer.devices=2",
        "rollout.async=1",
        "steps=8",
    ]
    args += ["eval.every=0", "checkpoint.keep=9", "checkpoint.every=1"]
    whole = server.run([*args, f"hydra.run.dir={tmp_path / 'whole'}"], tmp_path)
    assert whole.code == 0, whole.err
    lags = [int(float(row["sync/lag"])) for row in table(tmp_path / "whole") if "reward/mean" in row]
    assert lags == [0, *[2] * 7], "in optimizer steps"
    folder = tmp_path / "killed"
    run = server.start([*args, f"hydra.run.dir={folder}"], tmp_path)
    until(lambda: run.ended or (folder / "checkpoints/step_000001.ckpt").exists())
    everybody = [psutil.Process(run.pid), *psutil.Process(run.pid).children(recursive=True)]  # ranks lead groups
    for process in everybody:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    run.wait()
    newest = max((folder / "checkpoints").glob("*.ckpt"))
    waiting = checkpoint(folder, int(newest.stem[-6:]))["callbacks"]["RolloutCallback"]["ahead"]["ranks"]
    assert len({state["step"] for state in waiting}) == 1
    assert waiting[0]["groups"] != waiting[1]["groups"]
    again = server.run([f"resume={folder}"], tmp_path)
    assert again.code == 0, again.err
    assert_same_run(tmp_path / "whole", folder, 8)
    assert status(folder)["state"] == "finished"
    assert completions(folder).shape[0] == 8 * 32


@pytest.mark.slow
def test_samplers_end_with_a_trainer_that_is_killed(server: Server, tmp_path: Path) -> None:
    """kill -9 of the trainer: its Ray ends with it, and the folder that stays is removed by the next run."""
    folder = tmp_path / "run"
    run = server.start([*HF, "experiment=demo", "steps=200", "eval.every=0", f"hydra.run.dir={folder}"], tmp_path)
    until(lambda: (folder / "metrics.csv").exists() and len(table(folder)) > 0)
    abandoned = own_folder(run.pid)
    run.signal(signal.SIGKILL)
    assert server._ask({"wait": run.pid})["code"] == -signal.SIGKILL
    until(lambda: not members(run.pid), 40)  # Ray's agents alone would try to report it for a minute
    from r1zero.launch import cluster

    other, lock = cluster.own_folder()
    assert not abandoned.exists()
    lock.close()
    cluster.shutil.rmtree(other)
    assert in_shared_memory() == []


@pytest.mark.parametrize(
    ("args", "line"),
    [
        (["rollout=vllm_server"], "rollout=vllm_server is gone: use rollout=ray; rollout.samplers stands for"),
        (["rollout=ray", "rollout.ray.sampler=2"], "there is no setting 'sampler' here"),
        (["rollout=ray", "rollout.ray.address=10.0.0.1"], "write auto, host:port or ray://host:port"),
        (["rollout=ray", "rollout.ray.address=127.0.0.1:9"], "nobody answers there"),
        (["rollout=ray", "rollout.ray.transfer=nccl"], "no GPU was found"),
        (["reward.pool=ray", "reward.address=127.0.0.1:9"], "reward.address=127.0.0.1:9: nobody answers there"),
        (["-m", "hydra/launcher=ray_cluster"], "its plugin is not installed; pip install '.[ray-launcher]'"),
        (["rollout=vllm", "rollout.samplers=2"], "choose rollout=ray"),
        (["rollout=vllm", "rollout.async=1", "trainer.devices=2"], "use rollout=ray, whose samplers"),
    ],
)
def test_what_does_not_work_is_one_line(server: Server, tmp_path: Path, args: list[str], line: str) -> None:
    done = server.run(["experiment=demo", *args], tmp_path)
    assert done.code == 1
    assert line in done.err
    assert len(done.errors) == 1
