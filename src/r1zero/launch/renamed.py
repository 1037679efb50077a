"""Where the parts lie now that configs of one's own name by an earlier import path."""

from __future__ import annotations

import logging
from typing import Any

from omegaconf import DictConfig, OmegaConf

log = logging.getLogger("r1zero")

MOVED = {
    "r1zero.callbacks.": "r1zero.train.callbacks.",
    "r1zero.loggers.": "r1zero.launch.loggers.",
    "r1zero.zero.": "r1zero.learn.zero.",
}
"""Beginnings of import paths."""


def bring_up_to_date(config: DictConfig) -> None:
    """Rewrite earlier import paths in place, with a note on each."""
    for group in ("callbacks", "logger", "trainer"):
        _rename(config.get(group), group)


def _rename(node: Any, where: str) -> None:
    if OmegaConf.is_list(node):
        for number, item in enumerate(node):
            _rename(item, f"{where}.{number}")
    elif isinstance(node, DictConfig):
        for key in list(node):
            if OmegaConf.is_missing(node, key):
                continue
            if key != "_target_":
                _rename(node[key], f"{where}.{key!s}")
            elif (new := current(str(node[key]))) != node[key]:
                log.warning("%s._target_=%s is %s now", where, node[key], new)
                node[key] = new


def current(target: str) -> str:
    """Where a class or function of this project lies now."""
    for old, new in MOVED.items():
        if target.startswith(old):
            return new + target[len(old) :]
    return target
