"""The engine named by the config group, and that naming one imports nothing of the other."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from r1zero.config import RolloutConfig
from r1zero.errors import UserError
from r1zero.rollout.build import build_engine
from r1zero.rollout.hf_engine import HFEngine

ROOT = Path(__file__).resolve().parents[2]


def test_unknown_engine() -> None:
    with pytest.raises(UserError, match=r"rollout\.name=sglang is unknown; choose vllm, vllm_server or hf"):
        build_engine(RolloutConfig(name="sglang"), "nowhere", dtype="float32", context=8)


def test_dtype_of_the_group_beats_the_models(folders: dict[str, Path]) -> None:
    engine = build_engine(RolloutConfig(name="hf", dtype="float32"), str(folders["tied"]), dtype="bfloat16", context=64)
    assert isinstance(engine, HFEngine)
    assert str(engine._dtype) == "torch.float32"


def test_vllm_is_not_imported_before_an_engine_is_built() -> None:
    code = "import sys, r1zero.rollout.build, r1zero.rollout.vllm_engine; print('vllm' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT / "src")
    assert done.stdout.split()[-1] == "False"


def test_files_that_import_vllm() -> None:
    importing = {
        path.name
        for path in (ROOT / "src").rglob("*.py")
        if any(line.strip().startswith(("import vllm", "from vllm")) for line in path.read_text().splitlines())
    }
    assert importing - {"transfer.py"} == {"vllm_engine.py", "vllm_request.py", "vllm_worker.py"}


@pytest.mark.parametrize("name", ["vllm", "hf", "vllm_server"])
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
