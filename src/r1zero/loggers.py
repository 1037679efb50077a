"""W&B with an id that stays with the run folder."""

from __future__ import annotations

import logging
import secrets
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import WandbLogger
from pytorch_lightning.utilities import rank_zero_only

from r1zero.outputs import one_line

log = logging.getLogger("r1zero")


def wandb_logger(save_dir: str, project: str, group: str | None = None, **settings: Any) -> WandbLogger:
    """Lightning's WandbLogger on the run's own step axis.

    The run id is kept in ``<save_dir>/wandb_id``: a resumed run goes on in the same W&B run. All figures
    are plotted over ``progress/rollout_step`` (traps 51, 59). A run is called after its folder, so the
    points of a sweep are told apart. Where the server can't be reached the run is kept on disk, for
    ``wandb sync``.

    Args:
        save_dir: the run folder.
        project: W&B project.
        group: group of runs that belong together.
        **settings: further arguments of ``wandb.init``, such as name, tags, entity, mode.
    """
    import wandb

    folder = Path(save_dir).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    if getattr(rank_zero_only, "rank", 0) != 0:
        return WandbLogger(save_dir=save_dir, project=project)  # on other ranks it never starts a run
    id_file = folder / "wandb_id"
    if not id_file.is_file():
        id_file.write_text(secrets.token_hex(4))
    wanted: dict[str, Any] = dict(
        dir=str(folder), project=project, group=group, id=id_file.read_text().strip(), resume="allow", name=folder.name
    )
    # Quiet: the run's own closing table says what W&B's summary would say again.
    wanted |= {"settings": wandb.Settings(quiet=True), **settings}
    try:
        run = wandb.init(**wanted)
    except Exception as error:
        log.warning("W&B can't be reached (%s): the run is kept on disk for `wandb sync`", one_line(error))
        wandb.teardown()  # its service still holds the run's id
        run = wandb.init(**wanted | {"mode": "offline"})
    run.define_metric("progress/rollout_step")
    run.define_metric("*", step_metric="progress/rollout_step")
    return WandbLogger(save_dir=save_dir, project=project, experiment=run)
