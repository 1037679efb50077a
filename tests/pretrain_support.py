"""What the tests of pretraining share."""

from __future__ import annotations

import random
from pathlib import Path

from run_support import Finished, Server


def pretrain(server: Server, *arguments: str) -> Finished:
    """``scripts/pretrain.py``, to its end."""
    return server.run(arguments, Path.cwd(), script="scripts/pretrain.py")


class Counting:
    """Documents of random lengths whose state is a number."""

    def __init__(self, seed: int = 0, shortest: int = 2, longest: int = 20) -> None:
        self.seed, self.shortest, self.longest, self.number = seed, shortest, longest, 0

    def read(self, progress: float) -> list[int]:
        rng = random.Random(f"{self.seed}/{self.number}")
        self.number += 1
        return [rng.randint(1, 49) for _ in range(rng.randint(self.shortest, self.longest))]

    def state_dict(self) -> dict:
        return {"number": self.number}

    def load_state_dict(self, state: dict) -> None:
        self.number = state["number"]
