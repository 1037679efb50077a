"""What a resumed run must share with the run it continues. Imports nothing heavy."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import yaml
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from r1zero.errors import UserError
from r1zero.launch.files import read_yaml, stored_json, write_whole
from r1zero.launch.masking import masked
from r1zero.launch.run_folder import shown

log = logging.getLogger("r1zero")

IGNORED = ("resume", "paths", "logger")
"""Keys whose change means nothing for the numbers of a run."""

SHOWN = 8
"""Most differences that are named on one line."""


def finished(run_dir: Path, steps: int) -> str | None:
    """One line about a run that has nothing left to do, or None.

    Args:
        run_dir: the run folder.
        steps: rollout steps that are asked for now.
    """
    status = stored_json(run_dir / "status.json")
    done = status.get("step")
    if status.get("state") != "finished" or not isinstance(done, int) or done < steps:
        return None
    return f"nothing to do: {shown(run_dir)} finished its {done} rollout steps; steps=<more than {done}> continues"


def changed_settings(run_dir: Path, new: dict[str, Any]) -> list[str]:
    """Settings that differ from the stored ``config.yaml``, each as "key: old -> new".

    Raises:
        UserError: the run was made with another model.
    """
    stored = run_dir / "config.yaml"
    if not stored.is_file():
        return []
    try:
        old = read_yaml(stored)
    except UserError as error:
        raise UserError(f"{error}; so the run can't be resumed") from error
    before, now = flatten(OmegaConf.to_container(OmegaConf.create(old))), flatten(masked(new))
    if before.get("model.name") != now.get("model.name"):
        names = f"model {before.get('model.name')}, and model {now.get('model.name')} is asked for"
        advice = "a checkpoint fits its own model alone; start a new run"
        raise UserError(f"{shown(run_dir)} was made with {names}: {advice}")
    keys = [key for key in sorted({*before, *now}) if key.split(".")[0] not in IGNORED]
    absent = object()
    return [
        f"{key}: {spelled(before, key)} -> {spelled(now, key)}"
        for key in keys
        if before.get(key, absent) != now.get(key, absent)
    ]


def record_settings(run_dir: Path, config: DictConfig) -> None:
    """Store the command line, which ``resume=`` brings back, and the settings, in ``.hydra/`` and as ``config.yaml``.

    Hydra, which would write before anything has looked at the folder, is kept from it.
    """
    if HydraConfig.initialized():
        (run_dir / ".hydra").mkdir(exist_ok=True)
        overrides: Any = OmegaConf.to_container(HydraConfig.get().overrides.task, resolve=False)  # as the user typed
        write_whole(run_dir / ".hydra" / "overrides.yaml", yaml.safe_dump(masked(overrides), sort_keys=False))
        unresolved = masked(OmegaConf.to_container(config, resolve=False))
        write_whole(run_dir / ".hydra" / "config.yaml", OmegaConf.to_yaml(unresolved))
    write_whole(run_dir / "config.yaml", OmegaConf.to_yaml(masked(OmegaConf.to_container(config, resolve=True))))


def name_changes(config: DictConfig, run_dir: Path) -> None:
    """Name the settings that differ from the resumed run; raises as :func:`changed_settings`."""
    changes = changed_settings(run_dir, OmegaConf.to_container(config, resolve=True))  # type: ignore[arg-type]
    if changes:
        log.warning(describe(changes))


def keep_settings(run_dir: Path, config: DictConfig, step: int) -> None:
    """Before other settings take their place, keep those of the steps before ``step``, by which an audit goes."""
    kept = run_dir / ".hydra" / f"until_step_{step:06d}.yaml"
    if not kept.exists() and changed_settings(run_dir, OmegaConf.to_container(config, resolve=True)):  # type: ignore[arg-type]
        kept.parent.mkdir(exist_ok=True)
        write_whole(kept, (run_dir / "config.yaml").read_text())


def describe(changes: list[str]) -> str:
    """The changes on one line, capped."""
    more = f" and {len(changes) - SHOWN} more" if len(changes) > SHOWN else ""
    return f"continuing with changed settings: {', '.join(changes[:SHOWN])}{more}"


def spelled(values: dict[str, Any], key: str) -> str:
    """A value as the command line spells it; "unset" where there is none."""
    if key not in values:
        return "unset"
    return "null" if values[key] is None else str(values[key])


def flatten(node: Any, prefix: str = "") -> dict[str, Any]:
    """Nested dicts as one dict with dotted keys; tuples and lists are leaves."""
    if not isinstance(node, dict):
        return {prefix: list(node) if isinstance(node, tuple) else node}
    flat: dict[str, Any] = {}
    for key, value in node.items():
        flat.update(flatten(value, f"{prefix}.{key}" if prefix else str(key)))
    return flat
