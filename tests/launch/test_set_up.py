"""Set-up degrades where vLLM has no wheel, and the demo samples with transformers there."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from r1zero.launch.arguments import expand
from run_support import ROOT


@pytest.fixture
def set_up(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    import set_up

    return set_up


def test_an_index_without_vllm(set_up, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The engine of the CPU is installed here, so pip is content with it; another package's name stands for a system
    that has none."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    assert set_up.has_wheel(Path(sys.executable), "cpu") == (importlib.util.find_spec("vllm") is not None)
    other = tmp_path / "pyproject.toml"
    other.write_text('[project.optional-dependencies]\ncpu = ["vllm-of-no-system>=1"]\n')
    monkeypatch.setattr(set_up, "ROOT", tmp_path)
    other.write_text("[project]\n" + other.read_text())
    assert not set_up.has_wheel(Path(sys.executable), "cpu")


def test_the_engine_is_what_is_installed(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    conf = ROOT / "conf"
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "rollout=hf" in expand(["experiment=demo"], conf)
    assert "transformers" in capsys.readouterr().err
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    assert "rollout=hf" not in expand(["experiment=demo"], conf)
    for engine in ("ray", "auto"):
        assert f"rollout={engine}" in expand(["experiment=demo", f"rollout={engine}"], conf)


def resolves(python: str, folder: Path) -> bool:
    """Whether an index has wheels of what decides, as pyproject.toml asks for them, for a version of Python."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = ("torch", "pytorch-lightning", "transformers", "hydra-core", "pyarrow")
    wanted = [one for one in project["dependencies"] if one.startswith(tuple(f"{name}>" for name in named))]
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "-q",
        "--dry-run",
        "--no-deps",
        "--only-binary=:all:",
    ]
    command += ["--target", str(folder), "--python-version", python, *wanted, *project["optional-dependencies"]["cpu"]]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


@pytest.mark.slow
@pytest.mark.skipif(
    "R1ZERO_PYTHONS" not in os.environ, reason="asks an index for minutes: R1ZERO_PYTHONS=all, make soak"
)
def test_the_lowest_and_the_highest_python_can_be_installed_on(tmp_path: Path) -> None:
    """C17: what pyproject.toml promises, vLLM's wheels among it; the version below the lowest has none."""
    if not resolves(f"{sys.version_info.major}.{sys.version_info.minor}", tmp_path):
        pytest.skip("no index can be reached")
    assert resolves("3.11", tmp_path)
    assert resolves("3.14", tmp_path)
    assert not resolves("3.10", tmp_path)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["requires-python"] == ">=3.11,<3.15"
