"""An engine in a process of its own that samples, sleeps, wakes, takes its weights again and samples again."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ROUNDS = 3
PROMPTS = [[5, 6, 7, 8], [9, 10, 11], [12, 13], [14, 15, 16, 17, 18]]


def cycled(model: Path, out: Path, engine: str, limit: float) -> dict[str, Any]:
    """What :func:`main` reports, from a process that is gone afterwards with all its memory."""
    command = [sys.executable, "-m", "r1zero.lab.gpu_check.engine", str(model), str(out), engine]
    done = subprocess.run(command, capture_output=True, text=True, timeout=limit, check=False)
    if done.returncode:
        raise RuntimeError((done.stderr.strip().splitlines() or [f"code {done.returncode}"])[-1])
    return dict(json.loads(out.read_text()))


def main(model: Path, out: Path, name: str) -> None:
    """Sample, sleep, wake, load, sample: ``same`` of ``total`` responses are equal over all rounds; ``freed`` bytes."""
    import torch

    from r1zero.config import ModelConfig
    from r1zero.lab.doctor.probe import used
    from r1zero.learn.policy import Policy
    from r1zero.rollout.build import build_engine
    from r1zero.rollout.engine import Sampling
    from r1zero.rollout_config import RolloutConfig

    gpu = torch.cuda.is_available()
    policy = Policy.from_folder(model, ModelConfig(name="cycle", path=str(model)))
    rollout = RolloutConfig(name=name, enforce_eager=True, kv_cache_gib=0.1)
    engine = build_engine(
        rollout, str(model), dtype="bfloat16" if gpu else "float32", context=256, device="cuda:0" if gpu else "cpu"
    )
    sampling = Sampling(n=4, max_tokens=32)
    drawn, freed = [], 0
    for version in range(ROUNDS):
        if version:
            before = used()
            engine.sleep()
            freed = before - used()
            engine.wake()
        engine.load_weights(policy.named_weights(), version)
        drawn.append([one.ids for group in engine.generate(PROMPTS, sampling, seed=1) for one in group])
    engine.close()
    same = sum(len({tuple(ids) for ids in several}) == 1 for several in zip(*drawn, strict=True))
    out.write_text(json.dumps({"same": same, "total": len(drawn[0]), "rounds": ROUNDS, "freed": freed}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
