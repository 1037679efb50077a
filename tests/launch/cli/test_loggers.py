"""W&B runs: one id a folder, for good; points of a sweep are different runs (trap 55)."""

from __future__ import annotations

from pathlib import Path

import pytest

from run_support import wandb_records


def test_a_folder_keeps_its_id_and_another_folder_has_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import wandb

    from r1zero.launch.loggers import wandb_logger

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    ids = []
    for name in ("0_seed-0", "1_seed-1", "0_seed-0"):
        logger = wandb_logger(str(tmp_path / "demo" / name), "project", group="demo/sweep", tags=["a"])
        logger.log_metrics({"x": 1.0, "progress/rollout_step": 3.0}, step=3)
        ids.append(logger.experiment.id)
        assert logger.experiment.name == name
        wandb.finish()
    assert ids[0] == ids[2] != ids[1]
    assert (tmp_path / "demo" / "0_seed-0" / "wandb_id").read_text() == ids[0]
    (second,) = (tmp_path / "demo" / "1_seed-1" / "wandb").glob("offline-run-*")
    records = wandb_records(second)
    (run,) = [record.run for record in records if record.WhichOneof("record_type") == "run"]
    assert (run.run_group, list(run.tags), run.project) == ("demo/sweep", ["a"], "project")
    assert any(record.WhichOneof("record_type") == "exit" for record in records)


def test_a_run_of_a_wandb_sweep_keeps_the_id_that_the_agent_gave_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a resume would go on in another run, outside the sweep."""
    for name, value in (("MODE", "offline"), ("SILENT", "true"), ("SWEEP_ID", "s1"), ("RUN_ID", "agents1")):
        monkeypatch.setenv(f"WANDB_{name}", value)
    import wandb

    from r1zero.launch.loggers import wandb_logger

    wandb.teardown()  # settings of the environment are read once
    wandb_logger(str(tmp_path), "r1zero")
    wandb.finish()
    assert (tmp_path / "wandb_id").read_text() == "agents1"
    wandb.teardown()


VARIABLES = {"WANDB_PROJECT": "mine", "WANDB_RUN_GROUP": "theirs", "WANDB_TAGS": "a, b", "WANDB_NAME": "called"}


@pytest.mark.parametrize("explicit", [False, True])
def test_variables_of_wandb_win_over_defaults_and_settings_over_variables(
    explicit: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """B11: as the run is recorded by W&B itself."""
    import hydra
    import wandb
    from hydra import compose, initialize_config_dir

    from r1zero import config
    from run_support import ROOT

    for name, value in {**VARIABLES, "WANDB_MODE": "offline", "WANDB_SILENT": "true"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("WANDB_RUN_ID", raising=False)
    wandb.teardown()
    config.register()
    given = ["project=p", "group=g", "tags=[c]", "+name=n"] if explicit else []
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        settings = [f"{'+' * s.startswith('+')}logger.wandb.{s.lstrip('+')}" for s in given]
        cfg = compose("train", ["experiment=demo", "logger=wandb", f"paths.run={tmp_path}", *settings])
    hydra.utils.instantiate(cfg.logger.wandb)
    wandb.finish()
    wandb.teardown()
    (folder,) = (tmp_path / "wandb").glob("offline-run-*")
    (run,) = [record.run for record in wandb_records(folder) if record.WhichOneof("record_type") == "run"]
    found = (run.project, run.run_group, sorted(run.tags), run.display_name)
    assert found == (("p", "g", ["c"], "n") if explicit else ("mine", "theirs", ["a", "b"], "called"))


def test_without_variables_the_defaults_stand(monkeypatch: pytest.MonkeyPatch) -> None:
    from hydra import compose, initialize_config_dir

    from r1zero import config
    from run_support import ROOT

    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    config.register()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        wandb = compose("train", ["experiment=demo", "logger=wandb", "paths.run=x"]).logger.wandb
    assert (wandb.project, wandb.group, list(wandb.tags)) == (
        "r1zero", "demo", ["drgrpo", "tiny", "question", "arithmetic"],
    )  # fmt: skip
