"""LoRA: small trained matrices beside frozen weights (peft), merged into a copy whenever weights leave the learner.

W is never written to. Merging in place and taking the product off again would leave rounding behind, in
bfloat16 after every sync (trap 41).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from r1zero.config import LoRAConfig
from r1zero.errors import UserError

ADAPTER = "default"
BASE = ".base_layer."
"""What peft puts into the name of an adapted layer's own weight (trap 42)."""

Whole = Callable[[torch.Tensor], torch.Tensor]
"""Parameter -> detached whole tensor; gathers a sharded one."""


def add_adapters(model: Any, cfg: LoRAConfig, dtype: torch.dtype) -> None:
    """Freeze a model in ``dtype`` and put float32 adapters into its layers, in place; at first they add zero.

    Buffers keep their format: rotary frequencies in bfloat16 would move positions.

    Raises:
        UserError: a target names no layer, or one that can't be adapted.
    """
    from peft import LoraConfig, inject_adapter_in_model

    check_targets(model, cfg)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
        parameter.data = parameter.data.to(dtype)
    settings = LoraConfig(
        r=cfg.rank, lora_alpha=cfg.alpha, lora_dropout=0.0, target_modules=list(cfg.targets), bias="none"
    )
    inject_adapter_in_model(settings, model, adapter_name=ADAPTER)
    for name, parameter in model.named_parameters():
        if is_adapter(name):
            parameter.data = parameter.data.float()  # an update of 1e-6 would vanish in bfloat16 (semantics 11)


def check_targets(model: Any, cfg: LoRAConfig) -> None:
    """Every target must name linear layers, and neither embedding nor head.

    Raises:
        UserError: naming the target.
    """
    modules = dict(model.named_modules())
    for target in cfg.targets:
        found = [m for name, m in modules.items() if name == target or name.endswith(f".{target}")]
        if not found:
            linear = sorted({n.rpartition(".")[2] for n, m in modules.items() if isinstance(m, nn.Linear)})
            raise UserError(f"model.lora.targets: the model has no layer {target}; it has {', '.join(linear)}")
        if any(m is model.get_output_embeddings() or m is model.get_input_embeddings() for m in found):
            raise UserError(
                f"model.lora.targets: {target} is the model's embedding or head; a head that is tied to the "
                "embedding can't be adapted by itself (trap 40): leave it out"
            )
        if not all(isinstance(m, nn.Linear) for m in found):
            raise UserError(f"model.lora.targets: {target} is no linear layer")


def is_adapter(name: str) -> bool:
    """Whether a parameter name is that of an adapter."""
    return ".lora_A." in name or ".lora_B." in name


def merged_weights(model: nn.Module, whole: Whole) -> Iterator[tuple[str, torch.Tensor]]:
    """Weights under their Hugging Face names, W + scale * B A of adapted layers made in float32, one at a time.

    Of a model without adapters: its own weights. Shared weights come once.
    """
    layers = dict(model.named_modules())
    for name, parameter in model.named_parameters():
        if is_adapter(name):
            continue
        owner, adapted, leaf = name.partition(BASE)
        if not adapted:
            yield name, whole(parameter)
        elif leaf == "weight":
            yield f"{owner}.{leaf}", product(layers[owner], whole).add_(whole(parameter))
        else:
            yield f"{owner}.{leaf}", whole(parameter)


def product(layer: Any, whole: Whole) -> torch.Tensor:
    """The product scale * B A of one layer, float32, in the shape of its weight."""
    a, b = whole(layer.lora_A[ADAPTER].weight), whole(layer.lora_B[ADAPTER].weight)
    with torch.autocast(a.device.type, enabled=False):
        return (b.float() @ a.float()).mul_(layer.scaling[ADAPTER])


def adapter_weights(model: nn.Module, whole: Whole) -> Iterator[tuple[str, torch.Tensor]]:
    """The adapters alone, under the names of peft's own files."""
    for name, parameter in model.named_parameters():
        if is_adapter(name):
            yield f"base_model.model.{name.replace(f'.{ADAPTER}.', '.')}", whole(parameter)


def save_adapter(state: dict[str, torch.Tensor], folder: Path, cfg: LoRAConfig, base: str) -> None:
    """Write ``adapter_config.json`` and ``adapter_model.safetensors``, which peft and vLLM load onto ``base``."""
    from peft import LoraConfig
    from safetensors.torch import save_file

    save_file({name: tensor.contiguous() for name, tensor in state.items()}, folder / "adapter_model.safetensors")
    LoraConfig(
        r=cfg.rank,
        lora_alpha=cfg.alpha,
        lora_dropout=0.0,
        target_modules=sorted(cfg.targets),
        bias="none",
        task_type="CAUSAL_LM",
        base_model_name_or_path=base,
        inference_mode=True,
    ).save_pretrained(str(folder))


def keep_adapters_only(policy: nn.Module) -> None:
    """Leave frozen weights out of a policy's state dict, and don't miss them when one is loaded."""

    def leave_out(module: nn.Module, state: dict[str, Any], prefix: str, metadata: Any) -> None:
        for name in [name for name in state if name.startswith(prefix) and not is_adapter(name)]:
            del state[name]

    def not_missed(module: nn.Module, keys: Any) -> None:
        keys.missing_keys[:] = [name for name in keys.missing_keys if is_adapter(name)]

    policy.register_state_dict_post_hook(leave_out)
    policy.register_load_state_dict_post_hook(not_missed)
