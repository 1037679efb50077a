"""Earlier import paths are understood; settings are called what the command line calls them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from r1zero import config
from r1zero.launch.renamed import bring_up_to_date, current
from r1zero.launch.targets import check_kinds
from r1zero.train import checks
from run_support import ROOT, SMALL

OLD = {
    "callbacks": {"metrics": {"_target_": "r1zero.callbacks.metrics.MetricsCallback"}, "bias": None},
    "logger": {"wandb": {"_target_": "r1zero.loggers.wandb_logger"}},
    "trainer": {"_target_": "pytorch_lightning.Trainer", "strategy": {"_target_": "r1zero.zero.ZeroStrategy"}},
}


@pytest.fixture
def conf() -> Iterator[None]:
    config.register()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        yield


def composed(*overrides: str) -> Any:
    return compose("train", overrides=["paths.run=run", *SMALL, *overrides])


def test_earlier_paths_are_brought_up_to_date(caplog: pytest.LogCaptureFixture) -> None:
    made = OmegaConf.create(OLD)
    bring_up_to_date(made)
    assert OmegaConf.to_container(made) == {
        "callbacks": {"metrics": {"_target_": "r1zero.train.callbacks.metrics.MetricsCallback"}, "bias": None},
        "logger": {"wandb": {"_target_": "r1zero.launch.loggers.wandb_logger"}},
        "trainer": {
            "_target_": "pytorch_lightning.Trainer",
            "strategy": {"_target_": "r1zero.learn.zero.ZeroStrategy"},
        },
    }
    check_kinds(made)
    assert len(caplog.records) == 3, "one line for each"


def test_a_name_of_today_stays() -> None:
    for name in ("r1zero.train.callbacks.bias.BiasCallback", "torch.nn.Linear", "r1zero.learn.zero.ZeroStrategy"):
        assert current(name) == name


@pytest.mark.parametrize("spelling", ["rollout.async=1", "+rollout={async: 1}"])
def test_async_is_a_setting_like_any_other(conf: None, spelling: str) -> None:
    cfg = composed(spelling)
    assert cfg.rollout["async"] == 1
    checks.check(cfg)
    assert cfg.algo.sampler_correction.value == "token"
    typed: Any = OmegaConf.to_object(cfg)
    assert typed.rollout.async_steps == 1
    assert composed().rollout["async"] == 0


def test_async_stands_in_an_experiment(tmp_path: Path) -> None:
    import shutil

    shutil.copytree(ROOT / "conf", tmp_path / "conf")
    text = "# @package _global_\ndefaults: [demo]\nrollout:\n  async: 1\n"
    (tmp_path / "conf" / "experiment" / "ahead.yaml").write_text(text)
    config.register()
    with initialize_config_dir(str(tmp_path / "conf"), version_base="1.3"):
        assert compose("train", overrides=["paths.run=run", "experiment=ahead"]).rollout["async"] == 1
