"""Shared fixtures: where the question sets and tools lie, when they lie beside the checkout."""

from __future__ import annotations

import os
import signal
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from run_support import Server

os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("WANDB_MODE", "offline")
os.environ.setdefault("R1ZERO_DTYPE", "float32")  # what a test computes does not depend on the machine

# A shell starts background commands with Ctrl-C ignored, and children would inherit that: tests of signals need it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).resolve().parents[1]
SHARED = Path(os.environ.get("R1ZERO_SHARED", ROOT.parent / "shared"))


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder with ``data/`` and ``tools/``; a test that needs it is skipped, loudly, where it is missing."""
    if not (SHARED / "data").is_dir():
        warnings.warn(f"question sets not found at {SHARED}; tests on real data are skipped", stacklevel=1)
        pytest.skip(f"no shared data at {SHARED}")
    return SHARED


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Starts ``train.py`` without paying for imports."""
    started = Server(tmp_path_factory.mktemp("forks"))
    yield started
    started.close()
