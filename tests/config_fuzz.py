"""Random settings of each command: keys and ranges are read off the schemas, so a new field is fuzzed at once."""

from __future__ import annotations

import dataclasses
import enum
import typing
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra import compose
from hypothesis import strategies as st

from r1zero.config import TrainConfig
from r1zero.evaluate import checks as evaluate_checks
from r1zero.evaluate.config import EvaluateConfig
from r1zero.lab.analysis import checks as analysis_checks
from r1zero.lab.analysis.config import AnalyzeConfig
from r1zero.launch import cli
from r1zero.launch.arguments import expand
from r1zero.pretrain import checks as pretrain_checks
from r1zero.pretrain.config import PretrainConfig
from r1zero.ranges import KEY, Range, check_ranges
from r1zero.train import checks as train_checks


@dataclass(frozen=True)
class Command:
    """A script, its schema and the settings under which one step of it takes a second."""

    script: str
    schema: type
    small: tuple[str, ...]
    groups: dict[str, tuple[str, ...]]
    check: Callable[[Any], Any]

    def refusal(self, changed: Sequence[str], conf: Path) -> str:
        """The line with which the settings are refused before anything is loaded; "" where they are not.

        Raises:
            Exception: one that the command line has no line for.
        """
        name = Path(self.script).stem
        try:
            arguments = expand([*self.small, *changed], conf, name)
            config = compose(name, [*arguments, "paths.run=run", "paths.outputs=."])
            check_ranges(config)
            self.check(config)
        except Exception as error:
            line = cli.explain(error, [*self.small, *changed])
            if line.startswith("unexpected"):
                raise
            return line
        return ""


SAMPLER = ("rollout=hf", "rollout.max_num_seqs=16")
COMMANDS = (
    Command(
        "train.py",
        TrainConfig,
        (
            "experiment=demo", "debug=fast", *SAMPLER, "benchmarks=none", "eval.at_start=false", "rollout.questions=2",
            "algo.minibatch_size=4", "steps=1", "rollout.max_tokens=16",
        ),
        {
            "algo": ("grpo", "drgrpo", "rloo", "gspo", "cispo", "dapo", "maxrl", "lite_ppo", "reinforce_pp", "nope"),
            "template": ("r1", "qwen", "none", "question", "chat", "None", "null"),
            "data": ("arithmetic", "arithmetic_chains", "programs", "gsm8k"),
            "reward": ("math_verify", "length_penalty", "code_tests", "none"),
            "benchmarks": ("arithmetic", "none", "paper"),
            "logger": ("csv", "none", "tensorboard", "wandb"),
        },
        train_checks.check,
    ),
    Command(
        "scripts/evaluate.py",
        EvaluateConfig,
        ("model=tiny", "template=question", *SAMPLER, "benchmarks=arithmetic", "limit=2", "sampling.max_tokens=8"),
        {"template": ("r1", "none", "chat"), "benchmarks": ("none", "math500"), "model": ("tiny", "server")},
        evaluate_checks.check,
    ),
    Command(
        "scripts/analyze.py",
        AnalyzeConfig,
        (
            "model=tiny", "template=question", "data=arithmetic", *SAMPLER, "questions=2", "sampling.n=2",
            "temperatures=[1.0]", "sampling.max_tokens=8", "judge=none",
        ),
        {"template": ("r1", "none"), "judge": ("none", "openai")},
        analysis_checks.check,
    ),
    Command(
        "scripts/pretrain.py",
        PretrainConfig,
        (
            "experiment=tiny_base", "steps=1", "step_tokens=512", "data.row_tokens=256", "eval_every=1",
            "optim.warmup_steps=0",
        ),
        {"data": ("arithmetic_text", "nope"), "optim": ("pretrain", "adamw")},
        pretrain_checks.check,
    ),
)  # fmt: skip

LEFT_OUT = (
    "paths.", "resume", "experiment", "model.compile", "reward.pool", "rollout.name", "server.", "judge.url",
    "threads", "trainer", "callbacks", "logger",
)  # fmt: skip
"""Settings that write elsewhere, start something heavy, wait for a machine elsewhere, or have no schema."""

SMALLEST = 16
"""Whole numbers that a range allows are taken up to this one, so that a step stays a step of a second."""


def fields_of(schema: type, where: str = "", seen: tuple[type, ...] = ()) -> Iterator[tuple[str, Any, Range | None]]:
    """(dotted key, type, range) of every field of a schema and of the records in it."""
    hints = typing.get_type_hints(schema)
    for field in dataclasses.fields(schema):
        key, hint = f"{where}{field.name}", hints[field.name]
        parts = [part for part in (hint, *typing.get_args(hint)) if dataclasses.is_dataclass(part)]
        if parts and typing.get_origin(hint) is not dict:
            if parts[0] not in seen:
                yield from fields_of(parts[0], f"{key}.", (*seen, schema))
        elif not key.startswith(LEFT_OUT) and key.split(".")[-1] != "name":  # what something is called, nan or not
            yield key, hint, field.metadata.get(KEY)


def values_of(hint: Any, allowed: Range | None) -> st.SearchStrategy[str]:
    """Values of a field as the command line spells them: some that fit, some that do not."""
    kinds = {leaf for leaf in _leaves(hint) if isinstance(leaf, type)}
    choices: list[st.SearchStrategy[str]] = [st.sampled_from(WILD)]
    for kind in kinds:
        if issubclass(kind, enum.Enum):
            choices.append(st.sampled_from([member.value for member in kind]).map(str))
        elif kind is bool:
            choices.append(st.sampled_from(["true", "false"]))
        elif kind in (int, float):
            choices += _numbers(kind, allowed)
        elif kind is str:
            choices.append(st.text("ab/.{}[]$'\"\\=,é ", max_size=6))
    if allowed is not None and allowed.choices:
        choices.append(st.sampled_from([str(choice) for choice in allowed.choices]))
    one = st.one_of(choices)
    if typing.get_origin(hint) in (list, tuple) or "List" in str(hint):
        return st.one_of(one, st.lists(one, max_size=3).map(lambda items: f"[{','.join(items)}]"))
    return one


WILD = ("nan", "inf", "-inf", "-1", "0", "1e400", "-1e-400", "null", "abc", "''", "[]", "{}", "[1,2]", "{a: 1}", "???")


def _leaves(hint: Any) -> list[Any]:
    inner = typing.get_args(hint)
    return [leaf for part in inner for leaf in _leaves(part)] if inner else [hint]


def _numbers(kind: type, allowed: Range | None) -> list[st.SearchStrategy[str]]:
    if allowed is None or allowed.choices:
        return [st.integers(0, SMALLEST).map(str)]
    low = allowed.at_least if allowed.at_least is not None else allowed.above
    high = allowed.at_most if allowed.at_most is not None else allowed.below
    assert low is not None
    assert high is not None
    outside = [low - 1, high + 1, 10 * high + 1]
    ends = [low] if kind is int else [low, min(high, 1.0), (low + min(high, 1.0)) / 2]
    inside = st.integers(int(low), max(int(low), int(min(high, low + SMALLEST))))
    return [st.sampled_from([f"{kind(value)!r}" for value in (*outside, *ends)]), inside.map(str)]


@st.composite
def cases(draw: Any) -> tuple[Command, list[str]]:
    """A command with one to three settings changed at random."""
    command = draw(st.sampled_from(COMMANDS + COMMANDS[:1] * 3))  # training has most of the settings
    known = FIELDS[command.schema]
    changed = []
    for _ in range(draw(st.integers(1, 3))):
        if draw(st.integers(0, 9)) == 0:
            group = draw(st.sampled_from(sorted(command.groups)))
            changed.append(f"{group}={draw(st.sampled_from(command.groups[group]))}")
        else:
            key = draw(st.sampled_from(sorted(known)))
            changed.append(f"{key}={draw(known[key])}")
    return command, changed


FIELDS = {
    command.schema: {key: values_of(hint, allowed) for key, hint, allowed in fields_of(command.schema)}
    for command in COMMANDS
}
