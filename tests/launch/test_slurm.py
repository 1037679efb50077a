"""The SLURM script on two machines that are one: torchrun on each, a warning, the queue, the end."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from run_support import ENVIRONMENT, ROOT, SMALL, assert_no_orphans, status, table, until

SCRIPT = ROOT / "scripts" / "slurm" / "train.sbatch"
STEPS = 12

SRUN = """#!/bin/bash
# Runs a command once for each machine; --overlap reaches processes that on one host are seen by all.
nodes=1
overlap=0
while [[ "$1" == --* ]]; do
    case "$1" in
        --nodes=*) nodes=${1#*=} ;;
        --overlap) overlap=1 ;;
    esac
    shift
done
[ $overlap = 1 ] && nodes=1
pids=()
for ((node = 0; node < nodes; node++)); do SLURM_NODEID=$node "$@" & pids+=($!); done
code=0
for pid in "${pids[@]}"; do wait "$pid" || code=$?; done
exit $code
"""
SCONTROL = """#!/bin/bash
case "$1" in
    show) echo 127.0.0.1; echo 127.0.0.1 ;;
    *) echo "$@" >> "$(dirname "$0")/asked" ;;
esac
"""


@pytest.fixture
def cluster(tmp_path: Path) -> Path:
    """Folder with srun and scontrol."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    return folder


def submit(cluster: Path, run: Path, *arguments: str) -> subprocess.Popen[str]:
    environment = {k: v for k, v in os.environ.items() if k not in ("LOCAL_RANK", "RANK", "WORLD_SIZE", "NODE_RANK")}
    environment |= ENVIRONMENT | {
        "PATH": f"{cluster}:{environment['PATH']}",
        "PYTHON": sys.executable,
        "RUN": str(run),
        "SLURM_JOB_ID": str(os.getpid()),
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_JOB_NODELIST": "one,two",
        "SLURM_GPUS_ON_NODE": "1",
        "SLURM_SUBMIT_DIR": str(ROOT),
    }
    return subprocess.Popen(
        ["bash", str(SCRIPT), *arguments],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip


def test_the_script_is_sound() -> None:
    """bash reads it; shellcheck too, where it is installed."""
    subprocess.run(["bash", "-n", str(SCRIPT)], check=True)
    if shutil.which("shellcheck"):
        subprocess.run(["shellcheck", "--exclude=SC2016", str(SCRIPT)], check=True)


@pytest.mark.slow
def test_two_machines_are_warned_requeued_and_finish(cluster: Path, tmp_path: Path) -> None:
    """The signal before the time limit: both ranks finish their step, the job is requeued and ends as asked."""
    run = tmp_path / "run"
    arguments = [*SMALL, "trainer=ddp", "trainer.accelerator=cpu", f"steps={STEPS}", "eval.every=0"]
    job = submit(cluster, run, *arguments)
    try:
        until(lambda: job.poll() is not None or ((run / "metrics.csv").is_file() and len(table(run)) >= 2))
        assert job.poll() is None, job.communicate()[0]
        job.send_signal(signal.SIGUSR1)
        out, _ = job.communicate(timeout=300)
    finally:
        if job.poll() is None:
            os.killpg(job.pid, signal.SIGKILL)
    assert job.returncode == 0, out
    assert "back into the queue" in out
    assert (cluster / "asked").read_text().split() == ["requeue", str(os.getpid())]
    assert status(run)["state"] == "interrupted"
    done = status(run)["step"]
    assert 2 <= done < STEPS
    assert_no_orphans(job.pid)

    again = submit(cluster, run, *arguments)
    out, _ = again.communicate(timeout=600)
    assert again.returncode == 0, out
    assert f"continuing from {run}" in out
    assert status(run)["state"] == "finished"
    assert [int(row["step"]) for row in table(run)][:STEPS] == list(range(STEPS))
    assert len((cluster / "asked").read_text().splitlines()) == 1
    samples = sorted(p.name for p in (run / "completions").glob("step_000001_*"))
    assert samples == ["step_000001_rank0.parquet", "step_000001_rank1.parquet"]


def test_a_run_that_fails_is_not_requeued(cluster: Path, tmp_path: Path) -> None:
    job = submit(cluster, tmp_path / "run", *SMALL, "trainer=ddp", "trainer.accelerator=cpu", "algo.minibatch_size=7")
    out, _ = job.communicate(timeout=300)
    assert job.returncode != 0
    assert "algo.minibatch_size=7 does not divide" in out
    assert not (cluster / "asked").exists()
    assert_no_orphans(job.pid)


CRASHING = """#!/bin/bash
# In place of Python: writes a checkpoint where CHECKPOINT is set, says what it was told, and dies.
echo "$@" >> "$RUN/told"
case "$*" in
    *ray.scripts*) exit 0 ;;
esac
[ -n "$CHECKPOINT" ] && mkdir -p "$RUN/checkpoints" "$RUN/.hydra" && sleep 0.02 \\
    && touch "$RUN/checkpoints/step_00000$CHECKPOINT.ckpt" "$RUN/.hydra/overrides.yaml"
exit 9
"""


def crash(cluster: Path, run: Path, checkpoint: str, *arguments: str, **more: str) -> tuple[int, str]:
    """Submit a job whose training crashes."""
    python = cluster / "python"
    python.write_text(CRASHING)
    python.chmod(0o755)
    run.mkdir(exist_ok=True)
    environment = os.environ | {
        "PATH": f"{cluster}:{os.environ['PATH']}", "PYTHON": str(python), "RUN": str(run), "SLURM_JOB_ID": "77",
        "SLURM_JOB_NUM_NODES": "1", "SLURM_JOB_NODELIST": "one", "SLURM_GPUS_ON_NODE": "8", "CHECKPOINT": checkpoint,
        "SLURM_SUBMIT_DIR": str(run),
    } | more  # fmt: skip
    done = subprocess.run(
        ["bash", str(SCRIPT), *arguments], env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    return done.returncode, done.stdout + done.stderr


def test_a_crash_goes_back_into_the_queue_while_there_is_progress(cluster: Path, tmp_path: Path) -> None:
    """As often as --max-restarts allows, and each time only after a checkpoint that is newer than the start."""
    run = tmp_path / "run"
    assert crash(cluster, run, "", "--max-restarts=2", "seed=1")[0] == 9
    assert not (cluster / "asked").exists()
    for number in (1, 2):
        code, out = crash(cluster, run, str(number), "--max-restarts=2", "seed=1")
        assert code == 0
        assert f"ended with code 9; back into the queue, restart {number} of 2" in out
    assert (cluster / "asked").read_text().split() == ["requeue", "77"] * 2
    assert crash(cluster, run, "3", "--max-restarts=2", "seed=1")[0] == 9
    told = (run / "told").read_text().splitlines()
    assert "seed=1" in told[0]
    assert "--max-restarts" not in told[0]
    assert told[2].endswith(f"train.py resume={run}")


def test_ray_starts_beside_the_ranks_with_the_cards_that_they_leave(cluster: Path, tmp_path: Path) -> None:
    """The head of the cluster listens before the ranks are told its address."""
    run = tmp_path / "run"
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        port = listening.getsockname()[1]
        crash(cluster, run, "", "rollout=ray", "rollout.samplers=4", RAY_GPUS="4", PORT=str(port - 20000))
    ray, ranks = sorted((run / "told").read_text().splitlines(), key=lambda line: "ray.scripts" not in line)
    assert ray == (
        f"-m ray.scripts.scripts start --block --disable-usage-stats --num-gpus=4 --head --port={port} "
        "--include-dashboard=false"
    )
    assert "--nproc-per-node=4" in ranks
    assert f"trainer.devices=4 rollout=ray rollout.samplers=4 rollout.ray.address=127.0.0.1:{port}" in ranks
