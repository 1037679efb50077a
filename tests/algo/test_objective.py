"""Every objective of conf/algo: by hand in fractions, and against a plain loop that shares no code with it."""

from __future__ import annotations

import math
from fractions import Fraction as F
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from r1zero.algo import Scale, TokenValues, check_objective
from r1zero.algo.objective import policy_gradient
from r1zero.algo_config import AlgoConfig, Clip, Correction, KLEstimator, LengthNorm, Ratio
from r1zero.lab.audit.objective import Tokens, share

CONFIGS = Path(__file__).parents[2] / "conf" / "algo"
NAMES = sorted(path.stem for path in CONFIGS.glob("*.yaml"))
PUBLISHED = {
    "cispo", "dapo", "drgrpo", "grpo", "grpo_no_length_norm", "grpo_no_std_norm", "gspo", "gspo_token", "lite_ppo",
    "maxrl", "reinforce_pp", "reinforce_pp_baseline", "rloo",
}  # fmt: skip


def load(name: str, **changes: Any) -> AlgoConfig:
    """An algorithm of conf/algo as an object."""
    given = {k: v for k, v in OmegaConf.load(CONFIGS / f"{name}.yaml").items() if k != "defaults"}  # type: ignore[union-attr]
    return OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(AlgoConfig), given, changes))  # type: ignore[return-value]


def test_every_published_algorithm_has_its_file() -> None:
    assert set(NAMES) == PUBLISHED
    for name in NAMES:
        text = (CONFIGS / f"{name}.yaml").read_text()
        assert load(name).name == name
        assert "arXiv" in text or name.startswith(("grpo", "drgrpo")), f"{name}.yaml names no paper"


# -- by hand ------------------------------------------------------------------------------------------------------

# Two groups of three, rewards (1, 0, 0) and (1, 1, 0), baselines of the group's mean, no deviation; C = 10.
CENTRED = [F(2, 3), F(-1, 3), F(-1, 3), F(1, 3), F(1, 3), F(-2, 3)]


def values_of(ratios: list[list[F]], advantages: list[F], width: int = 4) -> tuple[TokenValues, torch.Tensor]:
    """new = log ratio, old = 0; and the leaf that has the gradient."""
    new = torch.tensor([[math.log(v) for v in row] + [0.3] * (width - len(row)) for row in ratios], dtype=torch.float64)
    new.requires_grad_()
    mask = torch.arange(width)[None, :] < torch.tensor([len(row) for row in ratios])[:, None]
    matrix = torch.tensor([float(a) for a in advantages], dtype=torch.float64)[:, None].expand(mask.shape)
    zeros = torch.zeros(mask.shape, dtype=torch.float64)
    return TokenValues(new, zeros, None, None, zeros, matrix, mask), new


def slopes_of(new: torch.Tensor, mask: torch.Tensor) -> list[list[float]]:
    assert new.grad is not None
    assert new.grad[~mask].abs().max() == 0
    return [row[keep].tolist() for row, keep in zip(new.grad, mask, strict=True)]


def nested(rows: list[list[F]], factor: F = F(1)) -> list[Any]:
    return [pytest.approx([float(v * factor) for v in row], abs=1e-12) for row in rows]


# Sequence ratios 3/2, 1, 1/2, 1/2, 1, 2: geometric means of the rows.
SEQUENCES = [
    [F(9, 4), F(1)], [F(1, 2), F(2)], [F(1, 2)], [F(1, 2), F(1, 2)], [F(1), F(1), F(1)], [F(9, 4), F(16, 9)]
]  # fmt: skip


@pytest.mark.parametrize("name", ["gspo", "gspo_token"])
def test_gspo_by_hand(name: str) -> None:
    """min(s A, clip(s) A) per response, clip at 4/5 and 6/5; its gradient is shared by the tokens, s A / T each."""
    algo = load(name, clip_low=0.2, clip_high=0.2)
    values, new = values_of(SEQUENCES, CENTRED)
    loss = policy_gradient(values, Scale(6, 15, 10.0), algo)
    # 3/2 clipped to 6/5: 4/5; 1: -1/3; 1/2 clipped to 4/5 where A < 0: -4/15; 1/6; 1/3; 2 stays where A < 0: -4/3
    gains = [F(4, 5), F(-1, 3), F(-4, 15), F(1, 6), F(1, 3), F(-4, 3)]
    assert -sum(gains, F(0)) / 6 == F(19, 180)
    assert loss.value.item() == pytest.approx(float(F(19, 180)), rel=1e-12)
    loss.value.backward()
    slopes = [
        [F(0)] * 2, [F(1, 6)] * 2, [F(0)], [F(-1, 12)] * 2, [F(-1, 9)] * 3, [F(2, 3)] * 2
    ]  # fmt: skip
    assert slopes_of(new, values.mask) == nested(slopes, F(1, 6))
    clipped, mask = loss.figures["policy/clip_frac"]
    assert clipped[mask].sum() == 3  # the two tokens of response 0 and the one of response 2


def test_gspo_token_gives_each_token_its_own_advantage() -> None:
    """s = 1: the slope of token t is -A_t / T; the sequence's one gradient would be their mean."""
    values, new = values_of([[F(1, 2), F(2)]], [F(1)])
    values = TokenValues(**{**vars(values), "advantages": torch.tensor([[3.0, 1.0, 0.0, 0.0]]).double()})
    policy_gradient(values, Scale(1, 2, 10.0), load("gspo_token")).value.backward()
    assert slopes_of(new, values.mask) == nested([[F(-3, 2), F(-1, 2)]])
    new.grad = None
    policy_gradient(values, Scale(1, 2, 10.0), load("gspo")).value.backward()
    assert slopes_of(new, values.mask) == nested([[F(-1), F(-1)]])


TOKENS = [
    [F(1), F(5, 4)], [F(1), F(3, 4), F(9, 10)], [F(3, 2)], [F(11, 10), F(1)], [F(1), F(1), F(1, 2), F(1)],
    [F(1), F(5, 4), F(3, 4)],
]  # fmt: skip


def test_cispo_by_hand() -> None:
    """Slope -min(ratio, 6/5) A / tokens at every token, 15 of them: none is without gradient."""
    values, new = values_of(TOKENS, CENTRED)
    loss = policy_gradient(values, Scale(6, 15, 10.0), load("cispo", clip_high=0.2))
    loss.value.backward()
    slopes = [[-min(r, F(6, 5)) * a for r in row] for row, a in zip(TOKENS, CENTRED, strict=True)]
    assert slopes[0] == [F(-2, 3), F(-4, 5)]
    assert slopes[2] == [F(2, 5)]
    assert slopes_of(new, values.mask) == nested(slopes, F(1, 15))
    by_hand = -sum(
        float(min(r, F(6, 5)) * a) * math.log(r) for row, a in zip(TOKENS, CENTRED, strict=True) for r in row
    )
    assert loss.value.item() == pytest.approx(by_hand / 15, rel=1e-12)
    assert loss.figures["policy/clip_frac"][0][values.mask].sum() == 3  # 5/4, 3/2, 5/4
    assert load("cispo").clip_high == 4.0


def test_cispo_has_no_lower_bound() -> None:
    values, new = values_of([[F(1, 1000)]], [F(1)])
    policy_gradient(values, Scale(1, 1, 10.0), load("cispo")).value.backward()
    assert slopes_of(new, values.mask) == nested([[F(-1, 1000)]])


def test_rloo_by_hand() -> None:
    """-A / (B C) at every token whatever the ratio, with each response against the mean of the other two."""
    advantages = [F(1), F(-1, 2), F(-1, 2), F(1, 2), F(1, 2), F(-1)]
    assert advantages == [a * F(3, 2) for a in CENTRED]
    values, new = values_of(TOKENS, advantages)
    loss = policy_gradient(values, Scale(6, 15, 10.0), load("rloo"))
    loss.value.backward()
    assert slopes_of(new, values.mask) == nested(
        [[-a] * len(r) for r, a in zip(TOKENS, advantages, strict=True)], F(1, 60)
    )
    assert loss.value.item() == pytest.approx(
        -sum(float(a) * math.log(r) for row, a in zip(TOKENS, advantages, strict=True) for r in row) / 60
    )


@pytest.mark.parametrize("name", ["reinforce_pp", "reinforce_pp_baseline", "lite_ppo"])
def test_a_token_mean_of_the_clipped_surrogate(name: str) -> None:
    """Sum of the fifteen token losses of test_loss.py, 1/10, over 15."""
    values, _ = values_of(TOKENS, CENTRED)
    loss = policy_gradient(values, Scale(6, 15, 10.0), load(name))
    assert loss.value.item() == pytest.approx(float(F(1, 150)), rel=1e-12)


def test_maxrl_sums_over_tokens_as_dr_grpo_does() -> None:
    values, _ = values_of(TOKENS, CENTRED)
    assert policy_gradient(values, Scale(6, 15, 10.0), load("maxrl")).value.item() == pytest.approx(float(F(1, 600)))


# -- against a plain loop ------------------------------------------------------------------------------------------


def random_values(seed: int, responses: int = 7, width: int = 9) -> TokenValues:
    draw = torch.Generator().manual_seed(seed)

    def normal(size: float) -> torch.Tensor:
        return size * torch.randn(responses, width, generator=draw, dtype=torch.float64)

    old = -1.0 + normal(0.5)
    # Tokens that are not trained lie in the middle, too, as a tool's answer does.
    mask = torch.rand(responses, width, generator=draw) < 0.7
    mask[2] = False
    return TokenValues(
        new=(old + normal(0.3)).requires_grad_(),
        old=old,
        sampler=old + normal(0.4),
        reference=old + normal(0.5),
        entropy=(1 + normal(0.1)).requires_grad_(),
        advantages=normal(1.0),
        mask=mask,
    )


def plain_objective(v: TokenValues, scale: Scale, algo: AlgoConfig) -> torch.Tensor:
    """Response by response, token by token."""
    total = torch.zeros((), dtype=torch.float64)
    for i in range(len(v.new)):
        tokens = [t for t in range(v.new.shape[1]) if v.mask[i, t]]
        if not tokens:
            continue
        mean = sum(v.new[i, t] - v.old[i, t] for t in tokens) / len(tokens)
        divisor = {
            "response": len(tokens) * scale.num_responses,
            "constant": scale.constant * scale.num_responses,
            "token": scale.num_tokens,
        }[algo.length_norm.value]
        for t in tokens:
            new, old, gain = v.new[i, t], v.old[i, t], float(v.advantages[i, t])
            sequence = torch.as_tensor(mean)
            ratio = {
                "token": torch.exp(new - old),
                "sequence": torch.exp(sequence),
                "sequence_token": math.exp(sequence.item()) * torch.exp(new - new.item()),
                "none": torch.exp(new - new.item()),
            }[algo.ratio.value]
            low, high = 1 - algo.clip_low, 1 + algo.clip_high
            if algo.ratio.value == "none":
                loss = -new * gain
            elif algo.clip.value == "weight":
                loss = -min(max(ratio.item(), low), high) * gain * new
            elif algo.clip.value == "none":
                loss = -ratio * gain
            else:
                bounded = min(max(ratio.item(), low), high) * gain
                loss = -ratio * gain if (ratio * gain).item() <= bounded else torch.full_like(new, -bounded)
            if algo.sampler_correction.value == "token":
                assert v.sampler is not None
                loss = loss * min(math.exp(float(old - v.sampler[i, t])), algo.correction_cap)
            if algo.kl_coef:
                assert v.reference is not None
                delta = v.reference[i, t] - new
                kl = {"k1": -delta, "k2": delta**2 / 2, "k3": torch.exp(delta) - 1 - delta}[algo.kl_estimator.value]
                loss = loss + algo.kl_coef * kl
            total = total + (loss - algo.entropy_coef * v.entropy[i, t]) / divisor
    return total


def audited_objective(v: TokenValues, scale: Scale, algo: AlgoConfig) -> torch.Tensor:
    """The same by ``scripts/audit.py``, which shares no code with training."""
    settings = {name: getattr(value, "value", value) for name, value in vars(algo).items()}
    sizes: Any = {"num_responses": scale.num_responses, "num_tokens": scale.num_tokens, "constant": scale.constant}
    total = torch.zeros((), dtype=torch.float64)
    for i in range(len(v.new)):
        plain = {name: getattr(v, name)[i].tolist() for name in ("old", "sampler", "reference", "mask")}
        tokens = Tokens(new=list(v.new[i]), entropy=list(v.entropy[i]), advantage=v.advantages[i].tolist(), **plain)
        part = share(tokens, settings, **sizes)
        total = total + part.policy + algo.kl_coef * part.kl - algo.entropy_coef * part.entropy
    return total


def assert_equal(algo: AlgoConfig, seed: int) -> None:
    v, scale = random_values(seed), Scale(16, 53, 20.0)
    leaves = (v.new, v.entropy)
    found = policy_gradient(v, scale, algo).value
    for expected in (plain_objective(v, scale, algo), audited_objective(v, scale, algo)):
        assert found.item() == pytest.approx(expected.item(), rel=1e-10)
        for left, right in zip(
            torch.autograd.grad(found, leaves, materialize_grads=True, allow_unused=True, retain_graph=True),
            torch.autograd.grad(expected, leaves, materialize_grads=True, allow_unused=True),
            strict=True,
        ):
            assert torch.allclose(left, right, rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("name", NAMES)
def test_every_algorithm_is_the_plain_loop(name: str) -> None:
    assert_equal(load(name), 1)
    everything = {"kl_coef": 0.2, "entropy_coef": 0.03, "sampler_correction": "token"}
    assert_equal(load(name, **everything), 2)


@pytest.mark.parametrize("ratio", Ratio)
@pytest.mark.parametrize("clip", Clip)
def test_every_combination_is_the_plain_loop(ratio: Ratio, clip: Clip) -> None:
    if ratio is Ratio.none and clip is not Clip.none:
        pytest.skip("refused at the start: there is nothing to clip")
    for norm, estimator in zip(LengthNorm, KLEstimator, strict=True):
        algo = AlgoConfig(
            name="mixed", ratio=ratio, clip=clip, length_norm=norm, kl_coef=0.1, kl_estimator=estimator, clip_high=0.3
        )
        assert_equal(algo, 3)
        check_objective(policy_gradient, algo)


@pytest.mark.parametrize("name", NAMES)
def test_no_algorithm_depends_on_the_cut_of_a_step(name: str) -> None:
    """Micro-batches, ranks, padding, order; and what is skipped has no gradient."""
    check_objective(policy_gradient, load(name))
    check_objective(policy_gradient, load(name, sampler_correction=Correction.token, kl_coef=0.1, entropy_coef=0.1))


def test_a_correction_needs_the_samplers_log_probabilities() -> None:
    values, _ = values_of(TOKENS, CENTRED)
    with pytest.raises(ValueError, match="sampler_correction=token needs"):
        policy_gradient(values, Scale(6, 15, 10.0), load("grpo", sampler_correction="token"))
