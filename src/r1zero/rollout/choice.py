"""``rollout=auto``: vLLM or transformers, by measurement where the model is tiny, decided once and stored with the run.

vLLM's own work per token, some milliseconds a decoding step on a CPU, is nothing beside a large model's and most of the
time of a tiny one's. What only one engine can do is not measured: that one is taken.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from r1zero.errors import UserError
from r1zero.launch.console import console
from r1zero.launch.gpu import installed
from r1zero.launch.model_files import experts_of
from r1zero.launch.number_format import SMALL, on_gpu, parameters, stored
from r1zero.launch.run_folder import is_main_rank, shown
from r1zero.rollout.figures import ENGINES, figures, job_of

AUTO = "auto"
VLLMS: dict[str, Any] = {"quantization": None, "batch_invariant": False, "tensor_parallel": 1}
"""Settings that only vLLM has, and the value at which each of them asks for nothing."""


def narrow(config: DictConfig) -> tuple[str, str] | None:
    """Replace ``rollout.name=auto`` where only one engine can do what is asked, before anything heavy is imported.

    Returns:
        the engine and why, for :func:`say` once the settings have passed; None where nothing was replaced.

    Raises:
        UserError: neither can.
    """
    found = only_engine(config, Path(str(config.model.path)).expanduser()) if _asked(config) else None
    if found:
        config.rollout.name = found[0]
    return found


def settle_engine(config: DictConfig, run_dir: Path) -> None:
    """Replace ``rollout.name=auto`` by an engine, in place, and keep what was measured in ``rollout.measured``.

    A choice that the run folder stores comes first, so a resumed run keeps its engine on any machine. All other ranks
    take the choice of rank 0.

    Args:
        config: settings with the groups ``rollout`` and ``model``, number formats settled.
        run_dir: the run folder.

    Raises:
        UserError: neither engine can do what is asked.
    """
    if not _asked(config):
        return
    rollout = config.rollout
    choice = stored_choice(run_dir)
    if choice is not None:
        rollout.name, rollout.measured, why = *choice, f"as stored in {shown(run_dir)}"
    else:
        rollout.name, rollout.measured, why = choose(config)
    say((rollout.name, why))


def _asked(config: DictConfig) -> bool:
    """Whether an engine is to be chosen; none is needed where responses are there, or a server gives them."""
    judged = (config.get("judge") or {}).get("via") == "model"
    idle = config.get("rescore") or (config.model.get("served") and not judged)
    return "rollout" in config and config.rollout.name == AUTO and not idle


def say(choice: tuple[str, str] | None) -> None:
    """Print the engine and why it was chosen."""
    if choice and is_main_rank():
        console.print(f"rollout=auto is {choice[0]}: {choice[1]}", soft_wrap=True, highlight=False)


def stored_choice(run_dir: Path) -> tuple[str, dict[str, float]] | None:
    """Engine and figures in a run folder's settings."""

    def find(rollout: Any) -> tuple[str, dict[str, float]] | None:
        return (rollout["name"], dict(rollout.get("measured") or {})) if rollout["name"] in ENGINES else None

    return stored(run_dir, "rollout", find)


def only_engine(config: DictConfig, folder: Path | None) -> tuple[str, str] | None:
    """The engine that alone can do what is asked, and why; None where both can.

    Args:
        config: the settings.
        folder: where the model's config.json is, if it is here.

    Raises:
        UserError: a setting is vLLM's, and vLLM can't be used.
    """
    wanted = [name for name, nothing in VLLMS.items() if config.rollout.get(name, nothing) != nothing]
    experts = experts_of(folder) if folder is not None and "algo" in config else None
    if not installed("vllm"):
        lacking = "vLLM is not installed"
    else:
        lacking = f"vLLM does not take the weights of a mixture of experts again ({experts})" if experts else ""
    if wanted and lacking:
        setting = f"rollout.{wanted[0]}={config.rollout[wanted[0]]}"
        raise UserError(f"rollout=auto finds no engine: {setting} is vLLM's, and {lacking}: leave it out")
    if wanted:
        return "vllm", f"rollout.{wanted[0]} is vLLM's"
    return ("hf", lacking) if lacking else None


def choose(config: DictConfig) -> tuple[str, dict[str, float], str]:
    """The engine, milliseconds a decoding step of each where they were measured, and why in a few words.

    Raises:
        UserError: neither engine can do what is asked.
    """
    folder = Path(str(config.model.path)).expanduser()
    here = (folder / "config.json").is_file()
    if only := only_engine(config, folder if here or "algo" not in config else _fetched(config.model)):
        return only[0], {}, only[1]
    if on_gpu(config):
        return "vllm", {}, "on a GPU"
    size = parameters(config.model)
    if not 0 < size < SMALL or not here:
        return "vllm", {}, "the model is not tiny" if size else "the model is not in a folder here"
    found, kept = figures(job_of(config, folder))
    able = [engine for engine in ENGINES if engine in found]
    failed = found.get("failed", {})
    if not able:
        if len(failed) == len(ENGINES):
            raise UserError(
                f"rollout=auto finds no engine for {folder}: " + "; ".join(f"{n}: {why}" for n, why in failed.items())
            )
        return "hf", {}, f"the two could not be measured here ({found['error']})"
    if failed:
        return able[0], {}, "; ".join(f"{name} can't take the model ({why})" for name, why in failed.items())
    name = min(able, key=lambda engine: float(found[engine]))
    numbers = ", ".join(f"{engine} {found[engine]:.2f}" for engine in ENGINES)
    return name, found, f"ms a decoding step: {numbers} ({'kept from an earlier run' if kept else 'measured'})"


def _fetched(model: Any) -> Path | None:
    """Where config.json of a model of the hub is; what is wrong with the model is said when all of it is fetched."""
    from huggingface_hub import hf_hub_download

    with contextlib.suppress(Exception):
        return Path(hf_hub_download(str(model.path), "config.json", revision=model.get("revision"))).parent
    return None
