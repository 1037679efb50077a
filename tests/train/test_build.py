"""What a run derives from its config."""

from __future__ import annotations

import math
import signal
from types import SimpleNamespace
from typing import Any

import pytest
import pytorch_lightning as pl
from omegaconf import OmegaConf

from r1zero.config import ModelConfig, RolloutConfig
from r1zero.train.build import build_trainer, settle_correction, sync_tolerance

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


def tolerance(model_dtype: str = "float32", **rollout: Any) -> float:
    cfg: Any = SimpleNamespace(
        model=ModelConfig(name="m", path="p", dtype=model_dtype), rollout=RolloutConfig(name="hf", **rollout)
    )
    return sync_tolerance(cfg)


@pytest.mark.parametrize("scheduler", ["none", "slurm"])
def test_lightning_leaves_signals_alone(monkeypatch: pytest.MonkeyPatch, scheduler: str) -> None:
    """Its handler of SIGTERM broadcasts, which on one of several ranks never returns; also outside of the steps."""
    if scheduler == "slurm":
        for name, value in (("NTASKS", "1"), ("JOB_ID", "7"), ("PROCID", "0"), ("LOCALID", "0"), ("NODEID", "0")):
            monkeypatch.setenv(f"SLURM_{name}", value)
        monkeypatch.setenv("SLURM_NODELIST", "one")
    trainer_config = {"_target_": "pytorch_lightning.Trainer", "accelerator": "cpu", "devices": 1}
    cfg: Any = SimpleNamespace(model=ModelConfig(name="m", path="p", dtype="float32"))
    trainer = build_trainer(cfg, OmegaConf.create({"trainer": trainer_config}))
    found: list[Any] = []

    class Look(pl.LightningModule):
        automatic_optimization = False

        def configure_optimizers(self) -> None: ...

        def training_step(self, batch: Any) -> None:
            found.append([signal.getsignal(number) for number in SIGNALS])

    before = [signal.getsignal(number) for number in SIGNALS]
    trainer.fit(Look(), [0])
    assert found == [before]
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_the_tolerance_follows_the_number_formats() -> None:
    assert tolerance("float32") == 1e-3
    assert tolerance("bfloat16") == 0.1
    assert tolerance("float32", dtype="bfloat16") == 0.1
    assert tolerance("float32", quantization="fp8") == tolerance("bfloat16", quantization="fp8") == 0.5
    assert tolerance("float32", sync_tolerance=0.5, top_k=3) == 0.5


def test_a_sampler_that_cuts_the_distribution_may_differ_by_the_mass_it_keeps() -> None:
    """Trap 20: of 4 tokens with p = (0.5, 0.3, 0.15, 0.05), top-p 0.7 keeps 0.8: all differ by -log 0.8."""
    assert tolerance(top_p=0.7) == pytest.approx(1e-3 - math.log(0.7))
    assert -math.log(0.8) < tolerance(top_p=0.7)
    assert tolerance(top_k=2) == 0.5, "foreign weights differ by more, and no limit would let them pass"


@pytest.mark.parametrize(
    ("model", "sampler", "quantization", "found"),
    [
        ("float32", "auto", None, "off"),
        ("bfloat16", "auto", None, "token"),
        ("float32", "bfloat16", None, "token"),
        ("float32", "float32", None, "off"),
        ("float32", "auto", "fp8", "token"),
    ],
)
def test_the_correction_is_on_where_number_formats_make_a_difference(
    model: str, sampler: str, quantization: str | None, found: str
) -> None:
    """Semantics 7; an explicit choice stays, and goldens in float32 don't move."""
    for given in ("auto", "off", "token"):
        config = OmegaConf.create(
            {
                "algo": {"sampler_correction": given},
                "model": {"dtype": model},
                "rollout": {"dtype": sampler, "quantization": quantization},
            }
        )
        settle_correction(config)
        assert config.algo.sampler_correction == (found if given == "auto" else given)
