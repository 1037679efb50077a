"""What is settled before torch is imported, and right after."""

from __future__ import annotations

import os

from r1zero.launch.compat import leave_triton_out
from r1zero.launch.number_format import SMALL


def limit_threads(params: float) -> None:
    """Give a very small model one thread, unless ``OMP_NUM_THREADS`` says otherwise; before torch is imported.

    Its matrix products are too small to share out, and two threads that wait for each other beside other
    load were measured to be up to fifty times slower than one.

    Args:
        params: parameters of the model, in billions.
    """
    if 0 < params * 1e9 < SMALL:
        os.environ.setdefault("OMP_NUM_THREADS", "1")


def start_torch(params: float) -> None:
    """Import torch for a model of so many billions of parameters: :func:`limit_threads`, and no Triton on a CPU."""
    limit_threads(params)
    leave_triton_out()
