"""Weights that are no numbers end an evaluation in one line: there is no table of accuracies (B15)."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from evaluate_support import SMALL, TINY, evaluated
from r1zero.batch import Completion
from r1zero.errors import UserError
from r1zero.launch.files import without_nan
from r1zero.rollout.text import check_sampled


@pytest.mark.parametrize("temperature", [0, 1])
@pytest.mark.parametrize(("part", "value"), [("layers.1.mlp", math.nan), ("embed_tokens", math.inf)])
def test_broken_weights_give_no_accuracies(tmp_path: Path, temperature: int, part: str, value: float) -> None:
    folder = tmp_path / "model"
    shutil.copytree(TINY, folder, ignore=shutil.ignore_patterns("SHA256SUMS"))
    weights = load_file(folder / "model.safetensors")
    weights[next(name for name in weights if part in name)][-1, 0] = value
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    settings = (*SMALL, f"model.path={folder}", "benchmarks=arithmetic", "limit=2")
    with pytest.raises(UserError, match=r"^the sampler's logits are NaN or infinite: the model's weights are broken"):
        evaluated(tmp_path / "run", *settings, f"sampling.temperature={temperature}")
    assert not (tmp_path / "run" / "results.json").exists()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_log_probabilities_tell_of_any_engine(value: float) -> None:
    check_sampled([[Completion([1, 2], "x", "stop", [-1.0, 0.0])], [Completion([1], "x", "stop", None)]])
    with pytest.raises(UserError, match="NaN or infinite"):
        check_sampled([[Completion([1], "x", "stop", [-1.0])], [Completion([1, 2], "x", "stop", [-1.0, value])]])


def test_json_files_have_null_where_there_is_no_figure() -> None:
    made = {"a": math.nan, "b": [1.0, -math.inf], "c": {"d": (math.inf, "nan")}}
    assert without_nan(made) == {"a": None, "b": [1.0, None], "c": {"d": [None, "nan"]}}
