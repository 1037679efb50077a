"""The learner: one micro-batch's loss and log-probabilities, with the figures measured on the way.

No Lightning here: ``module.py`` owns optimizer steps and ranks, ``algo/`` the formulas.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import torch

from r1zero.algo.batching import micro_batches, packed_batches
from r1zero.algo.objective import Loss, Scale, TokenValues, moves_without_advantage, policy_gradient
from r1zero.algo.stats import Tally
from r1zero.algo_config import AlgoConfig
from r1zero.batch import Prompt, RolloutBatch
from r1zero.learn.collate import MicroBatch, collate
from r1zero.learn.policy import Policy

MEANS = ("policy/entropy", "policy/clip_frac", "policy/approx_kl", "loss/kl", "sync/logprob_diff_mean")
MAXIMA = ("policy/ratio_max", "policy/grad_norm", "sync/logprob_diff_max")
TOTALS = ("loss/policy", "tokens/learned", "policy/skipped_steps")

PASS_TOKENS_PER_THREAD = 128
"""What a forward and backward pass costs on a CPU besides its tokens, in tokens of each thread."""
PASS_TOKENS_ELSEWHERE = 1024
"""On GPUs: launching a model's kernels takes as long as computing about a thousand tokens."""


def pass_tokens(device: torch.device) -> int:
    """What a forward and backward pass costs besides its tokens, in tokens; see ``micro_batches``."""
    return PASS_TOKENS_PER_THREAD * torch.get_num_threads() if device.type == "cpu" else PASS_TOKENS_ELSEWHERE


CHECK_TOKENS = 64
"""Tokens that are compared with the sampler where no response moves the policy. In bfloat16 single tokens differ by
several tenths of a nat, so the mean over one short response says nothing."""

Pass = tuple[list[int], MicroBatch]
"""Local response indices of one forward pass, and their tensors."""


class Learner:
    """Computes losses and log-probabilities of a rollout's responses under the current policy.

    Args:
        policy: the model that is trained.
        reference: frozen model of the KL term, or None.
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
        packed = self.policy.packs
        if packed:
            cut = packed_batches(lengths, self.max_tokens)
        else:
            cut = micro_batches(lengths, self.max_tokens, pass_tokens(device))
        for positions in cut:
            rows = [indices[p] for p in positions]
            completions = [rollout.completions[i] for i in rows]
            micro = collate([prompts[i // group] for i in rows], completions, packed=packed)
            yield rows, micro.to(device)

    def evened(self, passes: list[Pass]) -> list[tuple[Pass, bool]]:
        """Each pass with True, then the last and smallest again with False until all ranks make as many.

        Sharded weights are gathered by all ranks together; a rank with fewer passes would leave them waiting.
        """
        spare = self.most_passes(len(passes)) - len(passes)
        return [*((p, True) for p in passes), *[(passes[-1], False)] * spare]

    @torch.no_grad()
    def old_logprobs(
        self, prompts: Sequence[Prompt], rollout: RolloutBatch, device: torch.device, tally: Tally
    ) -> dict[int, torch.Tensor]:
        """Log-probabilities before the rollout step's first update, by the learner (semantics 6).

        Returns:
            {local response index: float32 [T_i]} for every response that can move the policy, and for a few
            where there is none, so that the comparison with the sampler never goes blind.
        """
        everything = range(len(rollout.completions))
        wanted = [i for i in everything if self.has_gradient(rollout, i)] or few(rollout, everything)
        old: dict[int, torch.Tensor] = {}
        for (rows, micro), counts in self.evened(list(self.passes(prompts, rollout, wanted, device))):
            logp, _ = self.policy(micro, self.temperature, with_entropy=False)
            if not counts:
                continue
            compare_with_sampler(rollout, rows, logp, micro.mask, tally)
            old.update({i: logp[row, : len(rollout.completions[i].ids)] for row, i in enumerate(rows)})
        return old

    def loss(
        self,
        rollout: RolloutBatch,
        rows: Sequence[int],
        micro: MicroBatch,
        old: dict[int, torch.Tensor] | None,
        num_tokens: int,
        tally: Tally,
    ) -> torch.Tensor:
        """This micro-batch's share of the loss of one optimizer step.

        Args:
            rollout: the rollout of this rank.
            rows: local indices of the micro-batch's responses.
            micro: their tensors.
            old: log-probabilities before the first update, or None where the policy that is
                differentiated is the one that sampled: then logp_old = logp_new without a second pass.
            num_tokens: tokens of the optimizer step that are trained on, over all ranks.
            tally: collects the figures.

        Returns:
            scalar with gradient.
        """
        new, entropy = self.policy(micro, self.temperature)
        generated = micro.mask
        values = self._values(rollout, rows, micro, old, new, entropy)
        if old is None:
            compare_with_sampler(rollout, rows, values.old, generated, tally)
        loss = self.objective(values, Scale(self.algo.minibatch_size, num_tokens, self.constant), self.algo)
        tally.total("loss/policy", (loss.value if loss.policy is None else loss.policy).item())
        for name, (figure, mask) in loss.figures.items():
            tally.mean(name, figure, mask)
        drift = new.detach() - values.old
        tally.mean("policy/entropy", entropy, generated)
        tally.mean("policy/approx_kl", torch.expm1(drift) - drift, generated)
        tally.maximum("policy/ratio_max", drift.exp()[generated])
        tally.total("tokens/learned", micro.input_ids.numel())
        return loss.value

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
        reference = None
        if self.reference is not None:
            with torch.no_grad():
                reference, _ = self.reference(micro, self.temperature, with_entropy=False)
        advantages = rollout.advantages[list(rows)].to(new.device)[:, None].expand(new.shape)
        if rollout.credit is not None:
            advantages = advantages * _to_matrix([rollout.credit[i] for i in rows], new)
        has_sampler = all(rollout.completions[i].logprobs is not None for i in rows)
        return TokenValues(
            new=new,
            old=new.detach() if old is None else _to_matrix([old[i] for i in rows], new),
            sampler=_sampler_logprobs(rollout, rows, new) if has_sampler else None,
            reference=reference,
            entropy=entropy,
            advantages=advantages,
            mask=micro.mask & _to_matrix([rollout.mask[i] for i in rows], new).bool(),
        )


def few(rollout: RolloutBatch, indices: Iterable[int]) -> list[int]:
    """The shortest responses that together have ``CHECK_TOKENS`` tokens, or all: cheap, and enough for a mean."""
    found: list[int] = []
    tokens = 0
    for i in sorted(indices, key=lambda i: len(rollout.completions[i].ids)):
        if tokens >= CHECK_TOKENS:
            break
        found.append(i)
        tokens += len(rollout.completions[i].ids)
    return found


def declare(tally: Tally, figures: Iterable[str] = ()) -> None:
    """Name every figure of the learner and the objective: a rank with nothing to compute reduces the same list."""
    empty = torch.empty(0)
    for name in {*MEANS, *figures}:
        tally.mean(name, empty)
    for name in MAXIMA:
        tally.maximum(name, empty)
    for name in TOTALS:
        tally.total(name, 0.0)


def compare_with_sampler(
    rollout: RolloutBatch, rows: Sequence[int], learner: torch.Tensor, mask: torch.Tensor, tally: Tally
) -> None:
    """Measure |learner - sampler| log-probabilities per token: proof that the engine serves these very weights.

    Args:
        rollout: holds the sampler's log-probabilities.
        rows: local indices of the responses.
        learner: the learner's log-probabilities, [n, T].
        mask: bool [n, T].
        tally: takes ``sync/logprob_diff_mean`` and ``sync/logprob_diff_max``, in nats.
    """
    measured = [row for row, i in enumerate(rows) if rollout.completions[i].logprobs is not None]
    if measured:
        sampler = _sampler_logprobs(rollout, [rows[r] for r in measured], learner[measured])
        difference = (learner[measured] - sampler).abs()
        tally.mean("sync/logprob_diff_mean", difference, mask[measured])
        tally.maximum("sync/logprob_diff_max", difference[mask[measured]])


def _sampler_logprobs(rollout: RolloutBatch, rows: Sequence[int], like: torch.Tensor) -> torch.Tensor:
    """The sampler's log-probabilities as a matrix [n, T].

    Raises:
        ValueError: the engine gave none for a response, or another number of them than of tokens.
    """
    for i in rows:
        completion = rollout.completions[i]
        if completion.logprobs is None or len(completion.logprobs) != len(completion.ids):
            given = "none" if completion.logprobs is None else len(completion.logprobs)
            raise ValueError(
                f"response {i} has {len(completion.ids)} tokens and {given} log-probabilities of the sampler; "
                "the engine must give one for each token"
            )
    values = [torch.tensor(rollout.completions[i].logprobs, dtype=like.dtype) for i in rows]
    sampled = [rollout.completions[i].sampled() for i in rows]
    return _to_matrix([torch.where(s, v, torch.zeros_like(v)) for v, s in zip(values, sampled, strict=True)], like)


def _to_matrix(rows: Sequence[torch.Tensor], like: torch.Tensor) -> torch.Tensor:
    """Ragged rows -> [n, T] with zeros on the right, in the dtype (float32) and on the device of ``like``."""
    out = torch.zeros(like.shape, dtype=like.dtype)
    if rows and rows[0].device != out.device:
        out = out.to(rows[0].device)
    for row, values in enumerate(rows):
        out[row, : values.shape[0]] = values
    return out.to(like.device)
