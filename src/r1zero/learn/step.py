"""The learner: one micro-batch's loss and log-probabilities, with the figures measured on the way.

No Lightning here: ``module.py`` owns optimizer steps and ranks, ``algo/`` the formulas.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext

import torch

from r1zero.algo.batching import micro_batches, packed_batches
from r1zero.algo.objective import Loss, Scale, TokenValues, moves_without_advantage, policy_gradient
from r1zero.algo.stats import Tally
from r1zero.algo_config import AlgoConfig
from r1zero.batch import Prompt, RolloutBatch
from r1zero.learn.collate import MicroBatch, collate
from r1zero.learn.measure import compare_with_sampler, few, measured_tokens, sampler_logprobs, to_matrix
from r1zero.learn.policy import Policy

PASS_TOKENS_PER_THREAD = 128
"""What a forward and backward pass costs on a CPU besides its tokens, in tokens of each thread."""
PASS_TOKENS_ELSEWHERE = 1024
"""On GPUs: launching a model's kernels takes as long as computing about a thousand tokens."""


def pass_tokens(device: torch.device) -> int:
    """What a forward and backward pass costs besides its tokens, in tokens; see ``micro_batches``."""
    return PASS_TOKENS_PER_THREAD * torch.get_num_threads() if device.type == "cpu" else PASS_TOKENS_ELSEWHERE


Pass = tuple[list[int], MicroBatch]
"""Local response indices of one forward pass, and their tensors."""


class Learner:
    """Computes losses and log-probabilities of a rollout's responses under the current policy.

    Args:
        policy: the model that is trained.
        reference: frozen model of the KL in loss or reward, or None.
        algo: settings of the objective.
        objective: function (values, scale, algo) -> Loss.
        temperature: the sampling temperature; divides logits here too (semantics 6).
        constant: C of Dr. GRPO, tokens.
        max_tokens: most prompt + response tokens, padding counted, in one forward pass.
    """

    def __init__(
        self,
        policy: Policy,
        reference: Policy | None,
        algo: AlgoConfig,
        *,
        objective: Callable[..., Loss] = policy_gradient,
        temperature: float,
        constant: float,
        max_tokens: int,
    ) -> None:
        self.policy, self.reference, self.algo, self.objective = policy, reference, algo, objective
        self.moves_without_advantage = moves_without_advantage(objective, algo)
        self.temperature, self.constant, self.max_tokens = temperature, constant, max_tokens
        self.most_passes: Callable[[int], int] = lambda own: own
        """Passes to make where this rank needs ``own`` of them; with sharded weights all ranks make as many."""

    def has_gradient(self, rollout: RolloutBatch, index: int) -> bool:
        """Whether a response can move the policy; one that can't is not computed, and counts in B (semantics 10)."""
        if not rollout.mask[index].any():
            return False
        return bool(rollout.advantages[index] != 0) or self.moves_without_advantage

    def passes(
        self, prompts: Sequence[Prompt], rollout: RolloutBatch, indices: Sequence[int], device: torch.device
    ) -> Iterator[Pass]:
        """Cut responses into forward passes within the token budget.

        Sequences of like length together, padded on the right; where attention takes sequences of any length,
        packed one behind another. No token sees another sequence's in either layout (semantics 5, 13).
        """
        group = rollout.group_size
        lengths = [len(prompts[i // group].ids) + len(rollout.completions[i].ids) for i in indices]
        context = self.policy.context
        packed, budget = self.policy.packs, self.max_tokens * (context.size if context else 1)
        cut = packed_batches(lengths, budget) if packed else micro_batches(lengths, budget, pass_tokens(device))
        for positions in cut:
            rows = [indices[p] for p in positions]
            completions = [rollout.completions[i] for i in rows]
            micro = collate([prompts[i // group] for i in rows], completions, packed=packed)
            yield rows, micro.to(device)

    def evened(
        self, prompts: Sequence[Prompt], rollout: RolloutBatch, indices: Sequence[int], device: torch.device
    ) -> list[tuple[Pass, bool]]:
        """The passes over some responses with True, then a small one again with False until all ranks make as many.

        Sharded weights are gathered by all ranks together; a rank with fewer passes would leave them waiting. Where a
        group of ranks makes each pass together, those of the others are among them, with no response of this rank.
        """
        passes = list(self.passes(prompts, rollout, indices, device))
        missing = self.most_passes(len(passes)) - len(passes)
        again: list[Pass] = []
        if missing:
            shortest = few(rollout, range(len(rollout.completions)))[:1]
            again = passes[-1:] or list(self.passes(prompts, rollout, shortest, device))
        mine = [*((p, True) for p in passes), *((p, False) for p in again * missing)]
        context = self.policy.context
        if context is None:
            return mine
        theirs = context.everyones([micro for (_, micro), _ in mine])
        return [
            own if member == context.rank else (([], batches[number]), False)
            for number, own in enumerate(mine)
            for member, batches in enumerate(theirs)
        ]

    def shares(self, rollout: RolloutBatch, indices: Sequence[int]) -> tuple[list[int], list[int]]:
        """Responses that move the policy, and those that do not and are measured all the same."""
        active = [i for i in indices if self.has_gradient(rollout, i)]
        measured = rollout.measured
        return active, [i for i in indices if i not in set(active) and (measured is None or bool(measured[i]))]

    @torch.no_grad()
    def old_logprobs(
        self,
        prompts: Sequence[Prompt],
        rollout: RolloutBatch,
        device: torch.device,
        tally: Tally,
        indices: Sequence[int] | None = None,
    ) -> dict[int, torch.Tensor]:
        """Log-probabilities before the rollout step's first update, by the learner (semantics 6).

        From passes cut as those of the optimizer step will be: where the weights have not moved, the ratio is 1
        to the last bit.

        Args:
            prompts: P prompts.
            rollout: the rollout of this rank.
            device: where to compute.
            tally: takes the difference from the sampler.
            indices: local indices of an optimizer step's responses; None: all.

        Returns:
            {local response index: float32 [T_i]} for every response that can move the policy or is measured.
        """
        shares = self.shares(rollout, range(len(rollout.completions)) if indices is None else indices)
        old: dict[int, torch.Tensor] = {}
        for part in shares:
            for (rows, micro), counts in self.evened(prompts, rollout, part, device):
                logp, _ = self.policy(micro, self.temperature, with_entropy=False)
                if not counts:
                    continue
                compare_with_sampler(rollout, rows, logp, measured_tokens(rollout, rows, micro.mask), tally)
                old.update({i: logp[row, : len(rollout.completions[i].ids)] for row, i in enumerate(rows)})
        return old

    @torch.no_grad()
    def response_kl(self, prompts: Sequence[Prompt], rollout: RolloutBatch, device: torch.device) -> torch.Tensor:
        """Sum over each response's sampled tokens of logp_old - logp_ref, the k1 estimate (semantics 16).

        Of every response, whether the loss looks at it or not; tokens of an environment count for nothing.

        Returns:
            float64 [N], nats; exactly 0 where policy and reference are equal.
        """
        assert self.reference is not None
        found = torch.zeros(len(rollout.completions), dtype=torch.float64)
        for (rows, micro), counts in self.evened(prompts, rollout, range(len(rollout.completions)), device):
            logp, _ = self.policy(micro, self.temperature, with_entropy=False)
            reference, _ = self.reference(micro, self.temperature, with_entropy=False)
            if counts:
                found[rows] = (logp - reference).double().sum(dim=1).cpu()
        return found

    def loss(
        self,
        rollout: RolloutBatch,
        rows: Sequence[int],
        micro: MicroBatch,
        old: dict[int, torch.Tensor] | None,
        num_tokens: int,
        tally: Tally,
        *,
        trained: bool = True,
    ) -> torch.Tensor:
        """This micro-batch's share of the loss of one optimizer step, and its figures.

        Args:
            rollout: the rollout of this rank.
            rows: local indices of the micro-batch's responses.
            micro: their tensors.
            old: log-probabilities before the first update, or None where the policy that is
                differentiated is the one that sampled: then logp_old = logp_new without a second pass.
            num_tokens: tokens of the optimizer step that are trained on, over all ranks.
            tally: collects the figures, over the responses that are measured.
            trained: whether the policy learns from it; otherwise only its figures are taken.

        Returns:
            scalar, with gradient where it is trained on.
        """
        with nullcontext() if trained else torch.no_grad():
            new, entropy = self.policy(micro, self.temperature)
            if not rows:  # another rank's: its loss is computed there, its gradients here as well
                self._reference(micro)
                return new.sum()
            values = self._values(rollout, rows, micro, old, new, entropy)
            loss = self.objective(values, Scale(self.algo.minibatch_size, num_tokens, self.constant), self.algo)
        counted = measured_tokens(rollout, rows, micro.mask)
        if old is None:
            compare_with_sampler(rollout, rows, values.old, counted, tally)
        for name, (figure, mask) in loss.figures.items():
            tally.mean(name, figure, mask & counted)
        drift = new.detach() - values.old
        tally.mean("policy/entropy", entropy, counted)
        tally.mean("policy/approx_kl", torch.expm1(drift) - drift, counted)
        tally.maximum("policy/ratio_max", drift.exp(), micro.mask)
        if trained:
            tally.total("loss/policy", loss.value if loss.policy is None else loss.policy)
            tally.total("tokens/learned", micro.input_ids.numel())
        return loss.value

    def _reference(self, micro: MicroBatch) -> torch.Tensor | None:
        """The reference's log-probabilities [n, T] where the loss has a KL term."""
        if not self.algo.kl_coef:
            return None
        assert self.reference is not None
        with torch.no_grad():
            return self.reference(micro, self.temperature, with_entropy=False)[0]

    def _values(
        self,
        rollout: RolloutBatch,
        rows: Sequence[int],
        micro: MicroBatch,
        old: dict[int, torch.Tensor] | None,
        new: torch.Tensor,
        entropy: torch.Tensor,
    ) -> TokenValues:
        """What the objective sees of a micro-batch."""
        reference = self._reference(micro)
        advantages = rollout.advantages[list(rows)].to(new.device)[:, None].expand(new.shape)
        if rollout.credit is not None:
            advantages = advantages * to_matrix([rollout.credit[i] for i in rows], new)
        has_sampler = all(rollout.completions[i].logprobs is not None for i in rows)
        return TokenValues(
            new=new,
            old=new.detach() if old is None else to_matrix([old[i] for i in rows], new),
            sampler=sampler_logprobs(rollout, rows, new) if has_sampler else None,
            reference=reference,
            entropy=entropy,
            advantages=advantages,
            mask=micro.mask & to_matrix([rollout.mask[i] for i in rows], new).bool(),
        )
