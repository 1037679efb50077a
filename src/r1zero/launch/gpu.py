"""The NVIDIA driver of this machine, and whether torch can work with it. Imports nothing heavy by itself."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

from r1zero.errors import UserError

DRIVER = Path("/proc/driver/nvidia/version")


def has_gpu() -> bool:
    """Whether an NVIDIA driver is there and its cards are not hidden; asking CUDA itself would take seconds."""
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


def driver_release() -> tuple[str, str] | None:
    """Release of NVIDIA's driver and the newest CUDA that it serves, as its own tool says; None where there is none."""
    try:
        done = subprocess.run(["nvidia-smi"], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    release = re.search(r"Driver Version:\s*([\d.]+)", done.stdout)
    cuda = re.search(r"CUDA Version:\s*([\d.]+)", done.stdout)
    return (release[1], cuda[1] if cuda else "?") if release else None
