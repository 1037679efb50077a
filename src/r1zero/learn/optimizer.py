"""Options that make training fit a card: optimizer states in 8 bits, activations in the host's memory."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from r1zero.config import OptimConfig, TrainConfig
from r1zero.errors import UserError
from r1zero.launch.gpu import installed

if TYPE_CHECKING:  # checks are made before torch is loaded
    import torch


log = logging.getLogger("r1zero")


def check_memory(cfg: TrainConfig) -> None:
    """Whether the options go together and what they need is installed.

    Raises:
        UserError: they don't, or it isn't.
    """
    bits, strategy = cfg.optim.state_bits, str(cfg.trainer.get("strategy", "auto"))
    if bits == 8:
        if "ModelParallelStrategy" in strategy or "ZeroStrategy" in strategy:
            raise UserError("optim.state_bits=8 is for whole weights; this trainer cuts the states over ranks instead")
        if not installed("bitsandbytes"):
            raise UserError("optim.state_bits=8 needs bitsandbytes: pip install bitsandbytes")
    elif cfg.optim.paged:
        raise UserError("optim.paged=true is for 8-bit states: add optim.state_bits=8")
    if cfg.optim.offload_states:
        check_offload(cfg, strategy)
    if cfg.model.activation_offload and not cfg.model.gradient_checkpointing:
        raise UserError(
            "model.activation_offload=true needs model.gradient_checkpointing=true: without it every weight would "
            "travel to the host and back too"
        )


def check_offload(cfg: TrainConfig, strategy: str) -> None:
    """Whether the states can leave the device while the engine samples, and whether that gains anything.

    Raises:
        UserError: they can't.
    """
    if cfg.rollout.async_steps:
        raise UserError("optim.offload_states=true needs turns, and rollout.async=1 samples while the learner works")
    if "ZeroStrategy" in strategy:
        raise UserError(
            "optim.offload_states=true: DeepSpeed keeps the states itself; use +trainer.strategy.offload_optimizer=true"
        )
    if cfg.optim.paged:
        raise UserError("optim.offload_states=true: the states of optim.paged=true move by themselves; choose one")
    if cfg.rollout.name == "ray" or not cfg.rollout.sleep:
        why = (
            "engines have cards of their own"
            if cfg.rollout.name == "ray"
            else "an engine that never sleeps has its own"
        )
        log.warning("optim.offload_states=true costs two copies a step and frees memory that nobody takes: %s", why)


def build_optimizer(
    parameters: Iterable[torch.nn.Parameter], cfg: OptimConfig, device: torch.device
) -> torch.optim.Optimizer:
    """AdamW over float32 parameters; with ``state_bits=8`` the moments of large ones take 2 bytes in place of 8.

    Args:
        parameters: what is trained.
        cfg: learning rate and the rest.
        device: where the parameters are.
    """
    settings = dict(lr=cfg.lr, betas=(cfg.betas[0], cfg.betas[1]), eps=cfg.eps, weight_decay=cfg.weight_decay)
    if cfg.state_bits == 8:
        from bitsandbytes.optim import AdamW8bit, PagedAdamW8bit

        return (PagedAdamW8bit if cfg.paged else AdamW8bit)(list(parameters), **settings)
    import torch

    # Fused: no temporary copies of the parameters, one pass over memory.
    return torch.optim.AdamW(list(parameters), fused=device.type in ("cpu", "cuda"), **settings)  # type: ignore[arg-type]


def activations_on_host(wanted: bool, device: torch.device) -> AbstractContextManager[None]:
    """In this context, what a forward pass keeps for its backward pass lies in the host's memory.

    Under gradient checkpointing that is the input of every layer: per token and layer one hidden state.
    """
    import torch

    if not wanted or not torch.is_grad_enabled():
        return nullcontext()
    return torch.autograd.graph.save_on_cpu(pin_memory=device.type == "cuda")


def lr_factor(schedule: str, warmup_steps: int, total_steps: int) -> Any:
    """Learning-rate factor by optimizer step: linear warm-up, then constant, linear or cosine decay to 0."""

    def factor(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / warmup_steps
        done = min((step - warmup_steps) / max(total_steps - warmup_steps, 1), 1.0)
        if schedule == "linear":
            return 1 - done
        if schedule == "cosine":
            return (1 + math.cos(math.pi * done)) / 2
        return 1.0

    return factor
