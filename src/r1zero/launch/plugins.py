"""The user's own functions, named by import path in a config: credit allocation, question sampling.

A path names code that the user's own command line or YAML asks for, so it may lie in any importable
module but Python's own: ``my_ideas.shorter`` is the function ``shorter`` of ``my_ideas.py`` beside ``train.py``. It is
looked up before anything is trained, and nothing is called but the function itself.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from r1zero.errors import UserError
from r1zero.launch.targets import check_function_path


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
    check_function_path(path, setting)
    module_name, _, attribute = path.rpartition(".")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        why = f"{type(error).__name__}: {error}".splitlines()[0]
        raise UserError(f"{setting}={path}: module {module_name} can't be imported ({why})") from error
    function = getattr(module, attribute, None)
    if not callable(function):
        raise UserError(f"{setting}={path}: module {module_name} has no function {attribute}")
    return function
