"""What the goldens are made of: three rollout steps of a random two-layer model under four objectives.

In float64: what a float32 weight near 1 can hold of an update is only good to 1e-5, and differs between processors.

``python scripts/update_goldens.py`` writes the numbers anew after a change that is meant to change results.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from objective_support import algo_config, fit, make_module, random_policy, random_rollout, weights
from r1zero.algo_config import Correction

FILE = Path(__file__).parent / "goldens" / "objective.json"
STEPS = 3

CASES: dict[str, dict[str, Any]] = {
    "grpo": {"algo": "grpo"},
    "drgrpo": {"algo": "drgrpo"},
    "token": {"algo": "token", "clip_high": 0.28, "exclude": True},
    "everything": {
        "algo": "drgrpo",
        "inner_epochs": 2,
        "temperature": 0.7,
        "kl_coef": 0.1,
        "entropy_coef": 0.01,
        "sampler_correction": Correction.token,
    },
}

FIGURES = (
    "loss/policy",
    "loss/kl",
    "policy/entropy",
    "policy/clip_frac",
    "policy/approx_kl",
    "policy/ratio_max",
    "policy/grad_norm",
    "sync/logprob_diff_mean",
)


def run_case(name: str) -> dict[str, float]:
    """Train and return the figures of each step and, for each parameter, how far it has moved."""
    settings = dict(CASES[name])
    exclude, temperature = settings.pop("exclude", False), settings.pop("temperature", 1.0)
    algo = algo_config(settings.pop("algo"), minibatch_size=8, **settings)
    policy = random_policy(scale=0.15).double()
    reference = random_policy(seed=1, scale=0.15).double().requires_grad_(False) if algo.kl_coef else None
    start = weights(policy)
    module = make_module(policy, algo, reference=reference, temperature=temperature, sync_tolerance=100.0, lr=2e-3)

    def make(step: int) -> Any:
        return random_rollout(
            step, std_norm=algo.std_norm, exclude_truncated=exclude, sampler=True, flat_groups=(step,)
        )

    history = fit(module, make, STEPS)
    figures = [name for name in FIGURES if name != "loss/kl" or algo.kl_coef]
    found = {f"{step} {name}": history[step][name] for step in range(STEPS) for name in figures}
    for parameter, value in weights(policy).items():
        moved = (value - start[parameter]).flatten()
        found[f"moved {parameter}"] = moved.norm().item()
        # A second number that depends on where and which way it moved.
        found[f"along {parameter}"] = (moved * torch.cos(torch.arange(len(moved), dtype=torch.float64))).sum().item()
    return found


def load() -> dict[str, dict[str, float]]:
    return json.loads(FILE.read_text())


def differences(found: dict[str, float], golden: dict[str, float], tolerance: float = 1e-5) -> list[str]:
    """Names whose numbers differ by more than the tolerance, relative, or absolute for the signed projections."""
    assert found.keys() == golden.keys()
    far = []
    for name, value in golden.items():
        scale = golden[name.replace("along", "moved")] if name.startswith("along") else abs(value)
        # Not "greater than", which a NaN never is.
        if not abs(found[name] - value) <= tolerance * max(scale, 1e-3):
            far.append(name)
    return far
