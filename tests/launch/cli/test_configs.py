"""Every config that is shipped composes against the schemas, and what it asks for can be checked (trap 57)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import OmegaConf

from r1zero import config
from r1zero.errors import UserError
from r1zero.launch.arguments import options
from r1zero.ranges import check_ranges
from r1zero.train import checks
from run_support import ROOT

CONF = ROOT / "conf"
GROUPS = (
    "algo", "model", "template", "data", "benchmarks", "reward", "rollout", "optim", "trainer", "callbacks", "logger",
    "paths", "debug",
)  # fmt: skip
EVERY = [(group, option) for group in GROUPS for option in options(CONF, group)]
ANALYSES = ("fig15", "fig3", "fig3_mini")  # of scripts/analyze.py, see tests/lab/analysis
EXPERIMENTS = [name for name in options(CONF, "experiment") if name not in ANALYSES]


@pytest.fixture(autouse=True)
def conf(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    config.register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield


def composed(*overrides: str) -> Any:
    """The training config with a run folder, as ``python train.py`` composes it."""
    return compose("train", overrides=["paths.run=run", *overrides])


@pytest.mark.parametrize(("group", "option"), EVERY, ids=[f"{g}={o}" for g, o in EVERY])
def test_every_option_of_every_group_composes_and_resolves(group: str, option: str) -> None:
    cfg = composed("experiment=demo", f"{group}={option}")
    missing = OmegaConf.missing_keys(cfg)
    assert missing <= {"model.path", "server.url"}
    if not missing:
        OmegaConf.to_container(cfg, resolve=True)
        checks.check_targets(cfg)
    checks.check_known(cfg)
    check_ranges(cfg)
    if group in config.GROUPS and option != "folder":
        name = cfg[group].name
        assert name == option or group in ("optim", "reward"), "a run is named by the option that made it"


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_starts(experiment: str) -> None:
    """It passes every check up to the one of the machine, and what must be downloaded."""
    cfg = composed(f"experiment={experiment}")
    try:
        checks.check(cfg)
    except UserError as error:
        assert "no NVIDIA GPU was found" in str(error)  # noqa: PT017


def test_the_default_is_the_setting_of_the_paper() -> None:
    cfg = composed()
    assert (cfg.algo.name, cfg.model.name, cfg.template.name, cfg.data.name) == ("drgrpo", "qwen1.5b", "r1", "math12k")
    assert (cfg.rollout.questions, cfg.rollout.group_size, cfg.algo.minibatch_size) == (128, 8, 128)
    assert (cfg.rollout.max_tokens, cfg.rollout.temperature, cfg.rollout.top_p) == (3000, 1.0, 1.0)
    assert (cfg.optim.lr, tuple(cfg.optim.betas), cfg.optim.weight_decay) == (1e-6, (0.9, 0.95), 0.0)
    assert (cfg.optim.max_grad_norm, cfg.algo.kl_coef, cfg.algo.clip_low, cfg.algo.clip_high) == (1.0, 0.0, 0.2, 0.2)


def test_grpo_and_drgrpo_differ_in_two_values() -> None:
    grpo, drgrpo = (OmegaConf.to_container(composed(f"algo={name}").algo) for name in ("grpo", "drgrpo"))
    assert {k for k in grpo if grpo[k] != drgrpo[k]} == {"name", "length_norm", "std_norm"}


@pytest.mark.parametrize("group", ["algo", "model", "template", "data", "reward", "rollout", "optim", "trainer"])
def test_members_of_a_group_have_the_same_keys(group: str) -> None:
    """A fixed override beside a sweep over the group must fit every member (trap 57)."""
    keys = {name: set(composed(f"{group}={name}")[group]) for name in options(CONF, group)}
    assert len({frozenset(k) for k in keys.values()}) == 1, keys


def test_loggers_can_be_listed_and_left_out() -> None:
    assert set(composed("logger=[wandb,csv]").logger) == {"wandb", "csv"}
    assert set(composed("logger=none").logger) == set()
    assert set(composed("logger=tensorboard").logger) == {"tensorboard"}


def test_a_choice_of_model_brings_what_belongs_to_it_and_nothing_else() -> None:
    one, other = (OmegaConf.to_container(composed(f"model={m}")) for m in ("qwen1.5b", "llama3b"))
    assert {k for k in one if one[k] != other[k]} == {"model"}


def test_names_resolve_without_hydra_at_run_time() -> None:
    """Names come from each group's ``name``, so that composing in a notebook resolves them (no ``hydra:`` resolver)."""
    assert composed("algo=grpo").name == "grpo_qwen1.5b_r1_math12k"


def test_an_unknown_group_option_is_an_error() -> None:
    with pytest.raises(HydraException):
        composed("algo=drgpo")


def test_the_folder_of_a_run_is_given_by_paths() -> None:
    assert Path(composed("experiment=demo").paths.outputs) == Path("outputs")
