"""Global random states around an engine's work (trap 31)."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from rollout_support import rng_states

from r1zero.rollout.rng import preserved_rng


def draw() -> tuple[float, float, float]:
    return random.random(), float(np.random.rand()), torch.rand(1).item()


def test_states_come_back_whatever_happens_inside() -> None:
    before = rng_states()
    with pytest.raises(KeyError), preserved_rng():  # noqa: PT012
        torch.manual_seed(0)
        random.seed(0)
        np.random.seed(0)
        raise KeyError
    assert rng_states() == before


def test_seed_governs_all_three() -> None:
    def seeded(seed: int) -> tuple[float, float, float]:
        with preserved_rng(seed):
            return draw()

    draw()
    first = seeded(2**70 + 1)
    draw()
    assert seeded(2**70 + 1) == first
    assert all(a != b for a, b in zip(first, seeded(3), strict=True))
