"""The W&B workspace and report in serialised form; sweep files as the W&B agent would start them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser

from r1zero import config
from r1zero.algo.bias import VARIANTS
from run_support import documented_metrics

ROOT = Path(__file__).resolve().parents[3]
SWEEPS = sorted((ROOT / "scripts" / "sweeps").glob("*.yaml"))


def test_dry_run_writes_both_without_a_network(tmp_path: Path) -> None:
    pytest.importorskip("wandb_workspaces")
    command = [sys.executable, str(ROOT / "scripts" / "wandb_dashboard.py"), "--entity", "me", "--project", "p"]
    done = subprocess.run(
        [*command, "--benchmarks", "arithmetic", "--sources", "asdiv,math", "--dry-run", "--output", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    made = json.loads((tmp_path / "workspace.json").read_text())
    assert (made["entity"], made["project"]) == ("me", "p")
    sections = made["spec"]["section"]["panelBankConfig"]["sections"]
    names = [section["name"] for section in sections]
    assert all(name.endswith("?") for name in names[:-1])
    assert names[-1] == "Completions"
    plots = [p for s in sections for p in s["panels"] if p["viewType"] == "Run History Line Plot"]
    shown = {metric for plot in plots for metric in plot["config"]["metrics"]}
    assert {plot["config"]["xAxis"] for plot in plots} == {"progress/rollout_step"}
    wanted = {"reward/mean", "length/correct", "length/incorrect", "eval/arithmetic/accuracy", "policy/entropy"}
    wanted |= {"sync/logprob_diff_mean", "time/rollout", *(f"bias/length_slope/{name}" for name in VARIANTS)}
    wanted |= {"loss/policy", "policy/approx_kl", "policy/ratio_max", "optim/lr", "eval/arithmetic/length"}
    wanted |= {f"reward/{what}" for what in ("failures", "timeouts", "unparsed")}
    wanted |= {f"source/{name}/{what}" for name in ("asdiv", "math") for what in ("share", "accuracy")}
    assert wanted <= shown
    assert shown <= documented_metrics()
    grouping = json.dumps(made["spec"]["section"]["runSets"])
    assert all(key in grouping for key in ("algo.value.name", "model.value.name", "template.value.name"))
    report = json.loads((tmp_path / "report.json").read_text())
    text = json.dumps(report["spec"]["blocks"])
    assert report["displayName"] == "GRPO and Dr. GRPO"
    assert all(f'"{metric}"' in text for metric in shown)
    assert all(f"Fig. {number}: " in text for number in range(4, 10))
    assert "completions" in text


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_sweep_files_start_training_runs(path: Path) -> None:
    """Every point of a grid, or the corners of a search, composes with the arguments that the agent hands over."""
    content = yaml.safe_load(path.read_text())
    assert content["command"] == ["${env}", "${interpreter}", "${program}", "${args_no_hyphens}"]
    assert (ROOT / content["program"]).is_file()
    arguments = []
    for name, value in content["parameters"].items():
        options = value.get("values") or [value.get("value", value.get("min"))]
        arguments.append([f"{name}={option}" for option in options])
    config.register()
    for place in range(max(map(len, arguments))):
        point = [options[min(place, len(options) - 1)] for options in arguments]
        OverridesParser.create().parse_overrides(point)  # key=value, as ${args_no_hyphens} writes it
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            cfg = compose("train", point)
        assert "wandb" in cfg.logger
        seed = next((a for a in point if a.startswith("seed=")), f"seed={cfg.seed}")
        assert f"seed={cfg.seed}" == seed
    assert content["metric"]["name"] == "eval/average/accuracy"
