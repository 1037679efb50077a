"""The user's own functions, named by import path in a config: objectives, advantages, credit, sampling, environments.

``my_ideas.shorter`` is the function ``shorter`` of ``my_ideas.py`` beside ``train.py`` or in the working directory;
:mod:`r1zero.launch.allowed` says which paths are accepted. Its file is read before torch is imported
(:func:`check_function`), and it is looked up before anything is trained (:func:`find_function`).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from r1zero.errors import UserError
from r1zero.launch import allowed
from r1zero.launch.reading import read_signature


@dataclass(frozen=True)
class Named:
    """What a setting may name.

    Attributes:
        built_in: names of what comes with the project.
        forms: positional arguments of a function, by name; one of these forms must fit it.
    """

    built_in: tuple[str, ...]
    forms: tuple[tuple[str, ...], ...]


FUNCTIONS = {
    "algo.loss": Named(("policy_gradient",), (("values", "scale", "algo"),)),
    "algo.advantage": Named(
        ("group", "leave_one_out", "batch_norm", "group_then_batch_norm", "group_mean_batch_std", "mean_norm"),
        (("batch",), ("rewards", "group_size")),
    ),
    "algo.credit": Named(("uniform", "length_aware", "answer_span"), (("batch",), ("rollout", "decode"))),
    "data.sampler": Named(
        ("uniform", "drop_solved_and_hopeless", "curriculum"), (("waiting", "history", "wanted", "rng"),)
    ),
    "rollout.environment": Named(("calculator",), (("engine", "tokenizer", "context"),)),
}
"""Settings that name a function, and what is known of it without importing it."""


def check_function(name: str, setting: str, given: Mapping[str, Any] | None = None) -> None:
    """Refuse by reading alone what :func:`find_function` would refuse; a built-in one's arguments are left to that.

    Args:
        name: a built-in name, or package.module.function.
        setting: the config key.
        given: keyword arguments that every call will have.

    Raises:
        UserError: nothing has that name, or it does not take its arguments.
    """
    known = FUNCTIONS[setting].built_in
    if name not in known:
        _check_dotted(name, known, setting)
        if (signature := read_signature(name, setting)) is not None:
            _check_signature(signature, name, setting, given or {})


def find_function(
    name: str, built_in: Mapping[str, Callable[..., Any]], setting: str, given: Mapping[str, Any] | None = None
) -> Callable[..., Any]:
    """A built-in function by its name, or the user's by import path.

    Args:
        name: a key of ``built_in``, or package.module.function.
        built_in: what comes with the project.
        setting: the config key, of ``FUNCTIONS``.
        given: keyword arguments that every call will have.

    Raises:
        UserError: nothing of that name can be imported or called, or it does not take its arguments.
    """
    if name in built_in:
        function = built_in[name]
    else:
        _check_dotted(name, tuple(built_in), setting)
        function = allowed.load(name, setting)
        if not callable(function):
            raise UserError(f"{setting}={name} is not a function")
    _check_signature(inspect.signature(function), name, setting, given or {})
    return function


def _check_dotted(name: str, known: Sequence[str], setting: str) -> None:
    if "." not in name:
        raise UserError(
            f"{setting}={name} is unknown; choose {', '.join(known)}, or the import path of a function of yours, "
            "such as my_ideas.my_function"
        )


def _check_signature(signature: inspect.Signature, name: str, setting: str, given: Mapping[str, Any]) -> None:
    try:
        signature.bind_partial(**given)
    except TypeError as error:
        raise UserError(f"{setting}_params do not fit {name}: {error}") from error
    forms = FUNCTIONS[setting].forms
    if not any(_takes(signature, form, given) for form in forms):
        wanted = " or ".join(f"({', '.join(form)})" for form in forms)
        with_params = f" and its params {', '.join(map(str, given))}" if given else ""
        raise UserError(f"{setting}={name} has the signature {signature}: it must take {wanted}{with_params}")


def _takes(signature: inspect.Signature, form: Sequence[str], given: Mapping[str, Any]) -> bool:
    """Whether a call with these arguments fits; the last of several may be keyword-only."""
    calls: list[tuple[int, dict[str, Any]]] = [(len(form), {})]
    if len(form) > 1:
        calls.append((len(form) - 1, {form[-1]: None}))
    for count, named in calls:
        try:
            signature.bind(*[None] * count, **named, **given)
        except TypeError:
            continue
        return True
    return False
