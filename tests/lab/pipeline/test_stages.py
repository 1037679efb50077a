"""What a pipeline would run, where its stages stand, and how it splits questions; no model is touched."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from r1zero import config
from r1zero.batch import Question
from r1zero.errors import UserError
from r1zero.evaluate import config as evaluate_config
from r1zero.lab.pipeline import config as pipeline_config
from r1zero.lab.pipeline import results, run, stages
from r1zero.lab.pipeline.questions import prepare, split
from r1zero.launch.arguments import expand
from r1zero.pretrain import config as pretrain_config
from run_support import ROOT

CONF = ROOT / "conf"


@pytest.fixture(autouse=True)
def conf(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("R1ZERO_CONF", str(CONF))
    for module in (config, pipeline_config, pretrain_config, evaluate_config):
        module.register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield


def settings(*overrides: str) -> Any:
    return compose("pipeline", overrides=["experiment=smollm_pipeline", "paths.run=run", *overrides])


def planned(*overrides: str, root: Path = ROOT) -> list[stages.Stage]:
    return stages.plan(OmegaConf.to_object(settings(*overrides)), Path("out/p"), root)  # type: ignore[arg-type]


# -- the plan -----------------------------------------------------------------------------------------


def test_five_commands_that_hand_the_model_on() -> None:
    found = planned("model=folder", "model.path=/m/base", "pretrain.steps=7", "train.steps=5", "evaluate.limit=20")
    assert [s.name for s in found] == ["before", "pretrain", "pretrained", "train", "trained"]
    assert [s.script.relative_to(ROOT).as_posix() for s in found] == [
        "scripts/evaluate.py", "scripts/pretrain.py", "scripts/evaluate.py", "train.py", "scripts/evaluate.py",
    ]  # fmt: skip
    models = [next(a for a in s.arguments if a.startswith("model.path=")) for s in found]
    assert [m.removeprefix("model.path=") for m in models] == [
        "/m/base", "/m/base", "out/p/pretrain/policy", "out/p/pretrain/policy", "out/p/train/policy",
    ]  # fmt: skip
    assert all("model=folder" in s.arguments for s in found)
    before, pretrain, after, train, last = (s.arguments for s in found)
    assert before[2:] == after[2:] == last[2:], "the three evaluations differ in the model alone"
    assert "limit=20" in before
    assert "benchmarks=[heldout,gsm8k]" in before
    assert {"experiment=smollm_gsm8k", "steps=7"} <= set(pretrain)
    assert {"experiment=smollm_asdiv", "steps=5", "data=file", "data.path=out/p/questions/train.jsonl"} <= set(train)
    assert found[3].command().startswith("python ")
    assert found[3].command().endswith("hydra.run.dir=out/p/train")


def test_arguments_are_those_that_a_run_stores(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorthand is written out, whoever wrote it: else a finished stage would seem to have had other settings."""
    for stage in planned("model=folder", "model.path=/m/base", "evaluate.more=['data@overlap=null']"):
        assert expand(list(stage.arguments), CONF) == list(stage.arguments)
    train = planned("train.more=['model=/some/folder']")[3]
    assert "model.path='/some/folder'" in train.arguments


def test_a_model_of_the_hub_is_named_by_its_option() -> None:
    assert planned()[0].arguments[:2] == ("model=smollm135m", "model.path=HuggingFaceTB/SmolLM2-135M-Instruct")


@pytest.mark.parametrize("kind", ["pretrain", "train", "evaluate"])
def test_the_shipped_settings_compose_in_their_commands(kind: str) -> None:
    """What the pipeline hands over, the commands take; the text's form is that of RL's template."""
    for stage in planned("model.path=/m/base", "data.path=/d/q.jsonl", "pretrain.data.sources.qa.path=/d/t.jsonl"):
        if stage.kind == kind:
            cfg = compose(kind, overrides=["paths.run=run", *stage.arguments])
            if kind == "pretrain":
                text = cfg.data.sources.qa.template
                assert (text, cfg.data.sources.qa.path) == ("Question: {question}\nAnswer: {answer}", "/d/t.jsonl")
            else:
                assert cfg.template.text == "Question: {question}\nAnswer:"


def test_settings_become_arguments() -> None:
    given = {"steps": 3, "lr": None, "data": {"a": {"path": "/x/y.z"}}, "on": True, "k": [1, 2], "more": ["seed=4"]}
    assert stages.arguments_of(given, "train") == ["steps=3", "data.a.path=/x/y.z", "on=true", "k=[1,2]", "seed=4"]
    with pytest.raises(UserError, match=r"train\.more=seed=4 must be a list of settings"):
        stages.arguments_of({"more": "seed=4"}, "train")


@pytest.mark.parametrize("text", ["plain", "/a-b/c_d.jsonl", "it's", "a b", "k=v", "a,b", "C:\\x", "{x}", "[1", "\\'"])
def test_a_text_comes_back_from_the_command_line(text: str) -> None:
    assert compose("pipeline", overrides=[f"name={stages.spelled(text)}"]).name == text


# -- where the stages stand ---------------------------------------------------------------------------


def finish(stage: stages.Stage, started: str, ended: str) -> None:
    result = stage.folder / stages.RESULT[stage.kind]
    result.parent.mkdir(parents=True, exist_ok=True)
    result.write_text("{}")
    status = {"state": "finished", "started": f"2026-01-01T{started}+0000", "changed": f"2026-01-01T{ended}+0000"}
    (stage.folder / "status.json").write_text(json.dumps(status))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_stage_is_finished_when_its_result_is_there(here: Path) -> None:
    stage = planned()[1]
    assert not stage.finished()
    finish(stage, "10:00:00", "10:05:00")
    assert stage.finished()
    (stage.folder / "policy" / "config.json").unlink()
    assert not stage.finished()


def test_what_was_made_from_an_earlier_model_is_refused(here: Path) -> None:
    before, pretrain, pretrained, _train, trained = found = planned()
    finish(before, "09:00:00", "09:05:00")
    finish(pretrain, "10:00:00", "10:05:00")
    finish(pretrained, "10:05:00", "10:06:00")
    stages.check_order(found)
    finish(pretrain, "11:00:00", "11:05:00")  # made anew
    with pytest.raises(UserError, match=r"^out/p/pretrained was not made from out/p/pretrain as it is now: remove"):
        stages.check_order(found)
    finish(pretrained, "11:05:00", "11:06:00")
    finish(trained, "11:07:00", "11:08:00")
    with pytest.raises(UserError, match=r"^out/p/trained was not made from out/p/train as it is now"):
        stages.check_order(found)


SCRIPT = """
import json, os, sys
from pathlib import Path
folder = Path(next(a for a in sys.argv if a.startswith("hydra.run.dir="))[14:].strip("'"))
print("working", flush=True)
Path("calls").open("a").write(folder.name + "\\n")
overrides = [a for a in sys.argv[1:] if not a.startswith("hydra.")]
(folder / ".hydra").mkdir(exist_ok=True)
(folder / ".hydra" / "overrides.yaml").write_text(json.dumps(overrides))
if folder.name == os.environ.get("FAILS"):
    sys.exit("error: the disk is full")
for name in ("policy/config.json", "results.json"):
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text("{}")
(folder / "status.json").write_text('{"state": "finished", "started": "2026-01-01", "changed": "2026-01-01"}')
"""


def run_all(found: list[stages.Stage]) -> None:
    for number, stage in enumerate(found, start=1):
        run.run_stage(stage, f"{number}/5", Path())


def test_a_failing_stage_is_named_and_finished_ones_are_left_alone(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "scripts").mkdir()
    for name in ("scripts/evaluate.py", "scripts/pretrain.py", "train.py"):
        (here / name).write_text(SCRIPT)
    found = planned(root=here)
    monkeypatch.setenv("FAILS", "pretrained")
    with pytest.raises(UserError) as caught:
        run_all(found)
    line = "evaluation after pretraining failed: the disk is full (log: out/p/pretrained/console.log); "
    assert str(caught.value) == line + "the same command continues with what is missing"
    monkeypatch.delenv("FAILS")
    capsys.readouterr()
    run_all(found)
    calls = ["before", "pretrain", "pretrained", "pretrained", "train", "trained"]
    assert Path("calls").read_text().split() == calls
    shown = capsys.readouterr().out
    assert "stage 2/5: pretraining (finished before)" in shown
    assert "    working" in shown
    assert re.search(r"python train\.py .*hydra\.run\.dir=out/p/train", shown)
    assert set(run.stored_seconds(Path())) == set(calls)
    with pytest.raises(UserError, match=r"out/p/train holds a run with other settings \(steps=99\): .* another name="):
        run_all(planned("train.steps=99", root=here))


# -- before any work ----------------------------------------------------------------------------------


def test_what_is_missing_is_said_at_once(here: Path) -> None:
    with pytest.raises(UserError, match=r"data\.path=no\.jsonl does not exist"):
        run.check(settings("data=file", "data.path=no.jsonl"))
    Path("q.jsonl").write_text('{"problem": "1+1?", "answer": "2"}\n')
    cfg = run.check(settings("data=file", "data.path=q.jsonl", "model.path=/no/model"))
    with pytest.raises(UserError, match=r"model\.path=/no/model: there is no such folder"):
        run.prepare(cfg, planned(), Path("out"))
    with pytest.raises(UserError, match=r"heldout=300: hold out at least 1 of the 1 questions"):
        prepare(cfg.data, 300, 0, Path("out"))


def test_a_command_that_refuses_its_settings_is_found_early(here: Path) -> None:
    (here / "no.py").write_text("import sys; sys.exit('error: train.stepz: there is no setting')")
    stage = stages.Stage("train", "RL", here / "no.py", (), here / "out")
    with pytest.raises(UserError, match=r"^RL refuses its settings: train\.stepz: there is no setting$"):
        run.try_out(stage)


# -- questions ----------------------------------------------------------------------------------------

WORDS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]


def some_questions() -> list[Question]:
    texts = [f"A man has {a} cows and {b} goats, how many?" for a in WORDS for b in WORDS]
    return [Question(text, ("1",)) for text in [*texts, *texts]]  # each of them twice


def test_no_held_out_question_is_trained_on() -> None:
    """Trap 36: a question that stands in the set twice is not on both sides."""
    kept, held, dropped = split(some_questions(), 30, seed=0)
    assert len(held) == 30
    assert len(kept) + dropped == 170
    assert dropped > 0
    assert not {q.text for q in kept} & {q.text for q in held}
    again, other = split(some_questions(), 30, seed=0)[1], split(some_questions(), 30, seed=1)[1]
    assert [q.text for q in again] == [q.text for q in held]
    assert [q.text for q in other] != [q.text for q in held]


def test_the_split_is_written_once(here: Path) -> None:
    rows = [{"problem": f"Add {w} to {v}, please.", "answer": str(n)} for n, w in enumerate(WORDS) for v in WORDS]
    Path("q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = config.DataConfig(name="file", path="q.jsonl")
    assert prepare(data, 20, 0, Path("out")) == prepare(data, 20, 0, Path("out")) == (80, 20, 0)
    held = [json.loads(line) for line in stages.heldout_file(Path("out")).read_text().splitlines()]
    assert all(row in rows for row in held)
    with pytest.raises(UserError, match=r"out/questions/train\.jsonl holds other questions"):
        prepare(data, 21, 0, Path("out"))


# -- figures ------------------------------------------------------------------------------------------


def answers(right: list[float]) -> pd.DataFrame:
    return pd.DataFrame({"set": "a", "question": range(len(right)), "right": right})


def test_a_gain_is_paired_by_question() -> None:
    """All questions gain alike: the interval is narrower than that of either accuracy, however they differ."""
    low, high = answers([0.0, 0.5] * 20), answers([0.5, 1.0] * 20)
    found = results.gain(low, high, "a", 0)
    assert found["low"] <= found["value"] == 0.5 <= found["high"]
    assert found["high"] - found["low"] < 0.13
    mixed = results.gain(low, answers([1.0] * 40), "a", 0)
    assert mixed["value"] == 0.75
    # 40 gains of 1 or 0.5: standard error 0.25 / sqrt(40) = 0.0395
    assert mixed["low"] == pytest.approx(0.75 - 1.96 * 0.0395, abs=0.02)
    assert mixed["high"] == pytest.approx(0.75 + 1.96 * 0.0395, abs=0.02)
