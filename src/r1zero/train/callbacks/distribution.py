"""DistributionCallback: do sampler and learner agree on every token, not only on those that were drawn?"""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytorch_lightning as pl
import torch

from r1zero.algo.stats import Tally, reduce_over_ranks
from r1zero.batch import Completion, Prompt, PromptBatch
from r1zero.errors import SyncError, UserError
from r1zero.launch.seeding import derive_seed
from r1zero.learn.collate import collate
from r1zero.learn.module import PolicyGradientModule
from r1zero.rollout.engine import Sampling
from r1zero.train.context import RunContext


class DistributionCallback(pl.Callback):
    """Compares whole distributions before the first update, and again every ``every`` rollout steps.

    A response is sampled for some questions and cut at a random place; engine and learner say how probable each token
    of the vocabulary is there. The draws of the rollout itself stay what they are without it.

    Args:
        context: the run.
        positions: places that each rank looks at.
        every: rollout steps between comparisons.

    Raises:
        UserError: an environment answers between turns; it gives tokens back, not distributions.
    """

    def __init__(self, context: RunContext, positions: int = 16, every: int = 10) -> None:
        if context.cfg.rollout.environment:
            raise UserError(
                f"callbacks.distribution: rollout.environment={context.cfg.rollout.environment} gives no distributions "
                "back; leave the callback out"
            )
        self.context, self.positions, self.every = context, positions, every
        context.before_sampling.append(self._compare_where_due)

    def _compare_where_due(self, module: PolicyGradientModule, batch: PromptBatch) -> None:
        if batch.step % self.every == 0:
            self._compare(module, batch)

    @torch.no_grad()
    def _compare(self, module: PolicyGradientModule, batch: PromptBatch) -> None:
        seed = derive_seed(self.context.cfg.seed, "distribution", batch.step, module.global_rank)
        sampling = replace(self.context.sampling, n=1, logprobs=False)
        prompts = [batch.prompts[i % len(batch.prompts)] for i in range(self.positions)]
        responses = [group[0] for group in self._generate(module, [p.ids for p in prompts], sampling, seed)]
        draw = random.Random(seed)
        cut = [[*p.ids, *r.ids[: draw.randrange(len(r.ids))]] for p, r in zip(prompts, responses, strict=True)]
        groups = self._generate(module, cut, replace(sampling, max_tokens=1, whole=True), seed)
        tokens = [group[0] for group in groups]
        sampler = torch.cat([token.whole for token in tokens if token.whole is not None])
        learner = self._learner(
            module, [Prompt(p.question, "", ids) for p, ids in zip(prompts, cut, strict=True)], tokens
        )
        tally = Tally()
        mean, variation = distances(sampler, learner.to(sampler.device))
        tally.mean("sync/whole_diff_mean", mean)
        tally.maximum("sync/total_variation_max", variation)
        figures = tally.reduce(lambda values, how: reduce_over_ranks(values, how, module.device))
        self.context.pending |= figures
        if not figures["sync/whole_diff_mean"] <= module.sync_tolerance:  # NaN stops too
            raise SyncError(
                f"whole distributions of sampler and learner differ by {figures['sync/whole_diff_mean']:.3g} nats on "
                f"average at policy version {module.policy_version} (limit {module.sync_tolerance:g}), by up to "
                f"{figures['sync/total_variation_max']:.3g} in probability: the engine does not serve the learner's "
                "weights; where the number format alone explains it, raise rollout.sync_tolerance"
            )

    def _generate(
        self, module: PolicyGradientModule, prompts: list[list[int]], sampling: Sampling, seed: int
    ) -> list[list[Completion]]:
        return self.context.engine.sampled(module, lambda engine: engine.generate(prompts, sampling, seed))

    @staticmethod
    def _learner(module: PolicyGradientModule, prompts: list[Prompt], tokens: list[Completion]) -> torch.Tensor:
        """The learner's log-probabilities of all tokens behind each prompt, float32 [positions, V]."""
        seen: list[torch.Tensor] = []

        def head(states: Any, weight: Any, targets: Any, *, temperature: float, **rest: Any) -> Any:
            logp = ((states @ weight.to(states.dtype).T).float() / temperature).log_softmax(dim=-1)
            seen.append(logp)
            chosen = logp.gather(-1, targets[:, None])[:, 0]
            return chosen, torch.zeros_like(chosen)

        micro = collate(prompts, tokens, packed=module.policy.packs).to(module.device)
        with module.trainer.precision_plugin.forward_context():
            module.policy(micro, module.learner.temperature, with_entropy=False, head=head)
        return seen[0]


def distances(sampler: torch.Tensor, learner: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """How far two distributions are apart at each position.

    Args:
        sampler: log-probabilities, float32 [M, V]; -inf for tokens that it never draws.
        learner: the same, [M, V].

    Returns:
        the mean of |sampler - learner| over the sampler's draws, nats, [M]: what the comparison of sampled tokens
        estimates; and the total variation, the largest difference in the probability of any set of tokens, [M].
    """
    p = sampler.exp()
    difference = torch.where(p > 0, (sampler - learner).abs(), torch.zeros_like(p))
    return (p * difference).sum(dim=-1), (p - learner.exp()).abs().sum(dim=-1) / 2
