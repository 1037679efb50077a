"""Whole sweeps through Hydra: restart, failures, launchers; the training itself is replaced by a stub."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from r1zero import config
from r1zero.launch import sweep
from r1zero.launch.arguments import folder_name
from sweep_stub import make_project, run

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return make_project(tmp_path)


def called(project: Path) -> dict[str, list[str]]:
    root = project / "outputs" / "mini" / "fig5"
    return {file.parent.name: file.read_text().splitlines() for file in sorted(root.glob("*/calls"))}


FIG5 = ("sweep=fig5", "experiment=mini", "seed=0,1")
POINTS = [f"algo-{a}_seed-{s}" for a in ("drgrpo", "grpo") for s in (0, 1)]


def test_a_failing_point_is_named_the_rest_finishes_and_a_restart_runs_what_is_missing(project: Path) -> None:
    first = run(project, *FIG5, BROKEN="grpo/1")
    assert first.returncode == 1, first.stderr
    assert "sweep point algo-grpo_seed-1 failed: no room left" in first.stderr
    assert "3 of 4 points finished" in first.stdout
    assert list(called(project)) == POINTS
    second = run(project, *FIG5)
    assert second.returncode == 0, second.stderr
    assert "4 of 4 points finished" in second.stdout
    times = {name: len(lines) for name, lines in called(project).items()}
    assert times == {name: 2 if name == "algo-grpo_seed-1" else 1 for name in POINTS}
    assert called(project)["algo-grpo_seed-0"] == ["algo-grpo_seed-0 mini/fig5 grpo 0 60"]


def test_points_that_were_run_with_other_settings_are_refused_not_left_alone(project: Path) -> None:
    """A point's folder is named by what varies: what is the same for all points shows in its stored settings alone."""
    arguments = ("-m", "algo=grpo", "seed=0,1", "experiment=mini", "hydra.sweep.dir=outputs/mini/fig5")
    assert run(project, *arguments, "steps=3").returncode == 0
    second = run(project, *arguments, "steps=5")
    assert second.returncode == 1
    for seed in (0, 1):
        line = f"outputs/mini/fig5/seed-{seed} holds a run with other settings (steps=3, steps=5): remove it, or"
        assert line in second.stderr
    assert {name: len(lines) for name, lines in called(project).items()} == {"seed-0": 1, "seed-1": 1}
    assert run(project, *arguments, "steps=3").returncode == 0
    assert {name: len(lines) for name, lines in called(project).items()} == {"seed-0": 1, "seed-1": 1}


@pytest.mark.parametrize(
    ("launcher", "module", "extra"),
    [
        ("parallel", "hydra_plugins.hydra_joblib_launcher", ()),
        ("local_jobs", "hydra_plugins.hydra_submitit_launcher", ("hydra.launcher.timeout_min=5",)),
    ],
)
def test_launchers_run_every_point_and_report_a_failure(
    project: Path, launcher: str, module: str, extra: tuple[str, ...]
) -> None:
    pytest.importorskip(module)
    found = run(project, *FIG5, f"hydra/launcher={launcher}", *extra, BROKEN="drgrpo/0")
    assert found.returncode == 1, found.stderr
    assert "not finished: algo-drgrpo_seed-0: no room left" in found.stdout
    assert "3 of 4 points finished" in found.stdout
    assert {name: lines[0].split()[2:] for name, lines in called(project).items()} == {
        f"algo-{a}_seed-{s}": [a, str(s), "60"] for a in ("drgrpo", "grpo") for s in (0, 1)
    }


@pytest.mark.parametrize("launcher", ["basic", "parallel", "local_jobs"])
def test_all_points_of_a_sweep_are_in_one_folder_that_no_other_sweep_has(project: Path, launcher: str) -> None:
    """A sweep without a folder of its own is named by the time; here that name is taken for the next minutes."""
    if launcher != "basic":
        pytest.importorskip(f"hydra_plugins.hydra_{'joblib' if launcher == 'parallel' else 'submitit'}_launcher")
    root, begun = project / "outputs" / "q", int(time.time())
    for second in range(600):
        (root / time.strftime("%Y-%m-%d_%H-%M-%S", time.localtime(begun + second))).mkdir(parents=True)
    found = run(project, "-m", "algo=grpo", "seed=0,1", "experiment=mini", "name=q", f"hydra/launcher={launcher}")
    assert found.returncode == 0, found.stderr
    assert found.stdout.count("│ finished │") == 2, "the table at the end"
    (calls, other) = sorted(root.glob("*/*/calls"))
    assert calls.parent.parent == other.parent.parent
    assert calls.parent.parent.name.endswith("_2")
    assert len(list(root.iterdir())) == 601


def sweeps() -> list[tuple[str, str]]:
    names = sorted(path.stem for path in (ROOT / "conf" / "sweep").glob("*.yaml") if path.stem != "tune_lr")
    return [(name, size) for name in names for size in ("mini", "full") if (name, size) != ("control", "full")]


@pytest.mark.parametrize(("name", "size"), sweeps())
def test_every_point_of_every_sweep_composes(name: str, size: str) -> None:
    """Of the points that differ in their seed alone, the first."""
    config.register()
    OmegaConf.register_new_resolver("folder_name", folder_name, replace=True)
    base = [f"experiment={size}", f"sweep={name}"]
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        composed = compose("train", base, return_hydra_config=True)
        params = dict(composed.hydra.sweeper.params)
        assert str(composed.hydra.mode) == "RunMode.MULTIRUN"
        assert composed.hydra.sweep.dir == f"outputs/{size}/{name}"
        points = sweep.expand_points(params, base)
        names = {sweep.name_of(point, ["experiment", "sweep"]) for point in points}
        assert len(names) == len(points) >= 2
        recipes = set()
        seeds = {a for point in points for a in point if a.startswith("seed=")} or {""}
        firsts = [point for point in points if "seed=0" in point or seeds == {""}]
        for point in firsts if name != "seeds" else points:
            cfg = compose("train", point)
            recipes.add((cfg.algo.name, cfg.model.name, cfg.template.name, cfg.data.name, cfg.seed))
        assert len(recipes) == len(points) / (len(seeds) if name != "seeds" else 1)


def test_no_command_gives_two_points_one_folder() -> None:
    """A8: points differ in any setting, so a folder is named after all that varies, or numbered."""
    named = "${folder_name:${hydra.job.override_dirname},${hydra.overrides.task}}"
    files = {file.stem: yaml.safe_load(file.read_text()) for file in (ROOT / "conf" / "hydra").glob("*.yaml")}
    found = {
        name: content["sweep"]["subdir"] for name, content in files.items() if "subdir" in content.get("sweep", {})
    }
    assert {name: subdir for name, subdir in found.items() if subdir != named} == {"study": "${hydra.job.num}"}


def test_fig8_is_the_two_by_two_of_both_normalisations() -> None:
    config.register()
    OmegaConf.register_new_resolver("folder_name", folder_name, replace=True)
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        composed = compose("train", ["experiment=full", "sweep=fig8"], return_hydra_config=True)
        points = sweep.expand_points(dict(composed.hydra.sweeper.params), ["experiment=full", "sweep=fig8"])
        found = set()
        for point in points:
            algo = compose("train", point).algo
            found.add((algo.length_norm, algo.std_norm))
    assert len(found) == 4


def test_wandb_groups_the_points_of_a_sweep() -> None:
    config.register()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = compose("train", ["experiment=full", "name=algo-grpo_seed-0", "group=full/fig8"])
        assert (
            OmegaConf.to_container(cfg.logger, resolve=False)["wandb"]["group"] == "${oc.env:WANDB_RUN_GROUP,${group}}"
        )
        assert (cfg.name, cfg.group) == ("algo-grpo_seed-0", "full/fig8")
        assert compose("train", []).group == compose("train", []).name


def test_the_miniatures_points_are_points_of_its_sweeps(monkeypatch: pytest.MonkeyPatch) -> None:
    """`make miniature` and `sweep=... experiment=mini` share folders and settings, so either goes on with the other."""
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    import miniature

    points = miniature.points(miniature.PLAN, 5)
    assert len({p.folder for p in points}) == len(points)
    config.register()
    OmegaConf.register_new_resolver("folder_name", folder_name, replace=True)
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        folders: dict[tuple[str, ...], str] = {}
        for point in points:
            name = sweep.name_of(point.overrides, ["experiment", "sweep"])
            chosen = tuple(o for o in point.overrides if o.startswith(("experiment=", "sweep=")))
            if chosen not in folders:  # the folder follows from these alone
                folders[chosen] = compose("train", list(point.overrides), return_hydra_config=True).hydra.sweep.dir
            assert str(point.folder) == f"{folders[chosen]}/{name}"
            assert point.group == sweep.group_of(Path(folders[chosen]))


def test_stored_overrides_are_read_as_hydra_writes_them(project: Path) -> None:
    run(project, "sweep=fig5", "experiment=mini", "seed=0", "algo=grpo")
    folder = project / "outputs" / "mini" / "fig5"
    (stored,) = folder.glob("*/.hydra/overrides.yaml")
    assert sweep.settings(yaml.safe_load(stored.read_text())) == sorted(
        ["algo=grpo", "experiment=mini", "seed=0", "sweep=fig5"]
    )
    assert json.loads((stored.parents[1] / "status.json").read_text())["state"] == "finished"


def test_bases_that_are_not_made_yet_are_one_line_each(project: Path) -> None:
    """Fig. 7 in miniature: six points wait for three bases; what is there is run all the same."""
    made = project / "outputs" / "bases" / "tiny_llama_web" / "policy"
    made.mkdir(parents=True)
    result = run(project, "sweep=fig7", "experiment=mini", "algo=drgrpo", "seed=0,1")
    assert result.returncode == 1
    lines = [line for line in result.stderr.splitlines() if "left out" in line]
    assert lines == [
        f"sweep points left out: model.path=outputs/bases/{base}/policy is not made yet: "
        f"python scripts/pretrain.py experiment={base} hydra.run.dir=outputs/bases/{base}"
        for base in ("tiny_llama_base", "tiny_llama_qa")
    ]
    calls = sorted((project / "outputs" / "mini" / "fig7").glob("*/calls"))
    assert [file.parent.name for file in calls] == [f"algo-drgrpo_model-tiny_llama_web_seed-{seed}" for seed in (0, 1)]
