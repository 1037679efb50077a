"""What this machine can do at most, measured: ``python -m r1zero.benchmark.machine float32`` says it as JSON."""

from __future__ import annotations

import json
import sys
import time


def measure(dtype: str, seconds: float = 2.0) -> dict[str, float]:
    """Operations per second of a large matrix product, and bytes per second of reading memory.

    The best of several: a limit is what nothing else disturbed.

    Args:
        dtype: float32 or bfloat16.
        seconds: for each of the two.
    """
    import torch

    kind = getattr(torch, dtype)
    size = 1024
    a, b = torch.randn(size, size).to(kind), torch.randn(size, size).to(kind)
    flops = 2 * size**3 / best(lambda: a @ b, seconds)
    block = torch.ones(2**26)  # 256 MiB, larger than any cache
    bandwidth = block.nbytes / best(lambda: block.sum(), seconds)
    return {"flops": flops, "bandwidth": bandwidth, "threads": float(torch.get_num_threads())}


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
    print(json.dumps(measure(sys.argv[1])))
