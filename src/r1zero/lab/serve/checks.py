"""Settings of ``scripts/serve.py`` that can't work or are not safe, found before anything heavy is imported."""

from __future__ import annotations

import ipaddress
import os
from typing import Any

from omegaconf import DictConfig, OmegaConf

from r1zero.errors import UserError
from r1zero.ranges import check_ranges
from r1zero.rollout.served.check import check_servers
from r1zero.rollout.served.client import TOKEN
from r1zero.train.checks import LARGE_FOR_CPU, check_known, check_set, folder_context, has_gpu


def check(config: DictConfig) -> None:
    """Refuse settings in one line each; fills ``model.context`` from a local folder.

    Raises:
        UserError: naming the keys and what to do.
    """
    check_set(config)
    check_known(config)
    check_ranges(config)
    if config.rollout.name != "vllm_server":
        raise UserError(
            f"rollout={config.rollout.name} runs in the trainer's process; only rollout=vllm_server is served"
        )
    if config.rollout.urls:
        raise UserError("rollout.urls names servers that run already; scripts/serve.py starts them")
    if config.port + config.rollout.servers > 65536:
        raise UserError(f"port={config.port} leaves no ports for rollout.servers={config.rollout.servers}: lower it")
    if not is_loopback(config.host) and not os.environ.get(TOKEN):
        raise UserError(
            f"host={config.host} can be reached from other machines: set a token in the environment first, e.g. "
            f'export {TOKEN}="$(openssl rand -hex 24)", and the same where train.py runs'
        )
    if config.model.context is None:
        config.model.context = folder_context(config.model.path)
    cfg: Any = OmegaConf.to_object(config)
    check_servers(cfg.rollout, cfg.model)
    if cfg.rollout.transfer == "nccl" and not has_gpu():
        raise UserError("rollout.transfer=nccl goes from GPU to GPU, and no GPU was found: use rollout.transfer=folder")
    if config.model.params >= LARGE_FOR_CPU and not has_gpu():
        raise UserError(
            f"no NVIDIA GPU was found, and model {config.model.name} ({config.model.params:g} B parameters) is too "
            "large to serve on a CPU: try model=tiny"
        )


def is_loopback(host: str) -> bool:
    """Whether an address is reached from this machine alone."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"
