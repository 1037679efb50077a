"""scripts/pretrain.py as a user runs it: a short run, its folder, resume, and errors in one line."""

from __future__ import annotations

import json
import re
import shutil
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import torch
from hydra import compose, initialize_config_dir
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from pretrain_support import pretrain
from r1zero import config
from r1zero.config import OptimConfig
from r1zero.data.arithmetic import Arithmetic
from r1zero.errors import UserError
from r1zero.learn.optimizer import lr_factor
from r1zero.pretrain import config as pretrain_config
from r1zero.pretrain.callbacks import MetricsCallback, PretrainContext
from r1zero.pretrain.config import WorkingConfig
from r1zero.pretrain.text import EOS, ArithmeticText
from run_support import Server, until

ROOT = Path(__file__).resolve().parents[2]
SHORT = ["experiment=tiny_base", "steps=20", "optim.warmup_steps=5", "eval_every=4", "data.heldout_documents=64"]


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Settings of a file with a shuffle buffer beside the sums, with checkpoints, in two micro-batches a step."""
    file = tmp_path_factory.mktemp("notes") / "notes.jsonl"
    text = ArithmeticText({"none": 1.0}, WorkingConfig(), Arithmetic(), "train", 7)
    documents = [text.document(number).removesuffix(EOS) for number in range(150)]
    file.write_text("".join(json.dumps({"body": document}) + "\n" for document in documents))
    return [
        "data.mix.web=1",
        "data.sources.web.kind=text",
        f"data.sources.web.path={file}",
        "data.sources.web.text_key=body",
        "data.sources.web.shuffle_buffer=16",
        "checkpoint_every=4",
        "optim.micro_batch_tokens=768",
    ]


@pytest.fixture(scope="module")
def whole(server: Server, tmp_path_factory: pytest.TempPathFactory, mixed: list[str]) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    result = pretrain(server, *SHORT, *mixed, f"hydra.run.dir={folder}")
    assert result.code == 0, result.err
    assert "held-out loss" in result.out
    assert "Traceback" not in result.err
    return folder


def test_a_short_run_lowers_the_loss_and_leaves_a_model_folder(whole: Path) -> None:
    summary = json.loads((whole / "summary.json").read_text())
    assert summary["steps"] == 20
    assert summary["heldout_loss"]["first"] > 5.5
    assert summary["heldout_loss"]["last"] < 4.5
    assert summary["parameters"] == 370_176
    metrics = pd.read_csv(whole / "metrics.csv")
    assert metrics["heldout/loss"].notna().sum() >= 3
    assert metrics["train/loss"].notna().any()

    tokenizer = AutoTokenizer.from_pretrained(whole / "policy")
    model = AutoModelForCausalLM.from_pretrained(whole / "policy")
    assert model.config.tie_word_embeddings
    assert model.dtype == torch.float32
    assert model.generation_config.eos_token_id == [0, tokenizer.convert_tokens_to_ids("<|im_end|>")]
    assert model.config.vocab_size == len(tokenizer) == 384
    ids = torch.tensor([tokenizer.encode("Question: 3+6-2-5=?\nAnswer:")])
    assert model(input_ids=ids).logits.shape == (1, ids.shape[1], 384)


def test_a_killed_run_goes_on_exactly(server: Server, whole: Path, mixed: list[str], tmp_path: Path) -> None:
    """SIGKILL as soon as a checkpoint is there, then resume: losses and weights of the run that never stopped."""
    arguments = [*SHORT, *mixed, f"hydra.run.dir={tmp_path}"]
    process = server.start(arguments, tmp_path, script="scripts/pretrain.py")
    until(lambda: (tmp_path / "checkpoints" / "step_000008.ckpt").exists() or process.ended, poll=0.005)
    process.signal(signal.SIGKILL)
    assert process.wait().code == -signal.SIGKILL
    assert not (tmp_path / "policy").exists()

    result = pretrain(server, f"resume={tmp_path}")
    assert result.code == 0, result.err
    assert "continuing from" in result.out
    columns = ["step", "train/loss", "optim/lr", "optim/grad_norm", "progress/targets", "heldout/loss"]
    a, b = (pd.read_csv(folder / "metrics.csv")[columns] for folder in (whole, tmp_path))
    pd.testing.assert_frame_equal(a, b, check_exact=True)
    assert a["train/loss"].notna().sum() == 20
    first = load_file(whole / "policy" / "model.safetensors")
    second = load_file(tmp_path / "policy" / "model.safetensors")
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    a, b = (json.loads((f / "summary.json").read_text()) for f in (whole, tmp_path))
    assert a["heldout_loss"] == b["heldout_loss"]


def test_continued_pretraining_starts_from_a_folder(
    server: Server, whole: Path, mixed: list[str], tmp_path: Path
) -> None:
    result = pretrain(
        server,
        *SHORT,
        *mixed[:5],
        "init=null",
        f"model.path={whole / 'policy'}",
        "steps=10",
        f"hydra.run.dir={tmp_path}",
    )
    assert result.code == 0, result.err
    before = json.loads((whole / "summary.json").read_text())["heldout_loss"]["last"]
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["heldout_loss"]["first"] == pytest.approx(before, abs=1e-4)
    assert summary["heldout_loss"]["last"] < before


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["data.pages.qwen=0"], "data.pages.qwen=0.0 must be above 0"),
        (["data.pages.qwen=inf"], "data.pages.qwen=inf must be above 0"),
        (["data.pages.qwen=nan"], "data.pages.qwen=nan must be above 0"),
        (["data.mix.qa=nan"], "data.mix.qa=nan must be above 0"),
        (["data.mix.qa=0"], "data.mix.qa=0.0 must be above 0"),
        (["data.mix.web=-1"], "data.mix.web=-1.0 must be above 0"),
        (["data.mix.qa=null"], "data.mix is empty"),
        (["+data.mix.wob=1"], "data.mix.wob is an unknown source"),
        (["data.sources.qa.kind=arithmetics"], "kind=arithmetics is unknown"),
        (
            ["data.mix.web=1", "data.sources.web.kind=text", "data.sources.web.path=/nowhere.jsonl"],
            "/nowhere.jsonl does not exist",
        ),
        (["epochs=1"], "give one of them"),
        (["epochs=1", "steps=null"], "epochs counts passes over one source"),
        (["data.working.slip=2"], "data.working.slip=2"),
        (["+data.questions.terms=1"], "terms=1"),
        (["+data.questions.tems=3"], "'tems'"),
        (["step_tokens=1000"], "step_tokens=1000 must be a multiple"),
        (["optim.warmup_steps=500"], "optim.warmup_steps=500"),
        (["optim.schedule=sine"], "optim.schedule=sine"),
        (["init.vocab=100"], "init.vocab=100 must be at least 260"),
        (["init.architecture=gpt"], "init.architecture=gpt"),
        (["init=null", "model.path=/nowhere"], "/nowhere"),
        (["steps=0"], "steps=0"),
        (["+callbacks.x._target_=torch.nn.Linear"], "callbacks.x._target_=torch.nn.Linear is not allowed"),
    ],
)
def test_bad_settings_are_one_line(
    arguments: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from r1zero.pretrain.run import pretrain as run

    monkeypatch.setenv("R1ZERO_CONF", str(ROOT / "conf"))
    config.register()
    pretrain_config.register()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = compose("pretrain", overrides=[*SHORT, *arguments, f"paths.run={tmp_path}"])
    with pytest.raises(UserError, match=re.escape(says)) as error:
        run(cfg, tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("argument", "says"),
    [("data.mix.qa=-1", "must be above 0"), ("data.wrking.slip=0", "wrking")],
)
def test_bad_input_leaves_no_traceback(server: Server, argument: str, says: str, tmp_path: Path) -> None:
    result = pretrain(server, *SHORT, argument, f"hydra.run.dir={tmp_path}")
    assert result.code == 1
    assert says in result.err
    assert "Traceback" not in result.err
    assert len(result.err.strip().splitlines()) == 1


def test_a_refused_resume_leaves_the_folder_as_it_was(server: Server, whole: Path, tmp_path: Path) -> None:
    """Other settings are stored when a run accepts them; what a kill left half-written goes then, too."""
    cut = tmp_path / "run"
    shutil.copytree(whole, cut)
    shutil.rmtree(cut / "policy")
    shutil.copy(cut / "checkpoints" / "step_000016.ckpt", cut / "checkpoints" / "step_000099.tmp")
    before = {name: (cut / name).read_text() for name in ("status.json", "config.yaml", ".hydra/overrides.yaml")}
    result = pretrain(server, f"resume={cut}", "data.sources.web.path=/nowhere.jsonl")
    assert result.code == 1
    assert "/nowhere.jsonl does not exist" in result.err
    assert (cut / "checkpoints" / "step_000099.tmp").exists()
    assert {name: (cut / name).read_text() for name in before} == before
    result = pretrain(server, *SHORT, f"hydra.run.dir={cut}")  # a new run beside another one's checkpoints
    assert result.code == 1
    saved = len(list(cut.glob("checkpoints/*.ckpt")))
    assert result.err == (
        f"error: {cut} holds {saved} checkpoint(s) of an earlier run: continue with resume={cut}, remove it, or choose "
        "another folder\n"
    )
    assert {name: (cut / name).read_text() for name in before} == before
    more = ["steps=24", "optim.warmup_steps=6", "optim.lr=1e-3", "eval_every=7"]
    result = pretrain(server, f"resume={cut}", *more)  # of a finished run: it would train nothing, and say that it had
    assert result.code == 1
    assert f"error: {cut} has taken its 20 steps to the end of their schedule: more of them are a new" in result.err
    assert {name: (cut / name).read_text() for name in before} == before
    (cut / "checkpoints" / "step_000020.ckpt").unlink()
    result = pretrain(server, f"resume={cut}", *more)
    assert result.code == 0, result.err
    assert "step_000099.tmp is half-written" in result.err
    assert not (cut / "checkpoints" / "step_000099.tmp").exists()
    assert "steps: 24" in (cut / "config.yaml").read_text()
    assert "optim.warmup_steps=6" in (cut / ".hydra" / "overrides.yaml").read_text()
    # What is changed is said and holds, and the last measurement stands in the table though none was due.
    said = "eval_every: 4 -> 7, optim.lr: 0.003 -> 0.001, optim.warmup_steps: 5 -> 6, steps: 20 -> 24"
    assert f"continuing with changed settings: {said}" in result.err
    table = pd.read_csv(cut / "metrics.csv").set_index("step")
    optim = OptimConfig(schedule="cosine", warmup_steps=6)
    assert table.loc[[22], "optim/lr"].dropna().tolist() == [
        pytest.approx(1e-3 * lr_factor(optim.schedule, optim.warmup_steps, 24)(22))
    ]
    last = json.loads((cut / "summary.json").read_text())["heldout_loss"]["last"]
    assert table.loc[24, "heldout/loss"].dropna().tolist() == [pytest.approx(last)]


def test_a_tokenizer_of_another_model_is_refused_before_anything_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from r1zero.pretrain.run import pretrain as run

    monkeypatch.setenv("R1ZERO_CONF", str(ROOT / "conf"))
    config.register()
    pretrain_config.register()
    model = tmp_path / "model"
    shutil.copytree(ROOT / "src" / "r1zero" / "data" / "assets" / "tiny", model)
    settings = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(settings | {"vocab_size": 50_000}))
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = compose("pretrain", overrides=[*SHORT, "init=null", f"model.path={model}", f"paths.run={tmp_path}"])
    with pytest.raises(UserError, match="has 384 entries and the model 50000; they don't belong together"):
        run(cfg, tmp_path / "run")


def test_a_logger_that_fails_does_not_end_a_pretraining(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """As in train.py: metrics.csv has every figure, and the other loggers go on."""
    told: list[dict[str, float]] = []

    class Broken:
        def log_metrics(self, row: dict[str, float], step: int) -> None:
            raise ConnectionError("gone")

    class Whole:
        def log_metrics(self, row: dict[str, float], step: int) -> None:
            told.append(row)

    trainer: Any = SimpleNamespace(
        global_step=4, loggers=[Broken(), Whole()], state=SimpleNamespace(fn="fit"),
        callback_metrics={"heldout/loss": torch.tensor(2.0)},
    )  # fmt: skip
    callback = MetricsCallback(PretrainContext(None, tmp_path, True, steps=8, parts=1, peak=1.0))  # type: ignore[arg-type]
    callback.on_validation_end(trainer, None)  # type: ignore[arg-type]
    assert told == [{"progress/optimizer_step": 4.0, "heldout/loss": 2.0}]
    assert [type(logger).__name__ for logger in trainer.loggers] == ["Whole"]
    assert "Broken failed (ConnectionError: gone): training continues without it" in caplog.text


def test_secrets_of_the_environment_are_masked_in_the_stored_config(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from r1zero.pretrain.run import pretrain as run

    monkeypatch.setenv("R1ZERO_CONF", str(ROOT / "conf"))
    monkeypatch.setenv("WANDB_API_KEY", "0123456789abcdef")
    config.register()
    pretrain_config.register()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = compose("pretrain", overrides=[*SHORT, f"paths.run={tmp_path}", "group='team-0123456789abcdef'",
                                             "init.heads=7", "+logger.api_key=qwertyuiop"])  # fmt: skip
    with pytest.raises(UserError):
        run(cfg, tmp_path)
    stored = (tmp_path / "config.yaml").read_text()
    assert "group: team-***" in stored
    assert "0123456789abcdef" not in stored
    assert "qwertyuiop" not in stored
