"""Experiments of pretraining: each composes, the paper's settings, the chain of Fig. 7 at full size run in small."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hydra import compose, initialize_config_dir
from transformers import AutoModelForCausalLM

from r1zero import config
from r1zero.errors import UserError
from r1zero.lab.study.config import is_study
from r1zero.launch.arguments import options
from r1zero.pretrain import config as pretrain_config
from r1zero.pretrain.checks import check
from r1zero.pretrain.run import pretrain
from r1zero.train import checks
from tiny_models import make_tiny

ROOT = Path(__file__).resolve().parents[2]
CONF = ROOT / "conf"
EXPERIMENTS = [n for n in options(CONF, "pretrain/experiment") if not is_study([f"experiment={n}"], CONF)]
SMALL = [
    "trainer=cpu", "model.dtype=float32", "model.context=256", "model.gradient_checkpointing=false", "step_tokens=256",
    "data.row_tokens=64", "data.heldout_documents=4", "optim.warmup_steps=1", "optim.lr=3e-3", "eval_every=5",
    "checkpoint_every=0", "optim.micro_batch_tokens=256", "threads=1",
]  # fmt: skip
"""Settings that cut a full-size experiment down to seconds; the sources' fields and forms stay its own."""


@pytest.fixture(autouse=True)
def conf(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("R1ZERO_CONF", str(CONF))
    config.register()
    pretrain_config.register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield


def composed(*overrides: str, name: str = "pretrain") -> Any:
    return compose(name, overrides=["paths.run=run", *overrides])


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_passes_its_checks(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    cfg = composed(f"experiment={name}")
    assert cfg.name == name
    try:
        check(cfg)
    except UserError as error:
        assert "is not made yet: python scripts/pretrain.py experiment=" in str(error)  # noqa: PT017


@pytest.mark.parametrize(
    "option", [n for n in options(CONF, "model") if "/bases/" in (CONF / "model" / f"{n}.yaml").read_text()]
)
def test_a_model_that_is_to_be_made_names_the_experiment_that_makes_it(
    option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    cfg = composed("experiment=demo", f"model={option}", name="train")
    with pytest.raises(UserError, match="is not made yet") as error:
        checks.check(cfg)
    command = str(error.value).partition(": python scripts/pretrain.py ")[2].split()
    experiment = command[0].removeprefix("experiment=")
    assert experiment in EXPERIMENTS
    assert command[1] == f"hydra.run.dir=outputs/bases/{experiment}"
    assert cfg.model.path == f"outputs/bases/{experiment}/policy"


def test_the_full_size_experiments_have_the_papers_settings() -> None:
    """NuminaQA: learning rate 1e-5, 2 passes, question and solution put together without a template."""
    web, qa = (check(composed(f"experiment=llama3b_{name}")) for name in ("finemath", "numinaqa"))
    assert (qa.optim.lr, qa.epochs, qa.steps, qa.data.row_tokens) == (1e-5, 2, None, 4096)
    source = qa.data.sources["qa"]
    assert (source.path, source.split, source.format) == ("AI-MO/NuminaMath-1.5", "train", "qa_text")
    assert (source.template, source.box) == ("{question}\n{answer}", False)
    published = composed("model=llama3b_finemath", name="train").model.path
    assert (web.model.path, qa.model.path) == ("meta-llama/Llama-3.2-3B", published)
    source = web.data.sources["text"]
    assert (source.path, source.subset, web.data.row_tokens) == ("HuggingFaceTB/finemath", "finemath-4plus", 4096)
    assert 9e9 < web.steps * web.step_tokens < 1e10
    for cfg in (web, qa):
        assert (cfg.model.dtype, cfg.trainer["accelerator"], cfg.init) == ("auto", "gpu", None)


def test_fig7_at_full_size_asks_for_the_bases_that_are_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(checks, "has_gpu", lambda: True)
    for experiment, hub in (("full", True), ("full_own", False)):
        sweep = ["sweep=fig7", f"experiment={experiment}"]
        for base in composed(*sweep, name="train").axes.bases.split(","):
            cfg = composed(*sweep, f"model={base}", name="train")
            assert cfg.template.name == "r1"
            if hub or base == "llama3b":
                checks.check(cfg)
                assert cfg.model.path.count("/") == 1
                continue
            made = base.removesuffix("_own")
            with pytest.raises(UserError, match=f"python scripts/pretrain.py experiment={made} hydra.run.dir="):
                checks.check(cfg)


def shard(folder: Path, name: str, rows: list[dict[str, Any]]) -> Path:
    """A folder of parquet files as the hub holds it, in two files."""
    folder.mkdir(parents=True)
    half = len(rows) // 2
    for number, part in enumerate((rows[:half], rows[half:])):
        pq.write_table(pa.Table.from_pylist(part), folder / f"{name}-0000{number}-of-00002.parquet")
    return folder


def test_the_chain_of_full_size_experiments_in_small(tmp_path: Path) -> None:
    """A tiny Llama, then FineMath's columns, then NuminaMath's from what came of it: what RL would start from."""
    base = make_tiny(tmp_path / "llama", arch="llama", context=512)
    web = [
        {"url": f"https://example.org/{n}", "text": f"Take {n} + {n}. The sum of {n} and {n} is {2 * n}. " * 3,
         "token_count": 30, "score": 4.1, "int_score": 4, "language": "en"}
        for n in range(60)
    ]  # fmt: skip
    qa = [
        {"problem": f"What is {n} + {n}?", "solution": f"{n} + {n} = {2 * n}, so it is $\\boxed{{{2 * n}}}$.",
         "answer": str(2 * n), "problem_type": "Algebra", "source": "made", "synthetic": False}
        for n in range(60)
    ]  # fmt: skip
    paths = (
        shard(tmp_path / "finemath" / "finemath-4plus", "train", web),
        shard(tmp_path / "numina" / "data", "train", qa),
    )
    first, second = tmp_path / "web", tmp_path / "qa"
    cfg = composed(
        "experiment=llama3b_finemath", *SMALL, "steps=20", f"model.path={base}", f"data.sources.text.path={paths[0]}"
    )
    assert pretrain(cfg, first) == 0
    cfg = composed(
        "experiment=llama3b_numinaqa", *SMALL, f"model.path={first / 'policy'}", f"data.sources.qa.path={paths[1]}"
    )
    second.mkdir()
    (second / "tokens.json").write_text('{"tokens_of_a_pass": 7}')  # of an earlier run there, with other text
    assert pretrain(cfg, second) == 0

    summaries = [json.loads((folder / "summary.json").read_text()) for folder in (first, second)]
    for summary in summaries:
        assert summary["heldout_loss"]["last"] < summary["heldout_loss"]["first"] - 0.3
    tokens = json.loads((second / "tokens.json").read_text())["tokens_of_a_pass"]
    assert tokens > 1000
    assert summaries[1]["steps"] == -(-2 * tokens // 256), "two passes"
    assert yaml.safe_load((second / "config.yaml").read_text())["model"]["path"] == str(first / "policy")
    assert AutoModelForCausalLM.from_pretrained(second / "policy").config.architectures == ["LlamaForCausalLM"]
    run = composed(
        "experiment=demo", "model=folder", f"model.path={second / 'policy'}", "rollout.max_tokens=128", name="train"
    )
    checks.check(run)
    assert run.model.context == 512
