"""The length bias as an exact number, through the product's own ``aggregate`` and without sampling."""

from __future__ import annotations

import pytest
import torch

from r1zero.algo.loss import aggregate, clipped_surrogate

Q, L0, M = 0.8, 28, 4
ENOUGH = 300
"""Hesitations after which 0.8^k is below 1e-28."""


def pull(advantage: float, norm: str) -> float:
    """d objective / d logit of "go on rambling", all lengths enumerated and weighted with their probability.

    A text that rambles hesitates once, then again and again with probability q = sigmoid(logit) each time, so
    k = 1, 2, ... times with a mean of 5; its length is L0 + m k tokens and its log-probability
    (k - 1) log q + log(1 - q). Each text is one response of one optimizer step (B = 1). The tokens that the
    logit does not decide get a log-probability of 0.
    """
    logit = torch.logit(torch.tensor(Q, dtype=torch.float64)).requires_grad_()
    go_on, stop = torch.nn.functional.logsigmoid(logit), torch.nn.functional.logsigmoid(-logit)
    objective = torch.zeros((), dtype=torch.float64)
    for k in range(1, ENOUGH):
        length = L0 + M * k
        decided = torch.cat([go_on.expand(k - 1), stop.expand(1)])
        logp = torch.cat([decided, torch.zeros(length - k, dtype=torch.float64)])[None, :]
        losses, _, _ = clipped_surrogate(
            logp, logp.detach(), torch.tensor([[advantage]], dtype=torch.float64), clip_low=0.2, clip_high=0.2
        )
        loss = aggregate(
            losses,
            torch.ones_like(losses, dtype=torch.bool),
            length_norm=norm,
            constant=192,
            num_responses=1,
            num_tokens=length,
        )
        objective = objective - Q ** (k - 1) * (1 - Q) * loss
    objective.backward()
    assert logit.grad is not None
    return logit.grad.item()


def test_grpo_rewards_rambling_where_the_text_shows_that_it_is_wrong() -> None:
    """The paper's length bias, exact: +0.0052 a step on the logit of going on, with nothing to gain by it.

    It proves that the product's GRPO objective prefers longer wrong answers *because* of 1/T_i and nothing
    else: the advantage is -1 for every length, so no length is better than another, and yet the expected
    gradient of the objective points to more hesitation. With a constant in place of T_i it vanishes.
    """
    assert pull(-1.0, "response") == pytest.approx(0.0052, abs=5e-5)


def test_dr_grpo_does_not() -> None:
    """Score functions have mean zero: a constant weight for every length leaves no pull at all."""
    assert pull(-1.0, "constant") == pytest.approx(0, abs=1e-12)
    assert pull(+1.0, "constant") == pytest.approx(0, abs=1e-12)


def test_grpo_hurries_where_the_text_shows_that_it_is_right() -> None:
    assert pull(+1.0, "response") == pytest.approx(-0.0052, abs=5e-5)


@pytest.mark.parametrize("norm", ["response", "constant", "token"])
def test_a_blind_choice_of_length_is_not_pulled(norm: str) -> None:
    """Where right and wrong texts ramble alike, advantages of a group sum to zero and so do the pulls."""
    right, wrong = 0.3, 0.7
    assert right * pull(1 - right, norm) + wrong * pull(-right, norm) == pytest.approx(0, abs=1e-12)
