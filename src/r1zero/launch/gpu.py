"""The NVIDIA driver of this machine, and whether torch can work with it. Imports nothing heavy by itself."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from r1zero.errors import UserError

DRIVER = Path("/proc/driver/nvidia/version")
FP8_CAPABILITY = (8, 9)
"""Compute capability from which an NVIDIA card multiplies fp8; below, vLLM would round the weights alone."""


@dataclass(frozen=True)
class Card:
    """A kind of NVIDIA card, as far as settings depend on it.

    Attributes:
        name: what it is called.
        capability: its compute capability.
    """

    name: str
    capability: tuple[int, int]


_elsewhere: ContextVar[Card | None] = ContextVar("_elsewhere", default=None)


@contextmanager
def elsewhere(card: Card) -> Iterator[None]:
    """Check settings for another machine, with such cards: what only that machine can answer is taken to be right.

    Its driver, packages, files and network are not asked for; whether settings go together, and with the card, is.
    """
    token = _elsewhere.set(card)
    try:
        yield
    finally:
        _elsewhere.reset(token)


def is_here() -> bool:
    """Whether settings are checked for this machine."""
    return _elsewhere.get() is None


def installed(*packages: str) -> bool:
    """Whether one of these packages is installed where the run will be."""
    return not is_here() or any(importlib.util.find_spec(package) is not None for package in packages)


def card() -> Card | None:
    """The card of the run; None where there is none. Imports torch where there is a GPU."""
    if not is_here() or not has_gpu():
        return _elsewhere.get()
    import torch

    if not torch.cuda.is_available():
        return None
    return Card(torch.cuda.get_device_name(), torch.cuda.get_device_capability())


def has_gpu() -> bool:
    """Whether an NVIDIA driver is there and its cards are not hidden; asking CUDA itself would take seconds."""
    if not is_here():
        return True
    if os.environ.get("CUDA_VISIBLE_DEVICES", "0").strip() in ("", "-1"):
        return False
    return DRIVER.exists() or shutil.which("nvidia-smi") is not None


def check_cuda(instead: str) -> None:
    """Refuse to compute on the CPU by mistake, on a machine whose driver torch can't work with. Imports torch there.

    Args:
        instead: the setting that insists on the CPU.

    Raises:
        UserError: with the driver's release and torch's CUDA.
    """
    if not has_gpu():
        return
    import torch

    if torch.cuda.is_available():
        return
    if torch.version.cuda is None:
        why = f"torch {torch.__version__} was built without CUDA: pip install '.[gpu]' in place of '.[cpu]'"
    else:
        why = (
            f"torch {torch.__version__} with CUDA {torch.version.cuda} finds no card it can use: update the driver, "
            "or install a torch built for an older CUDA"
        )
    found = driver_release()
    driver = f"NVIDIA driver {found[0]}" if found else "an NVIDIA driver"
    raise UserError(f"{driver} is here and {why}; {instead} insists on the CPU")


def check_batch_invariant(wanted: bool, engine: str = "vllm") -> None:
    """Refuse ``rollout.batch_invariant`` where the engine has no such kernels. Raises ``UserError``."""
    if wanted and (engine == "hf" or not has_gpu()):
        raise UserError(
            "rollout.batch_invariant=true: vLLM has these kernels for NVIDIA GPUs, and no other engine has them; leave "
            "it off here"
        )


def check_quantization(rollout: Any) -> None:
    """Refuse ``rollout.quantization`` where the engine or this card can't do it. Imports torch where there is a GPU.

    Raises:
        UserError: naming what is in the way.
    """
    if rollout.quantization is None:
        return
    chosen = f"rollout.quantization={rollout.quantization}"
    if "hf" in (rollout.name, rollout.name == "ray" and rollout.ray.engine):
        raise UserError(f"{chosen} is vLLM's, and transformers' engine has none: use rollout=vllm, or leave it out")
    if rollout.dtype == "float32":
        raise UserError(f"{chosen} computes in bfloat16 what it does not round: leave rollout.dtype=float32 out")
    if rollout.name == "ray":  # samplers have cards of their own
        return
    if (found := card()) is not None and found.capability < FP8_CAPABILITY:
        raise UserError(
            f"{chosen} needs a card with products of 8 bits (compute capability 8.9: Ada, Hopper and newer), and "
            f"{found.name} has {found.capability[0]}.{found.capability[1]}: leave it out"
        )


def driver_release() -> tuple[str, str] | None:
    """Release of NVIDIA's driver and the newest CUDA that it serves, as its own tool says; None where there is none."""
    try:
        done = subprocess.run(["nvidia-smi"], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    release = re.search(r"Driver Version:\s*([\d.]+)", done.stdout)
    cuda = re.search(r"CUDA Version:\s*([\d.]+)", done.stdout)
    return (release[1], cuda[1] if cuda else "?") if release else None
