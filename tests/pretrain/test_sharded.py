"""trainer=fsdp on two gloo ranks: a whole model folder, an exact resume; the folder in vLLM (traps 40, 42)."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch
from rollout_support import differences, start
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

from pretrain_support import Counting, pretrain
from r1zero.errors import UserError
from r1zero.pretrain.data import PackedLoader
from r1zero.rollout.engine import Sampling
from run_support import Server

RANKS = [
    "experiment=tiny_base", "init.architecture=llama", "trainer=fsdp", "trainer.accelerator=cpu", "trainer.devices=2",
    "steps=4", "optim.warmup_steps=1", "eval_every=2", "checkpoint_every=2", "keep=9", "data.heldout_documents=16",
    "step_tokens=1024", "optim.micro_batch_tokens=256", "peak_tflops=1",
]  # fmt: skip


@pytest.fixture(scope="module")
def sharded(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama trained by two ranks, two micro-batches a step each."""
    folder = tmp_path_factory.mktemp("sharded") / "run"
    result = pretrain(server, *RANKS, f"hydra.run.dir={folder}")
    assert result.code == 0, result.err
    return folder


def test_the_exported_folder_is_whole(sharded: Path) -> None:
    """Weights of the last checkpoint, and the held-out loss of the run when one process measures it."""
    exported = load_file(sharded / "policy" / "model.safetensors")
    trained = torch.load(sharded / "checkpoints" / "step_000004.ckpt", weights_only=True)["state_dict"]
    assert {f"model.{name}" for name in exported} == trained.keys() - {"model.lm_head.weight"}
    assert all(torch.equal(trained[f"model.{name}"], tensor) for name, tensor in exported.items())
    model = AutoModelForCausalLM.from_pretrained(sharded / "policy")
    assert isinstance(model, LlamaForCausalLM)
    assert model.num_parameters() == json.loads((sharded / "summary.json").read_text())["parameters"] > 300_000
    losses = pd.read_csv(sharded / "metrics.csv")["train/loss"].dropna()
    assert losses.iloc[-1] < losses.iloc[0] - 0.5


def test_every_rank_goes_on_at_its_own_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint holds the places of all ranks; one of another number of devices is refused."""

    def loader(rank: int, world: int = 2) -> PackedLoader:
        documents = Counting(seed=rank)
        return PackedLoader(documents, length=32, rows=2, parts=1, steps=4, pad=0, rank=rank, world=world)

    def gather(states: list, own: dict) -> None:
        states[:] = [each.own_state() for each in loaders]

    loaders = [loader(0), loader(1)]
    rows = [[batch.ids.tolist() for batch in each] for each in loaders]
    loaders = [loader(0), loader(1)]
    begun = [iter(each) for each in loaders]
    for each in begun:
        next(each), next(each)
    monkeypatch.setattr(torch.distributed, "all_gather_object", gather)
    state = loaders[0].state_dict()
    assert state == loaders[1].state_dict()
    for rank in (0, 1):
        resumed = loader(rank)
        resumed.load_state_dict(state)
        assert [batch.ids.tolist() for batch in resumed] == rows[rank][2:]
    assert rows[0] != rows[1]
    with pytest.raises(UserError, match=r"of 2 device\(s\), this run has 1: continue with trainer.devices=2"):
        loader(0, 1).load_state_dict(state)


@pytest.mark.slow
def test_a_sharded_run_goes_on_exactly(server: Server, sharded: Path, tmp_path: Path) -> None:
    cut = tmp_path / "run"
    shutil.copytree(sharded, cut)
    (cut / "checkpoints" / "step_000004.ckpt").unlink()
    shutil.rmtree(cut / "policy")
    result = pretrain(server, f"resume={cut}")
    assert result.code == 0, result.err
    assert "step_000002.ckpt" in result.out
    first, second = (load_file(folder / "policy" / "model.safetensors") for folder in (sharded, cut))
    assert all(torch.equal(first[name], second[name]) for name in first)
    columns = ["step", "train/loss", "optim/grad_norm", "heldout/loss"]
    tables = [pd.read_csv(folder / "metrics.csv")[columns] for folder in (sharded, cut)]
    pd.testing.assert_frame_equal(*tables, check_exact=True)


@pytest.mark.vllm
@pytest.mark.slow
def test_the_exported_folder_in_vllm(sharded: Path) -> None:
    """vLLM gives the tokens that it samples from the folder the log-probabilities of transformers."""
    folder = sharded / "policy"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    prompts = [tokenizer.encode(text) for text in ("Question: 3+4=?\nAnswer:", "5-2=", "\n")]
    engine = start("vllm", folder)
    try:
        groups = engine.generate(prompts, Sampling(n=4, max_tokens=24), 3)
    finally:
        engine.close()
    found = differences(AutoModelForCausalLM.from_pretrained(folder).eval(), prompts, groups)
    assert len(found) > 100
    assert found.max() < 1e-4
