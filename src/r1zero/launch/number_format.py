"""The number format of compute: what ``dtype: auto`` is on this processor, decided once and stored with the run.

bfloat16 halves memory traffic, and multiplies faster wherever the processor has instructions for it. Where it has none,
each product is emulated: on a CPU with AVX2 alone at 1.2 GFLOP/s for float32's 44. Trained parameters are float32
either way (semantics 11). float16 is never chosen: its gradients would need a loss scale.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from r1zero.errors import UserError
from r1zero.launch.console import console
from r1zero.launch.files import read_json, read_yaml
from r1zero.launch.run_folder import is_main_rank, shown

log = logging.getLogger("r1zero")

AUTO = "auto"
PRECISION = {"float32": "32-true", "bfloat16": "bf16-mixed"}
"""Lightning's word for a number format of compute over float32 parameters."""
VARIABLE = "R1ZERO_DTYPE"
"""Environment variable: what ``auto`` is, whatever the processor says."""
FLAGS = ("avx512_bf16", "amx_bf16", "bf16")
"""Instructions for products of bfloat16, as Linux names them on x86 (the first two) and ARM."""
FASTER = 1.2
"""Measured ratio of rates from which bfloat16 is chosen where the processor's instructions can't be read."""
SLOW = 10.0
"""An explicit choice that is slower by this factor gets a warning."""
SMALL = 1e7
"""Parameters below which products are not what takes the time."""
WAIT_S = 300.0
"""Longest that a rank waits for the settings of rank 0."""


def settle(config: DictConfig, run_dir: Path) -> None:
    """Replace every ``auto`` by a number format, in place: before anything is built, and before it is stored.

    What the run folder stores counts first, so a run that is resumed on another processor stays in its format. Where
    nothing is trained, weights stored in float32 come next: a policy is evaluated in the format it was trained in. Then
    the environment variable, then the processor. Ranks follow rank 0, which stores its settings at once.

    Args:
        config: settings with a ``model`` group, and perhaps a ``judge``; a model behind a server is left alone.
        run_dir: the run folder.
    """
    for name in ("model", "judge"):
        node = config.get(name)
        if node is None or node.get("served") or node.get("via", "model") != "model" or config.get("rescore"):
            continue
        if node.dtype == AUTO:
            node.dtype, why = (
                stored_format(run_dir, name)
                or (None if "trainer" in config else format_of_weights(node))
                or chosen_format(on_gpu(config))
            )
            if is_main_rank():
                console.print(f"{name}.dtype=auto is {node.dtype}: {why}", soft_wrap=True, highlight=False)
        elif is_main_rank() and parameters(node) >= SMALL:
            warn_if_slow(f"{name}.dtype", node.dtype, on_gpu(config))
    if "algo" in config and config.model.reference_dtype == AUTO:
        stored = stored_format(run_dir, "model", "reference_dtype", wait_s=0)
        config.model.reference_dtype = stored[0] if stored else config.model.dtype if on_gpu(config) else "float32"


def stored_format(run_dir: Path, name: str, key: str = "dtype", wait_s: float = WAIT_S) -> tuple[str, str] | None:
    """The format in a run folder's settings, and where it is from; see :func:`stored`."""
    found = stored(run_dir, name, lambda group: group[key] if group[key] in PRECISION else None, wait_s)
    return None if found is None else (str(found), f"as stored in {shown(run_dir)}")


def stored(run_dir: Path, name: str, find: Callable[[Any], Any], wait_s: float = WAIT_S) -> Any:
    """What ``find`` takes from a group of a run folder's settings; ranks but the first wait for rank 0 to store it.

    None where it finds nothing, the group lacks the setting, or there are no settings to read.
    """
    end = time.monotonic() + (0 if is_main_rank() else wait_s)
    while True:
        with contextlib.suppress(UserError, KeyError, TypeError):
            if (found := find(read_yaml(run_dir / "config.yaml")[name])) is not None:
                return found
        if time.monotonic() >= end:
            return None
        time.sleep(0.2)


def chosen_format(gpu: bool) -> tuple[str, str]:
    """The format that suits the processor, and why in a few words."""
    if (given := os.environ.get(VARIABLE)) in PRECISION:
        return given, f"{VARIABLE} says so"
    if gpu:
        import torch

        name = torch.cuda.get_device_name()
        has = torch.cuda.is_bf16_supported(including_emulation=False)
        return ("bfloat16", f"{name} has it") if has else ("float32", f"{name} has no bfloat16")
    flags = processor_flags()
    if not flags:
        ratio = measured_ratio(gpu)
        return "bfloat16" if ratio >= FASTER else "float32", f"bfloat16 has {ratio:.2g} times its rate here"
    if own := [flag for flag in FLAGS if flag in flags]:
        return "bfloat16", f"the processor has {own[0]}"
    return "float32", f"the processor has none of {', '.join(FLAGS)}"


def format_of_weights(model: Any) -> tuple[str, str] | None:
    """float32 where the weights of a local folder are stored so: less would change what the model says."""
    file = Path(str(model.get("path") or model.get("model"))).expanduser() / "config.json"
    content = read_json(file) if file.is_file() else {}
    stored = content.get("dtype") or content.get("torch_dtype")
    return ("float32", "its weights are stored so") if stored == "float32" else None


def processor_flags() -> set[str]:
    """Instructions of the processor as Linux names them; none where that can't be read."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            key, _, words = line.partition(":")
            if key.strip().lower() in ("flags", "features"):
                return set(words.split())
    return set()


def on_gpu(config: Any) -> bool:
    """Whether a command computes on a GPU: its trainer or its ``device`` don't ask for the CPU, and torch sees one."""
    import torch

    asked = {str((config.get("trainer") or {}).get("accelerator")), str(config.get("device"))}
    return "cpu" not in asked and torch.cuda.is_available()


def parameters(model: Any) -> float:
    """Parameters of a model by its settings or, in a local folder, by the size of its weights; 0 where unknown."""
    if model.get("params"):
        return 1e9 * float(model.params)
    path = model.get("path") or model.get("model")
    return sum(file.stat().st_size for file in Path(str(path)).expanduser().glob("*.safetensors")) / 4


def warn_if_slow(key: str, dtype: str, gpu: bool) -> None:
    """Say so in one line where the other format computes ``SLOW`` times faster."""
    if dtype == chosen_format(gpu)[0]:
        return
    ratio = measured_ratio(gpu)
    slower = ratio if dtype == "float32" else 1 / ratio
    if slower >= SLOW:
        other = "float32" if dtype == "bfloat16" else "bfloat16"
        log.warning(
            "%s=%s multiplies %.0f times slower here than %s does (measured); %s=auto chooses by the processor",
            key, dtype, slower, other, key,
        )  # fmt: skip


def measured_ratio(gpu: bool, seconds: float = 0.05) -> float:
    """Rate of bfloat16 over that of float32, in the three products of a linear layer's forward and backward pass.

    Best of as many turns as fit in ``seconds``, two at least, after one to warm up; on one thread, so that threads of
    others that wait for each other are not what is measured.
    """
    import torch

    device, size, tokens = ("cuda", 2048, 2048) if gpu else ("cpu", 256, 64)
    pairs = {
        kind: (torch.ones(tokens, size, device=device, dtype=kind), torch.ones(size, size, device=device, dtype=kind))
        for kind in (torch.float32, torch.bfloat16)
    }
    best = dict.fromkeys(pairs, float("inf"))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        end, turns = time.perf_counter() + seconds, 0
        while turns < 3 or time.perf_counter() < end:
            for kind, (x, weight) in pairs.items():
                begun = time.perf_counter()
                y = x @ weight.T
                y @ weight, y.T @ x
                if gpu:
                    torch.cuda.synchronize()
                if turns:
                    best[kind] = min(best[kind], time.perf_counter() - begun)
            turns += 1
    finally:
        torch.set_num_threads(threads)
    return best[torch.float32] / best[torch.bfloat16]
