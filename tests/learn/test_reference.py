"""The reference of the KL in bfloat16: half the memory, and the log-probabilities of equal weights to the last bit."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from objective_support import random_policy, random_prompts, random_rollout
from r1zero.config import LoRAConfig, ModelConfig
from r1zero.lab.audit.model import Model
from r1zero.learn.collate import MicroBatch, collate
from r1zero.learn.lora import add_adapters
from r1zero.learn.policy import Policy
from tiny_models import make_tiny


def micro() -> MicroBatch:
    return collate([p for p in random_prompts(0, 4) for _ in range(4)], random_rollout(0).completions)


def logprobs(policy: Policy, compute: torch.dtype) -> torch.Tensor:
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, compute == torch.bfloat16, cache_enabled=False):
        return policy(micro(), 0.7)[0]


def published(tied: bool) -> Policy:
    """Weights as a hub stores them, in bfloat16, held in float32."""
    policy = random_policy(tied=tied)
    for parameter in policy.parameters():
        parameter.data = parameter.data.bfloat16().float()
    return policy


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("adapters", [False, True])
def test_equal_weights_have_a_kl_of_exactly_zero(tied: bool, adapters: bool) -> None:
    """Masters in float32 under autocast, or a base frozen in bfloat16, against the reference of each."""
    policy, reference = published(tied), published(tied)
    if adapters:
        add_adapters(policy.model, LoRAConfig(rank=4), torch.bfloat16)
    whole = sum(p.nbytes for p in reference.parameters())
    reference.store_in(torch.bfloat16, everything=adapters)
    assert sum(p.nbytes for p in reference.parameters()) < 0.51 * whole
    assert torch.equal(logprobs(policy, torch.bfloat16), logprobs(reference, torch.bfloat16))


@pytest.mark.parametrize("rank", [0, 4])
def test_the_audit_rounds_the_same_weights(tmp_path: Path, rank: int) -> None:
    cfg = ModelConfig(name="tiny", path=str(make_tiny(tmp_path)), reference_dtype="bfloat16", lora=LoRAConfig(rank))
    stored = Policy.from_folder(tmp_path, cfg, trainable=False)
    settings = asdict(cfg) | {"dtype": "bfloat16" if rank else "float32"}
    recomputed = Model(settings, 1.0).reference
    for name, parameter in stored.model.named_parameters():
        assert torch.equal(parameter.double(), recomputed[name]), name


def test_it_computes_beside_a_policy_in_float32_too() -> None:
    policy, reference = published(True), published(True)
    reference.store_in(torch.bfloat16)
    exact, near = (logprobs(x, torch.float32) for x in (policy, reference))
    assert 0 < float((exact - near).abs().max()) < 0.2


@pytest.mark.parametrize(("dtype", "stored"), [("auto", "float32"), ("float32", "float32"), ("bfloat16", "bfloat16")])
def test_a_reference_is_loaded_in_its_format_and_a_policy_never(tmp_path: Path, dtype: str, stored: str) -> None:
    """The run has settled ``auto`` before anything is loaded; without a run it is float32."""
    cfg = ModelConfig(name="tiny", path=str(make_tiny(tmp_path)), reference_dtype=dtype)
    kinds = {p.dtype for p in Policy.from_folder(tmp_path, cfg, trainable=False).parameters()}
    assert kinds == {torch.float32, getattr(torch, stored)}, "gains and biases stay float32"
    assert {p.dtype for p in Policy.from_folder(tmp_path, cfg).parameters()} == {torch.float32}
