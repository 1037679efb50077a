"""What ``_target_`` may name: a config is data, and must not be a way to run anything else. Imports nothing heavy."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from r1zero.errors import UserError
from r1zero.launch import allowed
from r1zero.launch.compat import find_top
from r1zero.launch.reading import read_signature

PACKAGES = ("r1zero", "pytorch_lightning", "torch")
"""Packages that a target may come from without the user's yes."""

FUNCTIONS = ("r1zero.launch.loggers.wandb_logger",)
"""Targets that are functions."""

PARTS = (
    "pytorch_lightning.Trainer",
    "pytorch_lightning.Callback",
    "pytorch_lightning.loggers.Logger",
    "pytorch_lightning.strategies.Strategy",
    "pytorch_lightning.accelerators.Accelerator",
    "pytorch_lightning.profilers.Profiler",
    "pytorch_lightning.plugins.Precision",
    "pytorch_lightning.plugins.CheckpointIO",
    "pytorch_lightning.plugins.ClusterEnvironment",
    "pytorch_lightning.plugins.LayerSync",
    "torch.distributed.fsdp.MixedPrecisionPolicy",
    "torch.distributed.fsdp.OffloadPolicy",
)
"""Classes whose kind a config may ask for: what a Trainer is put together from. Loaders and launchers are not among
them: their packages hold ``torch.hub.load`` and classes that start a program when they are made."""


def check_targets(config: DictConfig) -> None:
    """Refuse a ``_target_`` that can't be a part of a Trainer by its name and its file; nothing is imported.

    The path must lead through modules that are files of an allowed package, so that ``torch.os.system`` and
    ``r1zero.launch.sweep.subprocess.Popen`` lead nowhere, and end in the name of a class.

    Raises:
        UserError: naming the key and the target.
    """
    for where, target in _targets(config, ""):
        name = str(target)
        if name.split(".")[0] not in PACKAGES:
            read_signature(name, f"{where}._target_")
            continue
        if name not in FUNCTIONS and not (_is_module(name.rpartition(".")[0]) and _is_class_name(name)):
            raise _refused(where, name, "it is not a class of a module there")


def check_kinds(config: DictConfig) -> None:
    """Import every ``_target_`` and see that it is a Trainer, callback, logger, strategy or plugin; heavy.

    Raises:
        UserError: naming the key and the target.
    """
    check_targets(config)
    parts = tuple(located(name) for name in PARTS)
    for where, target in _targets(config, ""):
        name = str(target)
        if name in FUNCTIONS:
            continue
        if name.split(".")[0] not in PACKAGES:
            found = allowed.load(name, f"{where}._target_")
            if inspect.isclass(found) and not issubclass(found, parts):
                raise _refused(where, name, "it is not a trainer, callback, logger, strategy, plugin or profiler")
            continue
        try:
            found = located(name)
        except (ImportError, AttributeError) as error:
            raise UserError(f"{where}._target_={name}: there is no such class ({error})") from error
        if not (inspect.isclass(found) and found.__module__.split(".")[0] in PACKAGES and issubclass(found, parts)):
            raise _refused(where, name, "it is not a trainer, callback, logger, strategy, plugin or profiler")


def located(name: str) -> Any:
    """The attribute of a module that a path names."""
    module, _, attribute = name.rpartition(".")
    return getattr(importlib.import_module(module), attribute)


def _refused(where: str, name: str, why: str) -> UserError:
    return UserError(f"{where}._target_={name} is not allowed: {why}")


def _is_class_name(name: str) -> bool:
    return name.rpartition(".")[2].lstrip("_")[:1].isupper()


def _is_module(name: str) -> bool:
    """Whether a dotted path is a module or package on disk; only the package's place is looked up."""
    top, *below = name.split(".")
    spec = find_top(top) if top else None
    if spec is None or spec.submodule_search_locations is None:
        return False
    path = Path(spec.submodule_search_locations[0]).joinpath(*below)
    return all(part.isidentifier() for part in below) and (path.is_dir() or path.with_suffix(".py").is_file())


def _targets(node: Any, where: str) -> Iterator[tuple[str, Any]]:
    if isinstance(node, DictConfig):
        for key in node:
            if OmegaConf.is_missing(node, key):
                continue
            if key == "_target_":
                yield where, node[key]
            else:
                yield from _targets(node[key], f"{where}.{key!s}" if where else str(key))
    elif OmegaConf.is_list(node):
        for number, item in enumerate(node):
            yield from _targets(item, f"{where}.{number}")
