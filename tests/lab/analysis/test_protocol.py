"""Fig. 3's protocol and Fig. 15's second stage on a served model and judge of known behaviour, and what is drawn."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pandas as pd
import pytest

from evaluate_support import SMALL, analyzed, composed, result
from openai_stub import Stub
from r1zero.errors import UserError
from r1zero.lab.analysis.agreement import compare, kappa, read_labelled
from r1zero.lab.analysis.checks import check
from r1zero.lab.analysis.figures import write_models

QUESTIONS, N = 6, 4


def subject(body: dict) -> str:
    """Answers under r1 alone; looks back on questions below 20 with even seeds. No two responses are equal."""
    number = int(re.search(r"What is (\d+)", body["prompt"]).group(1))  # type: ignore[union-attr]
    if not body["prompt"].startswith("A conversation"):
        return f"What is {body['seed']}? What is that?"
    word = "Let me recheck. Wait. " if number < 20 and body["seed"] % 2 == 0 else ""
    right = bool(word) or body["seed"] % 4 == 1
    return f"{word}({body['seed']})</think> <answer>{number if right else number + 1}</answer>"


def judge(body: dict) -> str:
    text = body["messages"][1]["content"]
    output = text[text.index("<output>") : text.index("</output>")]
    if "LABEL 3" in text:
        return f"Why.\nLABEL: {2 if 'recheck' in output else 1}"
    return f"LABEL: {int('answer' in output)}\nThat is why."


def refuses(number: int, body: dict) -> int | None:
    """Refuses to look for self-reflection where there is no keyword: in the main analysis alone this is asked."""
    text = body["messages"][1]["content"]
    return 400 if "LABEL 3" in text and "Let me recheck" not in text else None


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("data") / "q.jsonl"
    rows = [{"problem": f"What is {i}?", "answer": str(i), "level": f"Level {1 + i % 2}"} for i in range(17, 23)]
    file.write_text("\n".join(map(json.dumps, rows)))
    return file


def overrides(questions: Path, model: Stub, judge_stub: Stub) -> list[str]:
    return [
        "experiment=fig3", "model=server", f"server.url={model.url}", "server.retries=0", "server.kind=openai",
        "server.concurrency=1", "data=file", f"data.path={questions}", f"questions={QUESTIONS}", f"sampling.n={N}",
        "temperatures=[0.5,1.0]", "bootstrap=100", "second_n=10", "judge=local", "judge.model=stub",
        f"judge.url={judge_stub.url}", "judge.retries=0", "judge.concurrency=1",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def whole(questions: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An analysis whose judge goes away twice; the third run finds the rest."""
    folder = tmp_path_factory.mktemp("protocol") / "run"
    for place in range(2):
        with Stub(subject) as model, Stub(judge) as judge_stub:
            if place == 0:
                judge_stub.die_after = 5  # in the first trial of a template
            else:
                judge_stub.fault = refuses
            with pytest.raises(UserError, match=r"the judge gave no answer to \d+ questions") as error:
                analyzed(folder, *overrides(questions, model, judge_stub))
            assert str(error.value).endswith(f"resume={folder}")
            assert "\n" not in str(error.value)
            assert not (folder / "second").exists()  # which questions reflect is not known yet
    with Stub(subject) as model, Stub(judge) as judge_stub:
        analyzed(folder, *overrides(questions, model, judge_stub))
        assert len(model.bodies) == result(folder, "analysis.json")["reflection_gain"]["questions"] * 10 * 2
    return folder


def test_the_template_under_which_most_answer_is_kept(whole: Path) -> None:
    made = result(whole, "analysis.json")
    assert made["choice"] == {"chosen": "r1", "by": "answering", "shares": {"none": 0.0, "r1": 1.0, "qwen": 0.0}}
    assert (made["template"], made["responses"]) == ("r1", QUESTIONS * N * 2)
    for name in ("none", "r1", "qwen"):
        trial = result(whole / "templates" / name, "analysis.json")
        assert (trial["template"], trial["responses"]) == (name, QUESTIONS * 2)


def test_the_second_stage_asks_questions_that_reflected(whole: Path) -> None:
    """Questions below 20 look back with every second seed and are then right; else they are right every other time."""
    made = result(whole, "analysis.json")
    second = pd.read_parquet(whole / "second" / "responses.parquet")
    assert set(second["gold"].map(lambda gold: int(gold[0]))) <= {17, 18, 19}
    assert second.groupby(["question", "temperature"]).size().unique().tolist() == [10]
    first = pd.read_parquet(whole / "responses.parquet")
    assert set(second["question"]) == set(first[first["reflects"].fillna(False)]["question"])
    gains = pd.read_csv(whole / "reflection_gain.csv")
    gain = made["reflection_gain"]
    assert (gain["stage"], gain["samples"], gain["questions"]) == (2, 10, len(gains))
    assert gain["value"] == pytest.approx(gains["gain"].mean())
    assert gain["median"] == pytest.approx(gains["gain"].median())
    assert gain["value"] > 0.2


def test_levels_and_lengths_by_class(whole: Path) -> None:
    made = result(whole, "analysis.json")
    table = pd.read_parquet(whole / "responses.parquet")
    assert set(made["levels"]) == {"Level 1", "Level 2"}
    assert sum(sum(row.values()) for row in made["levels"].values()) == len(table)
    right = table[table["right"]]
    assert sum(row["right"] for row in made["levels"].values()) == len(right)
    assert made["lengths"]["right"]["characters"] == pytest.approx(right["response"].str.len().mean())
    assert made["lengths"]["right"]["tokens"] == pytest.approx(right["tokens"].mean())
    assert made["lengths"]["truncated"] == {"responses": 0, "characters": None, "tokens": None}
    assert "Aha" in (whole / "excerpts.html").read_text()


def test_the_figures_of_models(whole: Path, tmp_path: Path) -> None:
    made = write_models([whole], out=tmp_path)
    assert [path.name for path in made] == [
        *(f"fig{number}.png" for number in (3, 10, 12, 13, 14, 15)), "table5.md",
    ]  # fmt: skip
    fig3 = pd.read_csv(tmp_path / "fig3.csv")
    answering = fig3[fig3["panel"] == "answering"].groupby("template")["value"].mean()
    assert answering.to_dict() == {"template r1": 100.0, "without template": 0.0}
    reflecting = pd.read_parquet(whole / "responses.parquet").groupby(["temperature", "question"])["reflects"].any()
    counts = reflecting.groupby("temperature").sum().tolist()
    assert fig3[fig3["panel"] == "self-reflection"]["value"].tolist() == pytest.approx(counts)
    assert fig3[fig3["panel"] == f"pass@{N}"]["x"].tolist() == [0.5, 1.0]
    fig12 = pd.read_csv(tmp_path / "fig12.csv")
    assert set(fig12["panel"]) == {"Keyword", "Judge", "Keyword and judge"}
    assert pd.read_csv(tmp_path / "fig14.csv")["responses"].sum() == QUESTIONS * N * 2
    words = pd.read_csv(tmp_path / "fig10.csv").set_index("keyword")["occurrences"]
    assert words["recheck"] == words.sum() > 0
    assert "| characters |" in made[-1].read_text()
    with pytest.raises(UserError, match="figure fig4 is unknown; choose from fig3"):
        write_models([whole], "fig4", tmp_path)


def test_a_judge_that_writes_nonsense_is_stopped_early(whole: Path, questions: Path, tmp_path: Path) -> None:
    """24 responses are there to judge; after 20 unreadable answers no more is asked, and every response is kept."""
    with Stub(subject) as model, Stub(lambda body: "I would say\nit depends") as nonsense:
        plain = ["judge.answering_per_question=null", "template=r1", "name=nonsense"]
        own = [o for o in overrides(questions, model, nonsense) if not o.startswith(("experiment=", "second_n="))]
        with pytest.raises(
            UserError, match=r"none of its first 20 answers \(answering\) has 'LABEL: <number>'"
        ) as error:
            analyzed(tmp_path / "run", *own, *plain)
        assert "'I would say it depends'" in str(error.value)
        assert "\n" not in str(error.value)
        assert len(nonsense.bodies) == 20
        assert len(pd.concat(map(pd.read_parquet, (tmp_path / "run").rglob("part_*.parquet")))) == QUESTIONS * N * 2


def test_a_judge_is_measured_on_the_labelled_responses(tmp_path: Path) -> None:
    """A judge that takes everything for an answer in one go: right on 31 of 40, and on the 12 labelled so."""
    with Stub(lambda body: "LABEL: 1\nLABEL: 1") as one_go:
        settings = ["labelled=packaged", "judge=local", "judge.model=stub", f"judge.url={one_go.url}"]
        analyzed(tmp_path / "run", *settings, "judge/prompts=paper", "bootstrap=100")
        assert len(one_go.bodies) == 80
    tasks = result(tmp_path / "run", "agreement.json")["tasks"]
    assert tasks["answering"]["agreement"]["value"] == pytest.approx(31 / 40)
    assert tasks["reflection"]["agreement"]["value"] == pytest.approx(12 / 40)
    assert tasks["reflects"]["agreement"]["value"] == pytest.approx(27 / 40)
    assert tasks["reflects"]["kappa"] == 0.0
    assert tasks["reflection"]["counts"]["2 -> 1"] == 13


def test_agreement_by_hand() -> None:
    """3 of 4 agree where chance gives 1/2: kappa 1/2. An unreadable answer agrees with nothing."""
    assert kappa([(0, 0), (0, 1), (1, 1), (0, 0)]) == pytest.approx((3 / 4 - (3 / 4 * 2 / 4 + 1 / 4 * 2 / 4)) / 0.5)
    found = compare([1, 0], [1, None], 50, seed=0)
    assert (found["agreement"]["value"], found["unparsable"]) == (0.5, 1)
    assert kappa([]) is None


def test_the_packaged_responses_have_every_label() -> None:
    import r1zero.lab.analysis as package

    rows = read_labelled(Path(package.__file__).with_name("labelled.jsonl"))
    assert len(rows) == 40
    assert {row["reflection"] for row in rows} == {0, 1, 2, 3}
    assert all(row["answering"] == (row["reflection"] > 0) for row in rows)


def test_labelled_files_are_read_strictly(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        read_labelled(tmp_path / "absent.jsonl")
    file = tmp_path / "l.jsonl"
    file.write_text('{"question": "q", "response": "r", "answering": 1, "reflection": 4}\n')
    with pytest.raises(UserError, match="line 1 must hold"):
        read_labelled(file)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["template@templates.none=none"], "templates has none alone, which leaves no choice"),
        (["labelled=packaged"], "judge=none labels nothing"),
        (["second_n=1"], "second_n=1 must be at least 2"),
    ],
)
def test_impossible_protocols_are_one_line(tmp_path: Path, change: list[str], message: str) -> None:
    settings = [f"+{c}" if "@" in c else c for c in change]
    with pytest.raises(UserError, match=message):
        check(composed("analyze", tmp_path, *SMALL, "data=arithmetic", "judge=none", *settings))


def test_the_protocols_settings_are_the_papers(tmp_path: Path) -> None:
    cfg = composed("analyze", tmp_path, "experiment=fig3")
    assert list(cfg.templates) == ["none", "r1", "qwen"]
    assert list(cfg.temperatures) == [round(0.1 * i, 1) for i in range(1, 11)]
    assert cfg.questions * cfg.sampling.n * len(cfg.temperatures) == 40_000
    assert (cfg.pass_k, cfg.data.name, cfg.judge.model, cfg.judge.reflection) == (8, "math12k", "gpt-4o-mini", "all")
    assert list(cfg.judge.prompts.reflection.labels) == [0, 1, 2, 3]
    assert (cfg.judge.prompts.answering.line, cfg.judge.prompts.reflection.line) == ("first", "last")
    cfg = composed("analyze", tmp_path, "experiment=fig15", "server.url=http://localhost:1/v1")
    assert (cfg.model.name, cfg.template.name, cfg.questions, cfg.sampling.n, cfg.second_n) == (
        "deepseek_r1_zero", "r1", 500, 8, 100,
    )  # fmt: skip
