"""Gradients of embedding and head summed in ``.grad``: those of autograd to the last bit, and no matrix beside them."""

from __future__ import annotations

import random

import pytest
import torch
from torch import nn
from transformers import Qwen2Config, Qwen2ForCausalLM

from objective_support import make_prompt
from r1zero.algo.in_place import looks_up
from r1zero.batch import Completion
from r1zero.learn.collate import collate
from r1zero.learn.policy import Policy


def policy_of(tied: bool, vocab: int, padding: int | None) -> Policy:
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=vocab,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        tie_word_embeddings=tied,
        pad_token_id=padding,
    )
    return Policy(Qwen2ForCausalLM(config)).train()


def gradients(policy: Policy, vocab: int, bfloat16: bool = False) -> dict[str, torch.Tensor]:
    """What three passes add up to; ids repeat within a pass and between passes, id 7 is always among them."""
    rng = random.Random(1)
    for _ in range(3):
        prompts = [make_prompt([1, 2, 7, 4])] * 4
        completions = [Completion([rng.randrange(vocab) for _ in range(n)], "", "stop") for n in (10, 20, 5, 30)]
        with torch.autocast("cpu", torch.bfloat16, bfloat16, cache_enabled=False):
            logp, entropy = policy(collate(prompts, completions))
            (0.3 * logp.sum() + 0.1 * entropy.sum()).backward()
    return {name: p.grad for name, p in policy.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(("vocab", "padding", "bfloat16"), [(300, None, False), (2500, 7, False), (2500, 0, True)])
def test_sums_are_those_of_autograd_to_the_last_bit(
    tied: bool, vocab: int, padding: int | None, bfloat16: bool
) -> None:
    """A vocabulary of one tile and of several, with and without a padding id, whose row no lookup trains."""
    expected = gradients(policy_of(tied, vocab, padding), vocab, bfloat16)
    policy = policy_of(tied, vocab, padding)
    policy.sum_gradients()
    found = gradients(policy, vocab, bfloat16)
    assert found.keys() == expected.keys()
    assert [name for name in expected if not torch.equal(found[name], expected[name])] == []


@pytest.mark.parametrize("post", [False, True])
def test_a_hook_still_sees_the_gradient(post: bool) -> None:
    """Each pass's, or what they have come to."""
    policy, seen = policy_of(True, 300, None), []
    policy.sum_gradients()
    weight = policy.model.get_input_embeddings().weight
    if post:
        weight.register_post_accumulate_grad_hook(lambda parameter: seen.append(parameter.grad.norm()))
    else:
        weight.register_hook(lambda gradient: seen.append(gradient.norm()))
    gradients(policy, 300)
    assert len(seen) == 3
    assert min(seen) > 0


def test_frozen_matrices_get_none_and_other_embeddings_keep_autograd() -> None:
    policy = policy_of(False, 300, None)
    policy.sum_gradients()
    policy.model.get_output_embeddings().weight.requires_grad_(False)
    assert not [name for name in gradients(policy, 300) if "lm_head" in name]

    class Scaled(nn.Embedding):
        """As Gemma's."""

    assert looks_up(nn.Embedding(4, 2))
    for other in (Scaled(4, 2), nn.Embedding(4, 2, max_norm=1.0), nn.Embedding(4, 2, sparse=True)):
        assert not looks_up(other)
