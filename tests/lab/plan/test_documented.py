"""The plan's figures in the documents are what the plan calculates: every row of every table."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from r1zero import config
from r1zero.lab.plan.arguments import settings, split, taken
from r1zero.lab.plan.command import advice, gb, learner_of, plan, seconds, work_of
from r1zero.lab.plan.cost import step_times
from r1zero.lab.plan.fit import fit
from r1zero.lab.plan.hardware import gpu_named, shape_of
from r1zero.lab.plan.memory import ENGINE_ASLEEP, ENGINE_WORKSPACE, STEP
from r1zero.lab.plan.published import MEMORY, RUNS, Memory
from r1zero.lab.plan.samplers import SIZES
from run_support import documented_rows

ROOT = Path(__file__).resolve().parents[3]
SCALE = ROOT / "docs" / "scale" / "index.md"
RAY = ROOT / "docs" / "scale" / "ray.md"
LAYOUTS = {"one GPU": "ddp", "DDP": "ddp", "FSDP": "fsdp", "LoRA": "lora"}


@pytest.fixture(autouse=True)
def registered() -> None:
    config.register()


LAID_OUT = documented_rows(SCALE, "| `model=` | cards | layout |")


@pytest.mark.parametrize("row", LAID_OUT, ids=lambda row: " ".join(row[:3]))
def test_layouts_of_the_paper_s_step(row: list[str]) -> None:
    """Peak, sampling, least time and the settings, by the arguments that a reader would give."""
    model, cards, name, *said, words = row
    nodes, _, gpus = cards.rpartition(" x ")
    machine, others = split([f"model={model.strip('`')}", f"gpus={gpus}", f"nodes={nodes or 1}"])
    gpu, layout = gpu_named(machine.gpu), LAYOUTS[name]
    cfg = taken(settings(others, machine, ROOT / "conf")[layout], gpu)
    shape = shape_of(cfg.model.path)
    learner = learner_of(cfg, layout, shape, machine.devices)
    found = fit(shape, gpu, learner, work_of(cfg, machine), cfg.rollout.sleep)
    least = sum(step_times(shape, gpu, learner, found.work, machine.nodes, cfg.rollout.sleep).values())
    sampling = found.phases["the engine samples"]
    assert said == [f"{gb(found.learning)} GB", f"{gb(sampling)} GB", f"{seconds(least)} s"]
    (line,) = advice({layout: cfg}, machine, {layout: found})
    usual = ("model=", "trainer.devices=", "optim.lr=")
    given = [word for word in line.partition("train.py ")[2].split() if not word.startswith(usual)]
    assert sorted(words.strip("`").split()) == sorted(given)


def peak(run: Memory) -> str:
    """As the pages say it: the largest of the learner's phases of what the card has."""
    found = run.fit
    return f"{gb(max(found.learning, found.phases[STEP]))} of {gb(found.usable)} GB"


def test_published_runs_that_fitted_or_did_not() -> None:
    said = {row[0]: row[2:] for row in documented_rows(SCALE, "| run | published in | learner's peak")}
    answer = {True: "yes", False: "no"}
    assert list(said) == [run.name for run in MEMORY]
    for run in MEMORY:
        shares = "" if run.share is None else f"{run.fit.engine_share:.2f}, {run.share:.2f}"
        assert said[run.name] == [peak(run), answer[run.fit.fits], answer[run.fitted], shares], run.name


def test_published_times() -> None:
    said = {row[0]: row[2:] for row in documented_rows(SCALE, "| run | source | floor of a step")}
    assert said.keys() == {run.name for run in RUNS}
    for run in RUNS:
        floor, took, ratio = said[run.name]
        assert floor == f"{seconds(run.floor)} s", run.name
        if run.steps is None:
            fit_in = [f"{3600 * run.hours / (factor * run.floor):.0f}" for factor in (5, 1.5)]
            assert (took, ratio) == ("", f"{fit_in[0]} to {fit_in[1]} steps fit")
        else:
            each = 3600 * run.hours / run.steps
            assert (took, ratio) == (f"{each:,.0f} s", f"{each / run.floor:.1f}"), run.name


def test_figures_between_the_tables() -> None:
    """The 14B run with its reference on the card, and what is assumed of an engine."""
    text = SCALE.read_text()
    run = next(run for run in MEMORY if "14B" in run.name)
    beside = replace(run, work=replace(run.work, reference=2))
    assert not beside.fit.fits
    assert f"14B run would not fit by the plan ({peak(beside)})" in text
    assert (
        f"and cache ({ENGINE_WORKSPACE / 1e9:g} GB), and what it leaves while it sleeps ({ENGINE_ASLEEP / 1e9:g} GB)"
        in text
    )
    assert f"of which {gb(fit_usable())} are usable" in text


def fit_usable() -> float:
    """Bytes of an H100 that can be used."""
    return next(run for run in MEMORY if run.gpu == "h100").fit.usable


def test_samplers_on_ray(capsys: pytest.CaptureFixture[str]) -> None:
    """Each row as the command prints it."""
    said = documented_rows(RAY, "| samplers | exact, s | idle |")
    (other,) = {row[0] for row in said} - {str(size) for size in SIZES}
    plan(["model=qwen7b", "gpus=8", "nodes=8", f"samplers={other}"], ROOT / "conf")
    table = capsys.readouterr().out.partition("samplers of rollout=ray")[2]
    printed = [re.sub(r"\s*│\s*", "|", line).strip("|").split("|") for line in table.splitlines()]
    for row in said:
        assert [cell.replace(" %", "%") for cell in row] in printed
