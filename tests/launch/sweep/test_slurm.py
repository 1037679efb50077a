"""Points of a sweep in jobs of a SLURM launcher: on one machine with several GPUs, and on several machines."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from r1zero.errors import UserError
from r1zero.launch import slurm, sweep
from r1zero.launch.run_folder import Status

JOB = {
    "SLURM_JOB_ID": "7",
    "SLURM_JOB_NAME": "sweep",
    "SLURM_NTASKS": "1",
    "SLURM_NTASKS_PER_NODE": "1",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "0",
    "SLURM_NNODES": "1",
    "SLURM_STEP_NUM_NODES": "1",
    "SLURM_STEP_NODELIST": "one,two",
    "SLURM_GPUS_ON_NODE": "2",
}

POINT = """
import json, os, sys
from pathlib import Path
folder = Path(next(a for a in sys.argv if a.startswith("hydra.run.dir=")).split("=")[1].strip("'"))
rank, ranks = os.environ["RANK"], os.environ["WORLD_SIZE"]
(folder / f"rank{rank}").write_text(f"{ranks} {os.environ['MASTER_ADDR']} {os.environ.get('SLURM_NTASKS')}")
if rank == "0":
    status = {"state": "finished", "steps": 4, "pid": os.getpid(), "host": os.uname().nodename}
    (folder / "status.json").write_text(json.dumps(status))
"""


@pytest.fixture
def job(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """The environment of a job's task, and a scontrol that knows two machines, both of them this one."""
    for name, value in JOB.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "scontrol").write_text("#!/bin/sh\necho 127.0.0.1\necho 127.0.0.1\n")
    (tmp_path / "bin" / "scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    return monkeypatch


def test_lightning_starts_the_ranks_of_a_point_on_one_machine(job: pytest.MonkeyPatch) -> None:
    """One task with two GPUs: else Lightning takes the task for one of the ranks, and two devices for a mistake."""
    from lightning_fabric.plugins.environments import SLURMEnvironment

    assert SLURMEnvironment.detect()
    assert slurm.machines() == (1, 0)
    kept = slurm.environment()
    assert kept["SLURM_JOB_ID"] == "7"
    for name in JOB.keys() - kept.keys():
        job.delenv(name)
    assert not SLURMEnvironment.detect()


def test_two_machines_run_one_point_together(job: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Each task starts its machine's ranks, and neither takes the other for somebody else's run."""
    (tmp_path / "point.py").write_text(POINT)
    folder = tmp_path / "point"
    code = (
        "import sys; from pathlib import Path; from r1zero.launch import sweep\n"
        "sys.exit(sweep.run_point(sys.argv[1], ['seed=1'], Path(sys.argv[2]), None))"
    )
    two = {
        "SLURM_STEP_NUM_NODES": "2",
        "SLURM_NNODES": "2",
        "SLURM_GPUS_ON_NODE": "1",
        "SLURM_JOB_ID": str(os.getpid()),
    }
    command = [sys.executable, "-c", code, str(tmp_path / "point.py"), str(folder)]
    tasks = [
        subprocess.Popen(command, env=os.environ | two | {"SLURM_NODEID": str(n), "OMP_NUM_THREADS": "1"})
        for n in (1, 0)
    ]
    try:
        assert [task.wait(timeout=300) for task in tasks] == [0, 0], (folder / "console.log").read_text()
    finally:
        for task in tasks:
            task.kill()
    assert [(folder / f"rank{rank}").read_text() for rank in (0, 1)] == ["2 127.0.0.1 None"] * 2
    assert sweep.read_state(folder).state == "finished"


def test_what_slurm_does_not_say_is_asked_for(job: pytest.MonkeyPatch) -> None:
    job.setenv("SLURM_STEP_NUM_NODES", "2")
    job.setenv("SLURM_NODEID", "1")
    assert slurm.machines() == (2, 1)
    assert slurm.torchrun(2, 1)[2:6] == ["--nnodes=2", "--node-rank=1", "--nproc-per-node=2", "--master-addr=127.0.0.1"]
    job.setenv("PATH", "")
    with pytest.raises(UserError, match="scontrol does not say which machines one,two are"):
        slurm.torchrun(2, 1)
    job.delenv("SLURM_GPUS_ON_NODE")
    with pytest.raises(UserError, match=r"hydra\.launcher\.gpus_per_node"):
        slurm.torchrun(2, 1)


def test_a_job_that_is_requeued_on_another_machine_goes_on_with_its_point(
    job: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It was killed without a word; of a job of another number nothing is known."""
    for number, state in (("7", "interrupted"), ("8", "running")):
        job.setenv("SLURM_JOB_ID", number)
        Status(tmp_path, is_main=True, steps=4).write("running")
        file = tmp_path / "status.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"host": "elsewhere"}))
        job.setenv("SLURM_JOB_ID", "7")
        assert sweep.read_state(tmp_path).state == state


@pytest.mark.parametrize(
    "other",
    [{"SLURM_NTASKS": "1"}, {"SLURM_JOB_NAME": "bash"}, {"SLURM_JOB_NAME": "interactive"}, {"LOCAL_RANK": "0"}],
)
def test_no_ranks_of_srun(monkeypatch: pytest.MonkeyPatch, other: dict[str, str]) -> None:
    """A task alone, a shell, and a rank of torchrun's inside a task."""
    monkeypatch.delenv("RANK", raising=False)
    for name, value in (JOB | {"SLURM_NTASKS": "2"} | other).items():
        monkeypatch.setenv(name, value)
    assert slurm.name_ranks() == ""
    assert "RANK" not in os.environ
