"""What ``dtype: auto`` is: by instructions, by measurement, by what a run has stored; the same on every rank."""

from __future__ import annotations

import json
import logging
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from r1zero.launch import number_format
from r1zero.launch.number_format import chosen_format, measured_ratio, settle
from run_support import SMALL, Server

OLD_CPU, NEW_CPU = {"fma", "avx2"}, {"avx2", "avx512_bf16", "amx_bf16"}


@pytest.fixture
def processor(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Stands on a CPU with the instructions that are named, and without the tests' own choice."""

    def stand(flags: set[str]) -> None:
        monkeypatch.delenv("R1ZERO_DTYPE", raising=False)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        monkeypatch.setattr(number_format, "processor_flags", lambda: flags)

    return stand


def settings(**model: Any) -> Any:
    values = {"dtype": "auto", "path": "some/model", "params": 1.5, "served": False}
    return OmegaConf.create({"model": values | model, "trainer": {"accelerator": "auto"}})


def settled(config: Any, folder: Path) -> str:
    settle(config, folder)
    return str(config.model.dtype)


@pytest.mark.parametrize(
    ("flags", "dtype"), [(OLD_CPU, "float32"), (NEW_CPU, "bfloat16"), ({"asimd", "bf16"}, "bfloat16")]
)
def test_a_cpu_by_its_instructions(processor: Any, tmp_path: Path, capsys: Any, flags: set[str], dtype: str) -> None:
    processor(flags)
    assert settled(settings(), tmp_path) == dtype
    assert capsys.readouterr().out.startswith(f"model.dtype=auto is {dtype}: the processor has ")


@pytest.mark.parametrize(("ratio", "dtype"), [(0.03, "float32"), (1.1, "float32"), (2.5, "bfloat16")])
def test_a_cpu_whose_instructions_can_not_be_read_is_measured(
    processor: Any, monkeypatch: pytest.MonkeyPatch, ratio: float, dtype: str
) -> None:
    processor(set())
    monkeypatch.setattr(number_format, "measured_ratio", lambda gpu: ratio)
    assert chosen_format(gpu=False)[0] == dtype


def test_the_measurement_measures() -> None:
    """Of both formats, in little time, and gives the threads back."""
    threads = torch.get_num_threads()
    assert 1e-4 < measured_ratio(gpu=False, seconds=0.01) < 1e4
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize(("has", "dtype"), [(True, "bfloat16"), (False, "float32")])
def test_a_gpu_by_what_it_has(
    processor: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, has: bool, dtype: str
) -> None:
    """And a command that asks for the CPU is not on it."""
    processor(OLD_CPU)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Some Card")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: has or including_emulation)
    assert settled(settings(), tmp_path) == dtype
    assert settled(OmegaConf.merge(settings(), {"trainer": {"accelerator": "cpu"}}), tmp_path) == "float32"
    evaluation = OmegaConf.create({"model": {"dtype": "auto", "path": "x"}, "device": "cpu"})
    assert settled(evaluation, tmp_path) == "float32"


def test_what_is_stored_comes_before_the_processor(processor: Any, tmp_path: Path) -> None:
    """A run that is resumed elsewhere stays in its format; what the user types comes before all."""
    processor(NEW_CPU)
    (tmp_path / "config.yaml").write_text("model: {dtype: float32}\n")
    assert settled(settings(), tmp_path) == "float32"
    assert settled(settings(dtype="bfloat16"), tmp_path) == "bfloat16"
    (tmp_path / "config.yaml").write_text("model: {dtype: auto}\n")
    assert settled(settings(), tmp_path) == "bfloat16"


@pytest.mark.parametrize(
    ("gpu", "dtype", "chosen"),
    [(False, "bfloat16", "float32"), (True, "bfloat16", "bfloat16"), (True, "float32", "float32")],
)
def test_the_reference_follows_the_model_on_a_gpu(
    processor: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, gpu: bool, dtype: str, chosen: str
) -> None:
    """An explicit choice stays, and so does what a run folder has stored."""
    processor(NEW_CPU)
    monkeypatch.setattr(number_format, "on_gpu", lambda config: gpu)
    for given, expected in (("auto", chosen), ("float32", "float32"), ("bfloat16", "bfloat16")):
        config = settings(dtype=dtype, reference_dtype=given, params=0)
        config.algo = {}
        settle(config, tmp_path)
        assert config.model.reference_dtype == expected
    (tmp_path / "config.yaml").write_text("model: {dtype: bfloat16, reference_dtype: float32}")
    config = settings(dtype="bfloat16", reference_dtype="auto", params=0)
    config.algo = {}
    settle(config, tmp_path)
    assert config.model.reference_dtype == "float32"


def test_weights_in_float32_are_evaluated_so_and_trained_as_the_processor_likes(processor: Any, tmp_path: Path) -> None:
    processor(NEW_CPU)
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text(json.dumps({"dtype": "float32"}))
    training = settings(path=str(model))
    evaluation = OmegaConf.create({"model": dict(training.model)})
    assert (settled(training, tmp_path), settled(evaluation, tmp_path)) == ("bfloat16", "float32")


def test_what_computes_elsewhere_is_left_alone(processor: Any, tmp_path: Path) -> None:
    """A served model, a judge behind a server, an evaluation that only grades again; a judge here is settled."""
    processor(NEW_CPU)
    assert settled(settings(served=True), tmp_path) == "auto"
    assert settled(OmegaConf.merge(settings(), {"rescore": "folder"}), tmp_path) == "auto"
    for via, dtype in (("server", "auto"), ("model", "bfloat16")):
        config = OmegaConf.merge(settings(), {"judge": {"via": via, "model": "some/judge", "dtype": "auto"}})
        settle(config, tmp_path)
        assert config.judge.dtype == dtype


def test_ranks_follow_rank_0(processor: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Any) -> None:
    """Whatever the processor of their own says, and in silence; they wait until rank 0 has stored its settings."""
    processor(NEW_CPU)
    monkeypatch.setenv("RANK", "3")

    def rank_0() -> None:
        time.sleep(0.5)
        (tmp_path / "config.yaml").write_text("model: {dtype: float32}\n")

    thread = threading.Thread(target=rank_0)
    thread.start()
    assert settled(settings(), tmp_path) == "float32"
    thread.join()
    assert not capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "dtype", "ratio", "params", "said"),
    [
        (OLD_CPU, "bfloat16", 1 / 35, 0.135, "bfloat16 multiplies 35 times slower here than float32 does"),
        (NEW_CPU, "float32", 16.0, 0.135, "float32 multiplies 16 times slower here than bfloat16 does"),
        (NEW_CPU, "float32", 4.0, 0.135, ""),
        (OLD_CPU, "bfloat16", 1 / 35, 0.0007, ""),  # products are not what a tiny model's time is
        (OLD_CPU, "float32", 1 / 35, 0.135, ""),
    ],
)
def test_an_explicit_choice_that_crawls_is_one_line(
    processor: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path,
    flags: set[str], dtype: str, ratio: float, params: float, said: str,
) -> None:  # fmt: skip
    processor(flags)
    monkeypatch.setattr(number_format, "measured_ratio", lambda gpu: ratio)
    with caplog.at_level(logging.WARNING, "r1zero"):
        assert settled(settings(dtype=dtype, params=params), tmp_path) == dtype
    assert [said in line for line in caplog.messages] == ([True] if said else [])


def test_the_size_of_a_folder_is_that_of_its_weights(tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(b"0" * 4000)
    assert number_format.parameters(OmegaConf.create({"path": str(tmp_path)})) == 1000
    assert number_format.parameters(OmegaConf.create({"path": str(tmp_path), "params": 0.5})) == 5e8


def test_a_run_stores_its_format_and_keeps_it(server: Server, tmp_path: Path) -> None:
    """train.py from the command line: chosen, printed, stored, and kept where the processor would choose another."""
    import yaml

    settings = [*SMALL, "model.dtype=auto", "eval.every=0", "eval.at_start=false", "hydra.run.dir=run"]
    for steps, arguments, variable, why in (
        (1, settings, "float32", "R1ZERO_DTYPE says so"),
        (2, ["resume=run"], "bfloat16", "as stored in run"),
    ):
        done = server.run([*arguments, f"steps={steps}"], tmp_path, env={"R1ZERO_DTYPE": variable})
        assert done.code == 0, done.err
        assert f"model.dtype=auto is float32: {why}" in done.out
        assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["model"]["dtype"] == "float32"
    assert "model.dtype" not in done.err
