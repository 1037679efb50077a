"""Options that make training fit a card: optimizer states in 8 bits, activations in the host's memory."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from importlib.util import find_spec
from typing import TYPE_CHECKING

from r1zero.config import OptimConfig, TrainConfig
from r1zero.errors import UserError

if TYPE_CHECKING:  # checks are made before torch is loaded
    import torch


def check_memory(cfg: TrainConfig) -> None:
    """Whether the options go together and what they need is installed.

    Raises:
        UserError: they don't, or it isn't.
    """
    bits, strategy = cfg.optim.state_bits, str(cfg.trainer.get("strategy", "auto"))
    if bits == 8:
        if "ModelParallelStrategy" in strategy or "ZeroStrategy" in strategy:
            raise UserError("optim.state_bits=8 is for whole weights; this trainer cuts the states over ranks instead")
        if find_spec("bitsandbytes") is None:
            raise UserError("optim.state_bits=8 needs bitsandbytes: pip install bitsandbytes")
    elif cfg.optim.paged:
        raise UserError("optim.paged=true is for 8-bit states: add optim.state_bits=8")
    if cfg.model.activation_offload and not cfg.model.gradient_checkpointing:
        raise UserError(
            "model.activation_offload=true needs model.gradient_checkpointing=true: without it every weight would "
            "travel to the host and back too"
        )


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
