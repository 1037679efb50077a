"""Start rollout servers, say how to use them, keep them running until asked to stop."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import time
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from r1zero.errors import UserError
from r1zero.lab.serve.config import ServeConfig
from r1zero.launch.console import console
from r1zero.launch.run_folder import set_up_logging, shown
from r1zero.learn.policy import resolve_model
from r1zero.rollout.served.build import devices, server_settings
from r1zero.rollout.served.client import TOKEN
from r1zero.rollout.served.fleet import Fleet
from r1zero.rollout.served.folder import weights_root
from r1zero.rollout.vllm.process import LOG_LEVEL
from r1zero.rollout.vllm.settings import vllm_settings
from r1zero.seeding import derive_seed

log = logging.getLogger("r1zero")


def serve(config: DictConfig, run_dir: Path) -> int:
    """Serve until Ctrl-C or SIGTERM, which raise here; a server that dies is started again.

    Raises:
        UserError: a server can't start, or dies again and again.
    """
    cfg: ServeConfig = OmegaConf.to_object(config)  # type: ignore[assignment]
    run_dir.mkdir(parents=True, exist_ok=True)
    set_up_logging(run_dir, True)
    os.environ.setdefault(*LOG_LEVEL)
    rollout, count = cfg.rollout, cfg.rollout.servers
    ports = [cfg.port + i if cfg.port else 0 for i in range(count)]
    for port in filter(None, ports):
        check_port(cfg.host, port)
    root = weights_root(rollout.weights_dir)
    engine = vllm_settings(
        rollout,
        str(resolve_model(cfg.model)),
        dtype=rollout.dtype or cfg.model.dtype,
        context=cfg.model.context or 0,
        seed=derive_seed(cfg.seed, "engine"),
        revision=None,
        trust_remote_code=cfg.model.trust_remote_code,
    )
    settings = server_settings(rollout, engine, root=root, host=cfg.host, ports=ports)
    token = os.environ.get(TOKEN) or None
    fleet = Fleet(settings, token=token, logs=run_dir, environments=devices(count, rollout.tensor_parallel, 0))
    try:
        with console.status(f"starting {count} server(s) with model {cfg.model.name}"):
            urls = fleet.wait()
        _describe(cfg, urls, token, run_dir, root)
        while fleet.failure is None:
            time.sleep(0.2)
        raise fleet.failure
    finally:
        fleet.close()


def check_port(host: str, port: int) -> None:
    """Refuse a port that is taken before minutes go into a model."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with contextlib.closing(socket.socket(family)) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise UserError(f"can't listen at {host}:{port} ({error.strerror}): choose another port=") from error


def command(cfg: ServeConfig, urls: list[str], root: Path) -> str:
    """What to type for a run that uses these servers."""
    model = cfg.model.path if cfg.model.name == "folder" else cfg.model.name
    more = f" rollout.weights_dir={root}" if cfg.rollout.weights_dir else ""
    more += f" rollout.transfer={cfg.rollout.transfer}" if cfg.rollout.transfer != "folder" else ""
    return f"python train.py model={model} rollout=vllm_server 'rollout.urls=[{','.join(urls)}]'{more}"


def _describe(cfg: ServeConfig, urls: list[str], token: str | None, run_dir: Path, root: Path) -> None:
    """Print the addresses and what to type."""
    for url in urls:
        console.print(f"serving model {cfg.model.name} at {url}", soft_wrap=True, highlight=False)
    console.print(f"train with: {command(cfg, urls, root)}", soft_wrap=True, highlight=False, markup=False)
    guard = (
        f"a token is asked for ({TOKEN})" if token else f"no token is asked for; {TOKEN} in the environment sets one"
    )
    console.print(f"{guard}; logs in {shown(run_dir)}; Ctrl-C ends", soft_wrap=True, highlight=False)
