"""What a run folder says of one rollout step: settings, figures, responses, weights before and after."""

from __future__ import annotations

import csv
import re
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import yaml

from r1zero.errors import UserError

PREFIX = "policy.model."
WRAPPERS = ("_fsdp_wrapped_module.", "_orig_mod.")
"""What sharding and compilation put into names of weights."""

NEEDED = ("ids", "prompt_ids", "optimizer_steps", "response", "advantage", "reward", "graded")


class RunFolder:
    """Reads a run folder.

    Args:
        path: the folder.
        step: the rollout step whose settings are wanted, where a resume has changed them; None: those of now.

    Raises:
        UserError: it is not a run folder.
    """

    def __init__(self, path: Path, step: int | None = None) -> None:
        self.path = path
        try:
            self.config: dict[str, Any] = yaml.safe_load(self._settings(step).read_text())
            self.algo, self.optim, self.rollout = (self.config[name] for name in ("algo", "optim", "rollout"))
            with (path / "metrics.csv").open(newline="") as file:
                self.metrics = {int(float(row["step"])): row for row in csv.DictReader(file)}
            with (path / "updates.csv").open(newline="") as file:
                self.steps = list(csv.DictReader(file))
        except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError, yaml.YAMLError) as error:
            raise UserError(
                f"{path} is not a run folder of this release: it needs config.yaml, metrics.csv and updates.csv"
            ) from error
        self.responses: int = self.rollout["questions"] * self.rollout["group_size"]
        self.updates: int = self.algo["inner_epochs"] * self.responses // self.algo["minibatch_size"]
        """Optimizer steps of a rollout step."""

    def _settings(self, step: int | None) -> Path:
        """The file of the settings that a step was trained with."""
        former = sorted((self.path / ".hydra").glob("until_step_*.yaml"))
        held = [file for file in former if step is not None and step < int(file.stem.rpartition("_")[2])]
        return held[0] if held else self.path / "config.yaml"

    def at(self, step: int) -> RunFolder:
        """The folder as it was when a step was trained."""
        return RunFolder(self.path, step)

    def optimizer_steps_before(self, step: int) -> int:
        """Optimizer steps of all rollout steps before this one."""
        return sum(int(row["step"]) < step for row in self.steps)

    def recorded(self, step: int, name: str) -> float:
        """A figure of metrics.csv; nan where there is none."""
        return float(self.metrics.get(step, {}).get(name) or "nan")

    def each(self, step: int, name: str) -> list[float]:
        """A figure of each optimizer step of a rollout step, from updates.csv."""
        return [float(row[name]) for row in self.steps if int(row["step"]) == step]

    # -- which steps ------------------------------------------------------------------------------------

    def checkpoints(self) -> list[int]:
        """Numbers of rollout steps whose weights are there, in order."""
        found = (re.fullmatch(r"step_(\d+)\.ckpt", p.name) for p in (self.path / "checkpoints").glob("*"))
        return sorted(int(match[1]) for match in found if match)

    def saved_steps(self) -> list[int]:
        """Rollout steps whose responses are there."""
        found = (re.match(r"step_(\d+)", p.name) for p in (self.path / "completions").glob("*.parquet"))
        return sorted({int(match[1]) for match in found if match})

    def auditable(self) -> list[int]:
        """Steps with responses and with the weights that they began from."""
        first = [] if self.config["model"]["lora"]["rank"] else [0]
        return [step for step in self.saved_steps() if step in {*first, *self.checkpoints()}]

    def choose(self, step: int | None) -> int:
        """The step to look at: the one asked for, or the newest one, if possible with the weights after it.

        Raises:
            UserError: it can't be audited; the message says which setting would make it so.
        """
        steps = self.auditable()
        if step is None and steps:
            whole = [s for s in steps if s + 1 in self.checkpoints()]
            return (whole or steps)[-1]
        if step in steps:
            return step
        if step is not None and step not in self.saved_steps():
            saved = self.saved_steps()
            has = f"steps {saved[0]} to {saved[-1]}" if saved else "none"
            raise UserError(f"{self.path} holds no responses of step {step} (completions/ has {has})")
        gone = "no step" if step is None else f"step {step} can't be audited: the weights before it are not kept"
        others = f"; auditable are {', '.join(map(str, steps))}" if steps else ""
        raise UserError(f"{self.path}: {gone}; checkpoint.every=1 keeps those of the last steps{others}")

    # -- one step ---------------------------------------------------------------------------------------

    def step(self, step: int) -> list[dict[str, Any]]:
        """The responses of a step over all ranks, in order of their numbers.

        Raises:
            UserError: saved as text alone, or a rank's file is not there.
        """
        files = sorted((self.path / "completions").glob(f"step_{step:06d}*.parquet"))
        table = pd.concat([pd.read_parquet(file) for file in files], ignore_index=True)
        missing = [name for name in NEEDED if name not in table.columns]
        if missing:
            raise UserError(
                f"{files[0]} holds text alone (no {', '.join(missing)}): rollout.save=full keeps what an audit needs"
            )
        table = table.sort_values("response")
        if table["response"].tolist() != list(range(self.responses)):
            raise UserError(f"{self.path}: step {step} has {len(table)} of its {self.responses} responses on disk")
        return table.to_dict("records")

    def weights(self, step: int) -> tuple[dict[str, torch.Tensor], dict[Any, Any]]:
        """Trained weights by name and the optimizer's moments, as a checkpoint has them.

        Raises:
            UserError: the checkpoint is cut over ranks, or can't be read.
        """
        file = self.path / "checkpoints" / f"step_{step:06d}.ckpt"
        if file.is_dir():
            raise UserError(f"{file} is a folder of a sharded trainer, which this does not read")
        try:
            content = torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:
            raise UserError(f"{file} can't be read ({type(error).__name__})") from error
        state = {plain(name): tensor for name, tensor in content["state_dict"].items()}
        states = [optimizer.get("state") for optimizer in content.get("optimizer_states", [])]
        if len(states) != 1 or not isinstance(states[0], dict):
            raise UserError(f"{file} holds no optimizer state of one whole AdamW, which is all that this recomputes")
        return state, states[0]


def plain(name: str) -> str:
    """A weight's name in the model's own files."""
    for wrapper in WRAPPERS:
        name = name.replace(wrapper, "")
    return name.removeprefix(PREFIX)
