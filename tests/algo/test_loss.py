"""The loss by hand, in fractions (semantics 3, 4, 7, 8; traps 1, 2, 3, 5, 6, 15, 23)."""

from __future__ import annotations

import math
from fractions import Fraction as F

import pytest
import torch

from r1zero.algo.advantages import group_advantages
from r1zero.algo.loss import aggregate, clipped_surrogate, kl_penalty, sampler_weight

# Two groups of three short responses, rewards (1, 0, 0) and (1, 1, 0), clip 0.2 on both sides, C = 10, B = 6.
REWARDS = [1.0, 0, 0, 1, 1, 0]
RATIOS = [
    [F(1), F(5, 4)],
    [F(1), F(3, 4), F(9, 10)],
    [F(3, 2)],
    [F(11, 10), F(1)],
    [F(1), F(1), F(1, 2), F(1)],
    [F(1), F(5, 4), F(3, 4)],
]
ADVANTAGES = [F(2, 3), F(-1, 3), F(-1, 3), F(1, 3), F(1, 3), F(-2, 3)]
TOKEN_LOSSES = [
    [F(-2, 3), F(-4, 5)],  # 5/4 is clipped to 6/5: 6/5 x 2/3
    [F(1, 3), F(4, 15), F(3, 10)],  # 3/4 is clipped to 4/5 where A < 0: 4/5 x 1/3
    [F(1, 2)],  # 3/2 is not clipped where A < 0, however large
    [F(-11, 30), F(-1, 3)],
    [F(-1, 3), F(-1, 3), F(-1, 6), F(-1, 3)],  # 1/2 is not clipped where A > 0, however small
    [F(2, 3), F(5, 6), F(8, 15)],
]
SLOPES = [  # d l / d logp = -ratio A, and 0 where the clip is active
    [F(-2, 3), F(0)],
    [F(1, 3), F(0), F(3, 10)],
    [F(1, 2)],
    [F(-11, 30), F(-1, 3)],
    [F(-1, 3), F(-1, 3), F(-1, 6), F(-1, 3)],
    [F(2, 3), F(5, 6), F(0)],
]
SUMS = [F(-22, 15), F(9, 10), F(1, 2), F(-7, 10), F(-7, 6), F(61, 30)]
STD = math.sqrt(1 / 3)  # both groups: (4/9 + 1/9 + 1/9) / 2

EXPECTED = {
    # 1/6 x 1/10 x (sum of SUMS = 1/10)
    "drgrpo": ("constant", False, float(F(1, 600))),
    "grpo_no_length_norm": ("constant", True, float(F(1, 600)) / STD),
    # 1/6 x (-11/15 + 3/10 + 1/2 - 7/20 - 7/24 + 61/90 = 37/360)
    "grpo_no_std_norm": ("response", False, float(F(37, 2160))),
    "grpo": ("response", True, float(F(37, 2160)) / STD),
    # 1/10 over 15 tokens
    "token": ("token", False, float(F(1, 150))),
    "dapo": ("token", True, float(F(1, 150)) / STD),
}


def matrix(rows: list[list[F]], width: int = 4, fill: float = 0.0) -> torch.Tensor:
    return torch.tensor([[float(v) for v in row] + [fill] * (width - len(row)) for row in rows], dtype=torch.float64)


def mask_of(rows: list[list[F]], width: int = 4) -> torch.Tensor:
    return torch.arange(width)[None, :] < torch.tensor([len(row) for row in rows])[:, None]


def total(values: torch.Tensor, mask: torch.Tensor, norm: str, *, responses: int = 6, tokens: int = 15) -> torch.Tensor:
    return aggregate(values, mask, length_norm=norm, constant=10, num_responses=responses, num_tokens=tokens)


def test_the_sums_above_are_the_token_losses() -> None:
    assert [sum(row, F(0)) for row in TOKEN_LOSSES] == SUMS
    assert sum(SUMS) == F(1, 10)
    assert sum((s / len(r) for s, r in zip(SUMS, RATIOS, strict=True)), F(0)) == F(37, 360)


@pytest.mark.parametrize("name", EXPECTED)
def test_two_groups_of_three_by_hand(name: str) -> None:
    norm, std_norm, expected = EXPECTED[name]
    new = torch.log(matrix(RATIOS, fill=1.0)).requires_grad_()
    advantages = group_advantages(torch.tensor(REWARDS), 3, std_norm=std_norm).double()[:, None]
    losses, ratios, clipped = clipped_surrogate(new, torch.zeros_like(new), advantages, clip_low=0.2, clip_high=0.2)
    scale = 1 / STD if std_norm else 1.0
    mask = mask_of(RATIOS)
    assert torch.allclose(losses[mask], scale * matrix(TOKEN_LOSSES)[mask], rtol=1e-6)
    assert torch.allclose(ratios, matrix(RATIOS, fill=1.0))
    assert torch.equal(clipped[mask], matrix(SLOPES)[mask] == 0)
    loss = total(losses, mask, norm)
    assert loss.item() == pytest.approx(expected, rel=1e-6)
    loss.backward()
    lengths = mask.sum(1, keepdim=True)
    weight = {"constant": 1 / 60, "response": 1 / (6 * lengths), "token": 1 / 15}[norm]
    assert new.grad is not None
    assert torch.allclose(new.grad, scale * matrix(SLOPES) * weight, rtol=1e-6)


@pytest.mark.parametrize("norm", ["response", "constant", "token"])
def test_padding_changes_nothing(norm: str) -> None:
    """Trap 6: width 4 or 50, and whatever stands there, NaN included."""
    narrow = total(matrix(TOKEN_LOSSES), mask_of(RATIOS), norm)
    for fill in (7.0, math.nan, math.inf):
        wide = matrix(TOKEN_LOSSES, 50, fill).requires_grad_()
        loss = total(wide, mask_of(RATIOS, 50), norm)
        assert loss.item() == narrow.item()
        loss.backward()
        assert wide.grad is not None
        assert torch.equal(wide.grad != 0, mask_of(RATIOS, 50))


@pytest.mark.parametrize("norm", ["response", "constant", "token"])
@pytest.mark.parametrize("cuts", [[1, 5], [3, 3], [2, 2, 2], [1] * 6])
def test_shares_of_micro_batches_add_up(norm: str, cuts: list[int]) -> None:
    """Traps 1, 2, 3: denominators are those of the optimizer step, whatever a pass holds."""
    values, mask = matrix(TOKEN_LOSSES), mask_of(RATIOS)
    shares = [total(v, m, norm) for v, m in zip(values.split(cuts), mask.split(cuts), strict=True)]
    assert sum(shares).item() == pytest.approx(total(values, mask, norm).item(), rel=1e-12)  # type: ignore[union-attr]


def test_all_losses_one_give_one() -> None:
    """Trap 1: four micro-batches of loss 1 a token give 1.0, not 0.5; unequal lengths [1, 9, 4, 2]."""
    lengths = torch.tensor([1, 9, 4, 2])
    mask = torch.arange(9)[None, :] < lengths[:, None]
    for norm, expected in (("response", 1.0), ("token", 1.0), ("constant", 16 / 40)):
        shares = [total(torch.ones(1, 9), mask[i : i + 1], norm, responses=4, tokens=16).item() for i in range(4)]
        assert sum(shares) == pytest.approx(expected)


def test_dr_grpo_weighs_tokens_grpo_weighs_responses() -> None:
    """Trap 5: 10 and 100 tokens of equal advantage pull 10 : 100 under Dr. GRPO and 1 : 1 under GRPO."""
    mask = torch.arange(100)[None, :] < torch.tensor([10, 100])[:, None]
    for norm, pull in (("constant", 10.0), ("token", 10.0), ("response", 1.0)):
        values = torch.ones(2, 100, requires_grad=True)
        total(values, mask, norm, responses=2, tokens=110).backward()
        assert values.grad is not None
        short, long = values.grad.sum(1).tolist()
        assert long / short == pytest.approx(pull)


def test_a_response_left_out_still_counts_in_b() -> None:
    mask = mask_of(RATIOS)
    kept = mask.clone()
    kept[1] = False
    for norm, rest in (("constant", (F(1, 10) - SUMS[1]) / 60), ("response", (F(37, 360) - F(3, 10)) / 6)):
        assert total(matrix(TOKEN_LOSSES), kept, norm).item() == pytest.approx(float(rest), rel=1e-9)


def test_a_pass_with_nothing_in_it_gives_zero() -> None:
    """No division by zero where a whole micro-batch, or a whole step, is left out."""
    for norm in ("response", "constant", "token"):
        values = torch.ones(2, 3, requires_grad=True)
        loss = total(values, torch.zeros(2, 3, dtype=torch.bool), norm, tokens=0)
        loss.backward()
        assert loss.item() == 0
        assert values.grad is not None
        assert values.grad.abs().max() == 0


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ValueError, match="length_norm 'mean'"):
        total(torch.ones(1, 1), torch.ones(1, 1, dtype=torch.bool), "mean")
    with pytest.raises(ValueError, match="KL estimator 'k4'"):
        kl_penalty(torch.zeros(1, 1), torch.zeros(1, 1), "k4")


# -- clipping -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ratio", "advantage", "low", "high", "loss", "slope"),
    [
        (1.1, 2.0, 0.2, 0.2, -2.2, -2.2),
        (1.3, 2.0, 0.2, 0.2, -2.4, 0.0),  # clipped above
        (1.3, 2.0, 0.2, 0.5, -2.6, -2.6),  # clip-higher lets it through
        (1.6, 2.0, 0.2, 0.5, -3.0, 0.0),
        (0.5, 2.0, 0.2, 0.2, -1.0, -1.0),  # below, but the minimum is the unclipped one
        (0.7, -2.0, 0.2, 0.2, 1.6, 0.0),  # clipped below
        (0.7, -2.0, 0.4, 0.2, 1.4, 1.4),
        (0.5, -2.0, 0.4, 0.2, 1.2, 0.0),
        (9.0, -2.0, 0.2, 0.2, 18.0, 18.0),  # A < 0 without a dual clip: no upper bound (2.3)
        (1.0, 2.0, 0.0, 0.0, -2.0, -2.0),  # on-policy, a clip of zero width changes nothing
        (3.0, 0.0, 0.2, 0.2, 0.0, 0.0),
    ],
)
def test_clip(ratio: float, advantage: float, low: float, high: float, loss: float, slope: float) -> None:
    new = torch.tensor([[math.log(ratio)]], dtype=torch.float64, requires_grad=True)
    values, _, clipped = clipped_surrogate(
        new, torch.zeros_like(new), torch.tensor([[advantage]]).double(), clip_low=low, clip_high=high
    )
    values.sum().backward()
    assert values.item() == pytest.approx(loss)
    assert new.grad is not None
    assert new.grad.item() == pytest.approx(slope, abs=1e-12)
    assert bool(clipped) == (slope == 0 and advantage != 0)


def test_at_ratio_one_the_slope_is_the_advantage() -> None:
    """REINFORCE with baseline: d l / d logp = -A at every token (the minimum of two equal terms splits nothing)."""
    new = torch.randn(3, 5, requires_grad=True)
    advantages = torch.tensor([[1.5], [-0.5], [0.0]])
    values, ratio, clipped = clipped_surrogate(new, new.detach(), advantages, clip_low=0.2, clip_high=0.2)
    values.sum().backward()
    assert new.grad is not None
    assert torch.allclose(new.grad, -advantages.expand(3, 5))
    assert torch.equal(ratio, torch.ones(3, 5))
    assert not clipped.any()


# -- KL and sampler correction --------------------------------------------------------------------------------------


def test_kl_estimators_by_hand() -> None:
    """Policy 1/2, reference 1/4: log-ratio ln 2."""
    new, ref = torch.tensor([[0.5]]).log().requires_grad_(), torch.tensor([[0.25]]).log()
    expected = {
        "k1": (math.log(2), 1.0),
        "k2": (math.log(2) ** 2 / 2, math.log(2)),
        "k3": (0.5 - 1 + math.log(2), 1 - 0.5),
    }
    for name, (value, slope) in expected.items():
        found = kl_penalty(new, ref, name)
        (grad,) = torch.autograd.grad(found.sum(), new)
        assert found.item() == pytest.approx(value, rel=1e-6)
        assert grad.item() == pytest.approx(slope, rel=1e-6)


def test_kl_estimators_against_the_exact_divergence() -> None:
    """Means over the policy of k1 and k3 are the KL itself; k3 is never negative; all vanish on equal policies."""
    generator = torch.Generator().manual_seed(0)
    policy = torch.log_softmax(torch.randn(40, generator=generator, dtype=torch.float64), 0)
    reference = torch.log_softmax(policy + 0.3 * torch.randn(40, generator=generator, dtype=torch.float64), 0)
    exact = (policy.exp() * (policy - reference)).sum().item()
    for name in ("k1", "k3"):
        assert (policy.exp() * kl_penalty(policy, reference, name)).sum().item() == pytest.approx(exact, rel=1e-9)
    assert (policy.exp() * kl_penalty(policy, reference, "k2")).sum().item() == pytest.approx(exact, rel=0.15)
    assert (kl_penalty(policy, reference, "k3") >= 0).all()
    assert (kl_penalty(policy, reference, "k1") < 0).any()
    for name in ("k1", "k2", "k3"):
        assert kl_penalty(policy, policy, name).abs().max() == 0


def test_k3_is_exact_for_small_differences() -> None:
    """exp(d) - 1 - d loses every digit below 1e-4 in float32; expm1 keeps the first half of them."""
    delta = 1e-3
    found = kl_penalty(torch.tensor([[0.0]]), torch.tensor([[delta]]), "k3").item()
    assert found == pytest.approx(delta**2 / 2, rel=1e-3)


def test_sampler_weight_is_capped_per_token() -> None:
    """Semantics 7: ratios 1/2, 1, 3/2, 2, 5 under a cap of 2."""
    ratios = torch.tensor([[0.5, 1.0, 1.5, 2.0, 5.0]])
    found = sampler_weight(ratios.log(), torch.zeros(1, 5), 2.0)
    assert torch.allclose(found, torch.tensor([[0.5, 1.0, 1.5, 2.0, 2.0]]))


def test_sampler_weight_does_not_drop_long_responses() -> None:
    """Trap 23: 3,000 tokens of +0.0005 nats are a sequence ratio of 4.5; per token nothing is near a cap."""
    old = torch.full((1, 3000), 0.0005)
    assert torch.allclose(sampler_weight(old, torch.zeros_like(old), 2.0), torch.tensor(1.0005))
    assert old.sum().exp() > 4.4
