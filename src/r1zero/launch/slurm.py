"""A sweep's point in a job of a SLURM launcher: the ranks are ours to start. Imports nothing slow.

``hydra/launcher=slurm`` runs a task on each machine of a job: on one unless hydra.launcher.nodes says otherwise. There
Lightning starts the ranks as on any machine; on several, each task starts torchrun for its machine's share.
"""

from __future__ import annotations

import os
import subprocess

from r1zero.errors import UserError

TASK = ("SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID")
"""Beginnings of the variables by which Lightning takes a process for one of the ranks that SLURM started."""


def environment() -> dict[str, str]:
    """The environment of a run that starts its own ranks."""
    return {name: value for name, value in os.environ.items() if not name.startswith(TASK)}


def name_ranks() -> str:
    """Where srun itself has started the ranks of one run, name them as torchrun does: ``RANK``, ``LOCAL_RANK``.

    Returns:
        the name of the folder that they share, by job and step; "" where Lightning would not take this process for such
        a rank: alone, in an interactive job, or started by a rank or by torchrun.
    """
    tasks, job = os.environ.get("SLURM_NTASKS", "1"), os.environ.get("SLURM_JOB_NAME", "")
    if tasks == "1" or job in ("bash", "interactive") or "SLURM_PROCID" not in os.environ or "LOCAL_RANK" in os.environ:
        return ""
    os.environ.update(RANK=os.environ["SLURM_PROCID"], LOCAL_RANK=os.environ.get("SLURM_LOCALID", "0"))
    return f"slurm_{os.environ.get('SLURM_JOB_ID', '')}.{os.environ.get('SLURM_STEP_ID', '0')}"


def machines() -> tuple[int, int]:
    """Machines of the SLURM step that this process is a task of, and the number of ours; 1 and 0 elsewhere."""
    count = int(os.environ.get("SLURM_STEP_NUM_NODES", "1"))
    return count, int(os.environ.get("SLURM_NODEID", "0")) if count > 1 else 0


def torchrun(machines: int, machine: int) -> list[str]:
    """Arguments for Python that start a machine's share of the ranks of one run, one a GPU; they meet at machine 0.

    Raises:
        UserError: SLURM does not say how many GPUs there are, or which machines.
    """
    gpus, nodes = os.environ.get("SLURM_GPUS_ON_NODE", ""), os.environ.get("SLURM_STEP_NODELIST", "")
    if not gpus.isdigit():
        raise UserError("a point on several machines needs GPUs on each: hydra.launcher.gpus_per_node=<n>")
    try:
        names = subprocess.run(["scontrol", "show", "hostnames", nodes], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise UserError(f"scontrol does not say which machines {nodes} are: {error}") from error
    port = 20000 + int(os.environ.get("SLURM_JOB_ID", "0")) % 20000
    return [
        *("-m", "torch.distributed.run", f"--nnodes={machines}", f"--node-rank={machine}", f"--nproc-per-node={gpus}"),
        *(f"--master-addr={names.stdout.split()[0]}", f"--master-port={port}"),
    ]
