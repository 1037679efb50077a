"""Tokens per second and model FLOP utilisation: what the model needs against what the device can do."""

from __future__ import annotations

import time
from typing import Any

import torch

from r1zero.plan.hardware import GPUS


def matrix_flops(model: Any) -> float:
    """Forward operations per token in matrix products with weights: 2 per weight, the head counted, the lookup not."""
    embedding = model.get_input_embeddings().weight
    head = model.get_output_embeddings().weight
    weights = sum(p.numel() for p in model.parameters() if p.dim() >= 2)
    if head is not embedding:
        weights -= embedding.numel()
    return 2.0 * weights


def attention_flops(model: Any) -> float:
    """Forward operations of attention per pair of a token and one that it looks at: scores and weighted sum."""
    config = model.config
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return 4.0 * config.num_hidden_layers * config.num_attention_heads * head_dim


def step_flops(model: Any, positions: torch.Tensor) -> float:
    """Operations of forward and backward over tokens at these positions of their documents.

    Recomputed activations and padding's looks beyond a document are no use to anyone and are not counted.
    """
    pairs = float((positions.double() + 1).sum())
    return 3.0 * (matrix_flops(model) * positions.numel() + attention_flops(model) * pairs)


def device_peak(device: torch.device, dtype: torch.dtype) -> tuple[float, str]:
    """(operations per second, where the figure comes from): the data sheet of a known card, else a measurement."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device).lower().replace(" ", "")
        for gpu in GPUS.values():
            short, _, size = gpu.name.partition("-")
            if short in name and (not size or f"{size}gb" in name):
                return gpu.peak, f"data sheet of {gpu.name}"
    return measured_peak(device, dtype), f"measured {str(dtype).removeprefix('torch.')} matrix product"


def measured_peak(device: torch.device, dtype: torch.dtype, seconds: float = 0.4) -> float:
    """Best rate of a square matrix product in a short while, in operations per second."""
    size = 4096 if device.type == "cuda" else 768
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    best = float("inf")
    deadline = time.perf_counter() + seconds
    with torch.no_grad():
        for round_ in range(1000):
            started = time.perf_counter()
            float((a @ b)[0, 0])  # the value is fetched, so the product is over
            took = time.perf_counter() - started
            best = min(best, took) if round_ else best  # the first one warms up
            if round_ and time.perf_counter() > deadline:
                break
    return 2.0 * size**3 / best
