"""The notebooks run from top to bottom with small settings, and are kept with the outputs of larger ones."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
SMALL = {"NOTEBOOK_STEPS": "2", "NOTEBOOK_QUESTIONS": "8", "OMP_NUM_THREADS": "1", "WANDB_MODE": "offline"}


def test_all_four_are_there() -> None:
    assert [path.stem[:2] for path in NOTEBOOKS] == ["01", "02", "03", "04"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_outputs_are_stored(path: Path) -> None:
    """What a reader of the site sees: results, no warnings, no paths of the machine they were made on."""
    text = path.read_text()
    code = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
    assert all(cell["execution_count"] for cell in code)
    assert any(cell["outputs"] for cell in code)
    names = [output.get("name") for cell in code for output in cell["outputs"]]
    assert "stderr" not in names
    assert "/home/" not in text
    assert "site-packages" not in text


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs(path: Path) -> None:
    pytest.importorskip("nbmake")
    options = ["--nbmake", "--nbmake-timeout=600", "-q", "-p", "no:cacheprovider"]
    command = [sys.executable, "-m", "pytest", *options, str(path)]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | SMALL, capture_output=True, text=True, timeout=800)
    assert done.returncode == 0, done.stdout[-4000:]
