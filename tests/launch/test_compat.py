"""Each private part of another project is where compat.py looks for it, and does what it is needed for."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

import pytest
import pytorch_lightning as pl
from hydra.core.override_parser.overrides_parser import OverridesParser
from transformers import AutoModelForCausalLM

from r1zero.launch import compat
from tiny_models import make_tiny


@pytest.fixture(scope="module")
def trainer() -> pl.Trainer:
    return pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)


def parse(*overrides: str) -> list:
    return OverridesParser.create().parse_overrides(list(overrides))


def test_checkpoints_come_last(trainer: pl.Trainer) -> None:
    class Saves(pl.callbacks.Checkpoint):
        pass

    first, last = pl.Callback(), Saves()
    compat.set_callbacks(trainer, [last, first])
    assert trainer.callbacks == [first, last]


def test_signals_are_left_alone(trainer: pl.Trainer) -> None:
    compat.leave_signals_alone(trainer)
    trainer._signal_connector.register_signal_handlers()
    assert trainer._signal_connector._original_handlers == {}


def test_plain_files_are_told_from_formats_of_a_strategys_own(trainer: pl.Trainer) -> None:
    class Other(pl.plugins.io.TorchCheckpointIO):
        pass

    assert compat.writes_plain_files(trainer.strategy)
    trainer.strategy.checkpoint_io = Other()
    assert not compat.writes_plain_files(trainer.strategy)


def test_the_launcher_calls_the_observer_it_is_given() -> None:
    from pytorch_lightning.strategies.launchers import subprocess_script

    source = subprocess_script._SubprocessScriptLauncher.launch.__code__.co_names
    assert "_launch_process_observer" in source
    theirs = subprocess_script._launch_process_observer
    with compat.launched_ranks_observed(print):
        assert subprocess_script._launch_process_observer is print
    assert subprocess_script._launch_process_observer is theirs


def test_hydras_names_and_products() -> None:
    assert compat.override_dirname(parse("b=2", "a=1", "seed=3"), ["seed"], "_", "-") == "a-1_b-2"
    assert compat.sweep_points(parse("a=1,2", "b=3")) == [["a=1", "b=3"], ["a=2", "b=3"]]


def test_usage_errors_reach_the_handler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(argparse.ArgumentParser, "error", argparse.ArgumentParser.error)

    def handler(parser: argparse.ArgumentParser, message: str) -> NoReturn:
        raise RuntimeError(message)

    compat.usage_errors_go_to(handler)
    with pytest.raises(RuntimeError, match="--nothing"):
        argparse.ArgumentParser().parse_args(["--nothing"])


def test_attention_and_layers_of_a_transformers_model(tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(make_tiny(tmp_path))
    assert not compat.packs_sequences(model)
    model.config._attn_implementation = "flash_attention_2"
    assert compat.packs_sequences(model)
    classes = {type(module).__name__ for module in model.modules()}
    assert compat.layer_classes(model)
    assert compat.layer_classes(model) <= classes


def test_nothing_heavy_is_imported() -> None:
    code = "import sys, r1zero.launch.compat; print({'torch', 'hydra', 'pytorch_lightning'} & sys.modules.keys())"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"


def test_hydras_own_settings_resolve_although_they_lead_into_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    from hydra._internal.hydra import Hydra
    from omegaconf import OmegaConf

    monkeypatch.setattr(Hydra, "get_sanitized_hydra_cfg", staticmethod(Hydra.get_sanitized_hydra_cfg))
    config = OmegaConf.create({"a": 3, "hydra": {"x": "${a}", "help": {}, "hydra_help": {}}})
    compat.resolve_hydras_own()
    assert OmegaConf.to_container(Hydra.get_sanitized_hydra_cfg(config)) == {"hydra": {"x": 3}}
