"""Every number of every schema has a range, and the one check refuses what lies outside, before anything heavy."""

from __future__ import annotations

import dataclasses
import math
import subprocess
import sys
import typing
from collections.abc import Iterator
from typing import Any

import pytest
from omegaconf import OmegaConf

from r1zero.config import OptimConfig, TemplateConfig, TrainConfig
from r1zero.errors import UserError
from r1zero.evaluate.config import EvaluateConfig, PaperConfig
from r1zero.lab.analysis.config import AnalyzeConfig
from r1zero.lab.benchmark.config import BenchmarkConfig
from r1zero.lab.study.config import StudyConfig
from r1zero.pretrain.config import PretrainConfig, TextConfig
from r1zero.ranges import KEY, Range, check_ranges, chosen, ranged
from run_support import ROOT, SMALL

ROOTS = (
    TrainConfig,
    EvaluateConfig,
    AnalyzeConfig,
    BenchmarkConfig,
    StudyConfig,
    PretrainConfig,
)
"""What each command reads."""

HUGE = 10**400
"""No range reaches it, and as a float it is inf."""


def numbers_of(schema: type, where: str = "", seen: tuple[type, ...] = ()) -> Iterator[tuple[str, type, Any, type]]:
    """(dotted key, schema, field, int or float) of every field that holds numbers, records below included."""
    hints = typing.get_type_hints(schema)
    for field in dataclasses.fields(schema):
        for kind in _leaves(hints[field.name]):
            if dataclasses.is_dataclass(kind) and kind not in seen:
                yield from numbers_of(kind, f"{where}{field.name}.", (*seen, schema))
            elif kind in (int, float):
                yield f"{where}{field.name}", schema, field, kind


def _leaves(hint: Any) -> list[Any]:
    inner = typing.get_args(hint)
    return list(dict.fromkeys(leaf for part in inner for leaf in _leaves(part))) if inner else [hint]


NUMBERS = {(schema, field.name): (key, field, kind) for root in ROOTS for key, schema, field, kind in numbers_of(root)}


@pytest.mark.parametrize(("schema", "name"), list(NUMBERS), ids=lambda part: getattr(part, "__name__", part))
def test_every_number_has_a_range_that_nothing_wild_passes(schema: type, name: str) -> None:
    _, field, kind = NUMBERS[schema, name]
    allowed = field.metadata.get(KEY)
    assert allowed is not None, f"{schema.__name__}.{name} has no range: give it ranged(...) or chosen(...)"
    hint = typing.get_type_hints(schema)[name]
    wild = [-HUGE, HUGE] if kind is int else [math.nan, math.inf, -math.inf, -1e300, 1e300]
    low = allowed.at_least if allowed.at_least is not None else allowed.above
    high = allowed.at_most if allowed.at_most is not None else allowed.below
    if not allowed.choices:
        wild += [low - 1, high + 1] + [end for end in (allowed.above, allowed.below) if end is not None]
    for value in wild:
        config = OmegaConf.structured(schema)
        value = int(value) if kind is int else float(value)
        config[name] = _put(hint, value)
        with pytest.raises(UserError) as error:
            check_ranges(config)
        assert f"{name}=" in str(error.value) or f"{name}." in str(error.value)
        assert "\n" not in str(error.value)


def _put(hint: Any, value: Any) -> Any:
    """A number inside of the container that the field wants."""
    origin = next((typing.get_origin(part) for part in (hint, *typing.get_args(hint)) if typing.get_origin(part)), None)
    if origin is list:
        return [value]
    if origin is tuple:
        return [value] * len(typing.get_args(hint))
    return {"x": value} if origin is dict else value


@pytest.mark.parametrize("root", ROOTS)
def test_the_defaults_lie_in_their_ranges(root: type) -> None:
    check_ranges(OmegaConf.structured(root))


@pytest.mark.parametrize(
    ("schema", "key", "value"),
    [
        (OptimConfig, "betas", []), (OptimConfig, "betas", [0.9]), (OptimConfig, "betas", [0.9, 0.9, 0.9]),
        (TemplateConfig, "stop_tokens", [{}]), (TemplateConfig, "stop", [["a"]]), (EvaluateConfig, "pass_k", [[1]]),
        (TextConfig, "mix", {"a": {"b": 1}}), (PaperConfig, "values", {"a": [1]}),
    ],
)  # fmt: skip
def test_a_list_of_plain_values_holds_nothing_else(schema: type, key: str, value: Any) -> None:
    config = OmegaConf.structured(schema)
    OmegaConf.update(config, key, value)
    with pytest.raises(UserError, match=rf"^{key}=.* (has a list or a mapping inside|must be a list of 2 values)"):
        check_ranges(config)


def test_ends_belong_where_they_are_said_to() -> None:
    assert Range(at_least=0, below=1).admits(0.0)
    assert not Range(at_least=0, below=1).admits(1.0)
    assert not Range(above=0, at_most=1).admits(0)
    assert Range(above=0, at_most=1).admits(1)
    assert not Range(above=0, at_most=1).admits(math.nan)
    assert str(Range(above=0, at_most=10**6)) == "above 0 and at most 1,000,000"
    assert str(Range(choices=("a", "b", "c"))) == "a, b or c"


def test_a_range_with_one_end_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="two ends"):
        ranged(1, at_least=0)


def test_messages_say_what_is_allowed_and_why() -> None:
    @dataclasses.dataclass
    class Made:
        share: float | None = ranged(0.5, above=0, at_most=1, note="a share")
        kind: str = chosen("a", "b")
        free: dict[str, Any] = dataclasses.field(default_factory=dict)

    def message(**values: Any) -> str:
        with pytest.raises(UserError) as error:
            check_ranges(OmegaConf.structured(Made(**values)))
        return str(error.value)

    check_ranges(OmegaConf.structured(Made(share=None)))
    assert message(share=2.0) == "share=2.0 must be above 0 and at most 1: a share"
    assert message(kind="c") == "kind=c is unknown; choose a or b"
    assert message(free={"deep": {"x": [1, math.nan]}}) == "free.deep.x=nan must be finite"
    config = OmegaConf.structured(OptimConfig(betas=(0.9, 1.0)))
    with pytest.raises(UserError, match=r"betas=\[0.9, 1.0\] must be at least 0 and below 1"):
        check_ranges(config)


COMMANDS = {
    "train.py": ([*SMALL, "rollout.temperature=nan"], "rollout.temperature=nan must be above 0"),
    "scripts/evaluate.py": (["model=tiny", "benchmarks=arithmetic", "limit=-1"], "limit=-1 must be at least 1"),
    "scripts/analyze.py": (["model=tiny", "sampling.temperature=inf"], "sampling.temperature=inf must be"),
    "scripts/benchmark.py": (["benchmark=tiny", "benchmark.lr=nan"], "benchmark.lr=nan must be"),
    "scripts/pretrain.py": (["experiment=tiny_base", "optim.lr=inf"], "optim.lr=inf must be at least 0"),
    "scripts/plan.py": (["experiment=demo", "rollout.temperature=inf"], "rollout.temperature=inf must be above 0"),
    "scripts/data.py": (["arithmetic", "data.max_prompt_tokens=-1"], "data.max_prompt_tokens=-1 must be at least 1"),
}


@pytest.mark.parametrize("script", COMMANDS)
def test_each_command_refuses_in_one_line_before_anything_heavy(script: str, tmp_path: Any) -> None:
    arguments, says = COMMANDS[script]
    if script != "scripts/plan.py":  # it has no folder
        arguments = [*arguments, "hydra.run.dir=run"]
    code = (
        "import runpy, sys\n"
        f"sys.argv = [{str(ROOT / script)!r}, *{arguments!r}]\n"
        "try:\n    runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "except SystemExit as end:\n    print(end.code, 'torch' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith(f"error: {says}")
    assert done.stdout.strip() == "1 False"
