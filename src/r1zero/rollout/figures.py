"""What vLLM and transformers take for a decoding step of a run: measured once on a machine, and kept in a cache folder.

The measurement takes a process of its own, so that vLLM is loaded where it is used alone.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from r1zero.errors import UserError
from r1zero.launch.console import console
from r1zero.launch.files import parse_json, read_json, write_json
from r1zero.launch.number_format import WAIT_S, processor_flags
from r1zero.launch.run_folder import stack_versions
from r1zero.reward.grader import available_cores

log = logging.getLogger("r1zero")

ENGINES = ("hf", "vllm")
ROWS = 256
"""Most responses that are sampled at a time for the measurement."""
TOKENS = 48
"""Most tokens of each."""
PROMPT = 16
"""Most tokens of a prompt."""
TIMEOUT_S = WAIT_S * 2 / 3
"""Less than the other ranks wait for the outcome."""
LONGEST_MS = 1e6
"""Most that a figure may be, as ``rollout.measured`` has it."""
RANK_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "NODE_RANK", "MASTER_ADDR", "MASTER_PORT")
"""What launchers tell a rank; the process that measures is none."""


def figures(job: dict[str, Any]) -> tuple[dict[str, Any], bool]:
    """Milliseconds a decoding step of each engine, and whether an earlier run has measured them.

    Where several runs want the same figures at once, one measures and the others wait for it. What could not be
    measured is not kept: an engine missing here is in ``failed`` with the reason, and ``error`` says why there is
    nothing at all.
    """
    end = time.monotonic() + TIMEOUT_S
    found = file = None
    try:
        file = cache_file(job)
        if kept := kept_figures(file):
            return kept, True
        with console.status("measuring which engine suits the model"):
            file.parent.mkdir(parents=True, exist_ok=True)
            with turn(file.with_suffix(".lock"), end):
                if kept := kept_figures(file):
                    return kept, True
                found = measure(job, end - time.monotonic())
                if usable(found):
                    write_json(file, found)
    except (OSError, RuntimeError) as error:
        log.warning(
            "which engine is quicker can't be kept in %s (%s): it is measured again next time",
            file.parent if file else "a cache folder", (isinstance(error, OSError) and error.strerror) or error,
        )  # fmt: skip
    return found or measure(job, end - time.monotonic()), False


def job_of(config: DictConfig, folder: Path) -> dict[str, Any]:
    """What is measured: the model, the shape of a rank's step and how it is sampled; plain values."""
    rollout: Any = OmegaConf.to_container(config.rollout, resolve=True)
    asked: Any = OmegaConf.to_container(config.sampling, resolve=True) if "sampling" in config else rollout
    template: Any = config.get("template") or {}
    trainer = config.get("trainer") or {}
    ranks = 1
    for name in ("devices", "num_nodes"):
        count = trainer.get(name)
        ranks *= count if isinstance(count, int) and count > 0 else 1
    group = min(int(asked.get("n") or rollout["group_size"]), ROWS)
    questions = int(config.get("chunk") or -(-int(rollout["questions"]) // ranks)) // (rollout.get("parts") or 1)
    tokens = min(int(asked["max_tokens"]), TOKENS)
    return {
        "folder": str(folder.absolute()),
        "trust_remote_code": bool(config.model.get("trust_remote_code")),
        "dtype": config.model.dtype,
        "synced": "algo" in config,
        "rollout": {name: rollout[name] for name in ("dtype", "kv_cache_gib", "enforce_eager", "max_num_seqs")},
        "sampling": {
            "n": group,
            "max_tokens": tokens,
            "temperature": max(config.get("temperatures") or [asked["temperature"]]),
            "top_p": asked["top_p"],
            "top_k": asked["top_k"],
        },
        "stop": [str(stop) for stop in template.get("stop") or ()],
        "questions": max(min(questions, ROWS // group), 1),
        "prompt": max(1, min(PROMPT, int(config.model.get("context") or PROMPT + tokens) - tokens)),
        "threads": os.environ.get("OMP_NUM_THREADS"),
    }


def cache_file(job: dict[str, Any]) -> Path:
    """Where the figures of a job are kept: by the model's shape, the job, the versions and the machine.

    Raises:
        RuntimeError: the user has no home.
    """
    shape = read_json(Path(job["folder"]) / "config.json")
    machine = [platform.machine(), available_cores(), sorted(processor_flags())]
    about = [shape, {**job, "folder": None}, stack_versions(), machine]
    key = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:16]
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (base if base.is_absolute() else Path.home() / ".cache") / "r1zero" / f"engines_{key}.json"


def kept_figures(file: Path) -> dict[str, float] | None:
    """Figures of an earlier run; None where the file is missing, damaged or holds something else."""
    try:
        content = read_json(file)
    except UserError:
        return None
    return {engine: float(content[engine]) for engine in ENGINES} if usable(content) else None


def usable(content: dict[str, Any]) -> bool:
    """Whether there is a figure of each engine."""
    values: list[Any] = [content.get(engine) for engine in ENGINES]
    return all(type(value) in (int, float) and 0 < value <= LONGEST_MS for value in values)  # a NaN is not


@contextlib.contextmanager
def turn(path: Path, end: float) -> Iterator[None]:
    """Hold a file that one process has at a time; another one goes ahead from the time ``end`` on.

    A lock of the kernel goes with its process, however that ends; on a file system without locks nobody waits.
    """
    with path.open("a") as file:
        while time.monotonic() < end:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                time.sleep(0.2)
            except OSError:
                break
        yield


def measure(job: dict[str, Any], seconds: float = TIMEOUT_S) -> dict[str, Any]:
    """Both engines' figures by :mod:`r1zero.rollout.measure`, in a process that ends with this one.

    It is the leader of a session, so whatever it starts ends with it, and -P keeps files of the folder that we happen
    to be in from being imported.
    """
    command = [sys.executable, "-P", "-m", "r1zero.rollout.measure", json.dumps(job), str(os.getpid())]
    alone = {name: value for name, value in os.environ.items() if name not in RANK_VARIABLES}
    pipes: Any = dict(stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    limit = max(seconds, 0.0)
    with subprocess.Popen(command, **pipes, text=True, errors="replace", env=alone, start_new_session=True) as process:
        try:
            out, said = process.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            return {"error": f"nothing came of it in {round(limit, 1):g} s"}
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    with contextlib.suppress(ValueError):
        found = parse_json((out.strip().splitlines() or [""])[-1])
        if process.returncode == 0 and isinstance(found, dict):
            return found
    words = said.strip().splitlines() or [f"exit code {process.returncode}"]
    return {"error": words[-1][:200]}
