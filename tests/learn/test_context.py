"""Passes that ranks make together: how a batch is cut, which models can't be. Two ranks: tests/scale/test_fsdp.py."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, MistralConfig

from objective_support import random_model, random_prompts, random_rollout
from r1zero.errors import UserError
from r1zero.learn.collate import MicroBatch, collate
from r1zero.learn.context import Context


def member(size: int, rank: int) -> Context:
    """One of a group's ranks, without the group."""
    one = object.__new__(Context)
    one.group, one.size, one.rank = None, size, rank
    return one


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_the_shares_of_all_ranks_are_the_batch(size: int) -> None:
    """Each sampled token is predicted on one rank, by the same token at the same position."""
    prompts = random_prompts(1, 4)
    batch = collate(prompts, random_rollout(1).completions[::4])
    shares = [member(size, rank).share(batch) for rank in range(size)]
    width = batch.input_ids.shape[1]
    for name in ("input_ids", "position_ids"):
        assert torch.equal(
            torch.cat([getattr(share, name) for share in shares], dim=1)[:, :width], getattr(batch, name)
        )
    assert len({share.input_ids.shape for share in shares}) == 1
    assert sum(share.mask.int() for share in shares).equal(batch.mask.int())

    def pairs(one: MicroBatch) -> list[Any]:
        """Predicting token, its position, predicted token."""
        at = one.source
        return list(zip(one.input_ids.flatten()[at], one.position_ids.flatten()[at], one.targets, strict=True))

    back = sum(share.scatter(share.targets.float()) for share in shares)
    assert back.equal(batch.scatter(batch.targets.float()))
    assert sorted(map(str, pairs(batch))) == sorted(str(pair) for share in shares for pair in pairs(share))


def test_attention_that_cant_be_cut_is_refused() -> None:
    config = MistralConfig(
        vocab_size=16, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, sliding_window=4,
    )  # fmt: skip
    with pytest.raises(
        UserError, match=r"optim\.context_parallel=2: MistralForCausalLM has attention that can't be cut"
    ):
        member(2, 0).serve(AutoModelForCausalLM.from_config(config))
    with pytest.raises(UserError, match=r"optim\.context_parallel=3 .* this model has 2: choose a divisor"):
        member(3, 0).serve(random_model())
