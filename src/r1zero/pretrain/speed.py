"""Tokens per second and model FLOP utilisation: what the model needs against what the device can do."""

from __future__ import annotations

import functools
from typing import Any

import torch

from r1zero.lab.benchmark.machine import best_time
from r1zero.lab.plan.hardware import GPUS


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

    Recomputed activations and attention across documents are useless and not counted.
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
    return measured_peak(device, dtype, torch.get_num_threads())


@functools.cache
def measured_peak(device: torch.device, dtype: torch.dtype, threads: int) -> tuple[float, str]:
    """Best rate of a square matrix product, and how it was measured; measured once in a process.

    On a CPU one thread is measured and taken ``threads`` times: threads that wait for each other on a busy machine
    are slowed down in every run, while some of many runs of a few milliseconds on one thread are not disturbed.
    """
    size = 8192 if device.type == "cuda" else 512
    a, b, c = (torch.randn(size, size, device=device).to(dtype) for _ in range(3))

    def product() -> None:
        torch.mm(a, b, out=c)
        float(c[0, 0])  # the value is fetched, so the product is over

    kept = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        with torch.no_grad():
            seconds, repeats = best_time(product)
    finally:
        torch.set_num_threads(kept)
    what = f"measured: best of {repeats} {str(dtype).removeprefix('torch.')} products of {size} x {size}"
    if device.type == "cuda":
        return 2.0 * size**3 / seconds, what
    return threads * 2.0 * size**3 / seconds, f"{what} on one thread, times {threads} thread{'s' * (threads > 1)}"


def too_low(mfu: float, peak: float, source: str) -> str:
    """What is wrong with a peak that the model surpasses; nothing where it does not.

    Args:
        mfu: model FLOP utilisation, a share.
        peak: of a device, in operations per second.
        source: where it comes from.
    """
    if mfu <= 1:
        return ""
    return (
        f"MFU {mfu:.0%} can't be: the peak of {peak / 1e12:.3g} TFLOP/s ({source}) is too low; "
        "give the device's own with peak_tflops="
    )
