"""Whole analyses: a served model and a served judge with known behaviour, and the model in the package."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from evaluate_support import SMALL, analyzed, composed, result
from openai_stub import Stub
from r1zero.errors import UserError
from r1zero.lab.analysis.checks import check

QUESTIONS = 6


def subject(body: dict) -> str:
    """Answers "What is <i>?" with <i>; by its seed it reflects or drifts off, and is wrong when it drifts."""
    number = int(body["prompt"].split()[2].rstrip("?"))
    kind = body["seed"] % 3
    if kind == 0:
        return f"Let me recheck: the answer is \\boxed{{{number}}}"
    if kind == 1:
        return f"It is \\boxed{{{number}}}, or should I think again? \\boxed{{{number + (body['seed'] % 2)}}}"
    return "Question: something else"


def judge(body: dict) -> str:
    text = body["messages"][1]["content"]
    output = text[text.index("<output>") : text.index("</output>")]
    if "LABEL 2" in text:
        return "Why.\nLABEL: 2" if "recheck" in output else "Why.\nLABEL: 1"
    return "Hm." if "think again" in output else f"Why.\nLABEL: {int('boxed' in output)}"


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("data") / "q.jsonl"
    file.write_text("\n".join(json.dumps({"question": f"What is {i}?", "answer": str(i)}) for i in range(40)))
    return file


def overrides(questions: Path, model: Stub, judge_stub: Stub) -> tuple[str, ...]:
    return (
        "model=server", f"server.url={model.url}", "server.retries=0", "server.kind=openai", "server.concurrency=1",
        "template=none", "data=file", f"data.path={questions}", f"questions={QUESTIONS}", "sampling.n=4",
        "temperatures=[0.5,1.0]", "chunk=4", "bootstrap=100", "judge=local", "judge.model=stub",
        f"judge.url={judge_stub.url}", "judge.retries=0", "judge.concurrency=1", "judge.answering_per_question=null",
    )  # fmt: skip


@pytest.fixture(scope="module")
def whole(questions: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "run"
    with Stub(subject) as model, Stub(judge) as judge_stub:
        analyzed(folder, *overrides(questions, model, judge_stub))
    return folder


def figures(folder: Path) -> dict:
    made = result(folder, "analysis.json")
    for name in ("seconds", "versions", "judge"):
        made.pop(name)
    for row in made["temperatures"].values():
        row.pop("verifier", None)
    return made


def test_an_analysis_leaves_everything(whole):
    made = result(whole, "analysis.json")
    table = pd.read_parquet(whole / "responses.parquet")
    assert len(table) == made["responses"] == QUESTIONS * 4 * 2
    assert list(made["temperatures"]) == ["0.5", "1"]
    for number in (3, 10, 12, 13, 14, 15):
        assert (whole / "figures" / f"fig{number}.png").stat().st_size > 10_000
    row = made["temperatures"]["1"]
    rows = table[table["temperature"] == 1.0]
    recheck = rows["response"].str.contains("recheck")
    again = rows["response"].str.contains("think again")
    assert row["reflection"]["keyword"]["per_response"]["value"] == pytest.approx((recheck | again).mean())
    assert row["reflection"]["both"]["per_response"]["value"] == pytest.approx(recheck.mean())
    assert row["reflection"]["both"]["per_question"]["value"] == pytest.approx(
        recheck.groupby(rows["question"]).any().mean()
    )
    # "think again" makes the judge unparsable on answering: left out, not counted as 0.
    known = rows[~again]
    answered = known["response"].str.contains("boxed").groupby(known["question"]).mean()
    assert row["answering"]["value"] == pytest.approx(answered.mean())
    assert row["answering"]["responses"] == len(known)
    assert made["judge"]["unparsable"] == table["response"].str.contains("think again").sum()
    assert row["pass@k"]["4"]["value"] == pytest.approx(rows.groupby("question")["right"].any().mean())
    page = (whole / "excerpts.html").read_text()
    assert "<mark>recheck</mark>" in page
    assert made["keywords"]["recheck"]["responses"] == table["response"].str.contains("recheck").sum()


def test_questions_are_chosen_by_the_seed(whole):
    chosen = pd.read_parquet(whole / "responses.parquet")["row"].unique().tolist()
    assert len(chosen) == QUESTIONS
    assert chosen != list(range(QUESTIONS))  # not simply the first ones


def test_a_model_or_judge_that_goes_away_leaves_a_run_to_go_on_with(whole, questions, tmp_path):
    """Model gone in the first run, judge gone in the second; the third fetches the rest and equals the whole."""
    run = tmp_path / "run"
    with Stub(subject) as model, Stub(judge) as judge_stub:
        model.die_after = 29
        with pytest.raises(UserError, match="19 responses are missing"):
            analyzed(run, *overrides(questions, model, judge_stub))
    assert len(pd.read_parquet(run / "responses.parquet")) == 29
    with Stub(subject) as model, Stub(judge) as judge_stub:
        judge_stub.die_after = 2
        with pytest.raises(UserError, match=r"the judge gave no answer to \d+ questions .*resume="):
            analyzed(run, *overrides(questions, model, judge_stub))
        assert len(model.bodies) == 19
    with Stub(subject) as model, Stub(judge) as judge_stub:
        analyzed(run, *overrides(questions, model, judge_stub))
        assert len(model.bodies) == 0
        asked = result(run, "analysis.json")["judge"]
        assert asked["asked"] == len(judge_stub.bodies)
        assert asked["cached"] > 0
    assert figures(run) == figures(whole)
    assert (run / "excerpts.html").read_text() == (whole / "excerpts.html").read_text()


def test_a_model_in_this_process_without_a_judge(tmp_path):
    cfg = (
        "data=arithmetic",
        "data.params.count=20",
        "questions=5",
        "sampling.n=2",
        "temperatures=[1.0]",
        "bootstrap=50",
    )
    analyzed(tmp_path / "run", *SMALL, *cfg, "judge=none")
    made = result(tmp_path / "run", "analysis.json")
    assert made["temperatures"]["1"]["answering"] is None
    assert made["reflection_by"] == "keyword"
    assert made["temperatures"]["1"]["accuracy"]["value"] > 0
    pictures = {"fig3.png", "fig10.png", "fig12.png", "fig13.png", "fig14.png"}
    assert {path.name for path in (tmp_path / "run" / "figures").glob("*.png")} == pictures


def test_a_judge_in_this_process(tmp_path):
    """The tiny model never writes a label: every answer is unparsable, counted, and no label is made up."""
    cfg = (
        "data=arithmetic",
        "data.params.count=20",
        "questions=2",
        "sampling.n=2",
        "temperatures=[1.0]",
        "bootstrap=50",
    )
    own = (
        "judge=model",
        "judge.model=${model.path}",
        "judge.max_tokens=8",
        "judge.context=1024",
        "judge.dtype=float32",
    )
    analyzed(tmp_path / "run", *SMALL, *cfg, *own)
    made = result(tmp_path / "run", "analysis.json")
    assert (made["judge"]["asked"], made["judge"]["unparsable"]) == (2, 2)
    assert made["judge"]["tokens_out"] > 0
    assert made["temperatures"]["1"]["answering"] is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["judge=openai"], r"judge\.key_env=OPENAI_API_KEY: this environment variable is not set.*judge=none"),
        (["judge=local"], r"judge\.model is not set"),
        (["judge=local", "judge.model=x", "judge.url=null"], r"judge\.url is not set"),
        (["pass_k=9"], r"pass_k=9 needs sampling\.n of at least 9, which is 8"),
        (["temperatures=[]"], "nothing to analyze"),
        (["temperatures=[0.0,1.0]"], "0 gives 8 equal responses"),
        (["temperatures=[1.0,1.0]"], "each must stand there once"),
        (["questions=0"], "questions=0 must be at least 1"),
        (["judge=local", "judge.model=x", "judge.reflection=some"], "choose keyword or all"),
        (["judge=local", "judge.model=x", "judge.prompts.answering.user=hello"], r"must hold \{response\}"),
        (
            ["judge=local", "judge.model=x", "judge.answering_per_question=0"],
            "answering_per_question=0 must be at least 1 and at most 1,000,000: null judges all",  # 0 stood for all
        ),
        (["judge=local", "judge.model=x", "judge.longest=0"], r"judge\.longest=0 must be at least 2"),  # it cut nothing
        (["judge=local", "judge.model=x", "judge.max_tokens=0"], r"judge\.max_tokens=0 must be at least 1"),
        (
            ["judge=model", "judge.model=x", "judge.context=512", "judge.max_tokens=512"],
            r"judge\.context=512 leaves no room for a question beside judge\.max_tokens=512",
        ),
        (["excerpts=-1"], "excerpts=-1 must be at least 0"),
    ],
)
def test_bad_settings_are_one_clear_line(tmp_path, change, message, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(UserError, match=message) as error:
        check(composed("analyze", tmp_path, *SMALL, "data=arithmetic", "judge=none", *change))
    assert "\n" not in str(error.value)


def test_more_questions_than_there_are_is_one_line(tmp_path, questions):
    with pytest.raises(UserError, match="questions=41 is more than the 40 usable questions"):
        analyzed(tmp_path / "r", *SMALL, "data=file", f"data.path={questions}", "questions=41", "judge=none")


def test_the_judges_prompts_ask_for_the_line_that_is_read(tmp_path):
    cfg = composed("analyze", tmp_path, "judge=local")
    assert list(cfg.judge.prompts.reflection.labels) == [0, 1, 2]
    paper = composed("analyze", tmp_path, "judge=local", "judge/prompts=paper")
    for prompt in (*cfg.judge.prompts.values(), *paper.judge.prompts.values()):
        labels = list(prompt.labels)
        assert prompt.user.count("{question}") == prompt.user.count("{response}") == 1
        assert all(f"LABEL: {label}" in prompt.user for label in labels)
