"""Paths and names on the command line: whatever they hold, they mean what was typed. Imports nothing heavy."""

from __future__ import annotations

import contextlib
import itertools
import re
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from r1zero.errors import UserError

PATHS = re.compile(r"\+{0,2}(?:model|data|resume|rescore|name|group|[\w.-]+\.(?:path|dir|outputs|run))")
"""Settings whose value is a path or a name."""


@dataclass(frozen=True)
class PathGroup:
    """A group of options that takes a path as well: ``model=<folder>``, ``data=<file>``.

    ``option`` of the group is the one for a path, which goes to the setting ``place``; ``folder`` holds the options.
    """

    group: str
    option: str
    place: str
    folder: Path

    def expand(self, argument: str) -> list[str]:
        """A choice of an option as it is; a path as the option with the setting.

        In a sweep each path becomes an option of its own, so that paths and options may share one list.
        """
        choices = values_of([argument], self.group)
        if not any(self.is_path(choice) for choice in choices):
            return [argument]
        if len(choices) == 1:
            return [f"{self.group}={self.option}", f"{self.place}={quoted(choices[0])}"]
        for choice in filter(self.is_path, choices):
            self._add_option(choice)
        return [argument]

    def is_path(self, value: str) -> bool:
        """Whether a value is a path or hub id rather than one of the group's options."""
        return not (self.folder / f"{value}.yaml").is_file() and ("/" in value or is_there(value))

    def _add_option(self, path: str) -> None:
        """Tell Hydra of an option that is called like a path; it looks for ``a/b`` as ``b`` in the group ``a``."""
        node: Any = path
        for key in reversed(self.place.split(".")[1:]):
            node = {key: node}
        *above, name = filter(None, f"{self.group}/{path}".split("/"))
        node = {"defaults": [f"/{self.group}/{self.option}@_here_", "_self_"], **node}
        ConfigStore.instance().store(group="/".join(above), name=name, node=node, package=self.group)


def literal(argument: str, sweeping: bool = False) -> str:
    """``key=value`` with the value in quotes where Hydra's grammar would read a path as something else.

    A comma separates the points of a sweep, and stands for itself elsewhere, and in the name of what is there.
    """
    key, _, value = argument.partition("=")
    if not PATHS.fullmatch(key):
        return argument
    try:
        parsed = OverridesParser.create().parse_override(argument)
    except HydraException:
        return f"{key}={quoted(value)}"
    if parsed.is_sweep_override():
        mistaken = is_there(value) or not (sweeping or key in ("model", "data"))
    else:
        mistaken = isinstance(parsed.value(), (list, dict))
    return f"{key}={quoted(value)}" if mistaken else argument


def quoted(text: str | Path) -> str:
    """A text as Hydra's grammar spells it, whatever it holds."""
    escaped = re.sub(r"(\\*)'", lambda match: match[1] * 2 + "\\'", str(text))
    escaped = re.sub(r"(\\+)$", lambda match: match[1] * 2, escaped)
    return f"'{escaped}'"


def values_of(arguments: list[str], key: str) -> list[str]:
    """The values that a setting is given, all of them in a sweep; what Hydra can't read is left as it stands."""
    found: list[str] = []
    for argument in arguments:
        name, _, value = argument.partition("=")
        if name.lstrip("+") != key:
            continue
        try:
            parsed = OverridesParser.create().parse_override(argument)
            several = parsed.sweep_iterator() if parsed.is_sweep_override() else [parsed.value()]
            found += [getattr(one, "text", value if isinstance(one, (list, dict)) else str(one)) for one in several]
        except (HydraException, TypeError):
            found.append(value)
    return found


def given_path(arguments: list[str], key: str) -> str | None:
    """The path that a setting is given; None where there is none, or null."""
    found = values_of(arguments, key)
    return found[-1] if found and found[-1] not in ("None", "") else None


def check_name(name: str) -> None:
    """Refuse a name that would lead out of the folder of outputs. Raises ``UserError``."""
    if not name.strip() or Path(name).is_absolute() or ".." in Path(name).parts:
        raise UserError(f"name={name} is not the name of a folder below paths.outputs: leave out .. and a / in front")


CHOSEN: dict[str, str] = {}
"""The folders that this process has chosen: Hydra asks for a folder more than once."""


def new_folder(parent: str) -> str:
    """The folder of a new run, ``<parent>/<time>``, made at once: two runs that start in one second get one each.

    Nothing is made where Hydra only prints its settings, or can't be: Hydra itself then says why.
    """
    if parent not in CHOSEN:
        only_shown = any(re.match(r"--?(cfg|c|info|i|help|h|hydra-help)\b", a) for a in sys.argv[1:])
        for path in dated(Path(parent)):
            with contextlib.suppress(OSError):
                if not only_shown:
                    path.mkdir(parents=True)
                break
            if not path.exists():
                break
        CHOSEN[parent] = str(path)
    return CHOSEN[parent]


def dated(parent: Path) -> Iterator[Path]:
    """Folders named by the time that are not there yet: ``<time>``, ``<time>_2`` and so on."""
    now = time.strftime("%Y-%m-%d_%H-%M-%S")
    names = itertools.chain([now], (f"{now}_{number}" for number in itertools.count(2)))
    return (parent / name for name in names if not (parent / name).exists())


def is_there(path: str) -> bool:
    """Whether a path is there; no name is too long to ask."""
    with contextlib.suppress(OSError, ValueError):
        return Path(path).expanduser().exists()
    return False
