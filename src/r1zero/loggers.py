"""W&B with an id that stays with the run folder."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import WandbLogger
from pytorch_lightning.utilities import rank_zero_only


def wandb_logger(save_dir: str, project: str, group: str | None = None, **settings: Any) -> WandbLogger:
    """Lightning's WandbLogger on the run's own step axis.

    The run id is kept in ``<save_dir>/wandb_id``: a resumed run goes on in the same W&B run. All figures
    are plotted over ``progress/rollout_step`` (traps 51, 59). A run is called after its folder, so the
    points of a sweep are told apart.

    Args:
        save_dir: the run folder.
        project: W&B project.
        group: group of runs that belong together.
        **settings: further arguments of WandbLogger, such as name, tags, offline, entity.
    """
    import wandb

    folder = Path(save_dir).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    id_file = folder / "wandb_id"
    if rank_zero_only.rank == 0 and not id_file.is_file():
        id_file.write_text(secrets.token_hex(4))
    run_id = id_file.read_text().strip() if id_file.is_file() else None
    # Quiet: the run's own closing table says what W&B's summary would say again.
    settings = {"name": folder.name, "settings": wandb.Settings(quiet=True), **settings}
    logger = WandbLogger(save_dir=save_dir, project=project, group=group, id=run_id, resume="allow", **settings)
    experiment = logger.experiment
    if hasattr(experiment, "define_metric"):
        experiment.define_metric("progress/rollout_step")
        experiment.define_metric("*", step_metric="progress/rollout_step")
    return logger
