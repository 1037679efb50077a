"""One rollout step, from questions to what the loss will use. Reads from top to bottom."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import torch

from r1zero.algo.advantages import overlong_penalty
from r1zero.algo.stats import Tally, reduce_over_ranks, rollout_summary
from r1zero.batch import Completion, PromptBatch, RolloutBatch
from r1zero.config import TrainConfig
from r1zero.launch.seeding import derive_seed
from r1zero.reward.grader import Grader
from r1zero.reward.outcome import Outcome
from r1zero.rollout.ahead import Sampled
from r1zero.rollout.engine import Engine, Sampling
from r1zero.rollout.grading import Grading
from r1zero.rollout.live import LiveEngine
from r1zero.rollout.rules import Rules

if TYPE_CHECKING:
    from r1zero.learn.module import PolicyGradientModule


class History(Protocol):
    """What chooses questions by the policy's success on them."""

    def record(self, step: int, rates: Sequence[float]) -> int:
        """Take the success rates of a step's questions over all ranks; how many questions have one by now."""
        ...


class Collector:
    """Samples, grades, says which answers are right and which tokens are trained, and with what advantage.

    All that is learned is decided here; callbacks only watch.

    Args:
        cfg: settings of the run.
        engine: samples.
        grader: the verifier and the reward functions.
        sampling: sampling settings of a rollout.
        tokenizer: decodes tokens for credit rules.

    Raises:
        UserError: an advantage or credit function can't be found, or does not take its parameters.
    """

    def __init__(
        self, cfg: TrainConfig, engine: LiveEngine, grader: Grader, sampling: Sampling, tokenizer: Any
    ) -> None:
        self.cfg, self.engine, self.grader, self.sampling = cfg, engine, grader, sampling
        self.grading = Grading(grader)
        self.rules = Rules(cfg.algo, lambda ids: tokenizer.decode(ids, skip_special_tokens=False))

    @torch.no_grad()
    def collect(
        self,
        module: PolicyGradientModule,
        batch: PromptBatch,
        *,
        following: PromptBatch | None = None,
        history: History | None = None,
    ) -> RolloutBatch:
        """Fill ``batch.rollout`` and give it back.

        Args:
            module: the learner.
            batch: the questions of this step.
            following: those of the next one, where it is sampled while this one is learned.
            history: gets the policy's success on each question.
        """
        started = time.perf_counter()
        sampled, synced = self._sample(module, batch)
        generated = time.perf_counter()
        grades = self.grading.outcomes(batch, sampled.groups)  # most are there: groups are graded as they finish
        graded = time.perf_counter()

        completions = [completion for group in sampled.groups for completion in group]
        batch.rollout = rollout = RolloutBatch(
            completions=completions,
            group_size=self.cfg.rollout.group_size,
            version=sampled.version,
            rewards=self._rewards(grades, completions),
            right=torch.tensor([grade.right for grade in grades]),
            mask=[c.sampled() & self._is_trained(c) for c in completions],
            prompts=batch.prompts,
            grades=grades,
        )
        penalty = self._penalise(module, batch) if self.cfg.algo.kl_in_reward else {}
        rollout.advantages = self.rules.advantages(rollout)
        rollout.credit = self.rules.token_weights(rollout)
        rollout.sealed = rollout.fingerprint()
        known = self._tell(history, module, batch.step, rollout) if history is not None else {}
        rollout.metrics = self._figures(module, rollout) | known | penalty

        seconds = generated - started - synced
        rollout.metrics["throughput/rollout_tokens_per_s"] = rollout.metrics.pop("tokens") / max(seconds, 1e-9)
        synced += self._let_go(module, following)
        rollout.metrics |= {"time/sync": synced, "time/rollout": seconds, "time/reward": graded - generated}
        return rollout

    # -- sampling -------------------------------------------------------------------------------------

    def _sample(self, module: PolicyGradientModule, batch: PromptBatch) -> tuple[Sampled, float]:
        """The step's responses, and seconds that loading weights took; those sampled ahead where there are any."""
        sampled = self.engine.ahead.take(batch.step)
        if sampled is not None:
            return sampled, 0.0
        synced = self.engine.sync(module)
        groups = self.engine.sampled(module, lambda engine: self._generate(engine, batch, module.global_rank))
        version = self.engine.now.version
        assert version is not None
        return Sampled(batch.step, version, groups), synced

    def _generate(self, engine: Engine, batch: PromptBatch, rank: int) -> list[list[Completion]]:
        """Sample; groups are graded as the engine finishes them, where it reports them."""
        seed = derive_seed(self.cfg.seed, "rollout", batch.step, rank)
        with self.grading.listening(engine, batch):
            return engine.generate([p.ids for p in batch.prompts], self.sampling, seed)

    def _let_go(self, module: PolicyGradientModule, following: PromptBatch | None) -> float:
        """Leave the device to the learner, or sample the next step with the current weights; seconds of loading."""
        if following is None:
            if not self.cfg.rollout.async_steps:
                self.engine.now.sleep()
            return 0.0
        synced = self.engine.sync(module)
        engine, step, version, rank = self.engine.now, following.step, module.policy_version, module.global_rank
        self.engine.ahead.start(lambda: Sampled(step, version, self._generate(engine, following, rank)))
        return synced

    # -- what is learned ------------------------------------------------------------------------------

    def _rewards(self, grades: list[Outcome], completions: list[Completion]) -> torch.Tensor:
        """The graded ones, less what a response that comes near the limit is punished with (algo.overlong)."""
        rewards, share = torch.tensor([grade.reward for grade in grades]), self.cfg.algo.overlong
        if share:
            lengths = torch.tensor([float(c.length) for c in completions])
            rewards += overlong_penalty(lengths, self.cfg.rollout.max_tokens, share)
        return rewards

    def _penalise(self, module: PolicyGradientModule, batch: PromptBatch) -> dict[str, float]:
        """Take the KL to the reference off the rewards (semantics 16); its mean over the responses of all ranks.

        Two more passes over the rollout, for which the engine leaves the device to the learner.
        """
        rollout = batch.rollout
        assert rollout is not None
        if not self.cfg.rollout.async_steps:
            self.engine.now.sleep()
        kl = module.response_kl(batch)
        rollout.rewards = (rollout.rewards.double() - self.cfg.algo.kl_in_reward * kl).float()
        tally = Tally()
        tally.mean("reward/kl", kl)
        return tally.reduce(lambda values, how: reduce_over_ranks(values, how, module.device))

    def _is_trained(self, completion: Completion) -> bool:
        """Whether the loss looks at a response at all; one that it leaves out still counts in B (semantics 1)."""
        return not (completion.truncated and self.cfg.algo.truncated.value == "exclude")

    # -- what is reported ------------------------------------------------------------------------------

    def _tell(
        self, history: History, module: PolicyGradientModule, step: int, rollout: RolloutBatch
    ) -> dict[str, float]:
        """Record the share of right answers to each question, over all ranks."""
        solved = rollout.right.double().view(-1, rollout.group_size).mean(dim=1)
        rates = torch.zeros(module.trainer.world_size, len(solved), dtype=torch.float64)
        rates[module.global_rank] = solved
        rates = reduce_over_ranks(rates, "sum", module.device)
        return {"sampler/known": float(history.record(step, rates.flatten().tolist()))}

    def _figures(self, module: PolicyGradientModule, rollout: RolloutBatch) -> dict[str, float]:
        """Figures over the responses of all ranks, of what the loss will really use."""
        tally, lengths = Tally(), rollout.lengths
        rollout_summary(
            tally, rollout.rewards, rollout.right, lengths, rollout.truncated, rollout.advantages, rollout.group_size
        )
        tally.total("tokens", lengths.sum().item())
        for name in self.cfg.data.sources:  # of a mixture; every rank adds the same names
            own = torch.tensor([p.question.source == name for p in rollout.prompts])
            tally.mean(f"source/{name}/share", own.float())
            tally.mean(f"source/{name}/accuracy", rollout.right.float(), own.repeat_interleave(rollout.group_size))
        health = self.grader.stats(rollout.grades)
        # Shares of this rank's responses; every rank holds as many.
        for name in ("timeouts", "failures", "unparsed", "fast_path_frac"):
            tally.mean(f"reward/{name}", torch.tensor([health[name]]))
        tally.maximum("reward/seconds_p99", health["seconds_p99"])
        metrics = tally.reduce(lambda values, how: reduce_over_ranks(values, how, module.device))
        variance = metrics.pop("reward/second_moment") - metrics["reward/mean"] ** 2
        metrics["reward/std"] = math.sqrt(max(variance, 0.0))
        metrics["sync/version"] = float(rollout.version)
        metrics["sync/lag"] = float(module.policy_version - rollout.version)
        self.grader.check_health(rollout.grades, metrics["reward/failures"])
        return metrics
