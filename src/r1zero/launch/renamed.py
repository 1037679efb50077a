"""Names of earlier releases that run folders and configs of one's own still hold, and what they are now."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from typing import Any

from omegaconf import DictConfig, OmegaConf

log = logging.getLogger("r1zero")

BUILT_IN = {"credit": "CreditCallback", "history": "HistoryCallback", "rollout": "RolloutCallback"}
"""Callbacks, by their old names in the ``callbacks`` group, whose work is part of every run."""

MOVED = {
    "r1zero.train.callbacks.extensions.DiversityCallback": "r1zero.train.callbacks.diversity.DiversityCallback",
    "r1zero.train.callbacks.": "r1zero.train.callbacks.",
    "r1zero.callbacks.extensions.DiversityCallback": "r1zero.train.callbacks.diversity.DiversityCallback",
    "r1zero.callbacks.": "r1zero.train.callbacks.",
    "r1zero.loggers.": "r1zero.launch.loggers.",
    "r1zero.zero.": "r1zero.learn.zero.",
}
"""Beginnings of import paths; the first that fits counts."""

_OLD_SETTING = re.compile(rf"[+~]{{0,2}}callbacks\.({'|'.join(BUILT_IN)})(?=[.=]|$)")


def is_retired(argument: str) -> bool:
    """Whether an argument of the command line sets a callback that is part of every run now; says so."""
    found = _OLD_SETTING.match(argument)
    if found:
        log.warning("%s: callbacks.%s is part of every run; the argument has no effect", argument, found[1])
    return found is not None


def current_argument(argument: str) -> str:
    """An argument with the name that its setting has now."""
    argument = re.sub(r"^(\+{0,2})rollout\.async_steps=", r"\1rollout.async=", argument)
    if argument.startswith(("model=", "axes.bases=")):
        argument = re.sub(r"\bqwen(1\.5|7)b_general\b", r"qwen2.5_\1b", argument)
    return re.sub(r"^(\+{0,2}rollout\.dtype)=null$", r"\1=auto", argument)


def bring_up_to_date(config: DictConfig, say: Callable[..., None] = log.warning) -> None:
    """Rewrite names of earlier releases in place; leave out callbacks that are part of every run."""
    for name in [str(name) for name in config.get("callbacks") or {}]:
        node = config.callbacks[name]
        target = str(node.get("_target_", "")) if isinstance(node, DictConfig) else ""
        if target.startswith("r1zero.") and target.rpartition(".")[2] in BUILT_IN.values():
            say("callbacks.%s: %s is part of every run and not set here any more", name, target)
            OmegaConf.set_struct(config.callbacks, False)
            del config.callbacks[name]
    rollout = config.get("rollout")
    if isinstance(rollout, DictConfig) and "async_steps" in rollout:
        rollout["async"] = rollout.pop("async_steps")
    if isinstance(rollout, DictConfig) and rollout.get("dtype", "") is None:
        rollout.dtype = "auto"
    for group in ("callbacks", "logger", "trainer"):
        _rename(config.get(group), group, say)


def _rename(node: Any, where: str, say: Callable[..., None]) -> None:
    if OmegaConf.is_list(node):
        for number, item in enumerate(node):
            _rename(item, f"{where}.{number}", say)
    elif isinstance(node, DictConfig):
        for key in list(node):
            if OmegaConf.is_missing(node, key):
                continue
            if key != "_target_":
                _rename(node[key], f"{where}.{key!s}", say)
            elif (new := current(str(node[key]))) != node[key]:
                say("%s._target_=%s is %s now", where, node[key], new)
                node[key] = new


def current(target: str) -> str:
    """Where a class or function of this project lies now."""
    for old, new in MOVED.items():
        if target.startswith(old):
            return new + target[len(old) :]
    return target
