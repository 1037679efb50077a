"""Paths and names on the command line: whatever they hold, they mean what was typed. Imports nothing heavy."""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, flag_override

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


def own_folder(hydra: DictConfig, kind: str) -> None:
    """Make the folder of a new run or sweep that is named by the time, one that no other has, and put it in place.

    Of those that start in one second each has its own: ``<time>``, ``<time>_2`` and so on.

    Args:
        hydra: Hydra's own config; ``hydra.<kind>.dir`` is changed, and the overrides by which a launcher's worker
            composes the points of a sweep anew.
        kind: ``run`` or ``sweep``.
    """
    if "${now:" not in OmegaConf.to_container(hydra[kind], resolve=False)["dir"]:  # type: ignore[index,call-overload]
        return
    wanted = chosen = str(hydra[kind].dir)
    number, tries = 1, 3
    while tries:
        try:
            Path(chosen).mkdir(parents=True)
            break
        except FileExistsError:
            number += 1
            chosen = f"{wanted}_{number}"
        except OSError:  # a run that was refused has removed the folder above; or none can be made, and Hydra says why
            tries -= 1
    with flag_override(hydra, ["struct", "readonly"], False):
        hydra[kind].dir = chosen
        if kind == "sweep":
            hydra.overrides.hydra.append(f"hydra.sweep.dir={quoted(chosen)}")


def is_there(path: str) -> bool:
    """Whether a path is there; no name is too long to ask."""
    with contextlib.suppress(OSError, ValueError):
        return Path(path).expanduser().exists()
    return False
