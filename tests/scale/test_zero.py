"""DeepSpeed ZeRO 2 on two gloo ranks, where deepspeed is installed: the weights of one process, resumed exactly."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from safetensors.torch import load_file

from r1zero import config
from r1zero.errors import UserError
from r1zero.learn.zero import ZeroStrategy
from r1zero.train.build import build_trainer
from run_support import ROOT, SMALL, Finished, differing, status, table, train

INSTALLED = importlib.util.find_spec("deepspeed") is not None
QUIET = ["eval.at_start=false", "eval.every=0", "checkpoint.keep=9"]
ZERO = [
    "trainer=deepspeed",
    "trainer.accelerator=cpu",
    "trainer.devices=2",
    "+trainer.strategy.process_group_backend=gloo",
]


def run(arguments: list[str], folder: Path) -> Finished:
    """A run with Lightning's refusal of CPUs taken out; see zero_on_cpu."""
    paths = [str(Path(__file__).with_name("zero_on_cpu")), os.environ.get("PYTHONPATH", "")]
    environment = {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "ZERO_ON_CPU": "1", "DS_ACCELERATOR": "cpu"}
    done = train(arguments, folder, env=environment)
    assert done.code == 0, done.err
    return done


@pytest.mark.skipif(INSTALLED, reason="deepspeed is installed")
def test_without_deepspeed_one_line_says_so() -> None:
    config.register()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = compose(
            "train", overrides=["experiment=demo", "trainer=deepspeed", "trainer.accelerator=cpu", "paths.run=."]
        )
    with pytest.raises(UserError, match=r"trainer can't be built: .*deepspeed"):
        build_trainer(cfg, cfg)  # type: ignore[arg-type]


@pytest.mark.parametrize("stage", [0, 3])
def test_other_stages_are_refused(stage: int) -> None:
    with pytest.raises(UserError, match=f"stage={stage}: choose 1 or 2; trainer=fsdp"):
        ZeroStrategy(stage=stage)


@pytest.mark.slow
@pytest.mark.skipif(not INSTALLED, reason="deepspeed is not installed")
def test_two_ranks_with_zero_make_the_weights_of_two_with_ddp(tmp_path: Path) -> None:
    """Two optimizer steps a rollout step, several passes each, clipped: norms and weights agree to rounding."""
    more = [*QUIET, "steps=2", "optim.micro_batch_tokens=256", "optim.max_grad_norm=0.05"]
    run([*SMALL, *more, *ZERO, f"hydra.run.dir={tmp_path / 'zero'}"], tmp_path)
    ddp = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2"]
    done = train([*SMALL, *more, *ddp, f"hydra.run.dir={tmp_path / 'ddp'}"], tmp_path)
    assert done.code == 0, done.err
    for one, two in zip(table(tmp_path / "zero")[:2], table(tmp_path / "ddp")[:2], strict=True):
        assert float(one["policy/grad_norm"]) > 0.05
        for name in ("policy/grad_norm", "loss/policy", "policy/entropy", "reward/mean"):
            assert float(one[name]) == pytest.approx(float(two[name]), rel=1e-3, abs=1e-6), name
    weights = [load_file(tmp_path / name / "policy" / "model.safetensors") for name in ("zero", "ddp")]
    assert max(float((weights[0][n] - weights[1][n]).abs().max()) for n in weights[0]) < 1e-5


@pytest.mark.slow
@pytest.mark.skipif(not INSTALLED, reason="deepspeed is not installed")
def test_a_run_with_adapters_in_bfloat16_resumes_exactly(tmp_path: Path) -> None:
    """Its checkpoint is a folder with the adapters alone."""
    more = [*QUIET, "model.lora.rank=4", "model.dtype=bfloat16", "optim.lr=1e-3"]
    run([*SMALL, *ZERO, *more, "steps=4", f"hydra.run.dir={tmp_path / 'whole'}"], tmp_path)
    run([*SMALL, *ZERO, *more, "steps=2", f"hydra.run.dir={tmp_path / 'cut'}"], tmp_path)
    run(["resume=cut", "steps=4"], tmp_path)
    assert status(tmp_path / "cut")["state"] == "finished"
    one, two = (load_file(tmp_path / name / "policy" / "model.safetensors") for name in ("whole", "cut"))
    assert differing(one, two) == []
    assert table(tmp_path / "whole")[:4] == table(tmp_path / "cut")[:4]
    folder = tmp_path / "whole" / "checkpoints" / "step_000004.ckpt"
    assert sum(f.stat().st_size for f in folder.rglob("*.pt")) < 4 * sum(t.numel() for t in one.values())
    assert all(t.dtype == torch.bfloat16 for t in one.values())
