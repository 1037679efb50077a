"""Optimizer steps: what they skip, refuse and leave alone (semantics 6, 9, 10, 11, 15; traps 13, 31, 37, 43, 54)."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable
from typing import Any

import pytest
import pytorch_lightning as pl
import torch

from objective_support import (
    algo_config,
    fit,
    furthest,
    leave_out,
    make_module,
    part,
    random_policy,
    random_prompts,
    random_rollout,
    sequence_logprobs,
    weights,
)
from r1zero.algo.stats import Tally
from r1zero.batch import PromptBatch, RolloutBatch
from r1zero.errors import SyncError, UserError
from r1zero.launch.seeding import derive_seed
from r1zero.learn.measure import measured_responses
from r1zero.learn.module import MAX_SKIPPED_IN_A_ROW, PolicyGradientModule
from r1zero.learn.optimizer import lr_factor
from r1zero.learn.policy import Policy
from r1zero.learn.step import Learner


def rollouts(step: int) -> RolloutBatch:
    return random_rollout(step, flat_groups=(step % 4,))


def optimizer_state(module: PolicyGradientModule) -> dict[str, torch.Tensor]:
    optimizer: Any = module.optimizers()
    return {
        f"{number} {name}": value.clone()
        for number, state in enumerate(optimizer.state.values())
        for name, value in state.items()
    }


# -- one optimizer step per rollout step ------------------------------------------------------------------------------


def test_one_optimizer_step_needs_no_pass_for_old_log_probabilities(monkeypatch: pytest.MonkeyPatch) -> None:
    """Semantics 6: K = 1 makes as many forward passes as micro-batches, K = 2 as many again for logp_old.

    Four of the 16 responses have no gradient; so small a step is measured whole, so they are computed too.
    """
    calls = []
    forward = Policy.forward
    monkeypatch.setattr(Policy, "forward", lambda self, *a, **k: calls.append(self) or forward(self, *a, **k))
    counts = {}
    for size in (16, 8):
        calls.clear()
        fit(make_module(random_policy(), algo_config("drgrpo", minibatch_size=size), micro_batch_tokens=1), rollouts, 1)
        counts[size] = len(calls)
    assert counts == {16: 16, 8: 32}


def test_one_optimizer_step_equals_the_run_that_makes_the_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """Semantics 6: logp_old = logp_new.detach() and a pass beforehand give the same weights."""
    algo = algo_config("grpo", minibatch_size=16)
    quick = make_module(random_policy(), algo)
    fit(quick, rollouts, 2)

    inner = PolicyGradientModule._optimizer_step
    passes = []

    def with_old(self: Any, batch: PromptBatch, minibatch: torch.Tensor, old: Any, tally: Tally) -> None:
        assert old is None
        passes.append(batch.step)
        old = self.learner.old_logprobs(batch.prompts, batch.rollout, self.device, Tally())
        inner(self, batch, minibatch, old, tally)

    monkeypatch.setattr(PolicyGradientModule, "_optimizer_step", with_old)
    careful = make_module(random_policy(), algo)
    fit(careful, rollouts, 2)
    assert passes == [0, 1]
    assert furthest(weights(quick.policy), weights(careful.policy)) < 1e-6


def test_later_optimizer_steps_are_off_policy() -> None:
    """Semantics 9: ratios leave 1 after the first of K steps, against logp_old of before the first."""
    (first,) = fit(make_module(random_policy(), algo_config("drgrpo", minibatch_size=16)), rollouts, 1)
    assert (first["policy/ratio_max"], first["policy/clip_frac"], first["policy/approx_kl"]) == (1, 0, 0)
    algo = algo_config("drgrpo", minibatch_size=16, inner_epochs=3)
    (third,) = fit(make_module(random_policy(), algo), rollouts, 1)
    assert third["policy/ratio_max"] > 1.05
    assert third["policy/approx_kl"] > 1e-4


# -- responses without advantage ------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [16, 8])
def test_skipping_responses_without_advantage_changes_nothing(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    """Semantics 10: weights and Adam's state are the same bits; B counts the skipped ones; some steps are all zero."""

    def mostly_flat(step: int) -> RolloutBatch:
        return random_rollout(step, flat_groups=(0, 1, 2) if step != 1 else (0, 1, 2, 3))

    found = []
    for skip in (True, False):
        if not skip:
            monkeypatch.setattr(Learner, "has_gradient", lambda self, rollout, index: bool(rollout.mask[index].any()))
        # One response a pass, so that sums run in the same order with and without the zeros.
        module = make_module(
            random_policy(), algo_config("grpo", minibatch_size=size), micro_batch_tokens=1, max_grad_norm=0
        )
        history = fit(module, mostly_flat, 3)
        found.append((weights(module.policy), optimizer_state(module), module.policy_version, history))
    (left, left_state, left_version, history), (right, right_state, right_version, _) = found
    assert left_version == right_version == 3 * 16 // size
    assert all(torch.equal(left[name], right[name]) for name in left)
    assert left_state.keys() == right_state.keys()
    assert all(torch.equal(left_state[name], right_state[name]) for name in left_state)
    assert history[1]["policy/grad_norm"] == 0


def test_a_step_without_any_gradient_is_still_a_step_of_adam() -> None:
    """Gradients are zeros, not None: moments decay and the weights move by what is left of them."""
    module = make_module(random_policy(), algo_config("drgrpo", minibatch_size=16))
    snapshots: list[dict[str, torch.Tensor]] = []

    class Snapshot(pl.Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, *args: Any) -> None:
            snapshots.append(weights(pl_module.policy))

    flat: Callable[[int], RolloutBatch] = lambda step: random_rollout(0, flat_groups=() if step == 0 else (0, 1, 2, 3))  # noqa: E731
    fit(module, flat, 2, callbacks=[Snapshot()])
    assert module.policy_version == 2
    assert furthest(snapshots[0], snapshots[1]) > 1e-4


def test_truncated_responses_left_out_still_count_in_b() -> None:
    """Semantics 1: the loss of what is left is divided by all of B."""
    whole = random_rollout(4, exclude_truncated=True)
    assert 0 < sum(not mask.any() for mask in whole.mask) < 16
    (figures,) = fit(make_module(random_policy(), algo_config("drgrpo", minibatch_size=16)), lambda step: whole, 1)
    expected = 0.0
    for i, completion in enumerate(whole.completions):
        if whole.mask[i].any():
            expected -= float(whole.advantages[i]) * len(completion.ids) / 9 / 16
    assert figures["loss/policy"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", ["grpo", "drgrpo", "token"])
@pytest.mark.parametrize("size", [16, 8])
def test_a_step_in_which_everything_is_left_out_has_a_zero_gradient(name: str, size: int) -> None:
    """All responses cut by the limit: no division by zero, no NaN, weights where they were."""

    def cut(step: int) -> RolloutBatch:
        return leave_out(random_rollout(step))

    policy = random_policy()
    before = weights(policy)
    (figures,) = fit(make_module(policy, algo_config(name, minibatch_size=size, kl_coef=0.0)), cut, 1)
    assert (figures["policy/grad_norm"], figures["loss/policy"], figures["policy/skipped_steps"]) == (0, 0, 0)
    assert furthest(weights(policy), before) == 0


# -- sync -----------------------------------------------------------------------------------------------------------


def sampled_by(policy: Policy, shift: float = 0.0) -> Callable[[int], RolloutBatch]:
    """Rollouts with the sampler's log-probabilities taken from a policy, off by ``shift`` nats."""

    def make(step: int) -> RolloutBatch:
        rollout = rollouts(step)
        prompts = random_prompts(step, 4)
        for i, completion in enumerate(rollout.completions):
            with torch.no_grad():
                logp, _ = sequence_logprobs(policy.model, prompts[i // 4].ids, completion.ids, 1.0)
            completion.logprobs = (logp + shift).tolist()
        return rollout

    return make


@pytest.mark.parametrize("size", [16, 8])
def test_equal_weights_pass_the_check_and_the_difference_is_measured(size: int) -> None:
    policy = random_policy()
    module = make_module(policy, algo_config("drgrpo", minibatch_size=size))
    (figures,) = fit(module, sampled_by(copy.deepcopy(policy)), 1)
    assert figures["sync/logprob_diff_mean"] < 1e-5
    assert figures["sync/logprob_diff_max"] < 1e-4
    assert module.policy_version == 16 // size


@pytest.mark.parametrize("size", [16, 8])
@pytest.mark.parametrize("shift", [0.002, math.nan], ids=["shifted", "nan"])
def test_other_log_probabilities_stop_before_any_weight_changes(size: int, shift: float) -> None:
    """Traps 37-43: a sampler that serves other weights, or gives NaN, is an error before the first update."""
    policy = random_policy()
    before = weights(policy)
    module = make_module(policy, algo_config("drgrpo", minibatch_size=size))
    with pytest.raises(SyncError, match=r"differ by (0\.002|nan) nats .* at policy version 0 \(limit 0\.001\)"):
        fit(module, sampled_by(copy.deepcopy(policy), shift), 1)
    assert furthest(weights(policy), before) == 0
    assert module.policy_version == 0


def test_stale_weights_stop_the_run_at_the_next_step() -> None:
    """A sampler that keeps the first weights agrees at step 0 and is caught at step 1."""
    policy = random_policy()
    module = make_module(policy, algo_config("drgrpo", minibatch_size=16))
    with pytest.raises(SyncError, match="at policy version 1"):
        fit(module, sampled_by(copy.deepcopy(policy)), 2)
    assert module.rollout_step == 1


@pytest.mark.parametrize("known", [True, False])
def test_a_high_learning_rate_is_told_from_foreign_weights(known: bool) -> None:
    """One optimizer step behind, as sampling ahead makes it: agreement at equal weights clears the engine."""
    policy = random_policy()
    module = make_module(policy, algo_config("drgrpo", minibatch_size=16), lr=0.3)
    module.most_lag = 1
    at_first = sampled_by(copy.deepcopy(policy))

    def make(step: int) -> RolloutBatch:
        rollout = at_first(step)
        rollout.version = -1 if step else 0  # 0 stands for the learner's own
        if step:
            rollout.version, module.policy_version = 1, 2
            if not known:
                module.agreement = None
        return rollout

    with pytest.raises(SyncError, match=r"at policy version 2 \(limit 0\.5\)") as error:
        fit(module, make, 2)
    assert "1 optimizer step(s) with optim.lr=0.3" in str(error.value)
    assert ("so the engine takes the learner's weights" in str(error.value)) == known
    assert ("either" in str(error.value)) != known


# -- what is measured -------------------------------------------------------------------------------------------------


POLICY_FIGURES = ("policy/entropy", "policy/approx_kl", "policy/clip_frac", "sync/logprob_diff_mean")


@pytest.mark.parametrize("inner_epochs", [1, 2])
def test_figures_are_over_the_same_responses_whatever_the_coefficients(inner_epochs: int) -> None:
    """128 responses, of which 32 are measured; 72 have no advantage, and are computed where entropy acts on them."""

    def make(step: int) -> RolloutBatch:
        return random_rollout(step, questions=32, sampler=True, flat_groups=range(0, 18))

    found, computed = [], []
    for entropy_coef in (0.0, 1e-12):
        algo = algo_config("drgrpo", minibatch_size=64, inner_epochs=inner_epochs, entropy_coef=entropy_coef)
        module = make_module(random_policy(), algo, sync_tolerance=100.0, lr=1e-3, micro_batch_tokens=200)
        (figures,) = fit(module, make, 1, questions=32)
        found.append([figures[name] for name in (*POLICY_FIGURES, "policy/measured_tokens")])
        computed.append(figures["throughput/learn_tokens_per_s"] * figures["time/learn"])
    assert found[0] == pytest.approx(found[1], rel=1e-5)
    assert found[0][1] > 0
    assert computed[0] < computed[1], "those without advantage are not trained on"
    rollout = make(0)
    measured = measured_responses(rollout, derive_seed(module.seed, "measured", 0))
    assert int(measured.sum()) == 32
    assert found[0][-1] == sum(len(c.ids) for c, counts in zip(rollout.completions, measured, strict=True) if counts)


@pytest.mark.parametrize(("size", "epochs"), [(8, 1), (8, 3), (16, 2)])
def test_ratios_are_exactly_1_where_the_weights_do_not_move(size: int, epochs: int) -> None:
    """Old and new log-probabilities come from passes cut alike, so that lr = 0 gives 1 to the last bit."""
    algo = algo_config("drgrpo", minibatch_size=size, inner_epochs=epochs)
    module = make_module(random_policy(hidden=64, layers=3), algo, lr=0.0, micro_batch_tokens=90)
    history = fit(module, rollouts, 3)
    for figures in history:
        assert figures["policy/ratio_max"] == 1.0
        assert figures["policy/approx_kl"] == 0.0
        assert figures["policy/clip_frac"] == 0.0


def test_which_responses_are_measured() -> None:
    whole = random_rollout(0, questions=100)
    one = measured_responses(whole, 5)
    assert int(one.sum()) == 50, "an eighth of 400"
    parts = [measured_responses(part(whole, 100 * r, 100 * r + 100), 5, r, 4) for r in range(4)]
    assert torch.equal(torch.cat(parts), one), "the same for any number of ranks"
    assert not torch.equal(measured_responses(whole, 6), one)
    left_out = leave_out(random_rollout(0, questions=100), *range(0, 400, 2))
    assert not measured_responses(left_out, 5)[::2].any()
    assert measured_responses(leave_out(random_rollout(0)), 5).all(), "nothing is trained on: the sync check stays"
    few_left = leave_out(random_rollout(0, questions=100), *range(399))
    assert measured_responses(few_left, 5).nonzero().flatten().tolist() == [399]


def test_another_version_stops_before_any_weight_changes() -> None:
    """Semantics 15, trap 43."""
    policy = random_policy()
    before = weights(policy)
    module = make_module(policy, algo_config("drgrpo", minibatch_size=16))
    with pytest.raises(SyncError, match="policy version 7, the learner holds version 0"):
        fit(module, lambda step: random_rollout(step, version=7), 1)
    assert furthest(weights(policy), before) == 0


def test_a_batch_without_a_rollout_is_refused() -> None:
    module = make_module(random_policy(layers=1), algo_config("drgrpo"))
    with pytest.raises(RuntimeError, match="RolloutCallback is missing"):
        module.training_step(PromptBatch(0, 0, []), 0)


# -- gradients that are not finite ------------------------------------------------------------------------------------


def break_gradients(policy: Policy, steps: set[int], value: float = math.nan) -> list[int]:
    """Make the gradient of one parameter ``value`` in the given backward passes."""
    seen: list[int] = []

    def hook(grad: torch.Tensor) -> torch.Tensor:
        seen.append(len(seen))
        return torch.full_like(grad, value) if seen[-1] in steps else grad

    policy.model.get_input_embeddings().weight.register_hook(hook)
    return seen


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_step_with_gradients_that_are_not_finite_is_left_out_and_counted(value: float) -> None:
    policy = random_policy()
    module = make_module(policy, algo_config("drgrpo", minibatch_size=16), micro_batch_tokens=10**6)
    break_gradients(policy, {1}, value)
    snapshots: list[Any] = []

    class Snapshot(pl.Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, *args: Any) -> None:
            snapshots.append((weights(pl_module.policy), optimizer_state(pl_module), pl_module.policy_version))

    history = fit(module, rollouts, 3, callbacks=[Snapshot()])
    assert [h["policy/skipped_steps"] for h in history] == [0, 1, 0]
    assert [s[2] for s in snapshots] == [1, 1, 2]
    assert furthest(snapshots[0][0], snapshots[1][0]) == 0
    assert furthest(snapshots[0][1], snapshots[1][1]) == 0
    assert furthest(snapshots[1][0], snapshots[2][0]) > 0
    assert math.isnan(history[1]["policy/grad_norm"])
    assert all(math.isfinite(h["policy/grad_norm"]) for h in (history[0], history[2]))


def test_a_loss_that_is_no_number_ends_the_run_though_its_gradient_is_one() -> None:
    module = make_module(random_policy(), algo_config("drgrpo", minibatch_size=16))
    objective = module.learner.objective

    def broken(*args: Any, **kwargs: Any) -> Any:
        loss = objective(*args, **kwargs)
        return dataclasses.replace(loss, value=loss.value + math.nan, policy=None)

    module.learner.objective = broken
    with pytest.raises(UserError, match=r"^rollout step 0: loss/policy came out as NaN or infinite: lower optim.lr"):
        fit(module, rollouts, 2)


def test_training_stops_after_too_many_left_out_in_a_row() -> None:
    policy = random_policy()
    module = make_module(policy, algo_config("drgrpo", minibatch_size=16), micro_batch_tokens=10**6)
    seen = break_gradients(policy, set(range(2, 100)) - {4})
    with pytest.raises(UserError, match=f"^{MAX_SKIPPED_IN_A_ROW} optimizer steps in a row had gradients"):
        fit(module, rollouts, 20)
    assert len(seen) == 2 + 2 + 1 + MAX_SKIPPED_IN_A_ROW  # two good, two bad, one good, then the limit
    assert module.policy_version == 3
    assert all(torch.isfinite(p).all() for p in policy.parameters())


def test_gradients_are_clipped_to_their_norm() -> None:
    """The norm that is logged is the unclipped one; 0 turns clipping off."""
    found = {}
    for limit in (1e-3, 0.0):
        module = make_module(random_policy(), algo_config("grpo", minibatch_size=16), max_grad_norm=limit)
        used: list[float] = []

        class Norm(pl.Callback):
            used: list[float]

            def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
                self.used.append(math.sqrt(sum(float(p.grad.square().sum()) for p in pl_module.policy.parameters())))

        callback = Norm()
        callback.used = used
        (figures,) = fit(module, rollouts, 1, callbacks=[callback])
        found[limit] = (figures["policy/grad_norm"], used[0])
    assert found[1e-3][0] == pytest.approx(found[0.0][0], rel=1e-5)
    assert found[0.0][1] == pytest.approx(found[0.0][0], rel=1e-5)
    assert found[1e-3][1] == pytest.approx(1e-3, rel=1e-3)
    assert found[0.0][0] > 0.01


# -- number formats ---------------------------------------------------------------------------------------------------


def repeat_first(step: int) -> RolloutBatch:
    return random_rollout(0)


@pytest.fixture
def caching_autocast(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch's default: Lightning's own region comes with the cache off today, and nothing promises that it stays so."""
    from pytorch_lightning.plugins.precision import MixedPrecision

    monkeypatch.setattr(
        MixedPrecision, "autocast_context_manager", lambda self: torch.autocast("cpu", dtype=torch.bfloat16)
    )


@pytest.mark.usefixtures("caching_autocast")
def test_bfloat16_steps_use_the_weights_of_the_step_before() -> None:
    """K = 2 through Lightning against a plain loop that opens and closes autocast around every pass.

    One autocast region spans the K optimizer steps; a cache in it would serve the second step bfloat16
    copies of the weights from before the first: without the switch the weights end up 0.016 apart.
    """
    policy = random_policy()
    twin = copy.deepcopy(policy)
    algo = algo_config("drgrpo", minibatch_size=16, inner_epochs=2)
    module = make_module(policy, algo, micro_batch_tokens=1)
    fit(module, repeat_first, 1, precision="bf16-mixed")
    assert torch.is_autocast_cache_enabled()  # outside the step nothing has changed

    rollout, prompts = random_rollout(0), random_prompts(0, 4)
    other = make_module(twin, algo, micro_batch_tokens=1)
    optimizer = other.configure_optimizers()["optimizer"]
    active = [i for i in range(16) if rollout.advantages[i] != 0]
    old: dict[int, torch.Tensor] = {}
    device = torch.device("cpu")
    for rows, micro in other.learner.passes(prompts, rollout, active, device):
        with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
            logp, _ = twin(micro)
        old[rows[0]] = logp[0]
    for _ in range(2):
        for rows, micro in other.learner.passes(prompts, rollout, active, device):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss = other.learner.loss(rollout, rows, micro, old, 0, Tally())
            loss.backward()
        torch.nn.utils.clip_grad_norm_(twin.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    assert furthest(weights(policy), weights(twin)) < 1e-5


def test_parameters_are_float32_and_small_updates_arrive() -> None:
    """Semantics 11, trap 54: after 100 steps at lr 1e-6 every float32 weight has moved, hardly any bfloat16 one.

    Weights near 0.02 are 1.2e-4 apart in bfloat16.
    """
    policy = random_policy(layers=1, scale=0.02)
    module = make_module(policy, algo_config("drgrpo"), lr=1e-6, eps=1e-8)
    optimizer = module.configure_optimizers()["optimizer"]
    assert {p.dtype for group in optimizer.param_groups for p in group["params"]} == {torch.float32}
    half = {name: p.detach().bfloat16() for name, p in policy.named_parameters()}
    half_optimizer = torch.optim.AdamW(half.values(), lr=1e-6, betas=(0.9, 0.95), weight_decay=0.0)
    start, half_start = weights(policy), {name: p.clone() for name, p in half.items()}
    generator = torch.Generator().manual_seed(0)
    for _ in range(100):
        for name, p in policy.named_parameters():
            p.grad = torch.randn(p.shape, generator=generator)
            half[name].grad = p.grad.bfloat16()
        optimizer.step()
        half_optimizer.step()
    matrices = [name for name in start if "norm" not in name and "bias" not in name]
    changed = torch.cat([(weights(policy)[n] != start[n]).flatten() for n in matrices]).float().mean()
    half_changed = torch.cat([(half[n] != half_start[n]).flatten() for n in matrices]).float().mean()
    assert changed > 0.99
    assert half_changed < 0.25


# -- schedule, seeds, counters ----------------------------------------------------------------------------------------


def test_learning_rate_schedules_by_hand() -> None:
    assert [lr_factor("constant", 0, 4)(s) for s in range(6)] == [1] * 6
    assert [lr_factor("constant", 2, 4)(s) for s in range(4)] == [0.5, 1, 1, 1]
    assert [lr_factor("linear", 0, 4)(s) for s in range(6)] == [1, 0.75, 0.5, 0.25, 0, 0]
    assert [lr_factor("linear", 2, 6)(s) for s in range(7)] == [0.5, 1, 1, 0.75, 0.5, 0.25, 0]
    assert [lr_factor("cosine", 0, 4)(s) for s in (0, 2, 4, 9)] == pytest.approx([1, 0.5, 0, 0])


def test_the_schedule_counts_optimizer_steps_and_the_rate_logged_is_the_one_used() -> None:
    algo = algo_config("drgrpo", minibatch_size=8)
    module = make_module(random_policy(layers=1), algo, lr=1e-3, schedule="linear", total_steps=6)
    history = fit(module, rollouts, 3)
    assert [h["optim/lr"] for h in history] == pytest.approx([1e-3 * f / 6 for f in (5, 3, 1)])


def test_the_learner_draws_from_no_global_generator() -> None:
    """Trap 31: shuffles depend on (seed, rollout step) alone, and leave everybody else's draws alone."""
    orders: list[list[list[int]]] = []
    inner = PolicyGradientModule._optimizer_step

    class Recorded(PolicyGradientModule):
        def _optimizer_step(self, batch: Any, minibatch: torch.Tensor, old: Any, tally: Any) -> None:
            orders[-1].append(minibatch.tolist())
            inner(self, batch, minibatch, old, tally)

        def training_step(self, batch: Any, batch_idx: int) -> None:
            state = torch.get_rng_state()
            super().training_step(batch, batch_idx)
            assert torch.equal(torch.get_rng_state(), state)

    for noise, seed in ((0, 3), (1, 3), (0, 4)):
        orders.append([])
        module = make_module(random_policy(layers=1), algo_config("drgrpo", minibatch_size=8), seed=seed)
        module.__class__ = Recorded
        torch.manual_seed(noise)
        fit(module, rollouts, 2)
    assert orders[0] == orders[1] != orders[2]
    assert orders[0][:2] != orders[0][2:]


def test_two_runs_are_equal_to_the_last_bit() -> None:
    """Semantics 14."""
    runs = []
    for _ in range(2):
        module = make_module(random_policy(), algo_config("grpo", minibatch_size=8))
        history = fit(module, rollouts, 2)
        figures = [{k: v for k, v in h.items() if "time" not in k and "_per_s" not in k} for h in history]
        runs.append((weights(module.policy), figures))
    assert furthest(runs[0][0], runs[1][0]) == 0
    assert repr(runs[0][1]) == repr(runs[1][1])


def test_counters_go_into_the_checkpoint_and_come_back() -> None:
    module = make_module(random_policy(layers=1), algo_config("drgrpo", minibatch_size=8))
    fit(module, rollouts, 2)
    checkpoint: dict[str, Any] = {}
    module.on_save_checkpoint(checkpoint)
    tokens = sum(len(c.ids) for step in (0, 1) for c in rollouts(step).completions)
    assert checkpoint["r1zero"] == {"policy_version": 4, "rollout_step": 2, "tokens_seen": tokens}
    other = make_module(random_policy(layers=1), algo_config("drgrpo", minibatch_size=8))
    other.on_load_checkpoint(checkpoint)
    assert (other.policy_version, other.rollout_step, other.tokens_seen) == (4, 2, tokens)


def test_the_reference_is_neither_trained_nor_saved() -> None:
    policy = random_policy()
    reference = copy.deepcopy(policy).eval().requires_grad_(False)
    before = weights(reference)
    algo = algo_config("drgrpo", minibatch_size=16, inner_epochs=2, kl_coef=0.5)
    module = make_module(policy, algo, reference=reference)
    history = fit(module, rollouts, 2)
    assert furthest(weights(reference), before) == 0
    assert not any("reference" in name for name in module.state_dict())
    assert history[0]["loss/kl"] > 0
    (without,) = fit(make_module(random_policy(), algo_config("drgrpo", minibatch_size=16)), rollouts, 1)
    assert math.isnan(without["loss/kl"])
