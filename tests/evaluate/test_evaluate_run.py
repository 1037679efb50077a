"""Whole evaluations on the model that comes with the package: figures, resume, grading again, dry runs."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from evaluate_support import ROOT, SMALL, TINY, composed, evaluated, result
from openai_stub import Stub
from r1zero.errors import UserError
from r1zero.evaluate.build import Subject, sampling_of
from r1zero.launch.seeding import derive_seed
from r1zero.reward.grader import Grader
from r1zero.rollout.scoring import evaluate as evaluate_in_training
from run_support import until

SETTINGS = (
    *SMALL,
    "benchmarks=arithmetic",
    "limit=12",
    "chunk=4",
    "sampling.n=3",
    "sampling.temperature=1.0",
    "bootstrap=200",
)


def responses(folder: Path) -> pd.DataFrame:
    return pd.read_parquet(folder / "responses.parquet").drop(columns="seconds")


def figures(folder: Path) -> dict:
    """results.json without what measures time or names folders."""
    made = result(folder)
    for name in ("seconds", "versions", "rescored"):
        made.pop(name, None)
    for row in made["sets"].values():
        row["verifier"].pop("seconds_p99")
    return made


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "run"
    evaluated(folder, *SETTINGS)
    return folder


def test_an_evaluation_leaves_everything(whole):
    made = result(whole)
    found = made["sets"]["arithmetic"]
    table = responses(whole)
    assert len(table) == 36
    assert found["accuracy"]["value"] == pytest.approx(table["right"].mean())
    assert 0 < found["accuracy"]["value"] < 1
    assert list(found["pass@k"]) == ["1", "2", "3"]
    assert found["pass@k"]["3"]["value"] == pytest.approx(table.groupby("question")["right"].any().mean())
    assert made["average"]["accuracy"]["value"] == found["accuracy"]["value"]
    assert (whole / "accuracy.png").stat().st_size > 10_000
    assert made["missing"] == {"arithmetic": 0}
    assert (whole / "status.json").read_text().count("finished") == 1


def test_an_interrupted_evaluation_goes_on_and_equals_the_whole_one(whole, tmp_path, monkeypatch):
    """Ctrl-C during the third chunk; then only that chunk is drawn."""
    from r1zero.rollout.hf.engine import HFEngine

    drawn: list[int] = []
    generate = HFEngine.generate

    def counted(self, prompts, sampling, seed):
        if len(drawn) == 2:
            drawn.append(-1)
            raise KeyboardInterrupt
        drawn.append(len(prompts))
        return generate(self, prompts, sampling, seed)

    monkeypatch.setattr(HFEngine, "generate", counted)
    with pytest.raises(KeyboardInterrupt):
        evaluated(tmp_path / "run", *SETTINGS)
    assert "interrupted" in (tmp_path / "run" / "status.json").read_text()
    evaluated(tmp_path / "run", *SETTINGS)
    assert drawn == [4, 4, -1, 4]
    pd.testing.assert_frame_equal(responses(tmp_path / "run"), responses(whole))
    assert figures(tmp_path / "run") == figures(whole)


def test_a_killed_process_goes_on_too(server, whole, tmp_path):
    """SIGKILL in the middle, then resume=<folder> on the command line."""
    script, folder = "scripts/evaluate.py", tmp_path / "run"
    process = server.start([*SETTINGS, f"hydra.run.dir={folder}"], tmp_path, script=script)
    until(lambda: list(folder.glob("responses/arithmetic/part_00000.parquet")) or process.ended, poll=0.005)
    process.signal(signal.SIGKILL)
    assert process.wait().code == -signal.SIGKILL
    assert not (folder / "results.json").exists()
    before = {p: p.stat().st_mtime_ns for p in folder.glob("responses/arithmetic/*.parquet")}
    made = server.run([f"resume={folder}"], tmp_path, script=script)
    assert made.code == 0, made.err
    assert {p: p.stat().st_mtime_ns for p in before} == before
    pd.testing.assert_frame_equal(responses(folder), responses(whole))
    assert figures(folder) == figures(whole)


def test_grading_again_gives_the_same_numbers_without_generating(whole, tmp_path, monkeypatch):
    monkeypatch.setattr("r1zero.evaluate.build.build_engine", lambda *a, **k: pytest.fail("it generates"))
    evaluated(tmp_path / "again", *SETTINGS, f"rescore={whole}")
    assert figures(tmp_path / "again") == figures(whole)
    pd.testing.assert_frame_equal(responses(tmp_path / "again"), responses(whole))
    assert result(tmp_path / "again")["rescored"]["changed"] == 0


def test_grading_again_with_another_verifier_changes_the_verdicts(whole, tmp_path, monkeypatch):
    """The figures follow the new verdicts, so the old ones are not what is summarised."""
    from r1zero.reward.outcome import Outcome, Status

    strict = lambda self, items: [Outcome(Status.wrong, 0.0, "x") for _ in items]  # noqa: E731
    monkeypatch.setattr(Grader, "grade_batch", strict)
    evaluated(tmp_path / "again", *SETTINGS, f"rescore={whole}")
    made = result(tmp_path / "again")
    assert made["sets"]["arithmetic"]["accuracy"]["value"] == 0
    assert made["rescored"]["changed"] == responses(whole)["right"].sum() > 0


def test_rescore_on_the_command_line_brings_the_settings_back(whole, tmp_path):
    from r1zero.evaluate.rescore import expand_rescore

    folder = tmp_path / "run"
    (folder / ".hydra").mkdir(parents=True)
    (folder / "responses").mkdir()
    (folder / ".hydra" / "overrides.yaml").write_text("- model=tiny\n- reward.timeout=3\n- resume=x\n")
    made = expand_rescore([f"rescore={folder}", "reward.timeout=9"])
    assert made[:2] == ["model=tiny", "reward.timeout=9"]
    assert made[2] == f"rescore='{folder}'"
    assert made[3] == "hydra.run.dir='${rescore}/rescored/${now:%Y-%m-%d_%H-%M-%S}'"
    with pytest.raises(UserError, match="not the folder of an evaluation"):
        expand_rescore([f"rescore={tmp_path}"])


def test_offline_and_in_training_evaluation_agree(tmp_path):
    """Trap 49: one path. Same engine, prompts, settings and seed give the same figures."""
    overrides = (*SMALL, "benchmarks=arithmetic", "limit=16", "chunk=16", "bootstrap=50")
    cfg = evaluated(tmp_path / "run", *overrides)
    from omegaconf import OmegaConf

    typed = OmegaConf.to_object(cfg)
    subject = Subject(typed, typed.benchmarks)
    sampler = subject.sampler()
    engine = sampler._start()
    sampling = sampling_of(typed.sampling, subject.template, subject.stop_ids)
    with Grader(typed.reward, extractor=subject.template.extractor) as grader:
        seed = derive_seed(0, "evaluate", "arithmetic", 0)
        figures_then, samples = evaluate_in_training(engine, grader, subject.prompts, sampling, seed)
    engine.close()
    offline = result(tmp_path / "run")["sets"]["arithmetic"]
    then = figures_then["arithmetic"]
    assert then["accuracy"] == pytest.approx(offline["accuracy"]["value"])
    assert then["length"] == pytest.approx(offline["length"])
    assert then["length_correct"] == pytest.approx(offline["length_correct"])
    assert responses(tmp_path / "run")["response"].tolist() == [s.completion.text for s in samples["arithmetic"]]


@pytest.mark.parametrize(
    "file", ["table1/qwen1.5b_fewshot", "table1/qwen7b_r1", "table4/orz7b_8k", "table4/qwen7b_instruct"]
)
def test_rows_of_the_paper_run_dry_with_the_tiny_model(tmp_path, file):
    dry = ("model=tiny", "dry=true", "benchmarks=arithmetic", "rollout=hf", "bootstrap=20")
    evaluated(tmp_path / "run", f"experiment={file}", *dry)
    made = result(tmp_path / "run")
    assert made["sets"]["arithmetic"]["questions"] == 2
    assert made["paper"]["table"] == int(file[5])
    assert made["template"] == file.rpartition("_")[2].replace("8k", "orz").replace("instruct", "chat")


def test_the_real_benchmarks_load_with_their_counts_and_run_dry(tmp_path, shared):
    """Answers in every real shape: AMC's floats, Minerva's and OlympiadBench's lists."""
    names = {"aime24": 30, "amc": 83, "math500": 500, "minerva": 272, "olympiadbench": 675}
    paths = [f"benchmarks.{name}.path={shared}/data/eval/{name}.jsonl" for name in names]
    evaluated(tmp_path / "run", "model=tiny", "template=r1", "dry=true", "rollout=hf", "bootstrap=20", *paths)
    made = result(tmp_path / "run")
    assert list(made["sets"]) == list(names)
    table = responses(tmp_path / "run")
    golds = {name: list(rows["gold"].iloc[0]) for name, rows in table.groupby("set")}
    assert golds["amc"] == ["142"] or all("." not in gold for gold in golds["amc"])
    assert all(gold and not gold[0].endswith("\n") and "$" not in gold[0] for gold in golds.values())
    with pytest.raises(UserError, match=r"rows where data\.rows=31 are expected"):
        evaluated(
            tmp_path / "b",
            "model=tiny",
            "dry=true",
            "rollout=hf",
            "benchmarks=aime24",
            paths[0],
            "benchmarks.aime24.rows=31",
        )


def test_the_overlap_with_training_questions_is_reported(tmp_path):
    """Trap 36, both for a set that is named and for that of the run which made the policy."""
    dry = (*SMALL, "dry=true", "bootstrap=20", "benchmarks=file")
    file = tmp_path / "questions.jsonl"
    lines = [
        f'{{"question": "How many wheels have {i} carts of four wheels each?", "answer": {4 * i}}}' for i in range(3)
    ]
    file.write_text("\n".join(lines))
    evaluated(tmp_path / "a", *dry, f"benchmarks.file.path={file}", "data@overlap=file", f"overlap.path={file}")
    assert result(tmp_path / "a")["overlap"]["file"] == {"train": "file", "exact": 2, "near": 0}
    policy = tmp_path / "trained" / "policy"
    policy.parent.mkdir()
    policy.symlink_to(TINY)
    known = f"template: {{name: r1}}\ndata: {{name: mine, path: {file}}}\nalgo: {{name: grpo}}\n"
    (policy.parent / "config.yaml").write_text(known)
    evaluated(tmp_path / "b", *dry[1:], "model=folder", f"model.path={policy}", f"benchmarks.file.path={file}")
    assert result(tmp_path / "b")["overlap"]["file"]["train"] == "mine"
    (policy.parent / "config.yaml").write_text("data: {name: text, source: of pretraining}\n")
    evaluated(tmp_path / "c", *dry[1:], "model=folder", f"model.path={policy}", f"benchmarks.file.path={file}")
    assert not result(tmp_path / "c")["overlap"]


def test_a_policy_asked_through_another_template_is_said(tmp_path, caplog):
    policy = tmp_path / "trained" / "policy"
    policy.parent.mkdir()
    policy.symlink_to(TINY)
    (policy.parent / "config.yaml").write_text("template: {name: r1}\nalgo: {name: grpo}\n")
    evaluated(tmp_path / "b", *SMALL[1:], "model=folder", f"model.path={policy}", "dry=true", "benchmarks=arithmetic")
    assert "trained with template=r1" in (tmp_path / "b" / "train.log").read_text()


# -- a server ----------------------------------------------------------------------------------------------

SERVED = ("model=server", "template=qwen", "benchmarks=arithmetic", "limit=5", "chunk=3", "server.retries=1",
          "server.kind=openai", "bootstrap=50")  # fmt: skip


def test_a_server_that_dies_midway_leaves_missing_responses_and_resume_fetches_them(tmp_path):
    answer = lambda body: "\\boxed{" + str(len(body["prompt"]) % 7) + "}"  # noqa: E731
    with Stub(answer) as stub:
        evaluated(tmp_path / "whole", *SERVED, f"server.url={stub.url}")
    with Stub(answer) as stub:
        stub.die_after = 4
        with pytest.raises(UserError, match=r"1 responses are missing .*can't be reached.*resume=") as error:
            evaluated(tmp_path / "run", *SERVED, f"server.url={stub.url}", "server.concurrency=1")
    assert "\n" not in str(error.value)
    partial = result(tmp_path / "run")
    assert partial["missing"] == {"arithmetic": 1}
    assert partial["sets"]["arithmetic"]["questions"] == 4
    assert len(result(tmp_path / "run", "failures.json")["failures"]) == 1
    with Stub(answer) as stub:
        evaluated(tmp_path / "run", *SERVED, f"server.url={stub.url}")
        assert len(stub.bodies) == 1
    pd.testing.assert_frame_equal(responses(tmp_path / "run"), responses(tmp_path / "whole"))


# -- bad input ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["sampling.n=4"], r"sampling\.n=4 with sampling\.temperature=0 gives equal responses"),
        (
            ["pass_k=[8]", "sampling.n=4", "sampling.temperature=1"],
            r"pass_k=8 needs sampling\.n of at least 8, which is 4",
        ),
        (["benchmarks=none"], "nothing to evaluate"),
        (["sampling.max_tokens=1024"], r"sampling\.max_tokens=1024 leaves no room .* 1024 tokens \(model tiny\)"),
        (["model=server"], r"server\.url is not set"),
        (["model=server", "server.url=localhost"], "must start with http"),
        (["model=server", "server.url=http://x", "server.key_env=NO_SUCH_KEY"], "NO_SUCH_KEY.* is not set"),
        (["server.url=http://x"], "add model=server"),
        (["benchmarks=file"], r"data\.path is not set"),
        (["benchmarks=file", "benchmarks.file.path=missing.jsonl"], r"missing\.jsonl does not exist"),
        (["model=folder"], r"model\.path is not set: give it on the command line"),
        (["device=gpu"], "no NVIDIA GPU was found"),
        (["context=2048"], "over the context of model tiny, 1024"),
        (["chunk=0"], "chunk=0 must be at least 1"),
    ],
)
def test_bad_settings_are_one_clear_line(tmp_path, overrides, message, monkeypatch):
    from r1zero.evaluate.checks import check

    monkeypatch.setattr("r1zero.evaluate.checks.has_gpu", lambda: False)
    with pytest.raises(UserError, match=message) as error:
        check(
            composed("evaluate", tmp_path, "model=tiny", "benchmarks=arithmetic", "sampling.max_tokens=64", *overrides)
        )
    assert "\n" not in str(error.value)


def test_an_engine_that_is_not_installed_is_told_before_anything_heavy(tmp_path, monkeypatch):
    from r1zero.evaluate.checks import check

    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    cfg = composed("evaluate", tmp_path, *SMALL, "rollout=auto", "rollout.quantization=fp8")
    with pytest.raises(UserError, match=r"rollout\.quantization=fp8 is vLLM's, and vLLM is not installed: leave"):
        check(cfg)


def test_a_file_without_answers_is_one_clear_line(tmp_path):
    from r1zero.evaluate.checks import check

    file = tmp_path / "questions.jsonl"
    file.write_text('{"question": "1+1=?", "note": "x"}\n')
    cfg = composed("evaluate", tmp_path, *SMALL, "benchmarks=file", f"benchmarks.file.path={file}")
    with pytest.raises(UserError, match="answer") as error:
        check(cfg)
    assert "question, note" in str(error.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["benchmarks=mth500"], "error: benchmarks=mth500: there is no such option; did you mean math500?"),
        (["model=tiny", "sampling.tmperature=1"], "tmperature"),
        (["rescore=/nowhere"], "error: rescore=/nowhere: this is not the folder of an evaluation"),
    ],
)
def test_the_command_line_answers_in_one_line(arguments, message, tmp_path):
    script = [sys.executable, str(ROOT / "scripts" / "evaluate.py"), *arguments]
    made = subprocess.run(script, capture_output=True, text=True, cwd=tmp_path)
    assert made.returncode == 1
    assert made.stderr.startswith("error: ")
    assert made.stderr.count("\n") == 1, made.stderr
    assert message in made.stderr


def test_help_needs_no_torch(tmp_path):
    code = (
        "import sys; sys.argv = ['evaluate.py', '--help']; import runpy\n"
        f"try: runpy.run_path({str(ROOT / 'scripts/evaluate.py')!r}, run_name='__main__')\n"
        "except SystemExit: pass\n"
        "assert 'torch' not in sys.modules and 'pandas' not in sys.modules"
    )
    made = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    assert "rescore=<folder>" in made.stdout


def test_a_limit_that_nobody_set_adapts_to_the_context(tmp_path, monkeypatch, capsys):
    """C7: 3,000 tokens leave no room in a context of 1,024; what the user typed is refused instead."""
    from types import SimpleNamespace

    from r1zero.evaluate import checks

    config = composed("evaluate", tmp_path, "model=tiny", "benchmarks=arithmetic")
    overrides: list[str] = []
    known = SimpleNamespace(overrides=SimpleNamespace(task=overrides))
    monkeypatch.setattr(checks, "HydraConfig", SimpleNamespace(initialized=lambda: True, get=lambda: known))
    overrides.append("sampling.max_tokens=3000")
    with pytest.raises(UserError, match=r"sampling\.max_tokens=3000 leaves no room"):
        checks.check(config)
    overrides.clear()
    checks.check(config)
    assert config.sampling.max_tokens == 512
    assert "sampling.max_tokens: 3000 -> 512, half of the context of model tiny, 1024 tokens" in capsys.readouterr().out
