"""What stands between sampler and learner, and the layout in which nothing does (docs/scale/consistency.md)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from r1zero.batch import Prompt, Question
from r1zero.config import ASSETS, ModelConfig
from r1zero.learn.collate import collate
from r1zero.learn.policy import Policy
from r1zero.rollout.engine import Sampling
from r1zero.rollout.hf.engine import HFEngine

TINY = ASSETS / "tiny"


def in_float64(
    module: Any, query: Any, key: Any, value: Any, attention_mask: Any, scaling: float, **kwargs: Any
) -> tuple[torch.Tensor, None]:
    """Attention whose sums are rounded to float32 once, so that their order does not show."""
    scores = query.double() @ key.double().transpose(-1, -2) * scaling
    queries, keys = scores.shape[-2:]
    seen = (
        torch.ones(queries, keys, dtype=torch.bool).tril(keys - queries) if attention_mask is None else attention_mask
    )
    weights = scores.masked_fill(~seen, -1e30).softmax(-1)
    return (weights @ value.double()).to(query.dtype).transpose(1, 2).contiguous(), None


@pytest.fixture(params=["as it is", "in float64"])
def attention(request: pytest.FixtureRequest) -> Iterator[str]:
    usual = ALL_ATTENTION_FUNCTIONS["sdpa"]
    if request.param == "in float64":
        ALL_ATTENTION_FUNCTIONS["sdpa"] = in_float64
    yield request.param
    ALL_ATTENTION_FUNCTIONS["sdpa"] = usual


@torch.no_grad()
def test_the_order_of_sums_in_attention_and_head_is_all_that_differs(attention: str) -> None:
    """With attention in float64 and a plain log-softmax, all tokens but a response's first are equal to the last bit.

    The head gives those from four rows, one a prompt, which is too few for equal bits (consistency_table.py).
    """
    tokenizer = AutoTokenizer.from_pretrained(TINY)
    prompts = [tokenizer.encode(f"Question: {a}+6-2-{b}=?\nAnswer:") for a in (2, 3) for b in (1, 14)]
    policy = Policy.from_folder(TINY, ModelConfig(name="tiny", path=str(TINY), dtype="float32"), trainable=False)
    many, few = torch.randn(64, 96), policy.model.lm_head
    if not torch.equal(few(many)[:16], few(many[:16])):
        pytest.skip("this processor multiplies 16 rows in another order than 64")
    engine = HFEngine(str(TINY), dtype="float32", context=256)
    tiled, plain = [], []
    for ids, group in zip(prompts, engine.generate(prompts, Sampling(n=16, max_tokens=48), seed=3), strict=True):
        micro = collate([Prompt(Question("", ("",)), "", ids)] * 16, group)
        sampler = torch.tensor([completion.logprobs for completion in group])
        tiled.append((policy(micro)[0] - sampler).abs())
        rows = policy.model(micro.input_ids).logits.log_softmax(-1).flatten(0, 1)[micro.source]
        plain.append((micro.scatter(rows.gather(1, micro.targets[:, None])[:, 0]) - sampler).abs())
    assert 0 < torch.cat(tiled).mean() < 1e-6
    if attention == "in float64":
        assert torch.cat(plain)[:, 1:].max() == 0
    else:
        assert 0 < torch.cat(plain).mean() < torch.cat(tiled).mean()
