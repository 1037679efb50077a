"""Functions named by import path: what their files tell before anything is imported (issue 12)."""

from __future__ import annotations

import importlib
import inspect
import sys
from pathlib import Path
from typing import Any

import pytest

from r1zero.algo.advantages import ADVANTAGES
from r1zero.algo.credit import CREDITS
from r1zero.algo.objective import OBJECTIVES
from r1zero.config import DataConfig, Gold
from r1zero.data.prompts import load_questions
from r1zero.data.samplers import SAMPLERS
from r1zero.data.sources import GENERATORS
from r1zero.errors import UserError
from r1zero.launch.plugins import FUNCTIONS, check_function, find_function
from r1zero.launch.reading import read_signature
from r1zero.rollout.environments import ENVIRONMENTS

IDEAS = """
import functools
from os.path import join as joined
ran = 1 / 0  # reading runs nothing
def objective(values, scale, algo, *, beta=0.1): ...
def two(values, scale): ...
def by_name(rewards, *, group_size): ...
def asks_more(batch, other, third): ...
def anything(*args, **kwargs): ...
def placed(a, /, b, c=1, *d, e, f=2, **g): ...
@functools.cache
def decorated(a, b, c, d): ...
def bound_again(a): ...
bound_again = print
class Environment:
    def __init__(self, engine, tokenizer, context, turns=1): ...
class Short:
    def __init__(self, engine): ...
class Bare: ...
if True:
    def below(a, b, c, d): ...
"""


@pytest.fixture
def ideas(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """A module that no other test has, beside where the user works."""
    name = f"ideas_of_{abs(hash(request.node.name))}"
    (tmp_path / f"{name}.py").write_text(IDEAS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return name


@pytest.mark.parametrize(
    ("setting", "name", "params", "words"),
    [
        ("algo.loss", "two", {}, "has the signature (values, scale): it must take (values, scale, algo)"),
        ("algo.loss", "objective", {"gamma": 1}, "algo.loss_params do not fit"),
        ("algo.loss", "absent", {}, "has no function absent"),
        ("algo.advantage", "asks_more", {}, "it must take (batch) or (rewards, group_size)"),
        ("algo.credit", "by_name", {}, "it must take (batch) or (rollout, decode)"),
        ("rollout.environment", "Short", {}, "it must take (engine, tokenizer, context)"),
        ("rollout.environment", "Environment", {"calls": 1}, "rollout.environment_params do not fit"),
    ],
)
def test_what_a_file_tells(ideas: str, setting: str, name: str, params: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError) as told:
        check_function(f"{ideas}.{name}", setting, params)
    assert words in str(told.value)
    assert ideas not in sys.modules


@pytest.mark.parametrize(
    ("setting", "name", "params"),
    [
        ("algo.loss", "objective", {"beta": 1}),
        ("algo.advantage", "by_name", {}),
        ("algo.advantage", "anything", {"x": 1}),
        ("algo.loss", "joined", {}),
        ("algo.loss", "decorated", {}),
        ("algo.loss", "bound_again", {}),
        ("algo.loss", "below", {}),
        ("algo.loss", "Bare", {}),
        ("rollout.environment", "Environment", {"turns": 2}),
        ("algo.credit", "length_aware", {"power": 1}),
    ],
)
def test_what_fits_or_cannot_be_told_is_left_alone(ideas: str, setting: str, name: str, params: dict[str, Any]) -> None:
    check_function(name if name in FUNCTIONS[setting].built_in else f"{ideas}.{name}", setting, params)


def test_a_signature_is_read_as_it_is_imported(ideas: str) -> None:
    def shape(signature: inspect.Signature | None) -> list[tuple[str, Any, bool]]:
        assert signature is not None
        return [(p.name, p.kind, p.default is p.empty) for p in signature.parameters.values()]

    source = Path(f"{ideas}.py")
    source.write_text(IDEAS.replace("1 / 0", "0"))
    module = importlib.import_module(ideas)
    for name in ("objective", "two", "by_name", "anything", "placed", "Environment"):
        assert shape(read_signature(f"{ideas}.{name}", "x")) == shape(inspect.signature(getattr(module, name))), name


def test_files_that_are_no_python_or_take_names_from_others(ideas: str) -> None:
    Path(f"{ideas}.py").write_text("def objective(values:\n")
    with pytest.raises(UserError, match=r"can't be imported \(SyntaxError"):
        check_function(f"{ideas}.objective", "algo.loss")
    Path(f"{ideas}.py").write_text("from os.path import *\n")
    assert read_signature(f"{ideas}.anything", "algo.loss") is None


def test_a_wrong_signature_is_told_of_imported_functions_too() -> None:
    with pytest.raises(UserError, match=r"it must take \(waiting, history, wanted, rng\)"):
        find_function("mine", {"mine": lambda waiting: []}, "data.sampler")


def test_the_table_knows_what_comes_with_the_project() -> None:
    built_in = {
        "algo.loss": OBJECTIVES,
        "algo.advantage": ADVANTAGES,
        "algo.credit": CREDITS,
        "data.sampler": SAMPLERS,
        "rollout.environment": ENVIRONMENTS,
    }
    assert {setting: named.built_in for setting, named in FUNCTIONS.items()} == {
        setting: tuple(functions) for setting, functions in built_in.items()
    }
    for name, columns in GENERATORS.items():
        gold = Gold.none if name == "programs" else Gold.verify
        made = load_questions(DataConfig(name=name, generator=name, params={"count": 2}, gold=gold))
        assert tuple(made[0].meta) == columns
