"""The engine named by the config group, and that naming one imports nothing of the other."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest

from r1zero.errors import UserError
from r1zero.rollout.build import build_engine
from r1zero.rollout.hf.engine import HFEngine
from r1zero.rollout_config import RayConfig, RolloutConfig

ROOT = Path(__file__).resolve().parents[2]


def test_unknown_engine() -> None:
    with pytest.raises(UserError, match=r"rollout\.name=sglang is unknown; choose vllm, ray, hf or auto"):
        build_engine(RolloutConfig(name="sglang"), "nowhere", dtype="float32", context=8)


def test_dtype_of_the_group_beats_the_models(folders: dict[str, Path]) -> None:
    engine = build_engine(RolloutConfig(name="hf", dtype="float32"), str(folders["tied"]), dtype="bfloat16", context=64)
    assert isinstance(engine, HFEngine)
    assert str(engine._dtype) == "torch.float32"


def test_an_engine_here_and_one_in_a_sampler_have_the_same_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """They differ by what only one of them has: sleep and a watchdog here, cut models and transfer there."""
    from r1zero.rollout import ranks
    from r1zero.rollout.ray import build
    from r1zero.rollout.vllm import engine as vllm_engine
    from r1zero.rollout.vllm import joint

    given: list[dict] = []
    monkeypatch.setattr(vllm_engine, "VLLMEngine", lambda **settings: given.append(settings))
    rollout = RolloutConfig(
        name="vllm", gpu_memory=0.3, kv_cache_gib=0.2, enforce_eager=False, batch_invariant=True, max_num_seqs=7,
        timeout_s=9.0, quantization="fp8", tensor_parallel=2, ray=RayConfig(transfer="nccl"),
    )  # fmt: skip
    model = {"context": 64, "seed": 5, "revision": "main", "trust_remote_code": True, "responses": 48}
    model["evaluated"] = (10, 90)
    with pytest.raises(UserError, match=r"rollout\.tensor_parallel=2 .* here is one process: use rollout=ray"):
        build_engine(rollout, "some/model", dtype="float32", **model)
    with monkeypatch.context() as patch:
        patch.setattr(ranks, "several", lambda: True)
        patch.setattr(joint, "JointEngine", lambda engine: engine)
        build_engine(rollout, "some/model", dtype="float32", **model)
    here = {
        "model_path": "some/model", "dtype": "bfloat16", "context": 64, "seed": 5, "revision": "main",
        "trust_remote_code": True, "gpu_memory": 0.3, "kv_cache_gib": 0.2, "enforce_eager": False,
        "batch_invariant": True, "quantization": "fp8", "tensor_parallel": 2, "max_num_seqs": 7,
        "response_tokens": 64 + 2 * 32,
    }  # fmt: skip
    own = {"sleep": True, "sleep_level": None, "card": 0, "timeout_s": 9.0, "on_hang": None, "responses": 2 * 48}
    own["evaluated"] = (2 * 10, 90)
    assert given == [here | own], "two ranks' responses in one engine"
    sampled: list[dict] = []
    monkeypatch.setattr(build, "build_ray_engine", lambda rollout, engine: sampled.append(engine))
    build_engine(dataclasses.replace(rollout, name="ray"), "some/model", dtype="float32", **model)
    there = here | {"sleep": False, "transfer": "nccl", "responses": 48, "evaluated": (10, 90)}
    assert build.Fleet(rollout, sampled[0], 0)._engine() == there


def test_vllm_is_not_imported_before_an_engine_is_built() -> None:
    code = "import sys, r1zero.rollout.build, r1zero.rollout.vllm.engine; print('vllm' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT / "src")
    assert done.stdout.split()[-1] == "False"


@pytest.mark.parametrize("name", ["vllm", "hf", "ray"])
def test_group_files_compose(name: str) -> None:
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    from r1zero.config import register

    register()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = compose(overrides=[f"+rollout={name}"])
        assert OmegaConf.to_object(config.rollout).name == name
        with pytest.raises(Exception, match="temprature"):
            compose(overrides=[f"+rollout={name}", "rollout.temprature=1"])
