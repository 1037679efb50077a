"""The tiled head against whole logits (semantics 6; traps 17, 19, 22)."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch

from objective_support import LargestTensor
from r1zero.algo.logprobs import logprobs_from_logits, token_logprobs

M, V, H = 23, 50, 16
TILES = [(1, V), (7, 20), (5, 1), (M, V), (10**5, 10**4)]
"""One token at a time; ragged ends on both sides; one entry at a time; exactly all; more than all."""


def problem(dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(M, H, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
    weight = torch.randn(V, H, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
    return hidden, weight, torch.randint(V, (M,), generator=generator)


def mixed(logp: torch.Tensor, entropy: torch.Tensor) -> torch.Tensor:
    """A scalar in which every token's log-probability and entropy has a weight of its own."""
    steps = torch.arange(len(logp), dtype=logp.dtype)
    return (logp * torch.sin(steps + 1)).sum() + (entropy * torch.cos(steps)).sum()


@pytest.mark.parametrize("tile", TILES)
@pytest.mark.parametrize("temperature", [1.0, 0.5, 1.7])
def test_values_and_gradients_equal_those_of_whole_logits(tile: tuple[int, int], temperature: float) -> None:
    hidden, weight, targets = problem()
    ours = token_logprobs(hidden, weight, targets, temperature=temperature, tile=tile)
    theirs = logprobs_from_logits(hidden @ weight.T, targets, temperature=temperature)
    for mine, plain in zip(ours, theirs, strict=True):
        assert mine.dtype == torch.float32
        assert torch.allclose(mine, plain, atol=2e-6, rtol=1e-5)
    mine = torch.autograd.grad(mixed(*ours), (hidden, weight))
    plain = torch.autograd.grad(mixed(*theirs), (hidden, weight))
    for left, right in zip(mine, plain, strict=True):
        assert torch.allclose(left, right, atol=2e-5, rtol=1e-5)


def test_another_librarys_products_make_every_logit_of_a_large_vocabulary() -> None:
    """Float32 alone, and none where the vocabulary is one tile: there torch's own keep every bit."""
    hidden, weight, targets = problem()
    shapes: list[tuple[int, int, int]] = []

    def product(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        shapes.append((left.shape[0], right.shape[0], left.shape[1]))
        return left @ right.T

    def results(**keywords: Any) -> list[torch.Tensor]:
        values = token_logprobs(hidden, weight, targets, temperature=0.5, **keywords)
        return [*values, *torch.autograd.grad(mixed(*values), (hidden, weight))]

    for mine, plain in zip(results(tile=(9, 20), product=product), results(), strict=True):
        assert torch.allclose(mine, plain, atol=2e-5, rtol=1e-5)
    multiplied = sum(m * n * k for m, n, k in shapes)
    assert multiplied == 4 * M * V * H  # once in the forward pass; again for the gradients, and once for each of them
    shapes.clear()
    results(tile=(9, V), product=product)
    token_logprobs(hidden.bfloat16(), weight.bfloat16(), targets, tile=(9, 20), product=product)
    assert shapes == []


@pytest.mark.parametrize(("dtype", "tile"), [(torch.float32, (9, 20)), (torch.bfloat16, (M, V))])
def test_the_compiled_tile_is_the_same_tile(
    dtype: torch.dtype, tile: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a GPU runs, through the CPU's compiler: values and gradients, of several tiles and of one."""
    if not any(map(shutil.which, (os.environ.get("CXX", "g++"), "g++", "clang++"))):
        pytest.skip("no C++ compiler")
    # The usual folder is every process's; this one stays for the next run, as a compiler takes its time.
    folder = f"r1zero_inductor_{os.getuid()}_{os.environ.get('PYTEST_XDIST_WORKER', 'alone')}"
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(Path(tempfile.gettempdir()) / folder))
    hidden, weight, targets = problem(dtype)
    found = []
    for compiled in (False, True):
        values = token_logprobs(hidden, weight, targets, temperature=0.7, tile=tile, compiled=compiled)
        found.append([*values, *torch.autograd.grad(mixed(*values), (hidden, weight))])
    for plain, made in zip(*found, strict=True):
        assert plain.dtype == made.dtype
        # A bfloat16 gradient is rounded to 8 bits: by another order of sums to the neighbour at worst.
        assert torch.allclose(plain, made, atol=1e-5, rtol=1e-5 if plain.dtype == torch.float32 else 2**-7)


@pytest.mark.parametrize("what", ["logp", "entropy", "both"])
def test_gradcheck_in_float64(what: str) -> None:
    """Against finite differences: no formula of ours on either side."""
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randn(5, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(7, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    targets = torch.tensor([0, 6, 2, 2, 5])

    def function(h: torch.Tensor, w: torch.Tensor) -> Any:
        logp, entropy = token_logprobs(h, w, targets, temperature=0.7, tile=(2, 3))
        return {"logp": logp, "entropy": entropy, "both": (logp, entropy)}[what]

    assert torch.autograd.gradcheck(function, (hidden, weight))


def test_without_entropy_the_log_probabilities_are_the_same() -> None:
    hidden, weight, targets = problem()
    with_it, _ = token_logprobs(hidden, weight, targets)
    without, zeros = token_logprobs(hidden, weight, targets, with_entropy=False)
    assert torch.equal(with_it, without)
    assert zeros.abs().max() == 0
    grads = [torch.autograd.grad(value.sum(), (hidden, weight)) for value in (with_it, without)]
    assert all(torch.equal(left, right) for left, right in zip(*grads, strict=True))


def test_temperature_divides_the_logits() -> None:
    """Trap 19, by hand: logits (0, ln 3) at temperature 1/2 are (0, 2 ln 3), so p = (1/10, 9/10)."""
    weight = torch.tensor([[0.0], [torch.log(torch.tensor(3.0))]])
    logp, entropy = token_logprobs(torch.ones(2, 1), weight, torch.tensor([0, 1]), temperature=0.5)
    assert torch.allclose(logp.exp(), torch.tensor([0.1, 0.9]))
    assert entropy[0].item() == pytest.approx(-(0.1 * torch.tensor(0.1).log() + 0.9 * torch.tensor(0.9).log()).item())


@pytest.mark.parametrize("temperature", [0.0, -1.0])
def test_temperature_zero_is_refused(temperature: float) -> None:
    with pytest.raises(ValueError, match="must be above 0"):
        token_logprobs(*problem(), temperature=temperature)


def test_softmax_runs_in_float32_on_bfloat16_states() -> None:
    """The logits are those of a bfloat16 product; from there on nothing is rounded to 8 bits (trap 22)."""
    hidden, weight, targets = problem(torch.bfloat16)
    ours = token_logprobs(hidden, weight, targets, temperature=0.5, tile=(7, 20))
    theirs = logprobs_from_logits(hidden @ weight.T, targets, temperature=0.5)
    for mine, plain in zip(ours, theirs, strict=True):
        assert mine.dtype == torch.float32
        assert torch.allclose(mine, plain, atol=2e-6, rtol=1e-5)
    rounded = torch.log_softmax((hidden @ weight.T) / 0.5, dim=-1).gather(-1, targets[:, None])[:, 0].float()
    assert (rounded - ours[0]).abs().max() > 1e-3


@pytest.mark.parametrize("entropy", [False, True])
def test_bfloat16_states_with_a_float32_weight(entropy: bool) -> None:
    """The mixed case: gradients come back in the dtypes of their tensors and are near the float32 ones."""
    full_hidden, full_weight, targets = problem()
    hidden = full_hidden.detach().bfloat16().requires_grad_()
    weight = full_weight.detach().clone().requires_grad_()
    exact_hidden = hidden.detach().float().requires_grad_()
    exact_weight = weight.detach().bfloat16().float().requires_grad_()

    def loss(pair: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        return mixed(*pair) if entropy else pair[0].sum()

    loss(token_logprobs(hidden, weight, targets, tile=(7, 20))).backward()
    loss(logprobs_from_logits(exact_hidden @ exact_weight.T, targets)).backward()
    assert hidden.grad is not None
    assert weight.grad is not None
    assert (hidden.grad.dtype, weight.grad.dtype) == (torch.bfloat16, torch.float32)
    for found, exact in ((hidden.grad.float(), exact_hidden.grad), (weight.grad, exact_weight.grad)):
        assert exact is not None
        assert (found - exact).norm() / exact.norm() < 0.02


def test_autocast_changes_neither_forward_nor_backward() -> None:
    """The backward pass of a manual optimisation runs inside the autocast region.

    Logits made again there in bfloat16 would not fit the float32 normaliser saved by the forward pass.
    """
    hidden, weight, targets = problem()
    plain = torch.autograd.grad(mixed(*token_logprobs(hidden, weight, targets)), (hidden, weight))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = torch.autograd.grad(mixed(*token_logprobs(hidden, weight, targets)), (hidden, weight))
    assert all(torch.equal(left, right) for left, right in zip(plain, inside, strict=True))


def test_a_frozen_head_costs_no_gradient_of_its_size() -> None:
    """With adapters the head is frozen; its gradient would be the largest tensor of all."""
    hidden, weight, targets = problem()
    (expected,) = torch.autograd.grad(mixed(*token_logprobs(hidden, weight, targets)), hidden)
    frozen = weight.detach()
    loss = mixed(*token_logprobs(hidden, frozen, targets, tile=(3, 16)))
    with LargestTensor() as largest:
        (found,) = torch.autograd.grad(loss, hidden)
    assert torch.allclose(found, expected, atol=2e-5)
    assert largest.elements < V * H


def test_extreme_logits_stay_finite() -> None:
    """A distribution of probability 1 on one token: log-probability 0, entropy 0, gradients 0, no NaN."""
    hidden = torch.full((3, 1), 100.0, requires_grad=True)
    weight = torch.tensor([[0.0], [-5.0], [10.0]], requires_grad=True)
    logp, entropy = token_logprobs(hidden, weight, torch.tensor([2, 0, 1]))
    assert logp.tolist() == [0.0, -1000.0, -1500.0]
    assert entropy.abs().max() < 1e-6
    (logp.sum() + entropy.sum()).backward()
    assert hidden.grad is not None
    assert torch.isfinite(hidden.grad).all()
    assert hidden.grad[0].item() == 0


def test_no_tokens_give_empty_results() -> None:
    hidden, weight, _ = problem()
    logp, entropy = token_logprobs(hidden[:0], weight, torch.empty(0, dtype=torch.int64))
    assert (logp.shape, entropy.shape) == ((0,), (0,))


def test_no_tensor_of_tokens_times_vocabulary_is_ever_made() -> None:
    """Nor in the backward pass; the whole logits, measured alike, do make one."""
    tokens, vocabulary, width = 96, 2048, 8
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(tokens, width, generator=generator, requires_grad=True)
    weight = torch.randn(vocabulary, width, generator=generator, requires_grad=True)
    targets = torch.randint(vocabulary, (tokens,), generator=generator)
    with LargestTensor() as tiled:
        mixed(*token_logprobs(hidden, weight, targets, tile=(5, 512))).backward()
    assert tiled.elements == vocabulary * width  # the head itself and its gradient
    with LargestTensor() as whole:
        mixed(*logprobs_from_logits(hidden @ weight.T, targets)).backward()
    assert whole.elements == tokens * vocabulary
