"""What a user types after scripts/pretrain.py: sources added and paths given on the command line, slips in one line."""

from __future__ import annotations

import copy
import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from r1zero import config
from r1zero.errors import UserError
from r1zero.launch import cli, sweep
from r1zero.launch.arguments import expand, resumed
from r1zero.pretrain import config as pretrain_config
from r1zero.pretrain.checks import check
from r1zero.pretrain.config import InitConfig, PretrainConfig, SourceConfig, TextConfig
from run_support import ROOT

CONF = ROOT / "conf"


@pytest.fixture(autouse=True)
def _schemas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("R1ZERO_CONF", str(CONF))
    monkeypatch.setenv(sweep.SCRIPT, str(ROOT / "scripts" / "pretrain.py"))
    config.register()
    pretrain_config.register()


def composed(*arguments: str, name: str = "pretrain") -> Any:
    overrides = expand([*arguments], CONF, name)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose(name, overrides=[*overrides, "paths.run=x"])


def error_of(*arguments: str) -> str:
    """The line that the user sees."""
    with pytest.raises((UserError, HydraException, OmegaConfBaseException)) as error:
        check(composed(*arguments))
    try:
        overrides = expand([*arguments], CONF, "pretrain")
    except UserError:
        overrides = [*arguments]
    line = cli.explain(error.value, overrides)
    assert "\n" not in line
    assert "unexpected" not in line
    return line


@pytest.mark.parametrize(
    "arguments",
    [
        ["+data.sources.more={kind: text, path: a.jsonl, template: '{question} so {answer}'}"],
        ["+data.sources.more.path=a.jsonl", "+data.sources.more.template='{question} so {answer}'"],
        ["+data.sources.more.path=a.jsonl", "data.sources.more.template='{question} so {answer}'"],
    ],
)
def test_a_source_is_added_on_the_command_line(arguments: list[str]) -> None:
    cfg = check(composed("data=arithmetic_text", *arguments, "+data.mix.more=2", "data.mix.qa=1"))
    assert [*cfg.data.sources] == ["qa", "web", "talk", "more"]
    more = cfg.data.sources["more"]
    assert (more.kind, more.path, more.template, more.separate) == (
        "text", "a.jsonl", "{question} so {answer}", "paragraph",
    )  # fmt: skip
    assert cfg.data.mix == {"qa": 1.0, "web": None, "talk": None, "more": 2.0}
    assert cfg.data.sources["qa"].kind == "arithmetic"


def test_a_reward_and_a_benchmark_are_added_the_same_way() -> None:
    path = "r1zero.reward.functions.length_penalty"
    cfg = composed(
        f"+reward.functions.short.path={path}", "+reward.functions.short.params.free=10",
        "+benchmarks.mine.name=mine", "+benchmarks.mine.path=b.jsonl", "reward.functions.short.weight=0.5",
        name="train",
    )  # fmt: skip
    assert cfg.reward.functions.short == {"path": path, "weight": 0.5, "params": {"free": 10}, "timeout": None}
    assert cfg.benchmarks.mine.path == "b.jsonl"
    assert cfg.benchmarks.mine.split == "train"


def test_added_records_are_kept_over_a_resume_that_adds_another(tmp_path: Path) -> None:
    (tmp_path / ".hydra").mkdir()
    (tmp_path / ".hydra" / "overrides.yaml").write_text("- +data.sources={a:{kind:prose}}\n- +data.questions.terms=2\n")
    found = resumed(expand(["+data.sources.b.kind=talk", "+data.questions.terms=3"], CONF), tmp_path)
    assert found[:3] == ["+data.sources={a:{kind:prose}}", "+data.sources={b:{kind:talk}}", "+data.questions.terms=3"]


def test_a_path_given_as_data_is_text(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text('{"text": "a"}\n')
    cfg = composed(f"data={file}")
    assert (cfg.data.name, cfg.data.sources.text.path) == ("text", str(file))
    assert expand(["data=some/set"], CONF, "pretrain") == ["data=text", "data.sources.text.path='some/set'"]
    assert expand(["data=some/set"], CONF) == ["data=file", "data.path='some/set'"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("+data.sources.more.knd=prose", "there is no setting 'knd' here; did you mean kind?"),
        ("+data.sources.more=prose", "+data.sources={more:prose}: Invalid type assigned: str"),
        ("+data.sources.more.kind=prose,talk", "add data.sources.more first (with +), then sweep"),
        ("data.sources.more.kind=prose", "+data.sources.more.kind=prose adds it"),
        ("data.mix={qa:x}", "Value 'x' of type 'str' could not be converted to Float"),
        ("data=arithmetic", "data=arithmetic is a question set for train.py; pretraining reads text: choose arithmet"),
        (
            "model=tiny_llama data.mix={qa:0.8,web:0.2} paths.outputs=/nowhere",
            "model.path=/nowhere/bases/tiny_llama_base/policy is not made yet: "
            "python scripts/pretrain.py experiment=tiny_llama_base hydra.run.dir=/nowhere/bases/tiny_llama_base",
        ),
    ],
)
def test_slips_are_one_line(arguments: str, says: str) -> None:
    assert says in error_of(*arguments.split())


@pytest.fixture(scope="module")
def plain() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("R1ZERO_CONF", str(CONF))
        config.register()
        pretrain_config.register()
        return composed()


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"data.mix.more": 1}, "data.mix.more is an unknown source; data arithmetic_text has qa, web, talk"),
        (
            {"data.sources.qa.kind": "prosa"},
            "kind=prosa is unknown; choose text, arithmetic, prose or talk",
        ),
        (
            {"data.mix.qa": float("inf")},
            "data.mix.qa=inf must be above 0 and at most 1,000,000,000: null leaves",
        ),
        ({"steps": 20}, "optim.warmup_steps=100 must lie between 0 and steps=20: lower it"),
        ({"steps": None, "epochs": float("inf")}, "epochs=inf must be above 0"),
        ({"steps": None, "epochs": float("nan")}, "epochs=nan must be above 0"),
        ({"steps": None, "epochs": 0}, "epochs=0.0 must be above 0"),
        ({"optim.lr": float("inf")}, "optim.lr=inf must be at least 0"),
        (
            {"model.compile": True, "init": InitConfig()},
            "model.compile=true compiles the model at model.path, and init makes",
        ),
        (
            {"model.compile": True, "trainer.strategy": "pytorch_lightning.strategies.ModelParallelStrategy"},
            "model.compile=true needs whole weights on each device, and trainer=fsdp cuts them",
        ),
        ({"peak_tflops": float("inf")}, "peak_tflops=inf must be above 0"),
    ],
)
def test_impossible_values_are_one_line(values: dict[str, Any], says: str, plain: Any) -> None:
    cfg = copy.deepcopy(plain)
    check(cfg)
    for key, value in values.items():
        OmegaConf.update(cfg, key, value, force_add=True)
    with pytest.raises(UserError, match=re.escape(says)):
        check(cfg)


def test_the_help_names_every_setting_in_80_columns() -> None:
    text = cli.pretraining_help(CONF)
    assert [line for line in text.splitlines() if len(line) > 80] == []
    groups = {"name", "group", "step_metric", "model", "data", "optim", "trainer", "logger", "callbacks", "paths"}
    schemas = (PretrainConfig, TextConfig, SourceConfig)
    names = {field.name for schema in schemas for field in dataclasses.fields(schema)} - groups
    assert {name for name in names if not re.search(rf"\b{name}\b", text)} == set()
    assert "\ndata: arithmetic_text, qa_text, text\n" in text
    assert "tiny_base" in text
    assert "drgrpo" not in text
