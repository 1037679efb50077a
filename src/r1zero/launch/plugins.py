"""The user's own functions, named by import path in a config: objectives, credit, sampling.

``my_ideas.shorter`` is the function ``shorter`` of ``my_ideas.py`` beside ``train.py`` or in the working directory;
:mod:`r1zero.launch.allowed` says which paths are accepted. It is looked up before anything is trained.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from r1zero.errors import UserError
from r1zero.launch import allowed


def find_function(
    name: str, built_in: Mapping[str, Callable[..., Any]], setting: str, given: Mapping[str, Any] | None = None
) -> Callable[..., Any]:
    """A built-in function by its name, or the user's by import path.

    Args:
        name: a key of ``built_in``, or package.module.function.
        built_in: what comes with the project.
        setting: the config key, for messages.
        given: keyword arguments that every call will have.

    Raises:
        UserError: nothing of that name can be imported or called, or it does not take the keyword arguments.
    """
    if name in built_in:
        function = built_in[name]
    elif "." not in name:
        raise UserError(
            f"{setting}={name} is unknown; choose {', '.join(built_in)}, or the import path of a function of yours, "
            "such as my_ideas.my_function"
        )
    else:
        function = _imported(name, setting)
    try:
        inspect.signature(function).bind_partial(**(given or {}))
    except TypeError as error:
        raise UserError(f"{setting}_params do not fit {name}: {error}") from error
    return function


def _imported(path: str, setting: str) -> Callable[..., Any]:
    function = allowed.load(path, setting)
    if not callable(function):
        raise UserError(f"{setting}={path} is not a function")
    return function
