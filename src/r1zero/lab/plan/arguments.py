"""The arguments of ``scripts/plan.py``: its own, and those of ``train.py``, checked as ``train.py`` checks them."""

from __future__ import annotations

import copy
from dataclasses import dataclass, fields
from pathlib import Path

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, ListConfig, OmegaConf

from r1zero.config import TrainConfig
from r1zero.errors import UserError
from r1zero.lab.plan.cost import LAYOUTS
from r1zero.lab.plan.hardware import GPU, Shape, gpu_named
from r1zero.launch.gpu import elsewhere
from r1zero.train.checks import check, check_parts, check_set

DEFAULT_RANK = 16
"""Rank of the adapters in the lora columns where ``model.lora.rank`` is 0."""

PROMPT = 150
"""Mean tokens of a prompt where nothing is said, at most ``data.max_prompt_tokens``."""

TRAINERS = {
    "auto": LAYOUTS,
    "gpu": ("ddp", "lora"),
    "ddp": ("ddp", "lora"),
    "fsdp": ("fsdp", "fsdp-lora"),
}
"""Layouts that a ``trainer=`` on the command line leaves."""


@dataclass
class Machine:
    """The calculator's own arguments."""

    gpus: int = 1
    nodes: int = 1
    gpu: str = "h100"
    tokens: int = 800
    prompt: int | None = None
    samplers: int = 0

    @property
    def devices(self) -> int:
        """Cards of all machines."""
        return self.gpus * self.nodes


def split(arguments: list[str]) -> tuple[Machine, list[str]]:
    """The calculator's own arguments, and those of ``train.py``.

    Raises:
        UserError: a number that is none, or below 1, or an argument about a folder.
    """
    own, others = {}, []
    names = {field.name for field in fields(Machine)}
    for argument in arguments:
        key, _, value = argument.partition("=")
        if argument.startswith("-"):
            raise UserError(f"{argument}: the plan knows no such option; see --help")
        if key.lstrip("+~").startswith(("hydra.", "hydra/")):
            raise UserError(f"{argument}: the plan starts no run and writes no folder; leave {key} out")
        if key not in names:
            others.append(argument)
        elif key == "gpu":
            own[key] = gpu_named(value.lower()).name
        elif not value.isdecimal() or int(value) < 1:
            raise UserError(f"{argument}: {key} must be a whole number of at least 1")
        else:
            own[key] = int(value)  # type: ignore[assignment]
    return Machine(**own), others  # type: ignore[arg-type]


def settings(overrides: list[str], machine: Machine, conf: Path) -> dict[str, DictConfig]:
    """By layout, the settings of ``train.py`` that make it; those that ``trainer=`` excludes are left out.

    Raises:
        UserError: the plan does not count what is asked for.
    """
    trainer = next((word.partition("=")[2] for word in reversed(overrides) if word.startswith("trainer=")), "auto")
    if trainer not in TRAINERS:
        raise UserError(f"trainer={trainer}: the plan counts trainer=gpu, ddp and fsdp; choose one or leave it out")
    others = [word for word in overrides if not word.startswith("trainer=")]
    found: dict[str, DictConfig] = {}
    by_trainer: dict[str, DictConfig] = {}
    for layout in TRAINERS[trainer]:
        if machine.devices == 1 and layout.startswith("fsdp"):  # one device: no ranks at all
            continue
        words = laid_out(layout, machine)
        if words[0] not in by_trainer:
            by_trainer[words[0]] = composed([*words, *others], conf)
        config = copy.deepcopy(by_trainer[words[0]])
        if layout.endswith("lora"):
            config.model.lora.rank = config.model.lora.rank or DEFAULT_RANK
        elif config.model.lora.rank:  # adapters are asked for
            continue
        found[layout] = config
    if not found:
        raise UserError("trainer=fsdp is counted over several cards: add gpus=2, or leave it out")
    config = next(iter(found.values()))
    check_devices(config, machine)
    if config.model.served:
        raise UserError(
            f"model={config.model.name} is served elsewhere, by the server at server.url: nothing to plan here"
        )
    check_set(config)
    if config.rollout.name == "ray":
        raise UserError("rollout=ray: the plan counts an engine on each learner's card; leave it out")
    return found


def check_devices(config: DictConfig, machine: Machine) -> None:
    """Devices and machines of the settings are those that are planned. Raises ``UserError``."""
    for key, own in (("devices", "gpus"), ("num_nodes", "nodes")):
        given, planned = config.trainer.get(key, 1), getattr(machine, own)
        count = len(given) if isinstance(given, ListConfig) else given
        if count not in (planned, str(planned), -1, "-1", "auto"):
            raise UserError(
                f"trainer.{key}={given}: the plan is asked for {own}={planned}; say {own}={count} and leave "
                f"trainer.{key} out"
            )


def prompt_tokens(config: TrainConfig, machine: Machine) -> int:
    """Mean tokens of a prompt. Raises ``UserError`` for more than a run admits."""
    most = config.data.max_prompt_tokens
    if machine.prompt is None:
        return min(PROMPT, most)
    if machine.prompt > most:
        raise UserError(
            f"prompt={machine.prompt}: a run leaves out prompts of more than data.max_prompt_tokens={most} tokens; "
            f"say prompt={most} or less, or raise data.max_prompt_tokens"
        )
    return machine.prompt


def composed(overrides: list[str], conf: Path) -> DictConfig:
    """The settings of ``train.py``."""
    with initialize_config_dir(str(conf.resolve()), version_base="1.3"):
        config = compose("train", overrides=overrides)
    config.paths = {"outputs": "outputs", "run": "outputs"}  # the real ones ask Hydra where it was started
    return config


def laid_out(layout: str, machine: Machine) -> list[str]:
    """The words of a command line that lay a learner out."""
    if machine.devices == 1:
        return ["trainer=gpu"]
    words = [f"trainer={'fsdp' if layout.startswith('fsdp') else 'ddp'}", f"trainer.devices={machine.gpus}"]
    return [*words, f"trainer.num_nodes={machine.nodes}"] if machine.nodes > 1 else words


def taken(config: DictConfig, gpu: GPU) -> TrainConfig:
    """The settings of a run, if ``train.py`` takes them on a machine with such cards.

    Args:
        config: as composed; left as it is.
        gpu: the kind of card.

    Raises:
        UserError: what ``train.py`` would say.
    """
    config = copy.deepcopy(config)
    with elsewhere(gpu.card):
        check(config)
    return OmegaConf.to_object(config)  # type: ignore[return-value]


def check_shape(cfg: TrainConfig, shape: Shape) -> None:
    """What ``train.py`` asks a model from the hub, once it has its files. Raises ``UserError``."""
    check_parts(cfg, {"num_attention_heads": shape.heads, "intermediate_size": shape.intermediate}, cfg.model.name)
