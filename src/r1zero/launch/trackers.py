"""Experiment trackers beside W&B: MLflow, Comet, Trackio and SwanLab, each with a run that a resume continues."""

from __future__ import annotations

import importlib
import logging
import os
import secrets
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities import rank_zero_only

from r1zero.errors import UserError
from r1zero.launch.files import write_whole
from r1zero.launch.resume import flatten
from r1zero.launch.run_folder import one_line

log = logging.getLogger("r1zero")


class Tracker(Logger):
    """A run of a tracker, started with the logger on the first rank and named after the run folder.

    Its id is kept in ``<save_dir>/<package>_id``, so a resumed run continues it.

    Args:
        save_dir: the run folder.
        project: project or experiment that the run belongs to.
        group: group of runs that belong together.
        tags: words to find the run by.
        **settings: further arguments of the tracker's own start.

    Raises:
        UserError: the package is not installed.
    """

    package = ""
    extra = ""

    def __init__(
        self, save_dir: str, project: str, group: str | None = None, tags: tuple[str, ...] = (), **settings: Any
    ) -> None:
        super().__init__()
        try:
            self.module: Any = importlib.import_module(self.package)
        except ModuleNotFoundError as error:
            if error.name != self.package:
                raise
            raise UserError(f"{self.package} is not installed; pip install '.[{self.extra}]'") from error
        self.folder, self.project, self.group, self.tags = Path(save_dir).resolve(), project, group, list(tags)
        self.settings = settings
        self.folder.mkdir(parents=True, exist_ok=True)
        if getattr(rank_zero_only, "rank", 0) == 0:
            file = self.folder / f"{self.package}_id"
            known = file.read_text().strip() if file.is_file() else None
            write_whole(file, self.start(known))

    @property
    def name(self) -> str:
        """Of the project."""
        return self.project

    @property
    def version(self) -> str:
        """Name of the run."""
        return self.folder.name

    def start(self, known: str | None) -> str:
        """Start a run, or continue the one whose id is known; returns its id."""
        raise NotImplementedError

    def put_settings(self, settings: dict[str, Any]) -> None:
        """Store the run's config, a nest of dicts and lists."""
        raise NotImplementedError

    def put(self, figures: dict[str, float], step: int) -> None:
        """Store the figures of a step."""
        raise NotImplementedError

    def end(self, failed: bool) -> None:
        """End the run."""
        raise NotImplementedError

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **more: Any) -> None:
        """Store the run's config."""
        self.put_settings(params)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Store a row of metrics.csv; what is not a number in it is left out."""
        figures = {name: float(value) for name, value in metrics.items()}
        self.put({name: value for name, value in figures.items() if value == value}, step or 0)

    @rank_zero_only
    def close(self, failed: bool) -> None:
        """End the run; a tracker that can't be reached any more costs a warning."""
        try:
            self.end(failed)
        except Exception as error:
            log.warning("%s could not be given everything (%s); metrics.csv is complete", self.package, one_line(error))


class MLflowTracker(Tracker):
    """MLflow: on the server that MLFLOW_TRACKING_URI names, else in ``mlruns`` in the run folder."""

    package = extra = "mlflow"

    def start(self, known: str | None) -> str:
        """See :meth:`Tracker.start`."""
        uri = self.settings.get("tracking_uri") or (self.folder / "mlruns").as_uri()
        if uri.startswith("file:"):
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        self.client = self.module.MlflowClient(tracking_uri=uri)
        if known is not None:
            self.client.update_run(known, status="RUNNING")
            self.run = known
            return known
        found = self.client.get_experiment_by_name(self.project)
        experiment = found.experiment_id if found is not None else self.client.create_experiment(self.project)
        tags = {"group": self.group or ""} | dict.fromkeys(self.tags, "")
        self.run = self.client.create_run(experiment, run_name=self.folder.name, tags=tags).info.run_id
        return self.run

    def put_settings(self, settings: dict[str, Any]) -> None:
        """One parameter a setting; MLflow refuses to change one, so a resumed run keeps those of its start."""
        entities = self.module.entities
        known = self.client.get_run(self.run).data.params
        found = {name: str(value)[:6000] for name, value in flatten(settings).items()}
        new = [entities.Param(name, value) for name, value in found.items() if name not in known]
        for start in range(0, len(new), 100):
            self.client.log_batch(self.run, params=new[start : start + 100])

    def put(self, figures: dict[str, float], step: int) -> None:
        """See :meth:`Tracker.put`. Names may not hold ``@``."""
        now = int(time.time() * 1000)
        metric = self.module.entities.Metric
        rows = [metric(name.replace("@", "_at_"), value, now, step) for name, value in figures.items()]
        self.client.log_batch(self.run, metrics=rows)

    def end(self, failed: bool) -> None:
        """See :meth:`Tracker.end`."""
        self.client.set_terminated(self.run, "FAILED" if failed else "FINISHED")


class CometTracker(Tracker):
    """Comet: online where there is a key, else in ``comet`` in the run folder, for ``comet upload``."""

    package, extra = "comet_ml", "comet"

    def start(self, known: str | None) -> str:
        """See :meth:`Tracker.start`."""
        settings = dict(self.settings)
        online = settings.pop("online", None)
        online = bool(os.environ.get("COMET_API_KEY")) if online is None else online
        key = known or secrets.token_hex(16)
        logging.getLogger("comet_ml").setLevel(logging.ERROR)
        config = self.module.ExperimentConfig(
            offline_directory=str(self.folder / "comet"),
            name=self.folder.name,
            tags=[*self.tags, *([self.group] if self.group else [])],
            parse_args=False,
            log_code=False,
            log_graph=False,
            auto_output_logging=False,
            auto_param_logging=False,
            auto_metric_logging=False,
            display_summary_level=0,
        )
        self.run = self.module.start(
            project=self.project, experiment_key=key, online=online, mode="get" if known else "create",
            experiment_config=config,
            **settings,
        )  # fmt: skip
        return key

    def put_settings(self, settings: dict[str, Any]) -> None:
        """See :meth:`Tracker.put_settings`."""
        self.run.log_parameters(settings)

    def put(self, figures: dict[str, float], step: int) -> None:
        """See :meth:`Tracker.put`."""
        self.run.log_metrics(figures, step=step)

    def end(self, failed: bool) -> None:
        """See :meth:`Tracker.end`."""
        self.run.log_other("failed", failed)
        self.run.end()


class TrackioTracker(Tracker):
    """Trackio: in its own folder (TRACKIO_DIR), for ``trackio show``, or in the Space that TRACKIO_SPACE_ID names."""

    package = extra = "trackio"

    def start(self, known: str | None) -> str:
        """See :meth:`Tracker.start`. Trackio knows a run by its name."""
        name = known or f"{self.folder.name}-{secrets.token_hex(2)}"
        self.run = self.module.init(
            project=self.project, name=name, group=self.group, resume="allow", embed=False, **self.settings
        )
        return name

    def put_settings(self, settings: dict[str, Any]) -> None:
        """See :meth:`Tracker.put_settings`. Trackio has no tags: they are a setting."""
        plain = {
            name: value if isinstance(value, (bool, int, float)) else str(value)
            for name, value in flatten(settings).items()
        }
        self.run.config.update({"tags": self.tags} | plain)

    def put(self, figures: dict[str, float], step: int) -> None:
        """See :meth:`Tracker.put`."""
        self.run.log(figures, step=step)

    def end(self, failed: bool) -> None:
        """See :meth:`Tracker.end`."""
        self.run.finish()


class SwanLabTracker(Tracker):
    """SwanLab: online where there is a key, else in ``swanlab`` in the run folder, for ``swanlab sync``."""

    package = extra = "swanlab"

    def start(self, known: str | None) -> str:
        """See :meth:`Tracker.start`."""
        settings = dict(self.settings)
        mode = settings.pop("mode", None) or os.environ.get("SWANLAB_MODE")
        mode = mode or ("online" if os.environ.get("SWANLAB_API_KEY") else "offline")
        where = self.folder / "swanlab"
        where.mkdir(exist_ok=True)
        name = known or secrets.token_hex(8)
        resumed = {"id": name, "resume": "allow"} if mode == "online" else {}
        self.run = self.module.init(
            project=self.project, name=self.folder.name, group=self.group, tags=self.tags, mode=mode,
            log_dir=str(where), **resumed, **settings,
        )  # fmt: skip
        return name

    def put_settings(self, settings: dict[str, Any]) -> None:
        """See :meth:`Tracker.put_settings`."""
        self.run.config.update(settings)

    def put(self, figures: dict[str, float], step: int) -> None:
        """See :meth:`Tracker.put`."""
        self.run.log(figures, step=step)

    def end(self, failed: bool) -> None:
        """See :meth:`Tracker.end`."""
        self.run.finish(state="crashed" if failed else "success")
