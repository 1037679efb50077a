"""W&B with an id that stays with the run folder."""

from __future__ import annotations

import logging
import os
import secrets
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import WandbLogger
from pytorch_lightning.utilities import rank_zero_only

from r1zero.launch.files import write_whole
from r1zero.launch.run_folder import one_line, shown

log = logging.getLogger("r1zero")

FINISH_SECONDS = 120.0
"""Time that W&B has at the end of a run to upload what is left; after that it stays on disk."""


class RunLogger(WandbLogger):
    """Lightning's WandbLogger that can keep the trained policy as an artifact of the run."""

    keeps_policy = False

    def log_policy(self, folder: Path) -> None:
        """Store a policy folder as the artifact ``policy-<run id>`` where ``log_model`` asks for it."""
        if not self.keeps_policy:
            return
        import wandb

        artifact = wandb.Artifact(f"policy-{self.experiment.id}", type="model")
        artifact.add_dir(str(folder))
        self.experiment.log_artifact(artifact)


def wandb_logger(
    save_dir: str,
    project: str,
    group: str | None = None,
    step_metric: str = "progress/rollout_step",
    log_model: bool = False,
    **settings: Any,
) -> WandbLogger:
    """Lightning's WandbLogger on the run's own step axis.

    The run id is kept in ``<save_dir>/wandb_id``: a resumed run continues the same W&B run. All figures
    are plotted over ``step_metric`` (traps 51, 59). A run is called by ``WANDB_NAME`` or after its folder,
    so the points of a sweep are told apart. Where the server can't be reached the run is kept on disk, for
    ``wandb sync``; where it goes away later, the end of the run waits ``FINISH_SECONDS`` for it
    (``WANDB_FINISH_TIMEOUT`` sets another time).

    Args:
        save_dir: the run folder.
        project: W&B project.
        group: group of runs that belong together.
        step_metric: figure that counts the run's steps.
        log_model: store the policy of a finished run as an artifact.
        **settings: further arguments of ``wandb.init``, such as name, tags, entity, mode.
    """
    import wandb

    folder = Path(save_dir).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    if getattr(rank_zero_only, "rank", 0) != 0:
        return WandbLogger(save_dir=save_dir, project=project)  # on other ranks it never starts a run
    id_file = folder / "wandb_id"
    if not id_file.is_file():
        write_whole(id_file, os.environ.get("WANDB_RUN_ID") or secrets.token_hex(4))
    wanted: dict[str, Any] = dict(
        dir=str(folder),
        project=project,
        group=group,
        id=id_file.read_text().strip(),
        resume="allow",
        name=os.environ.get("WANDB_NAME") or folder.name,
    )
    # Quiet: the run's own closing table says what W&B's summary would say again.
    patience: dict[str, Any] = {} if "WANDB_FINISH_TIMEOUT" in os.environ else {"finish_timeout": FINISH_SECONDS}
    wanted |= {"settings": wandb.Settings(quiet=True, finish_timeout_raises=True, **patience), **settings}
    try:
        run = wandb.init(**wanted)
    except Exception as error:
        wandb.teardown()  # its service still holds the run's id
        run = wandb.init(**wanted | {"mode": "offline"})
        log.warning("W&B can't be reached (%s): training continues; %s", one_line(error), how_to_sync(run))
    write_whole(id_file, run.id)  # a W&B sweep's agent has given the run an id of its own
    run.define_metric(step_metric)
    run.define_metric("*", step_metric=step_metric)
    made = RunLogger(save_dir=save_dir, project=project, experiment=run)
    made.keeps_policy = log_model
    return made


def finish_wandb(failed: bool) -> None:
    """End this process's W&B run, if there is one; without its server, say how to upload the run later."""
    import wandb

    run = wandb.run
    try:
        wandb.finish(exit_code=int(failed))
    except Exception as error:
        advice = how_to_sync(run) if run is not None else "metrics.csv is complete"
        log.warning("W&B could not be given everything (%s); %s", one_line(error), advice)


def how_to_sync(run: Any) -> str:
    """What to type to upload a run that is on disk."""
    return f"the run is kept on disk, upload it later with: wandb sync {shown(Path(run.settings.sync_dir))}"
