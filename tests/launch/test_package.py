"""The wheel alone is enough: `r1zero train` works where there is no repository."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from r1zero.__main__ import COMMANDS
from run_support import ENVIRONMENT

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the wheel installs."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def r1zero(installed: Path, cwd: Path, *args: str) -> subprocess.CompletedProcess[str]:
    env = os.environ | ENVIRONMENT | {"PYTHONPATH": str(installed)}
    return subprocess.run([sys.executable, "-m", "r1zero", *args], cwd=cwd, env=env, capture_output=True, text=True)


def test_a_run_from_the_wheel(installed: Path, tmp_path: Path) -> None:
    small = ["rollout=hf", "steps=1", "eval.limit=4", "rollout.questions=2", "algo.minibatch_size=16"]
    done = r1zero(installed, tmp_path, "train", "experiment=demo", *small, "rollout.max_tokens=32")
    assert done.returncode == 0, done.stderr
    (run,) = tmp_path.glob("outputs/demo/*")
    assert (run / "policy" / "model.safetensors").is_file()


def test_help_names_the_commands_and_a_slip_is_one_line(installed: Path, tmp_path: Path) -> None:
    assert "evaluate" in r1zero(installed, tmp_path, "--help").stdout
    slip = r1zero(installed, tmp_path, "trian")
    assert (slip.returncode, slip.stderr) == (1, "error: there is no command 'trian'; did you mean train?\n")


def test_every_command_has_its_script_and_types_are_marked(installed: Path) -> None:
    for command in COMMANDS:
        script = "train.py" if command == "train" else f"scripts/{command}.py"
        assert (installed / "r1zero" / "repository" / script).is_file(), command
    assert (installed / "r1zero" / "py.typed").is_file()
