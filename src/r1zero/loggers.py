"""W&B with an id that stays with the run folder."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import WandbLogger


def wandb_logger(save_dir: str, project: str, **settings: Any) -> WandbLogger:
    """Lightning's WandbLogger on the run's own step axis.

    The run id is kept in ``<save_dir>/wandb_id``: a resumed run goes on in the same W&B run. All figures
    are plotted over ``progress/rollout_step`` (traps 51, 59).

    Args:
        save_dir: the run folder.
        project: W&B project.
        **settings: further arguments of WandbLogger, such as name, group, tags, offline, entity.
    """
    folder = Path(save_dir)
    folder.mkdir(parents=True, exist_ok=True)
    id_file = folder / "wandb_id"
    if not id_file.is_file():
        id_file.write_text(secrets.token_hex(4))
    logger = WandbLogger(save_dir=save_dir, project=project, id=id_file.read_text().strip(), resume="allow", **settings)
    experiment = logger.experiment
    if hasattr(experiment, "define_metric"):
        experiment.define_metric("progress/rollout_step")
        experiment.define_metric("*", step_metric="progress/rollout_step")
    return logger
