"""What this machine can do at most: ``python -m r1zero.lab.benchmark.machine float32 cpu`` says it as JSON."""

from __future__ import annotations

import json
import sys
import time
from typing import Any


def measure(dtype: str, device: str = "cpu", seconds: float = 2.0) -> dict[str, Any]:
    """Operations per second of a large matrix product, and bytes per second of reading memory.

    The best of several: a limit is what nothing else disturbed.

    Args:
        dtype: float32 or bfloat16.
        device: cpu or cuda.
        seconds: for each of the two.
    """
    import torch

    kind = getattr(torch, dtype)
    size = 8192 if device == "cuda" else 1024
    a, b = (torch.randn(size, size, device=device).to(kind) for _ in range(2))
    # The value is fetched, so the work is over when the clock is read.
    flops = 2 * size**3 / best(lambda: float((a @ b)[0, 0]), seconds)
    block = torch.ones(2**30 if device == "cuda" else 2**26, device=device)  # larger than any cache
    bandwidth = block.nbytes / best(lambda: float(block.sum()), seconds)
    found = {"flops": flops, "bandwidth": bandwidth, "threads": float(torch.get_num_threads())}
    return found | ({"gpu": torch.cuda.get_device_name()} if device == "cuda" else {})


def best(work: object, seconds: float) -> float:
    """Shortest time of a call in a while."""
    assert callable(work)
    work()
    times: list[float] = []
    end = time.perf_counter() + seconds
    while not times or time.perf_counter() < end:
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return min(times)


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1], sys.argv[2])))
