"""What this machine can do at most: ``python -m r1zero.lab.benchmark.machine float32 cpu`` says it as JSON."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable
from typing import Any


def measure(dtype: str, device: str = "cpu", seconds: float = 2.0) -> dict[str, Any]:
    """Operations per second of a large matrix product, and bytes per second of reading memory.

    The best of several: a limit is what nothing else disturbed.

    Args:
        dtype: float32 or bfloat16.
        device: cpu or cuda.
        seconds: for each of the two, at most.
    """
    import torch

    kind = getattr(torch, dtype)
    size = 8192 if device == "cuda" else 1024
    a, b = (torch.randn(size, size, device=device).to(kind) for _ in range(2))
    # The value is fetched, so the work is over when the clock is read.
    flops = 2 * size**3 / best_time(lambda: float((a @ b)[0, 0]), limit=seconds)[0]
    block = torch.ones(2**30 if device == "cuda" else 2**26, device=device)  # larger than any cache
    bandwidth = block.nbytes / best_time(lambda: float(block.sum()), limit=seconds)[0]
    found = {"flops": flops, "bandwidth": bandwidth, "threads": float(torch.get_num_threads())}
    return found | ({"gpu": torch.cuda.get_device_name()} if device == "cuda" else {})


def best_time(
    work: Callable[[], object],
    clock: Callable[[], float] = time.perf_counter,
    *,
    patience: int = 40,
    gain: float = 0.01,
    limit: float = 2.0,
) -> tuple[float, int]:
    """(shortest time of ``work`` in seconds, number of times it was run), after two runs that warm up.

    Ends when ``patience`` runs in a row were not faster by the share ``gain``, or after ``limit`` seconds and 3 runs.
    """
    for _ in range(2):
        work()
    best, repeats, idle, begun = math.inf, 0, 0, clock()
    while idle < patience and (repeats < 3 or clock() - begun < limit):
        started = clock()
        work()
        took = clock() - started
        idle = 0 if took < best * (1 - gain) else idle + 1
        best, repeats = min(best, took), repeats + 1
    return best, repeats


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1], sys.argv[2])))
