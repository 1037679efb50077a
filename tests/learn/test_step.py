"""The core test: one optimizer step is the same however it is cut (semantics 5, 6, 7, 8, 10; traps 1-6, 10, 13, 17)."""

from __future__ import annotations

import copy
import random
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from objective_support import (
    VOCAB,
    algo_config,
    furthest,
    gradients,
    leave_out,
    part,
    plain_loss,
    random_policy,
    random_prompts,
    random_rollout,
    sequence_logprobs,
)
from r1zero.algo.stats import Tally
from r1zero.algo_config import AlgoConfig, Correction, KLEstimator
from r1zero.batch import Completion, Prompt, RolloutBatch
from r1zero.learn.collate import MicroBatch, collate
from r1zero.learn.measure import APART, declare, few
from r1zero.learn.module import local_indices
from r1zero.learn.policy import Policy
from r1zero.learn.step import Learner
from tiny_models import perturb

CPU = torch.device("cpu")
TEMPERATURE, CONSTANT = 0.8, 9.0
ROLLOUT = {"questions": 4, "group": 4, "sampler": True, "flat_groups": (2,)}

CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "kl_k1": {"kl_coef": 0.3, "kl_estimator": KLEstimator.k1},
    "kl_k2": {"kl_coef": 0.3, "kl_estimator": KLEstimator.k2},
    "kl_k3": {"kl_coef": 0.3, "kl_estimator": KLEstimator.k3},
    "entropy": {"entropy_coef": 0.1},
    "correction": {"sampler_correction": Correction.token, "correction_cap": 2.0},
    "credit": {"credit": "test"},
    "mask": {},
    "everything": {
        "kl_coef": 0.2,
        "entropy_coef": 0.05,
        "sampler_correction": Correction.token,
        "clip_high": 0.28,
        "clip_low": 0.1,
    },
}
NORMS = ("grpo", "drgrpo", "token")


def make_policies(dtype: torch.dtype, scale: float) -> tuple[Policy, Policy, Policy]:
    """The policy, the one that made logp_old a few updates ago, and the reference."""
    policy = random_policy(scale=scale)
    before, reference = copy.deepcopy(policy), copy.deepcopy(policy)
    perturb(before.model, 1, 0.1 * scale)
    perturb(reference.model, 2, 0.25 * scale)
    return policy.to(dtype), before.to(dtype), reference.to(dtype)


@pytest.fixture(scope="module")
def exact() -> tuple[Policy, Policy, Policy]:
    """In float64, where rounding hides nothing."""
    return make_policies(torch.float64, 0.2)


@pytest.fixture(scope="module")
def policies() -> tuple[Policy, Policy, Policy]:
    """In float32, as trained."""
    return make_policies(torch.float32, 0.1)


def make_learner(policy: Policy, reference: Policy | None, algo: AlgoConfig, max_tokens: int = 40) -> Learner:
    return Learner(
        policy,
        reference if algo.needs_reference else None,
        algo,
        temperature=TEMPERATURE,
        constant=CONSTANT,
        max_tokens=max_tokens,
    )


def widened(micro: MicroBatch, extra: int) -> MicroBatch:
    """The same padded pass with ``extra`` more columns of arbitrary tokens."""
    rows, width = micro.input_ids.shape
    ids = torch.cat([micro.input_ids, torch.randint(VOCAB, (rows, extra))], dim=1)
    source = micro.source // width * (width + extra) + micro.source % width
    mask = torch.cat([micro.mask, torch.zeros(rows, extra, dtype=torch.bool)], dim=1)
    return MicroBatch(ids, torch.arange(width + extra).expand(rows, -1), source, micro.targets, mask)


def random_cut(indices: list[int], draw: random.Random) -> list[list[int]]:
    order = draw.sample(indices, len(indices))
    pieces = []
    while order:
        size = draw.randint(1, len(order))
        pieces.append(order[:size])
        order = order[size:]
    return pieces


def tokens_of(rollout: RolloutBatch, indices: list[int]) -> int:
    return sum(int(rollout.mask[i].sum()) for i in indices)


def add_up(
    learner: Learner,
    prompts: list[Prompt],
    rollout: RolloutBatch,
    pieces: list[tuple[list[int], MicroBatch]],
    **kw: Any,
) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss and gradient of forward and backward passes over given pieces of an optimizer step."""
    total = 0.0
    for rows, micro in pieces:
        share = learner.loss(rollout, rows, micro, tally=Tally(), **kw)
        share.backward()
        total += share.item()
    return total, gradients(learner.policy)


def assert_same(
    found: tuple[float, dict[str, torch.Tensor]], expected: tuple[float, dict[str, torch.Tensor]], tolerance: float
) -> None:
    assert found[0] == pytest.approx(expected[0], abs=tolerance)
    assert furthest(found[1], expected[1]) < tolerance


def expected_step(
    policy: Policy, reference: Policy, prompts: list[Prompt], rollout: RolloutBatch, minibatch: list[int],
    algo: AlgoConfig, old: dict[int, torch.Tensor] | None,
) -> tuple[float, dict[str, torch.Tensor]]:  # fmt: skip
    loss = plain_loss(
        policy.model, prompts, rollout, minibatch, algo,
        temperature=TEMPERATURE, constant=CONSTANT, old=old, reference=reference.model,
    )  # fmt: skip
    loss.backward()
    return loss.item(), gradients(policy)


def old_of(before: Policy, prompts: list[Prompt], rollout: RolloutBatch) -> dict[int, torch.Tensor]:
    with torch.no_grad():
        return {
            i: sequence_logprobs(before.model, prompts[i // rollout.group_size].ids, c.ids, TEMPERATURE)[0]
            for i, c in enumerate(rollout.completions)
        }


COMBINATIONS = [
    *[(name, case, False) for name in NORMS for case in CASES if case not in ("kl_k1", "kl_k2") or name == "drgrpo"],
    *[(name, case, True) for name in NORMS for case in ("plain", "everything")],
]


@pytest.mark.parametrize(("name", "case", "on_policy"), COMBINATIONS)
def test_any_cut_of_an_optimizer_step_gives_the_plain_loop(
    exact: tuple[Policy, Policy, Policy], name: str, case: str, on_policy: bool
) -> None:
    check_any_cut(exact, name, case, on_policy, tolerance=1e-10)


@pytest.mark.parametrize("name", NORMS)
@pytest.mark.parametrize("case", ["plain", "everything"])
def test_any_cut_in_float32(policies: tuple[Policy, Policy, Policy], name: str, case: str) -> None:
    """To 1e-6 in the number format of training."""
    check_any_cut(policies, name, case, on_policy=False, tolerance=1e-6)


def insert_tokens(rollout: RolloutBatch, draw: random.Random) -> None:
    """Say of a third of all tokens that an environment put them in; no sampler gave them a log-probability."""
    for i, completion in enumerate(rollout.completions):
        completion.mask = [draw.random() > 1 / 3 for _ in completion.ids]
        assert completion.logprobs is not None
        completion.logprobs = [
            v if m else float("nan") for v, m in zip(completion.logprobs, completion.mask, strict=True)
        ]
        rollout.mask[i] &= completion.sampled()


def check_any_cut(
    policies: tuple[Policy, Policy, Policy], name: str, case: str, on_policy: bool, tolerance: float
) -> None:
    """Loss and gradient are equal for random passes, orders, padding widths, packing, and 1, 2 and 4 ranks.

    Truncated responses are left out of the loss here, and one group has no gradient: both count in B.
    """
    policy, before, reference = policies
    seed = NORMS.index(name) * 100 + list(CASES).index(case) * 10 + on_policy
    draw = random.Random(seed)
    torch.manual_seed(seed)
    prompts = random_prompts(seed, 4)
    algo = algo_config(name, minibatch_size=12, **CASES[case])
    rollout = random_rollout(seed, std_norm=algo.std_norm, exclude_truncated=True, **ROLLOUT)
    if algo.credit != "uniform":
        generator = torch.Generator().manual_seed(seed)
        rollout.credit = [torch.randn(len(c.ids), generator=generator) for c in rollout.completions]
    if case in ("mask", "everything"):
        insert_tokens(rollout, draw)
    minibatch = draw.sample(range(16), 12)
    old = None if on_policy else old_of(before, prompts, rollout)
    expected = expected_step(policy, reference, prompts, rollout, minibatch, algo, old)
    assert max(float(g.abs().max()) for g in expected[1].values()) > 1e-3
    learner = make_learner(policy, reference, algo)
    tokens = tokens_of(rollout, minibatch)

    # The product's own passes, under three token budgets.
    for budget in (1, 40, 10_000):
        learner.max_tokens = budget
        active = [i for i in minibatch if learner.has_gradient(rollout, i)]
        pieces = list(learner.passes(prompts, rollout, active, CPU))
        assert_same(add_up(learner, prompts, rollout, pieces, old=old, num_tokens=tokens), expected, tolerance)

    # The same where attention takes packed sequences.
    policy.packs = True
    for budget in (1, 60, 10_000):
        learner.max_tokens = budget
        active = [i for i in minibatch if learner.has_gradient(rollout, i)]
        pieces = list(learner.passes(prompts, rollout, active, CPU))
        assert all(micro.input_ids.shape[0] == 1 for _, micro in pieces)
        assert_same(add_up(learner, prompts, rollout, pieces, old=old, num_tokens=tokens), expected, tolerance)
    policy.packs = False

    # Random pieces in random order, nothing skipped, padded to any width or packed.
    for packed in (False, True):
        pieces = []
        for rows in random_cut(minibatch, draw):
            micro = collate(
                [prompts[i // 4] for i in rows], [rollout.completions[i] for i in rows], packed=packed, pad_id=17
            )
            pieces.append((rows, micro if packed else widened(micro, draw.randint(0, 9))))
        assert_same(add_up(learner, prompts, rollout, pieces, old=old, num_tokens=tokens), expected, tolerance)

    # Ranks: each holds a part of the questions and its own tensors; their shares are summed.
    for ranks in (2, 4):
        size = 16 // ranks
        loss, sums = 0.0, {name: torch.zeros_like(grad) for name, grad in expected[1].items()}
        for rank in range(ranks):
            mine = local_indices(torch.tensor(minibatch), size, rank)
            local = part(rollout, rank * size, (rank + 1) * size)
            own = prompts[rank * size // 4 : (rank + 1) * size // 4]
            local_old = None if old is None else {i: old[i + rank * size] for i in range(size)}
            active = [i for i in mine if learner.has_gradient(local, i)]
            if active:
                pieces = list(learner.passes(own, local, active, CPU))
                share, grads = add_up(learner, own, local, pieces, old=local_old, num_tokens=tokens)
                loss += share
                sums = {name: sums[name] + grads[name] for name in sums}
        assert_same((loss, sums), expected, tolerance)


@pytest.mark.parametrize("arch", ["qwen2", "llama"])
@pytest.mark.parametrize("tied", [True, False])
def test_the_other_architectures(arch: str, tied: bool) -> None:
    policy = random_policy(arch, tied=tied, seed=5, scale=0.1)
    prompts, rollout = random_prompts(7, 4), random_rollout(7, **ROLLOUT)
    algo = algo_config("drgrpo", minibatch_size=16)
    minibatch = list(range(16))
    expected = expected_step(policy, policy, prompts, rollout, minibatch, algo, None)
    learner = make_learner(policy, None, algo)
    pieces = list(learner.passes(prompts, rollout, minibatch, CPU))
    assert_same(add_up(learner, prompts, rollout, pieces, old=None, num_tokens=0), expected, 1e-6)


def test_at_ratio_one_the_gradient_is_reinforce_with_baseline(policies: tuple[Policy, Policy, Policy]) -> None:
    """-1/B sum_i A_i/C sum_t grad logp_it, from log-probabilities alone: no ratio, no clip."""
    policy, _, _ = policies
    prompts, rollout = random_prompts(3, 4), random_rollout(3)
    surrogate = torch.zeros(())
    for i, completion in enumerate(rollout.completions):
        logp, _ = sequence_logprobs(policy.model, prompts[i // 4].ids, completion.ids, TEMPERATURE)
        surrogate = surrogate - rollout.advantages[i] / CONSTANT * logp.sum() / 16
    surrogate.backward()
    expected = gradients(policy)
    learner = make_learner(policy, None, algo_config("drgrpo", minibatch_size=16))
    pieces = list(learner.passes(prompts, rollout, list(range(16)), CPU))
    _, found = add_up(learner, prompts, rollout, pieces, old=None, num_tokens=0)
    assert furthest(found, expected) < 1e-6


def test_a_group_without_advantage_gives_the_pure_kl_gradient(policies: tuple[Policy, Policy, Policy]) -> None:
    """Trap 10, documented: with a KL term equal rewards still move the policy, towards the reference."""
    policy, _, reference = policies
    prompts, rollout = random_prompts(4, 4), random_rollout(4, flat_groups=(0, 1, 2, 3))
    assert not rollout.advantages.any()
    algo = algo_config("drgrpo", minibatch_size=16, kl_coef=0.5)
    learner = make_learner(policy, reference, algo)
    assert all(learner.has_gradient(rollout, i) for i in range(16))
    pieces = list(learner.passes(prompts, rollout, list(range(16)), CPU))
    _, found = add_up(learner, prompts, rollout, pieces, old=None, num_tokens=0)
    loss = torch.zeros(())
    for i, completion in enumerate(rollout.completions):
        new, _ = sequence_logprobs(policy.model, prompts[i // 4].ids, completion.ids, TEMPERATURE)
        ref, _ = sequence_logprobs(reference.model, prompts[i // 4].ids, completion.ids, TEMPERATURE)
        delta = ref.detach() - new
        loss = loss + 0.5 * (delta.exp() - 1 - delta).sum() / CONSTANT / 16
    loss.backward()
    assert furthest(found, gradients(policy)) < 1e-6


def test_kl_of_a_response_is_the_sum_over_its_sampled_tokens(policies: tuple[Policy, Policy, Policy]) -> None:
    """Semantics 16 by a plain loop: of each response, one that the loss leaves out too, without a tool's tokens."""
    policy, _, reference = policies
    prompts, rollout = random_prompts(4, 4), random_rollout(4, flat_groups=(0,))
    leave_out(rollout, 3)
    tool = next(c for c in rollout.completions if len(c.ids) > 2)
    tool.mask = [True, False, *[True] * (len(tool.ids) - 2)]
    algo = algo_config("drgrpo", minibatch_size=16, kl_in_reward=0.5)
    learner = make_learner(policy, reference, algo)
    expected = []
    for i, completion in enumerate(rollout.completions):
        new, _ = sequence_logprobs(policy.model, prompts[i // 4].ids, completion.ids, TEMPERATURE)
        ref, _ = sequence_logprobs(reference.model, prompts[i // 4].ids, completion.ids, TEMPERATURE)
        expected.append(float((new - ref).detach()[completion.sampled()].sum()))
    found = learner.response_kl(prompts, rollout, CPU)
    assert found.tolist() == pytest.approx(expected, abs=1e-4)
    assert found.abs().min() > 0
    assert make_learner(policy, policy, algo).response_kl(prompts, rollout, CPU).tolist() == [0.0] * 16
    assert not learner.has_gradient(rollout, 0), "the KL acts through advantages alone"
    (rows, micro), _ = learner.evened(prompts, rollout, [4], CPU)[0]
    learner.reference = None
    learner.loss(rollout, rows, micro, None, 1, Tally())  # nor is the reference asked again


def test_which_responses_are_computed() -> None:
    """Semantics 10: advantage 0 is skipped, but not where KL or entropy act on it; one left out always is."""
    rollout = random_rollout(1, questions=2, group=2, flat_groups=(0,))
    leave_out(rollout, 3)
    policy = random_policy(layers=1)
    expected = {
        (0.0, 0.0): [False, False, True, False],
        (0.1, 0.0): [True, True, True, False],
        (0.0, 0.1): [True, True, True, False],
    }
    for (kl, entropy), active in expected.items():
        learner = make_learner(policy, policy, algo_config("drgrpo", kl_coef=kl, entropy_coef=entropy))
        assert [learner.has_gradient(rollout, i) for i in range(4)] == active


# -- log-probabilities before the step ------------------------------------------------------------------------------


def test_old_log_probabilities_are_the_learners_own(policies: tuple[Policy, Policy, Policy]) -> None:
    """Semantics 6: of every response that can move the policy, by the current weights, at the temperature, no graph."""
    policy, _, _ = policies
    prompts, rollout = random_prompts(5, 4), random_rollout(5, **ROLLOUT)
    learner = make_learner(policy, None, algo_config("drgrpo"))
    old = learner.old_logprobs(prompts, rollout, CPU, Tally())
    assert sorted(old) == list(range(16)), "all of so small a rollout are measured"
    rollout.measured = torch.arange(16) == 9
    moving = [i for i in range(16) if i // 4 != 2]
    assert sorted(learner.old_logprobs(prompts, rollout, CPU, Tally())) == sorted([*moving, 9])
    assert sorted(learner.old_logprobs(prompts, rollout, CPU, Tally(), [0, 9, 10])) == [0, 9]
    expected = old_of(policy, prompts, rollout)
    for i, logp in old.items():
        assert not logp.requires_grad
        assert torch.allclose(logp, expected[i], atol=1e-6)


def test_the_comparison_with_the_sampler_never_goes_blind() -> None:
    """A rollout without any gradient still computes what is measured."""
    policy = random_policy(layers=1)
    prompts = random_prompts(6, 2)
    rollout = random_rollout(6, 2, 4, sampler=True, flat_groups=(0, 1))
    learner = make_learner(policy, None, algo_config("drgrpo"))
    tally = Tally()
    declare(tally)
    rollout.measured = torch.arange(8) == 3
    old = learner.old_logprobs(prompts, rollout, CPU, tally)
    assert sorted(old) == [3]
    assert (tally.current_mean("sync/logprob_diff_mean") or 0) > 0.1


def test_figures_of_a_step_by_hand(policies: tuple[Policy, Policy, Policy]) -> None:
    """Entropy, ratios, KL and sampler difference are means over tokens of the step, not of its last pass (2.1)."""
    policy, before, _ = policies
    prompts, rollout = random_prompts(8, 4), random_rollout(8, questions=4, group=4, sampler=True)
    learner = make_learner(policy, None, algo_config("drgrpo", minibatch_size=16), max_tokens=20)
    old = old_of(before, prompts, rollout)
    tally = Tally()
    declare(tally)
    total = 0.0
    for rows, micro in learner.passes(prompts, rollout, list(range(16)), CPU):
        total += learner.loss(rollout, rows, micro, old, 0, tally).item()
    learner.old_logprobs(prompts, rollout, CPU, tally)
    ratios, entropies, differences = [], [], []
    clipped = 0
    for i, completion in enumerate(rollout.completions):
        with torch.no_grad():
            logp, entropy = sequence_logprobs(policy.model, prompts[i // 4].ids, completion.ids, TEMPERATURE)
        ratio = (logp - old[i]).exp()
        ratios.append(ratio)
        entropies.append(entropy)
        differences.append((logp - torch.tensor(completion.logprobs)).abs())
        clipped += int(((ratio > 1.2) if rollout.advantages[i] > 0 else (ratio < 0.8)).sum())
    ratio = torch.cat(ratios)
    assert 0 < clipped < len(ratio)
    figures = tally.reduce()
    expected = {
        "loss/policy": total,
        "policy/entropy": torch.cat(entropies).mean().item(),
        "policy/ratio_max": ratio.max().item(),
        "policy/clip_frac": clipped / len(ratio),
        "policy/approx_kl": (ratio - 1 - ratio.log()).mean().item(),
        "sync/logprob_diff_mean": torch.cat(differences).mean().item(),
        "sync/logprob_diff_max": torch.cat(differences).max().item(),
        **{f"sync/over_{nats:g}": (torch.cat(differences) > nats).double().mean().item() for nats in APART},
    }
    assert {name: figures[name] for name in expected} == pytest.approx(expected, rel=1e-4)


def test_responses_left_out_do_not_blur_the_figures(policies: tuple[Policy, Policy, Policy]) -> None:
    policy, before, _ = policies
    prompts, rollout = random_prompts(8, 4), random_rollout(8, questions=4, group=4)
    old = old_of(before, prompts, rollout)
    leave_out(rollout)
    learner = make_learner(policy, None, algo_config("grpo", minibatch_size=16))
    tally = Tally()
    declare(tally)
    for rows, micro in learner.passes(prompts, rollout, list(range(16)), CPU):
        loss = learner.loss(rollout, rows, micro, old, 0, tally)
        assert loss.item() == 0
        loss.backward()
    assert all(grad.abs().max() == 0 for grad in gradients(policy).values())
    assert tally.current_mean("policy/clip_frac") is None


@pytest.mark.parametrize("logprobs", [None, [-1.0]], ids=["none", "too_few"])
def test_a_correction_without_the_samplers_log_probabilities_is_refused(logprobs: list[float] | None) -> None:
    policy = random_policy(layers=1)
    prompts, rollout = random_prompts(9, 1), random_rollout(9, 1, 4)
    for completion in rollout.completions:
        completion.ids = [1, 2, 3]
        completion.logprobs = logprobs
    rollout.mask = [c.sampled() for c in rollout.completions]
    learner = make_learner(policy, None, algo_config("drgrpo", sampler_correction=Correction.token))
    rows, micro = next(learner.passes(prompts, rollout, [0, 1], CPU))
    with pytest.raises(ValueError, match=r"3 tokens and 1 log-prob|engine gave none"):
        learner.loss(rollout, rows, micro, None, 0, Tally())


def test_few_responses_stand_in_where_none_moves_the_policy() -> None:
    """The shortest that have 64 tokens together: one short response of single tokens off by tenths proves nothing."""
    completions = [Completion([7] * n, "", "stop", [-1.0] * n) for n in (70, 5, 30, 40, 3, 9)]
    rollout: Any = SimpleNamespace(completions=completions)
    assert few(rollout, range(6)) == [4, 1, 5, 2, 3]
    assert few(rollout, [0, 3]) == [3, 0]
    assert few(rollout, [0]) == [0]
    assert few(rollout, [4, 1]) == [4, 1]
