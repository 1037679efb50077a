"""The reward configs compose, name functions that exist, and a plug-in is added on the command line."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from r1zero import config
from r1zero.config import RewardConfig
from r1zero.reward.grader import Grader
from r1zero.reward.workers.worker import load_function

CONF = Path(__file__).resolve().parents[2] / "conf"
PLUG_IN = """
def short(response: str, gold: tuple[str, ...], target: int) -> float:
    return float(len(response) < target)
"""


def reward_config(*overrides: str) -> RewardConfig:
    config.register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        made = OmegaConf.to_object(compose("train", overrides=list(overrides)).reward)
    assert isinstance(made, RewardConfig)
    return made


@pytest.mark.parametrize("name", sorted(file.stem for file in (CONF / "reward").glob("*.yaml")))
def test_every_reward_config_composes_and_its_functions_exist(name):
    made = reward_config(f"reward={name}")
    assert made.name == name
    for function in made.functions.values():
        assert callable(load_function(function.path))
    Grader(made).close()


def test_the_deadline_is_set_on_the_command_line():
    assert reward_config("reward.timeout=2").timeout == 2.0


def test_a_reward_in_five_lines(tmp_path, monkeypatch):
    """A module in the working directory, named on the command line, runs in a worker and is added with its weight."""
    (tmp_path / "my_rewards.py").write_text(PLUG_IN)
    monkeypatch.chdir(tmp_path)
    made = reward_config("+reward.functions={short: {path: my_rewards.short, weight: 0.1, params: {target: 2000}}}")
    with Grader(made) as grader:
        outcome = grader.grade("\\boxed{4}", ("4",))
    assert outcome.reward == pytest.approx(1.1)
    assert outcome.components == {"verifier": 1.0, "short": 1.0}
