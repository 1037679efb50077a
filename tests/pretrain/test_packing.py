"""Packing: whole documents, boundaries respected, and a packed loss equal to the unpacked one token for token."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from pretrain_support import Counting
from r1zero.config import OptimConfig
from r1zero.pretrain.data import PackedLoader, heldout_rows
from r1zero.pretrain.module import PretrainModule
from r1zero.pretrain.packing import IGNORE, Packer, Rows, to_tensors


def loader(steps: int = 6, rows: int = 4, parts: int = 2, length: int = 32) -> PackedLoader:
    return PackedLoader(Counting(), length=length, rows=rows, parts=parts, steps=steps, pad=0)


def small(kind: str) -> torch.nn.Module:
    torch.manual_seed(0)
    sizes = {
        "vocab_size": 50,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
        "tie_word_embeddings": True,
        "initializer_range": 0.3,
    }
    return Qwen2ForCausalLM(Qwen2Config(**sizes)) if kind == "qwen2" else LlamaForCausalLM(LlamaConfig(**sizes))


def test_to_tensors_by_hand() -> None:
    ids, positions, labels = to_tensors([[[5, 6, 7], [8, 9]], [[4]]], length=6, pad=0)
    assert ids.tolist() == [[5, 6, 7, 8, 9, 0], [4, 0, 0, 0, 0, 0]]
    assert positions.tolist() == [[0, 1, 2, 0, 1, 0], [0, 0, 0, 0, 0, 0]]
    x = IGNORE
    assert labels.tolist() == [[6, 7, x, 9, x, x], [x, x, x, x, x, x]]


def test_rows_hold_whole_documents_and_lose_none() -> None:
    documents = [Counting().read(0.0) for _ in range(1)]
    source = Counting()
    documents = [source.read(0.0) for _ in range(300)]
    packer, stream = Packer(32), iter(documents)
    packed = []
    while row := packer.row(stream):
        assert sum(map(len, row)) <= 32
        packed += row
    assert sorted(packed) == sorted(documents)


def test_long_documents_are_cut_into_pieces_of_a_row() -> None:
    document = list(range(1, 46))
    packer, stream = Packer(20), iter([document])
    rows = [packer.row(stream) for _ in range(4)]
    assert rows == [[document[:20]], [document[20:40]], [document[40:]], []]


def test_what_waits_from_longer_rows_is_cut_to_those_of_now() -> None:
    """A run that is gone on with in shorter rows: a piece that fits into none would make empty rows for ever."""
    before = Packer(40)
    before.row(iter([list(range(1, 31)), list(range(31, 66))]))
    again = Packer(16)
    again.load_state_dict(before.state_dict())
    stream: Iterator[list[int]] = iter([])
    rows = [again.row(stream) for _ in range(4)]
    assert [sum(map(len, row)) for row in rows] == [16, 16, 3, 0]


def test_rows_are_nearly_full() -> None:
    made = list(loader(steps=50, length=64))
    used = sum(int((rows.positions[:, 1:] > 0).sum()) for rows in made)
    slots = sum(rows.ids.numel() for rows in made)
    # A document of n tokens has n - 1 positions above 0; the mean length is 11.
    assert used * 11 / 10 / slots > 0.97


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("kind", ["qwen2", "llama"])
def test_packed_loss_equals_unpacked_loss_token_for_token(kind: str, attention: str) -> None:
    model = small(kind)
    model.set_attn_implementation(attention)
    documents = [Counting(seed=3).read(0.0), [7, 8], [9], [3] * 12, [4, 5, 6, 7, 8], [1, 2, 3]]
    ids, positions, labels = to_tensors([documents[:4], documents[4:]], length=40, pad=0)
    batch = Rows(ids, positions, labels, int((labels != IGNORE).sum()))
    with torch.no_grad():
        packed = PretrainModule(model, OptimConfig(), 1).token_losses(batch)
        alone = []
        for document in documents:
            tokens = torch.tensor([document])
            logprobs = torch.log_softmax(model(input_ids=tokens).logits[0, :-1], dim=-1)
            alone.append(-logprobs.gather(-1, tokens[0, 1:, None])[:, 0])
    expected = torch.cat(alone)
    assert packed.shape == expected.shape
    torch.testing.assert_close(packed, expected, atol=2e-6, rtol=1e-5)
    assert expected.std() > 0.5  # the model tells tokens apart, so that a leak would show


def test_a_neighbour_does_not_change_a_document() -> None:
    module = PretrainModule(small("qwen2"), OptimConfig(), 1)
    losses = []
    for neighbour in ([11, 12, 13, 14], [44, 2, 31, 8]):
        ids, positions, labels = to_tensors([[neighbour, [5, 6, 7, 8]]], length=10, pad=0)
        losses.append(module.token_losses(Rows(ids, positions, labels, 6)))
    assert not torch.allclose(losses[0][:3], losses[1][:3])
    torch.testing.assert_close(losses[0][3:], losses[1][3:])


def test_micro_batches_give_the_gradient_of_the_whole_step() -> None:
    """The mean is over the step's tokens, however they are cut (semantics 5's idea, for pretraining)."""
    grads = []
    for parts in (1, 2, 4):
        module = PretrainModule(small("qwen2"), OptimConfig(), 1)
        module.trainer = SimpleNamespace(world_size=1)  # type: ignore[assignment]
        module.log = lambda *args, **kwargs: None  # type: ignore[assignment]
        batches = list(loader(steps=1, parts=parts))
        assert len(batches) == parts
        for batch in batches:
            (module.training_step(batch, 0) / parts).backward()  # what the Trainer's accumulation does
        grads.append(torch.cat([p.grad.flatten() for p in module.parameters()]))
    torch.testing.assert_close(grads[1], grads[0], atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(grads[2], grads[0], atol=1e-6, rtol=1e-4)


def test_a_resumed_loader_goes_on_with_the_same_rows() -> None:
    whole = list(loader())
    first = loader()
    stream = iter(first)
    head = [next(stream) for _ in range(6)]  # three optimizer steps of two parts
    second = loader()
    second.load_state_dict(first.state_dict())
    rest = head + list(second)
    assert len(rest) == len(whole) == len(first)
    for a, b in zip(rest, whole, strict=True):
        assert torch.equal(a.ids, b.ids)
        assert torch.equal(a.labels, b.labels)


def test_held_out_rows_hold_every_document_once() -> None:
    source = Counting(seed=9)
    documents = [source.read(0.0) for _ in range(100)]
    batches = heldout_rows({"a": documents[:60], "b": documents[60:]}, length=32, rows=5, pad=0)
    targets = sum(int((batch.labels != IGNORE).sum()) for batch in batches)
    assert targets == sum(len(document) - 1 for document in documents)
    assert all(batch.ids.shape[0] <= 5 for batch in batches)
    for source, part in (("a", documents[:60]), ("b", documents[60:])):
        labels = sum(int((batch.labels != IGNORE).sum()) for batch in batches if batch.source == source)
        assert labels == sum(len(document) - 1 for document in part)


def test_losses_and_weights_do_not_depend_on_the_micro_batches() -> None:
    losses, weights = [], []
    for parts in (1, 3):
        module = PretrainModule(small("llama"), OptimConfig(), 3)
        module.trainer = SimpleNamespace(world_size=1)  # type: ignore[assignment]
        optimizer = torch.optim.SGD(module.parameters(), lr=0.05)
        seen = []
        for number, batch in enumerate(loader(steps=3, rows=6, parts=parts), start=1):
            (module.training_step(batch, 0) / parts).backward()
            if number % parts == 0:
                optimizer.step()
                optimizer.zero_grad()
                seen.append(module.take_step_figures()["loss"])
        losses.append(seen)
        weights.append(torch.cat([p.detach().flatten() for p in module.parameters()]))
    assert len(losses[0]) == len(losses[1]) == 3
    assert losses[0][0] != losses[0][-1]
    torch.testing.assert_close(torch.tensor(losses[1]), torch.tensor(losses[0]), atol=2e-6, rtol=1e-6)
    torch.testing.assert_close(weights[1], weights[0], atol=1e-6, rtol=0)
