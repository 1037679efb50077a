"""One seed governs everything that is drawn (semantics 14)."""

from __future__ import annotations

import hashlib


def derive_seed(seed: int, *parts: int | str) -> int:
    """A seed for one draw, from the run's seed and what the draw is for; below 2**31.

    Draws are named by what they are for, (purpose, rollout step, rank), and not taken from a running
    generator: a resumed run draws what an undisturbed one would have drawn (traps 30, 35).
    """
    text = ":".join(map(str, (seed, *parts)))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest(), "big") >> 1
