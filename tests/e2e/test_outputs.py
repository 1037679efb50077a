"""What a run leaves in its folder, and what it tells the loggers (issue 1, item 7; traps 51, 52, 55, 59)."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml

from run_support import Server, status, wandb_records

METRICS = (
    *("reward/mean", "reward/std", "reward/timeouts", "reward/failures"),
    *("length/mean", "length/max", "length/correct", "length/incorrect", "length/truncated_frac"),
    *("group/zero_advantage_frac", "loss/policy", "loss/kl"),
    *("policy/entropy", "policy/ratio_max", "policy/clip_frac", "policy/grad_norm"),
    *("sync/logprob_diff_mean", "sync/logprob_diff_max", "sync/version"),
    *("time/rollout", "time/reward", "time/sync", "time/learn", "time/step"),
    *("throughput/rollout_tokens_per_s", "throughput/learn_tokens_per_s"),
    *("progress/rollout_step", "progress/optimizer_step", "progress/tokens"),
)
EVAL = [f"eval/arithmetic/{m}" for m in ("accuracy", "length", "truncated_frac")] + ["eval/average/accuracy"]
MAY_BE_NAN = {"loss/kl", "length/correct", "length/incorrect"}
"""No KL term, nothing right or nothing wrong in a step: there is no figure, and 0 would be a wrong one."""


@pytest.fixture(scope="module")
def rows(undisturbed: Path) -> list[dict[str, str]]:
    with (undisturbed / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_every_metric_of_every_step_is_there(rows: list[dict[str, str]]) -> None:
    assert [row["step"] for row in rows] == [str(n) for n in range(7)]
    for row in rows[:6]:
        for name in METRICS:
            assert math.isfinite(float(row[name] or "nan")) or name in MAY_BE_NAN, (name, row[name])
    for row in (rows[0], rows[2], rows[4], rows[6]):
        for name in EVAL:
            assert math.isfinite(float(row[name]))
    assert all(row[EVAL[0]] == "" for row in (rows[1], rows[3], rows[5]))


def test_figures_fit_each_other(rows: list[dict[str, str]], undisturbed: Path) -> None:
    tokens = 0.0
    for step, row in enumerate(rows[:6]):
        value = {name: float(row[name] or "nan") for name in METRICS}
        samples = pd.read_parquet(undisturbed / "completions" / f"step_{step:06d}.parquet")
        assert len(samples) == 32
        assert value["progress/rollout_step"] == step
        assert value["progress/optimizer_step"] == 2 * (step + 1)
        assert value["sync/version"] == 2 * step  # the policy that sampled, before this step's updates (trap 52)
        assert set(samples["policy_version"]) == {2 * step}
        assert value["reward/mean"] == pytest.approx(samples["reward"].mean())
        assert value["reward/std"] == pytest.approx(samples["reward"].std(ddof=0), abs=1e-5)
        assert value["length/mean"] == pytest.approx(samples["tokens"].mean())
        assert value["length/max"] == samples["tokens"].max()
        assert value["length/truncated_frac"] == pytest.approx((samples["finish_reason"] == "length").mean())
        equal = samples.groupby("group")["reward"].nunique() == 1
        assert value["group/zero_advantage_frac"] == pytest.approx(equal.mean())
        centred = samples["reward"] - samples.groupby("group")["reward"].transform("mean")
        assert samples["advantage"].tolist() == pytest.approx(centred.tolist(), abs=1e-6)
        tokens += samples["tokens"].sum()
        assert value["progress/tokens"] == tokens
        assert value["sync/logprob_diff_mean"] < 1e-5
        parts = sum(value[f"time/{part}"] for part in ("rollout", "reward", "sync", "learn"))
        assert parts <= value["time/step"] * 1.01


def test_the_folder_holds_what_it_should(undisturbed: Path, rows: list[dict[str, str]]) -> None:
    config = yaml.safe_load((undisturbed / "config.yaml").read_text())
    assert config["steps"] == 6
    assert "${" not in (undisturbed / "config.yaml").read_text()
    summary = json.loads((undisturbed / "summary.json").read_text())
    assert summary["engine"] == "hf"
    assert summary["interrupted"] is False
    assert (summary["rollout_steps"], summary["optimizer_steps"]) == (6, 12)
    assert summary["eval"]["first"]["step"] == 0
    assert summary["eval"]["last"]["step"] == 6
    assert summary["eval"]["first"]["average"]["accuracy"] == float(rows[0]["eval/average/accuracy"])
    assert summary["eval"]["last"]["average"]["accuracy"] == float(rows[6]["eval/average/accuracy"])
    assert {"torch", "transformers", "pytorch-lightning", "hydra-core", "math-verify"} <= set(summary["versions"])
    assert summary["tokens"] == float(rows[5]["progress/tokens"])
    state = status(undisturbed)
    assert (state["state"], state["step"], state["steps"]) == ("finished", 6, 6)
    assert (undisturbed / "curves.png").stat().st_size > 10_000
    assert (undisturbed / "train.log").is_file()
    assert not list(undisturbed.rglob("*.tmp"))
    # Whoever may read the log may read the weights.
    assert {p.stat().st_mode for p in (undisturbed / "policy").iterdir()} == {
        (undisturbed / "train.log").stat().st_mode
    }
    assert {p.name for p in (undisturbed / "checkpoints").iterdir()} == {f"step_00000{n}.ckpt" for n in (2, 4, 6)}
    out = (undisturbed / "console.txt").read_text()
    assert out.count("evaluation at step") == 4
    for words in ("before and after 6 rollout steps", "tokens sampled", "policy", "metrics"):
        assert words in out


def test_the_policy_folder_is_the_trained_model(undisturbed: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

    folder = undisturbed / "policy"
    model = AutoModelForCausalLM.from_pretrained(folder)
    AutoTokenizer.from_pretrained(folder)
    GenerationConfig.from_pretrained(folder)
    last = torch.load(undisturbed / "checkpoints" / "step_000006.ckpt", weights_only=True)["state_dict"]
    for name, tensor in model.named_parameters():
        assert torch.equal(tensor, last[f"policy.model.{name}"]), name


def test_wandb_gets_its_own_axis_and_one_capped_table(undisturbed: Path, rows: list[dict[str, str]]) -> None:
    (run,) = undisturbed.glob("wandb/offline-run-*")
    records = wandb_records(run)
    metrics = [r.metric for r in records if r.WhichOneof("record_type") == "metric"]
    assert [m.step_metric for m in metrics if m.glob_name == "*"][-1] == "progress/rollout_step"
    history = []
    for record in records:
        if record.WhichOneof("record_type") == "history":
            items = {"/".join(i.nested_key) or i.key: i.value_json for i in record.history.item}
            history.append(items)
    steps = [float(items["progress/rollout_step"]) for items in history if "reward/mean" in items]
    assert steps == [float(row["step"]) for row in rows[:6]]
    tabled = [float(items["progress/rollout_step"]) for items in history if "completions/nrows" in items]
    assert tabled == [0.0]
    tables = {key.split("/")[0] for items in history for key in items if "nrows" in key}
    assert tables == {"completions"}
    assert max(int(v) for items in history for k, v in items.items() if k == "completions/nrows") <= 32
    assert any(r.WhichOneof("record_type") == "exit" for r in records)
    (config,) = [r.run.config for r in records if r.WhichOneof("record_type") == "run"]
    assert config is not None


def test_the_other_loggers_get_the_same_rows(undisturbed: Path, rows: list[dict[str, str]]) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(undisturbed / "tensorboard")).Reload()
    logged = [(e.step, e.value) for e in events.Scalars("reward/mean")]
    assert [step for step, _ in logged] == list(range(6))
    assert [value for _, value in logged] == pytest.approx([float(row["reward/mean"]) for row in rows[:6]])
    (file,) = (undisturbed / "csv").rglob("metrics.csv")
    with file.open(newline="") as handle:
        logged_rows = [row for row in csv.DictReader(handle) if row.get("reward/mean")]
    assert [float(row["reward/mean"]) for row in logged_rows] == [float(row["reward/mean"]) for row in rows[:6]]


def test_one_seed_gives_one_run_and_another_seed_another(server: Server, undisturbed: Path, tmp_path: Path) -> None:
    """Semantics 14, across processes."""
    from run_support import SMALL, STEPS, table

    columns = ("reward/mean", "length/mean", "policy/grad_norm", "loss/policy", "policy/entropy")
    first = [[row[c] for c in columns] for row in table(undisturbed)[:2]]
    for seed, same in (("seed=0", True), ("seed=7", False)):
        done = server.run([*SMALL, *STEPS, seed, f"hydra.run.dir={seed[5:]}"], tmp_path, "kill_in_reward:4")
        assert done.code == -9
        again = [[row[c] for c in columns] for row in table(tmp_path / seed[5:])[:2]]
        assert (again == first) is same
