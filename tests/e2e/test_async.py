"""Sampling one step ahead (rollout.async=1): lag, versions, correction, and an exact resume (semantics 7, 14, 15)."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from run_support import SMALL, STEPS, Server, assert_same_run, audited, checkpoint, table

AHEAD = [*SMALL, *STEPS, "rollout.async=1"]


def steps(folder: Path) -> list[dict[str, str]]:
    """Rows of rollout steps, without the evaluation at the end."""
    return [row for row in table(folder) if "reward/mean" in row]


@pytest.fixture(scope="module")
def ahead(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished asynchronous run that nothing disturbed: 6 steps, two optimizer steps each."""
    folder = tmp_path_factory.mktemp("async") / "run"
    done = server.run([*AHEAD, f"hydra.run.dir={folder}"], folder.parent)
    assert done.code == 0, done.err
    return folder


def test_every_step_but_the_first_is_one_rollout_step_behind_and_says_so(ahead: Path) -> None:
    rows = steps(ahead)
    updates = [int(float(row["progress/optimizer_step"])) for row in rows]
    lags = [int(float(row["sync/lag"])) for row in rows]
    assert lags == [0, 2, 2, 2, 2, 2], "in optimizer steps"
    versions = [int(float(row["sync/version"])) for row in rows]
    assert versions == [0, 0, 2, 4, 6, 8]
    assert updates == [2, 4, 6, 8, 10, 12]
    settings = yaml.safe_load((ahead / "config.yaml").read_text())
    assert settings["algo"]["sampler_correction"] == "token"


def test_stale_responses_differ_from_the_learner_by_its_update_alone(ahead: Path) -> None:
    """The first step's rollout is the learner's own; later ones are an update behind, within the looser limit."""
    differences = [float(row["sync/logprob_diff_mean"]) for row in steps(ahead)]
    assert differences[0] < 1e-5
    assert all(1e-4 < d < 0.5 for d in differences[2:])


def test_a_step_sampled_ahead_is_audited(ahead: Path) -> None:
    """With the sampler's log-probabilities of the policy that sampled, in the correction."""
    found = audited(ahead, 4)
    assert {"loss", "gradient norm", "learning rate"} <= found.keys()
    assert "sampler (nats)" not in found  # by an earlier policy: said, not compared


def test_a_killed_asynchronous_run_goes_on_as_if_it_never_was(server: Server, ahead: Path, tmp_path: Path) -> None:
    """The responses that waited for their step are in the checkpoint: another sample of them would be fresher."""
    folder = tmp_path / "run"
    done = server.run([*AHEAD, f"hydra.run.dir={folder}"], tmp_path, "kill_in_backward:10")
    assert done.code == -9
    waiting = checkpoint(folder, 4)["callbacks"]["RolloutCallback"]["ahead"]
    assert (waiting["step"], waiting["version"]) == (4, 6)
    done = server.run(["resume=run"], tmp_path)
    assert done.code == 0, done.err
    assert_same_run(ahead, folder, 6)


def test_an_engine_that_fails_ahead_is_started_again_for_the_step(server: Server, tmp_path: Path) -> None:
    """The step is then sampled by the policy of now: no lag, and nothing lost."""
    folder = tmp_path / "run"
    done = server.run([*AHEAD, f"hydra.run.dir={folder}"], tmp_path, "engine_dies:3")
    assert done.code == 0, done.err
    assert "sampling ahead failed" in done.err
    assert [int(float(row["sync/lag"])) for row in steps(folder)].count(0) == 2


@pytest.mark.parametrize(
    ("setting", "line"),
    [
        ("rollout.async=2", "rollout.async=2 is unknown; choose 0 or 1"),
        ("data.sampler=curriculum", "use data.sampler=uniform"),
        ("trainer.devices=2", "works on one device"),
    ],
)
def test_what_does_not_go_together_is_refused(server: Server, tmp_path: Path, setting: str, line: str) -> None:
    kept = [a for a in AHEAD if a.partition("=")[0] != setting.partition("=")[0]]
    done = server.run([*kept, setting], tmp_path)
    assert done.code == 1
    assert line in done.err
