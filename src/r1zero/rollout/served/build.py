"""From a config to server processes, and to the engine that uses them."""

from __future__ import annotations

import os
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from r1zero.config import RolloutConfig
from r1zero.errors import UserError
from r1zero.reward.grader import available_cores
from r1zero.rollout import ranks
from r1zero.rollout.identity import identity
from r1zero.rollout.served.client import TOKEN, Remote
from r1zero.rollout.served.engine import ServerEngine
from r1zero.rollout.served.fleet import Fleet
from r1zero.rollout.served.folder import WeightStore, weights_root
from r1zero.rollout.sync import expected_parameters

LOOPBACK = "127.0.0.1"
BIND = "VLLM_CPU_OMP_THREADS_BIND"


def server_settings(
    rollout: RolloutConfig, engine: dict[str, Any], *, root: Path, host: str = LOOPBACK, ports: Sequence[int] = ()
) -> list[dict[str, Any]]:
    """What each of ``rollout.servers`` processes is told; without ``ports`` each takes a free one.

    Args:
        rollout: the rollout group.
        engine: its and the model's settings, from :func:`r1zero.rollout.vllm.settings.vllm_settings`.
        root: folder below which weights may lie.
        host: address to listen at.
        ports: one a server.
    """
    engine = engine | {
        "sleep": False,
        "tensor_parallel": rollout.tensor_parallel,
        "transfer": None if rollout.transfer == "folder" else rollout.transfer,
    }
    numbers = list(ports) or [0] * rollout.servers
    return [
        {"kind": "vllm", "engine": engine, "host": host, "port": numbers[i], "root": str(root)}
        for i in range(rollout.servers)
    ]


def devices(servers: int, tensor_parallel: int, trainers: int) -> list[dict[str, str | None]]:
    """Environment of each server: GPUs behind those of the trainer's ranks, shared with them where there are too few.

    On a CPU the servers share the cores out: threads of two that wait for each other on one core make both many
    times slower. The workers of a cut model are not bound to cores: vLLM would want a memory node for each.
    """
    count = torch.cuda.device_count()
    if not count:
        share = max(1, available_cores() // (servers * tensor_parallel))
        given_threads = os.environ.get("OMP_NUM_THREADS", "")
        threads = min(share, int(given_threads)) if given_threads.isdigit() and int(given_threads) else share
        cpu: dict[str, str | None] = {"OMP_NUM_THREADS": str(threads)}
        if tensor_parallel > 1:
            cpu[BIND] = os.environ.get(BIND, "nobind")
        return [dict(cpu) for _ in range(servers)]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = visible.split(",") if visible else [str(i) for i in range(count)]
    if tensor_parallel > count:
        raise UserError(f"rollout.tensor_parallel={tensor_parallel}: this machine has {count} GPU(s)")
    free = names[trainers:] if count - trainers >= servers * tensor_parallel else names
    given = []
    for server in range(servers):
        start = server * tensor_parallel
        given.append({"CUDA_VISIBLE_DEVICES": ",".join(free[(start + i) % len(free)] for i in range(tensor_parallel))})
    return given  # type: ignore[return-value]


def several_machines() -> bool:
    """Whether torchrun or SLURM spread the ranks over machines."""
    here, nodes = os.environ.get("LOCAL_WORLD_SIZE"), os.environ.get("SLURM_NNODES", "1")
    return (here is not None and int(here) < ranks.size()) or (ranks.size() > 1 and int(nodes) > 1)


def build_server_engine(rollout: RolloutConfig, engine: dict[str, Any]) -> ServerEngine:
    """Connect to ``rollout.urls``, or start ``rollout.servers`` processes (rank 0 does, for all ranks).

    Args:
        rollout: the rollout group.
        engine: its and the model's settings, from :func:`r1zero.rollout.vllm.settings.vllm_settings`.

    Raises:
        UserError: a server can't start, does not answer, or serves another model.
    """
    from transformers import AutoTokenizer

    if rollout.transfer == "nccl" and not torch.cuda.is_available():
        raise UserError("rollout.transfer=nccl goes from GPU to GPU, and no GPU was found: use rollout.transfer=folder")
    model_path: str = engine["model_path"]
    source: Any = {name: engine[name] for name in ("revision", "trust_remote_code")}
    tokenizer = AutoTokenizer.from_pretrained(model_path, **source)
    expected = expected_parameters(model_path, **source)
    is_first = ranks.rank() == 0
    fleet: Fleet | None = None
    store = WeightStore(weights_root(rollout.weights_dir)) if is_first else None
    token = os.environ.get(TOKEN) or None

    def addresses() -> tuple[list[str], str | None]:
        nonlocal fleet
        assert store is not None
        if rollout.urls:
            return list(rollout.urls), token
        if several_machines():
            raise UserError(
                "servers of the trainer's own listen on its machine alone, and this job has several: start them with "
                "scripts/serve.py host=<address> and name them in rollout.urls"
            )
        own_token = secrets.token_urlsafe(24)
        settings = server_settings(rollout, engine, root=store.root)
        places = devices(rollout.servers, rollout.tensor_parallel, ranks.size())
        fleet = Fleet(settings, token=own_token, logs=store.path / "logs", environments=places)
        return fleet.wait(), own_token

    try:
        with ranks.agreed(addresses) as (urls, password):
            return ServerEngine(
                [Remote(url, password) for url in urls],
                fleet=fleet,
                own=identity(expected, tokenizer),
                expected=expected,
                dtype=engine["dtype"],
                context=engine["context"],
                parts=rollout.parts or max(1, len(urls) // ranks.size()),
                store=store,
                timeout_s=rollout.timeout_s,
                transfer=rollout.transfer,
                tensor_parallel=rollout.tensor_parallel,
            )
    except BaseException:
        if fleet is not None:
            fleet.close()
        if store is not None:
            store.close()
        raise
