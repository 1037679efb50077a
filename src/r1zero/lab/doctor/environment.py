"""What the machine offers: versions, processor, memory, GPUs, vLLM, disk. Nothing of torch is imported."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil

from r1zero.launch.run_folder import stack_versions

FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")
"""Instructions of a processor that decide how fast it computes, bfloat16 above all."""


def report() -> Iterator[tuple[str, str]]:
    """Pairs of what is looked at and what was found."""
    yield "versions", ", ".join(f"{name} {number}" for name, number in stack_versions().items())
    yield "system", f"{platform.platform()}, {len(os.sched_getaffinity(0))} usable of {os.cpu_count()} cores"
    yield "processor", processor()
    memory = psutil.virtual_memory()
    yield "memory", f"{memory.available / 2**30:.1f} of {memory.total / 2**30:.1f} GiB free"
    yield "GPU", gpus()
    yield "vLLM", vllm()
    yield "disk", f"{shutil.disk_usage('.').free / 2**30:.1f} GiB free in {Path.cwd()}"


def processor() -> str:
    """The instructions that matter, as /proc/cpuinfo names them."""
    try:
        words = set(Path("/proc/cpuinfo").read_text().split())
    except OSError:
        return platform.machine()
    found = [flag for flag in FLAGS if flag in words]
    slow = "" if {"avx512_bf16", "amx_bf16"} & words else "; no bfloat16: float32 trains faster"
    return f"{platform.machine()}, {' '.join(found) or 'none of ' + ', '.join(FLAGS)}{slow}"


def gpus() -> str:
    """NVIDIA's devices, as its own tool lists them."""
    try:
        done = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return "none"
    return "; ".join(line.partition(" (")[0] for line in done.stdout.splitlines()) or "none"


def vllm() -> str:
    """Whether vLLM can be imported, in a process of its own."""
    code = "import vllm; print(vllm.__version__)"
    try:
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    except subprocess.TimeoutExpired:
        return "its import takes more than two minutes"
    if done.returncode:
        return f"can't be imported ({(done.stderr.strip().splitlines() or ['no reason'])[-1]}): use rollout=hf"
    return f"{done.stdout.split()[-1]} can be imported"
