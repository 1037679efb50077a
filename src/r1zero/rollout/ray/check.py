"""Settings of rollout=ray that can't work; imports nothing heavy."""

from __future__ import annotations

from importlib.util import find_spec

from r1zero.errors import UserError
from r1zero.launch.cluster import MISSING, knock
from r1zero.launch.gpu import has_gpu
from r1zero.reward.grader import available_cores
from r1zero.rollout.identity import releases
from r1zero.rollout_config import RayConfig, RolloutConfig

TRANSFERS = "0.32."
"""The minor version of vLLM whose weight transfer :mod:`r1zero.rollout.ray.transfer` speaks; the next one's differs."""


def check_ray(rollout: RolloutConfig) -> None:
    """Refuse what can't work, and knock at the address of a cluster.

    Raises:
        UserError: naming the setting.
    """
    settings = rollout.ray
    if rollout.name != "ray":
        if rollout.tensor_parallel != rollout.ranks_per_engine:
            raise UserError(
                f"rollout.tensor_parallel has no use with rollout={rollout.name}: choose rollout=vllm or rollout=ray"
            )
        if settings != RayConfig() or rollout.samplers != 1:
            given = "rollout.ray" if settings != RayConfig() else "rollout.samplers"
            raise UserError(f"{given} has no use with rollout={rollout.name}: choose rollout=ray")
        return
    if find_spec("ray") is None:
        raise UserError(MISSING)
    if settings.engine == "hf" and settings.batching != "exact":
        raise UserError("rollout.ray.batching=continuous needs vLLM: leave rollout.ray.engine=hf out")
    if settings.engine == "hf" and (settings.transfer != "object" or rollout.tensor_parallel > 1):
        raise UserError("rollout.ray.engine=hf takes weights through Ray's memory, and whole: leave the setting out")
    if settings.transfer == "nccl":
        check_transfer(settings)
        if rollout.quantization:
            raise UserError(
                f"rollout.ray.transfer=nccl with rollout.quantization={rollout.quantization} was never tried: use "
                "transfer=object"
            )
    if settings.gpus is not None and rollout.tensor_parallel > 1 and settings.gpus != rollout.tensor_parallel:
        raise UserError(
            f"rollout.ray.gpus={settings.gpus:g}: a model cut over rollout.tensor_parallel={rollout.tensor_parallel} "
            "needs as many GPUs; leave rollout.ray.gpus out"
        )
    if settings.address is not None:
        knock(settings.address, settings.wait_s)
    elif not has_gpu():
        check_machine(rollout)


def check_machine(rollout: RolloutConfig) -> None:
    """What samplers on this machine want of it, where it has no GPU."""
    if rollout.ray.gpus:
        raise UserError(
            f"rollout.ray.gpus={rollout.ray.gpus:g}: this machine has no GPU: leave it out, or set rollout.ray.address"
        )
    cores = max(2, available_cores())
    if rollout.samplers * rollout.tensor_parallel > cores:
        raise UserError(
            f"rollout.samplers={rollout.samplers} x rollout.tensor_parallel={rollout.tensor_parallel} are more engines "
            f"than this machine has cores, {cores}: lower them, or set rollout.ray.address to a cluster's"
        )


def check_transfer(settings: RayConfig) -> None:
    """What rollout.ray.transfer=nccl needs: cards for each side, and the release of vLLM that it was written for."""
    if not has_gpu():
        raise UserError("rollout.ray.transfer=nccl goes from GPU to GPU, and no GPU was found: use transfer=object")
    if settings.gpus is not None and settings.gpus < 1:
        raise UserError(
            f"rollout.ray.gpus={settings.gpus:g} puts samplers on one card, and rollout.ray.transfer=nccl sends from "
            "card to card: leave it out, or use transfer=object"
        )
    found = releases().get("vllm", "")
    if not found.startswith(TRANSFERS):
        raise UserError(
            f"rollout.ray.transfer=nccl is written for vLLM {TRANSFERS}x and {found or 'none'} is installed: install "
            "that one, or use transfer=object"
        )
