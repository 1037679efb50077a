"""Secrets: taken from the environment alone, and hidden in whatever is written. Imports nothing heavy."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Sequence
from typing import Any

from r1zero.errors import UserError

MASK = "***"

SECRET = re.compile(
    r"(?:^|[._-])(?:(?:api|access|private|secret)_?key|password|passwd|secret|credentials?)$"
    r"|(?:^|\.|(?:api|auth|access|bearer|hf|hub|refresh|secret|wandb)[._-]?)token$",
    re.IGNORECASE,
)
"""Names of settings and environment variables that hold a secret; ``max_tokens`` and its like do not."""

FROM_ENVIRONMENT = re.compile(r"\$\{oc\.env:[^{}]*\}")
"""A value that OmegaConf takes from the environment; files that aren't resolved hold the variable's name alone."""

SHORTEST = 8
"""Characters; a shorter value of the environment is not looked for in texts, where it would be found by chance."""


def is_secret(name: str) -> bool:
    """Whether a setting or variable of this name holds a secret."""
    return SECRET.search(name) is not None


def check_arguments(arguments: Sequence[str]) -> None:
    """Refuse a secret on the command line: the list of processes shows it, and Hydra stores it with the run.

    Raises:
        UserError: naming the setting, never its value.
    """
    for argument in arguments:
        key, _, value = argument.partition("=")
        value = FROM_ENVIRONMENT.sub("", value)
        names = [(key.lstrip("+~-"), value), *re.findall(r"['\"]?([\w.-]+)['\"]?\s*:\s*([^,{}\[\]]*)", value)]
        for name, given in names:
            if is_secret(name) and given.strip(" '\"") not in ("", "null"):
                raise UserError(
                    f"{name}=... would be stored with the run and shown in the list of processes: set it in the "
                    f"environment (for W&B: WANDB_API_KEY), or name a variable there: {name}=${{oc.env:NAME}}"
                )


def masked(node: Any, name: str = "") -> Any:
    """A copy of nested dicts and lists in which the values of secrets, and secrets of the environment, are hidden."""
    if isinstance(node, dict):
        return {key: masked(value, str(key)) for key, value in node.items()}
    if isinstance(node, (list, tuple)):
        return [masked(value, name) for value in node]
    if is_secret(name) and node not in (None, "", "???"):
        return node if isinstance(node, str) and FROM_ENVIRONMENT.fullmatch(node) else MASK
    return hidden(node) if isinstance(node, str) else node


def hidden(text: str) -> str:
    """A text without the secrets of the environment."""
    for value in _secrets():
        text = text.replace(value, MASK)
    return text


class MaskingFormatter(logging.Formatter):
    """A log line without the secrets of the environment, its traceback included."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        return hidden(super().format(record))


def _secrets() -> list[str]:
    return [value for name, value in os.environ.items() if len(value) >= SHORTEST and is_secret(name)]
