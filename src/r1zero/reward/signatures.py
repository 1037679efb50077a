"""Whether functions that reward settings name can be called as they will be. Imports nothing heavy."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from r1zero.config import RewardConfig
from r1zero.errors import UserError
from r1zero.launch.reading import read_signature
from r1zero.reward.extract import EXTRACTORS

OFFERED = ("question", "response", "gold", "extracted", "tokens", "meta")
"""Keywords that a plug-in reward may take."""


def check_named(reward: RewardConfig, extractor: str) -> None:
    """Read the files of plug-in rewards and of an extractor; what reading can't tell is left to a worker.

    Raises:
        UserError: nothing has that name, or its signature does not fit.
    """
    for name, function in reward.functions.items():
        _check(f"reward.functions.{name}.path", function.path, dict(function.params), OFFERED)
    if extractor not in EXTRACTORS:
        _check("template.extractor", extractor, {}, None)


def _check(setting: str, path: str, params: dict[str, Any], offered: Sequence[str] | None) -> None:
    signature = read_signature(path, setting)
    if signature is not None and (fault := misfit(signature.parameters, params, offered)):
        raise UserError(f"{setting}={path}: {fault}")


def misfit(
    parameters: Mapping[str, inspect.Parameter], params: dict[str, Any], offered: Sequence[str] | None
) -> str | None:
    """Why a function can't be called with some of ``offered`` and with its params; None when it can."""
    kinds = inspect.Parameter
    required = [
        name
        for name, parameter in parameters.items()
        if parameter.default is kinds.empty and parameter.kind not in (kinds.VAR_POSITIONAL, kinds.VAR_KEYWORD)
    ]
    if offered is None:
        placed = (kinds.POSITIONAL_ONLY, kinds.POSITIONAL_OR_KEYWORD, kinds.VAR_POSITIONAL)
        fits = len(required) <= 1 and any(parameter.kind in placed for parameter in parameters.values())
        return None if fits else "it must take one argument, the text of a response"
    takes_all = any(parameter.kind is kinds.VAR_KEYWORD for parameter in parameters.values())
    for name in params:
        if name in offered:
            return f"params.{name} has a name that every function is given: {', '.join(offered)}"
        if name not in parameters and not takes_all:
            return f"it takes no '{name}', which its params name"
    for name in required:
        if name not in offered and name not in params:
            return f"it takes '{name}', which is neither among {', '.join(offered)} nor in its params"
        if parameters[name].kind is kinds.POSITIONAL_ONLY:
            return f"'{name}' is positional only, and arguments are given by their names"
    return None
