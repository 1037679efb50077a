"""BestPolicyCallback: the policy of the best evaluation, kept beside the last one."""

from __future__ import annotations

import json
from typing import Any

import pytorch_lightning as pl

from r1zero.launch.files import without_nan
from r1zero.learn.module import PolicyGradientModule
from r1zero.train.callbacks.checkpoint import export_policy
from r1zero.train.context import RunContext


class BestPolicyCallback(pl.Callback):
    """Exports ``policy_best/`` whenever an evaluation's average accuracy is above all earlier ones.

    Right after the evaluation, while the weights are still those that were evaluated (trap 52). The model that
    training started from counts but is not exported; without a better policy there is no folder. Of equal
    evaluations the first is kept.
    """

    def __init__(self, context: RunContext) -> None:
        self.context = context
        self.best: float | None = None
        context.after_evaluation.append(self._look)

    def _look(self, module: PolicyGradientModule, result: dict[str, Any]) -> None:
        accuracy = result["average"]["accuracy"]
        if self.best is not None and accuracy <= self.best:
            return
        self.best = accuracy
        if result["step"] > 0:
            folder = self.context.run_dir / "policy_best"
            about = {"evaluation.json": json.dumps(without_nan(result), indent=1) + "\n"}
            export_policy(module, self.context, folder, about)

    def state_dict(self) -> dict[str, Any]:
        """The best so far survives a resume."""
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take it back."""
        self.best = state_dict["best"]
