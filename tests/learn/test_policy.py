"""Log-probabilities of the policy against transformers itself (semantics 6, 12, 13; traps 15, 17, 18, 19, 24, 29)."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer

from objective_support import (
    VOCAB,
    LargestTensor,
    make_prompt,
    random_model,
    random_policy,
    random_prompts,
    random_rollout,
)
from r1zero.batch import Completion
from r1zero.config import ModelConfig
from r1zero.learn.collate import collate
from r1zero.learn.policy import Policy
from tiny_models import make_tiny

ARCHITECTURES = [("qwen2", True), ("qwen2", False), ("llama", True), ("llama", False)]


def responses(seed: int = 0) -> tuple[list[Any], list[Completion]]:
    """Six prompts and responses of different lengths."""
    rollout = random_rollout(seed, questions=6, group=2)
    return random_prompts(seed, 6), rollout.completions[::2]


def reference_logprobs(
    model: Any, prompts: list[Any], completions: list[Completion], *, left: bool, temperature: float = 1.0
) -> list[torch.Tensor]:
    """transformers' logits of a batch padded on either side, with its own attention mask and positions."""
    sequences = [p.ids + c.ids for p, c in zip(prompts, completions, strict=True)]
    width = max(map(len, sequences))
    ids, mask = torch.zeros(len(sequences), width, dtype=torch.int64), torch.zeros(len(sequences), width)
    for row, sequence in enumerate(sequences):
        span = slice(width - len(sequence), width) if left else slice(0, len(sequence))
        ids[row, span] = torch.tensor(sequence)
        mask[row, span] = 1
    positions = (mask.cumsum(1) - 1).clamp(min=0).long()
    logits = model(input_ids=ids, attention_mask=mask.long(), position_ids=positions).logits / temperature
    found = []
    for row, (sequence, completion) in enumerate(zip(sequences, completions, strict=True)):
        end = width if left else len(sequence)
        states = torch.log_softmax(logits[row, end - len(completion.ids) - 1 : end - 1].float(), dim=-1)
        found.append(states[torch.arange(len(completion.ids)), torch.tensor(completion.ids)])
    return found


@pytest.mark.parametrize(("arch", "tied"), ARCHITECTURES)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_log_probabilities_equal_those_of_transformers(arch: str, tied: bool, attention: str) -> None:
    """Trap 18: alone, padded left, padded right by transformers; padded and packed by us; all alike."""
    model = random_model(arch, tied=tied, seed=4)
    model.set_attn_implementation(attention)
    policy = Policy(model)
    prompts, completions = responses()
    with torch.no_grad():
        alone = [
            reference_logprobs(model, [p], [c], left=False, temperature=0.5)[0]
            for p, c in zip(prompts, completions, strict=True)
        ]
        left = reference_logprobs(model, prompts, completions, left=True, temperature=0.5)
        right = reference_logprobs(model, prompts, completions, left=False, temperature=0.5)
        layouts = [left, right]
        for packed in (False, True):
            logp, _ = policy(collate(prompts, completions, packed=packed, pad_id=VOCAB - 1), temperature=0.5)
            layouts.append([logp[row, : len(c.ids)] for row, c in enumerate(completions)])
    for layout in layouts:
        for found, expected in zip(layout, alone, strict=True):
            assert torch.allclose(found, expected, atol=1e-5)


def test_padding_is_never_looked_at() -> None:
    """Whatever token stands there, bit for bit; and nothing stands off the mask of the result."""
    policy = random_policy()
    prompts, completions = responses()
    first, entropy = policy(collate(prompts, completions, pad_id=0))
    second, _ = policy(collate(prompts, completions, pad_id=9))
    assert torch.equal(first, second)
    mask = collate(prompts, completions).mask
    assert (first[~mask] == 0).all()
    assert (entropy[~mask] == 0).all()
    assert (first[mask] < 0).all()


def test_a_bigram_model_with_known_logits() -> None:
    """Trap 17: tokens 10 11 12 13 after the prompt 10 11: log p(12 | 11) and log p(13 | 12), and no neighbour's."""
    table = torch.randn(20, 20, generator=torch.Generator().manual_seed(0))

    class Bigram(nn.Module):
        """States are one-hot tokens, the head holds the table: logits of the next token are a row of it."""

        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(20, 20, bias=False)
            self.head.weight.data = table.T.clone()

        def base_model(self, input_ids: torch.Tensor, **kwargs: Any) -> Any:
            return SimpleNamespace(last_hidden_state=nn.functional.one_hot(input_ids, 20).float())

        def get_output_embeddings(self) -> nn.Module:
            return self.head

    logp, entropy = Policy(Bigram())(collate([make_prompt([10, 11])], [Completion([12, 13], "", "stop")]))
    rows = torch.log_softmax(table, dim=-1)
    assert torch.allclose(logp[0], torch.stack([rows[11, 12], rows[12, 13]]))
    assert torch.allclose(entropy[0], -(rows.exp() * rows).sum(-1)[[11, 12]])


def test_the_end_token_is_trained_though_it_is_the_padding_token() -> None:
    """Trap 15: the mask is made of lengths, so the stop token counts and its gradient flows."""
    eos = 7
    micro = collate(
        [make_prompt([1, 2]), make_prompt([eos])],
        [Completion([5, eos], "", "stop"), Completion([eos, eos, eos], "", "stop")],
        pad_id=eos,
    )
    assert micro.mask.tolist() == [[True, True, False], [True, True, True]]
    assert micro.targets.tolist() == [5, eos, eos, eos, eos]
    policy = random_policy()
    logp, _ = policy(micro)
    (grad,) = torch.autograd.grad(logp[0, 1], policy.model.get_output_embeddings().weight)
    assert grad[eos].abs().max() > 1e-3


def test_collate_by_hand() -> None:
    """Trap 24: ids as sampled. source is the flat place of the token before each generated one."""
    prompts = [make_prompt([1, 2, 3]), make_prompt([4])]
    completions = [Completion([5], "", "stop"), Completion([6, 7], "", "length")]
    padded = collate(prompts, completions, pad_id=9)
    assert padded.input_ids.tolist() == [[1, 2, 3, 5], [4, 6, 7, 9]]
    assert padded.position_ids.tolist() == [[0, 1, 2, 3]] * 2
    assert padded.source.tolist() == [2, 4, 5]
    assert padded.targets.tolist() == [5, 6, 7]
    assert padded.mask.tolist() == [[True, False], [True, True]]
    packed = collate(prompts, completions, packed=True)
    assert packed.input_ids.tolist() == [[1, 2, 3, 5, 4, 6, 7]]
    assert packed.position_ids.tolist() == [[0, 1, 2, 3, 0, 1, 2]]
    assert packed.source.tolist() == [2, 4, 5]
    assert packed.scatter(torch.tensor([1.0, 2.0, 3.0])).tolist() == [[1, 0], [2, 3]]
    assert padded.used is not None
    assert padded.used.tolist() == [1, 2, 3, 4, 5, 6, 7, 9]
    assert [t.dtype for t in vars(padded).values()] == [torch.int64] * 4 + [torch.bool, torch.int64]


@pytest.mark.parametrize(("prompt", "response"), [([], [1]), ([1], [])])
def test_prompts_and_responses_need_a_token(prompt: list[int], response: list[int]) -> None:
    """Without a prompt the first token's predictor would be the last token of the row above."""
    with pytest.raises(ValueError, match="at least one token"):
        collate(
            [make_prompt([1]), make_prompt(prompt)], [Completion([1], "", "stop"), Completion(response, "", "stop")]
        )


# -- dropout ---------------------------------------------------------------------------------------------------------


def with_dropout(folder: Path) -> Path:
    make_tiny(folder)
    config = json.loads((folder / "config.json").read_text())
    config["attention_dropout"] = 0.3
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_dropout_is_off_in_training_mode(tmp_path: Path, attention: str) -> None:
    """Semantics 12, trap 29: two forwards agree to the last bit; transformers' own model disagrees with itself."""
    folder = with_dropout(tmp_path / "model")
    policy = Policy.from_folder(folder, ModelConfig(name="t", path=str(folder), attention=attention))
    assert policy.training
    micro = collate(*responses())
    first, second = policy(micro)[0], policy(micro)[0]
    assert torch.equal(first, second)
    with torch.no_grad():
        policy.eval()
        assert torch.allclose(policy(micro)[0], first, atol=1e-6)
    plain = AutoModelForCausalLM.from_pretrained(folder, attn_implementation=attention).train()
    assert not torch.equal(plain(micro.input_ids).logits, plain(micro.input_ids).logits)


def test_dropout_layers_are_off() -> None:
    model = random_model()
    model.extra = nn.Sequential(nn.Dropout(0.5), nn.Dropout(0.1))
    assert [m.p for m in Policy(model).modules() if isinstance(m, nn.Dropout)] == [0.0, 0.0]


# -- number formats ---------------------------------------------------------------------------------------------------


def test_a_bfloat16_folder_trains_in_float32(tmp_path: Path) -> None:
    """Semantics 11."""
    folder = make_tiny(tmp_path / "model", dtype=torch.bfloat16)
    policy = Policy.from_folder(folder, ModelConfig(name="t", path=str(folder)))
    assert {p.dtype for p in policy.parameters()} == {torch.float32}
    assert all(p.requires_grad for p in policy.parameters())
    reference = Policy.from_folder(folder, ModelConfig(name="t", path=str(folder)), trainable=False)
    assert not any(p.requires_grad for p in reference.parameters())
    policy.save(tmp_path / "saved", AutoTokenizer.from_pretrained(folder), torch.bfloat16)
    saved = AutoModelForCausalLM.from_pretrained(tmp_path / "saved", dtype="auto")
    assert saved.dtype == torch.bfloat16, "config.json names the format of the weights: vLLM goes by it"


def test_bfloat16_compute_is_near_and_its_gradient_points_the_same_way() -> None:
    """Trap 22. The backward pass runs inside the autocast region, as a manual optimisation does it."""
    policy = random_policy(scale=0.15)
    micro = collate(*responses())
    found = {}
    for enabled in (False, True):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled, cache_enabled=False):
            logp, entropy = policy(micro)
            assert logp.dtype == torch.float32
            (logp.sum() + entropy.sum()).backward()
        grads = [p.grad.flatten().clone() for p in policy.parameters() if p.grad is not None]
        policy.zero_grad()
        found[enabled] = (logp.detach(), entropy.detach(), torch.cat(grads))
    assert 1e-5 < (found[True][0] - found[False][0])[micro.mask].abs().mean() < 0.05
    assert torch.nn.functional.cosine_similarity(found[True][2], found[False][2], dim=0) > 0.995


# -- memory -----------------------------------------------------------------------------------------------------------


def test_a_forward_and_backward_pass_makes_no_matrix_of_tokens_times_vocabulary(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nor for prompts and padding, which get no logits at all; the model's own forward makes both."""
    vocabulary = 4096
    monkeypatch.setitem(Policy.forward.__globals__["token_logprobs"].__kwdefaults__, "tile", (8, vocabulary))
    policy = random_policy(vocab=vocabulary, hidden=16)
    prompts, completions = random_prompts(0, 12), random_rollout(0, 12, 2, longest=40).completions[::2]
    micro = collate(prompts, completions)
    with LargestTensor() as ours:
        logp, entropy = policy(micro)
        (logp.sum() + entropy.sum()).backward()
    embedding = 16 * vocabulary
    assert ours.elements == embedding
    assert len(micro.targets) * vocabulary > 5 * embedding
    with LargestTensor() as theirs:
        policy.model(micro.input_ids).logits.sum().backward()
    assert theirs.elements == micro.input_ids.numel() * vocabulary


def test_a_compiled_policy_is_the_same_policy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """model.compile changes neither log-probabilities, nor gradients, nor names, whatever the shape of a pass.

    Nor does it give sdpa a mask, which the flash kernel can't take.
    """
    from transformers.models.qwen2 import modeling_qwen2

    masks: list[bool] = []
    theirs = modeling_qwen2.create_causal_mask

    def noting(**keywords: Any) -> Any:
        mask = theirs(**keywords)
        masks.append(mask is not None)
        return mask

    monkeypatch.setattr(modeling_qwen2, "create_causal_mask", noting)
    folder = make_tiny(tmp_path / "model", layers=1)
    plain, compiled = (Policy.from_folder(folder, ModelConfig(name="x", path="x", compile=c)) for c in (False, True))
    assert all(layer._compiled_call_impl is not None for layer in compiled.model.base_model.layers)
    assert [n for n, _ in plain.named_weights()] == [n for n, _ in compiled.named_weights()]
    for seed in (0, 1):
        batch = collate(*responses(seed))
        for policy in (plain, compiled):
            policy.zero_grad()
            logp, entropy = policy(batch)
            (logp.sum() + entropy.sum()).backward()
        assert torch.allclose(plain(batch)[0], compiled(batch)[0], atol=1e-5)
        for one, two in zip(plain.parameters(), compiled.parameters(), strict=True):
            assert torch.allclose(one.grad, two.grad, atol=1e-4)
    assert masks
    assert not any(masks)
