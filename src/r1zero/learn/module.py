"""The LightningModule: K optimizer steps of M micro-batches per rollout step."""

from __future__ import annotations

import logging
import math
import time
from contextlib import nullcontext
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.strategies import SingleDeviceStrategy

from r1zero.algo.batching import minibatches
from r1zero.algo.stats import Tally, check_finite, reduce_over_ranks
from r1zero.algo_config import AlgoConfig
from r1zero.batch import PromptBatch, Update
from r1zero.config import OptimConfig, RolloutConfig
from r1zero.errors import SyncError, UserError
from r1zero.launch.seeding import derive_seed
from r1zero.learn.context import Context
from r1zero.learn.fsdp import shard_policy
from r1zero.learn.measure import declare, few, measured_responses
from r1zero.learn.objective import configured_objective
from r1zero.learn.offload import HostStates
from r1zero.learn.optimizer import build_optimizer, lr_factor
from r1zero.learn.policy import Policy, reshard
from r1zero.learn.step import Learner
from r1zero.learn.zero import ZeroStrategy, is_plain_ddp

log = logging.getLogger("r1zero")

MAX_SKIPPED_IN_A_ROW = 5
"""Optimizer steps with NaN or Inf gradients that are left out before training stops."""

BROKEN = "lower optim.lr or mend the functions of yours that the loss uses, and go on from a checkpoint with resume="
"""What helps where a loss or another figure of the learner is no number."""

STALE_TOLERANCE = 0.5
"""The same limit, in nats, for responses sampled before the last update: an update of one rollout step moves
log-probabilities by far less, an engine with foreign weights by more (a stale head: 1.8)."""


class PolicyGradientModule(pl.LightningModule):
    """GRPO, Dr. GRPO and their relatives: the variants are values of ``algo``, not subclasses.

    Manual optimisation: one Lightning batch is one rollout step and holds K = inner_epochs * N / B
    optimizer steps, each of as many micro-batches as the token budget asks for.

    Args:
        policy: the model to train.
        reference: frozen copy for the KL in loss or reward; None where both are off.
        algo: the objective.
        optim: AdamW and its surroundings.
        rollout: for the temperature, the response limit and the sizes P and G.
        total_steps: optimizer steps of the whole run, for the learning-rate schedule.
        sync_tolerance: largest mean |sampler - learner| log-probability difference, nats.
        seed: the run's seed.
    """

    def __init__(
        self,
        policy: Policy,
        reference: Policy | None,
        algo: AlgoConfig,
        optim: OptimConfig,
        rollout: RolloutConfig,
        *,
        total_steps: int,
        sync_tolerance: float,
        seed: int,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.policy = policy
        self.algo, self.optim = algo, optim
        objective = configured_objective(algo)
        self.figures: tuple[str, ...] = objective.figures  # type: ignore[attr-defined]
        """Names of what the objective reports."""
        self.learner = Learner(
            policy,
            reference,
            algo,
            objective=objective,
            temperature=rollout.temperature,
            constant=algo.norm_constant or rollout.max_tokens,
            max_tokens=optim.micro_batch_tokens,
        )
        self.total_steps, self.sync_tolerance, self.seed = total_steps, sync_tolerance, seed
        updates = algo.inner_epochs * rollout.questions * rollout.group_size // algo.minibatch_size
        self.most_lag = rollout.async_steps * updates
        """Optimizer steps that the policy may be ahead of the one that sampled (semantics 15)."""
        self.policy_version = 0
        """Optimizer steps that made the current weights; the engine must serve this number (semantics 15)."""
        self.rollout_step = 0
        """Rollout steps finished."""
        self.tokens_seen = 0
        """Tokens sampled for training so far, over all ranks."""
        self.is_sharded = False
        self.host_states: HostStates | None = None
        """Moves the optimizer's states where ``optim.offload_states`` asks for it."""
        self.skipped_in_a_row = 0
        self.last_lr = 0.0
        """Learning rate of the newest optimizer step."""
        self.agreement: float | None = None
        """Difference between sampler and learner, nats, when they last had equal weights; None: not measured yet."""
        self.spent: dict[str, float] = {}
        """Seconds of the parts of the learner's work in the rollout step under way."""
        self.step_metrics: dict[str, float] = {}
        """Figures of the rollout step that has just ended."""

    # -- Lightning ------------------------------------------------------------------------------------

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Leave the batch alone: it holds ids and text; micro-batches are moved one by one."""
        return batch

    def configure_optimizers(self) -> Any:
        """AdamW over float32 parameters, with a schedule stepped after each optimizer step."""
        trained = [p for p in self.policy.parameters() if p.requires_grad]
        optimizer = build_optimizer(trained, self.optim, self.device)
        self.host_states = HostStates(optimizer) if self.optim.offload_states else None
        factor = lr_factor(self.optim.schedule, self.optim.warmup_steps, self.total_steps)
        return {"optimizer": optimizer, "lr_scheduler": torch.optim.lr_scheduler.LambdaLR(optimizer, factor)}

    def configure_model(self) -> None:
        """Shard policy and reference where the strategy works on a device mesh (trainer=fsdp); once, before fit."""
        if self.device_mesh is not None and not self.is_sharded:
            dtype = torch.bfloat16 if str(self.trainer.precision).startswith("bf16") else torch.float32
            for policy in filter(None, (self.policy, self.learner.reference)):
                shard_policy(policy, self.trainer.strategy.root_device.type, dtype)
            self.is_sharded = True
            # Lightning demands the frozen weights too; that the adapters are all there is checked beforehand.
            self.strict_loading = self.policy.lora is None

    def on_fit_start(self) -> None:
        """Move the reference beside the policy (it is no submodule: neither trained nor saved); even out passes.

        One device and DDP exchange nothing but in the last backward of an optimizer step. Under any other strategy,
        and where ranks make passes together, every pass may be a collective, and all ranks must make as many.
        """
        strategy, shared = self.trainer.strategy, self.optim.context_parallel
        if shared > 1:
            context = Context(torch.distributed.new_subgroups(group_size=shared)[0])
            for policy in filter(None, (self.policy, self.learner.reference)):
                policy.share_passes(context)
        if shared > 1 or not (isinstance(strategy, SingleDeviceStrategy) or is_plain_ddp(strategy)):
            self.learner.most_passes = lambda own: int(self._reduce(torch.tensor([own]), "max").item())
        elif isinstance(strategy, SingleDeviceStrategy):
            self.policy.sum_gradients()
        if self.learner.reference is not None:
            self.learner.reference.to(self.device)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the counters that tie weights, rollouts and engine together."""
        names = ("policy_version", "rollout_step", "tokens_seen")
        checkpoint["r1zero"] = {name: getattr(self, name) for name in names}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the counters back."""
        for name, value in checkpoint["r1zero"].items():
            setattr(self, name, value)

    def make_room(self) -> None:
        """Leave the device to the engine as far as the settings allow; called before it wakes, or is started."""
        if self.host_states is not None:
            self.host_states.send_away()

    # -- the rollout step -----------------------------------------------------------------------------

    def training_step(self, batch: PromptBatch, batch_idx: int) -> None:
        """Take the K optimizer steps of one rollout step.

        Raises:
            SyncError: the responses were not sampled by this policy, by version or by log-probabilities.
            UserError: a callback changed what is learned.
        """
        rollout = batch.rollout
        if rollout is None:
            raise RuntimeError("the batch holds no rollout: RolloutCallback is missing from the callbacks")
        if rollout.sealed is not None and rollout.sealed != rollout.fingerprint():
            raise UserError(
                "a callback changed advantages, masks, credit or tokens of the rollout, which figures and audit would "
                "not show: name a function of yours in algo.advantage, algo.credit or algo.loss instead"
            )
        lag = self.policy_version - rollout.version
        if not 0 <= lag <= self.most_lag:
            raise SyncError(
                f"the responses of rollout step {batch.step} come from policy version {rollout.version}, "
                f"the learner holds version {self.policy_version}"
            )
        # One autocast context spans this whole method. A cache in it would serve bfloat16 copies of weights
        # that an optimizer step has changed since. On leaving, that context puts the switch back.
        if torch.is_autocast_enabled(self.device.type):
            torch.set_autocast_cache_enabled(False)
        if self.host_states is not None:
            self.host_states.bring_back_gradients()
        started = time.perf_counter()
        self.spent = dict.fromkeys(("old_logprobs", "forward_backward", "optimizer"), 0.0)
        tally = Tally()
        declare(tally, self.figures)
        num_responses = self.trainer.world_size * len(rollout.completions)
        shuffle_seed = derive_seed(self.seed, "minibatches", batch.step)
        steps = list(minibatches(num_responses, self.algo.minibatch_size, self.algo.inner_epochs, shuffle_seed))
        rollout.updates = [Update(minibatch.tolist()) for minibatch in steps]
        rank, ranks = self.global_rank, self.trainer.world_size
        rollout.measured = measured_responses(rollout, derive_seed(self.seed, "measured", batch.step), rank, ranks)
        sampled = [c.length for c, counts in zip(rollout.completions, rollout.measured, strict=True) if counts]
        tally.total("policy/measured_tokens", sum(sampled))
        old: list[dict[int, torch.Tensor]] | None = None
        if len(steps) > 1:
            old = self._old_logprobs(batch, steps, tally)
            self._check_sync(tally, lag)
            self.spent["old_logprobs"] = time.perf_counter() - started
        for number, minibatch in enumerate(steps):
            before, update = tally.current_total("loss/policy"), rollout.updates[number]
            update.grad_norm = self._optimizer_step(batch, minibatch, None if old is None else old[number], tally)
            update.lr = self.last_lr
            tally.total(f"update/{number}", tally.current_total("loss/policy") - before)
        self.rollout_step = batch.step + 1
        tally.total("tokens/generated", sum(c.length for c in rollout.completions))
        metrics = tally.reduce(self._reduce)
        for number, update in enumerate(rollout.updates):
            update.loss = metrics.pop(f"update/{number}")
        check_finite(metrics, f"rollout step {batch.step}", BROKEN)
        self.tokens_seen += int(metrics.pop("tokens/generated"))
        # A mean over the K optimizer steps, as the other figures are.
        metrics["loss/policy"] /= len(steps)
        seconds = time.perf_counter() - started
        metrics["time/learn"] = seconds
        metrics |= {f"time/{part}": value for part, value in self.spent.items()}
        metrics["throughput/learn_tokens_per_s"] = metrics.pop("tokens/learned") / seconds
        metrics["optim/lr"] = self.last_lr
        self.step_metrics = metrics

    def _old_logprobs(
        self, batch: PromptBatch, steps: list[torch.Tensor], tally: Tally
    ) -> list[dict[int, torch.Tensor]]:
        """Log-probabilities before the first update for each optimizer step, from passes cut as its own are.

        Optimizer steps of the same responses, where B is all of them, share one computation. The comparison with the
        sampler is made in the first epoch, which has every response once.
        """
        rollout = batch.rollout
        assert rollout is not None
        epoch = len(steps) // self.algo.inner_epochs
        made: dict[tuple[int, ...], dict[int, torch.Tensor]] = {}
        for number, minibatch in enumerate(steps):
            key = tuple(sorted(minibatch.tolist()))
            if key not in made:
                mine = local_indices(minibatch, len(rollout.completions), self.global_rank)
                figures = tally if number < epoch else Tally()
                made[key] = self.learner.old_logprobs(batch.prompts, rollout, self.device, figures, mine)
        return [made[tuple(sorted(minibatch.tolist()))] for minibatch in steps]

    @torch.no_grad()
    def response_kl(self, batch: PromptBatch) -> torch.Tensor:
        """KL to the reference of each of this rank's responses, before the step's first update: float64 [N], nats.

        For the collector (``algo.kl_in_reward``), which is called outside of Lightning's number format.
        """
        rollout = batch.rollout
        assert rollout is not None
        with self.trainer.precision_plugin.train_step_context():
            found = self.learner.response_kl(batch.prompts, rollout, self.device)
        if self.is_sharded and self.learner.reference is not None:
            reshard(self.learner.reference)
        return found

    def _optimizer_step(
        self, batch: PromptBatch, minibatch: torch.Tensor, old: dict[int, torch.Tensor] | None, tally: Tally
    ) -> float:
        """Forward and backward over this rank's part of a minibatch, then one AdamW step; the gradient's norm."""
        rollout, started = batch.rollout, time.perf_counter()
        assert rollout is not None
        mine = local_indices(minibatch, len(rollout.completions), self.global_rank)
        active, measured = self.learner.shares(rollout, mine)
        num_tokens = self._num_tokens(batch, mine)
        for (rows, micro), counts in self.learner.evened(batch.prompts, rollout, measured, self.device):
            before, figures = (old, tally) if counts else (None, Tally())
            self.learner.loss(rollout, rows, micro, before, num_tokens, figures, trained=False)
        # A rank where no response moves the policy computes a few all the same, weighted by 0: it must take
        # part in the collectives of the backward pass.
        weight = float(self.trainer.world_size) if active else 0.0
        computed = active or few(rollout, mine or range(len(rollout.completions)))
        passes = self.learner.evened(batch.prompts, rollout, computed, self.device)
        for number, ((rows, micro), counts) in enumerate(passes):
            last = number == len(passes) - 1
            counts = counts and bool(active)
            with nullcontext() if last else self._no_gradient_sync():
                before, figures = (old, tally) if counts else (None, Tally())
                share = weight if counts else 0.0  # no name for the loss: it would hold its graph in the next pass
                self.manual_backward(self.learner.loss(rollout, rows, micro, before, num_tokens, figures) * share)
        if self.is_sharded and self.learner.reference is not None:
            reshard(self.learner.reference)  # no backward pass gives up what it gathered last
        # The only wait for a GPU in an optimizer step: its figures come with the norm.
        norm = tally.read(self._gradient_norm())
        if old is None:
            self._check_sync(tally, self.policy_version - rollout.version)
        learned = time.perf_counter()
        self._apply_gradients(norm, tally)
        self.spent["forward_backward"] += learned - started
        self.spent["optimizer"] += time.perf_counter() - learned
        return norm

    def _gradient_norm(self) -> Any:
        """Clip the gradients; their norm before that, where they are."""
        parameters = [p for p in self.policy.parameters() if p.requires_grad]
        strategy = self.trainer.strategy
        if isinstance(strategy, ZeroStrategy):
            return strategy.gradient_norm()
        if all(p.grad is None for p in parameters):
            raise UserError(
                f"{type(strategy).__name__} keeps gradients to itself, so they can be neither clipped nor "
                "checked here: use trainer=ddp, or trainer=fsdp for a model that one GPU can't hold"
            )
        norm: Any = torch.nn.utils.clip_grad_norm_(parameters, self.optim.max_grad_norm or math.inf)
        return norm.full_tensor() if hasattr(norm, "full_tensor") else norm

    def _apply_gradients(self, norm: float, tally: Tally) -> None:
        """Step and count. A step whose gradients are not finite is left out."""
        optimizer: Any = self.optimizers()
        scheduler: Any = self.lr_schedulers()
        strategy = self.trainer.strategy
        self.last_lr = optimizer.param_groups[0]["lr"]
        if math.isfinite(norm):
            tally.maximum("policy/grad_norm", norm)
            optimizer.step()
            self.policy_version += 1
            self.skipped_in_a_row = 0
        else:
            if isinstance(strategy, ZeroStrategy):
                strategy.drop_gradients()
            tally.total("policy/skipped_steps", 1 / self.trainer.world_size)
            self.skipped_in_a_row += 1
            log.warning("gradients are not finite (norm %s): this optimizer step is left out", norm)
            if self.skipped_in_a_row >= MAX_SKIPPED_IN_A_ROW:
                raise UserError(
                    f"{MAX_SKIPPED_IN_A_ROW} optimizer steps in a row had gradients that are not finite; "
                    "lower optim.lr, check the model's weights, or use model.dtype=float32"
                )
        # DDP's gradients are views into buckets that stay. Let go of, each would be made anew beside its bucket in the
        # next backward pass that exchanges nothing: 4 bytes a parameter more at the peak.
        optimizer.zero_grad(set_to_none=not is_plain_ddp(strategy))
        scheduler.step()

    def _check_sync(self, tally: Tally, lag: int) -> None:
        """Stop before an update is made from responses that other weights sampled (traps 37-43)."""
        limit = max(self.sync_tolerance, STALE_TOLERANCE) if lag else self.sync_tolerance
        difference = tally.current_mean("sync/logprob_diff_mean", self._reduce)
        # Written so that a NaN stops too.
        if difference is not None and not difference <= limit:
            raise SyncError(
                f"sampler and learner differ by {difference:.3g} nats a token on average at policy version "
                f"{self.policy_version} (limit {limit:g}): {self._why_they_differ(lag)}"
            )
        if difference is not None and not lag:
            self.agreement = difference

    def _why_they_differ(self, lag: int) -> str:
        """Foreign weights, or updates that were made since the responses were sampled."""
        if not lag:
            return (
                "the engine does not serve the learner's weights; where the number format alone explains it, raise "
                "rollout.sync_tolerance"
            )
        since = f"{lag} optimizer step(s) with optim.lr={self.optim.lr:g} since the responses were sampled"
        if self.agreement is not None:
            return (
                f"with equal weights they differed by {self.agreement:.1g}, so the engine takes the learner's weights, "
                f"and {since} move the policy this far: lower optim.lr, or use rollout.async=0"
            )
        return (
            f"either {since} move the policy this far, or the engine serves other weights; lower optim.lr, or use "
            "rollout.async=0, which tells the two apart"
        )

    # -- ranks ----------------------------------------------------------------------------------------

    def _num_tokens(self, batch: PromptBatch, mine: list[int]) -> int:
        """Tokens of the optimizer step that are trained on, over all ranks."""
        rollout = batch.rollout
        assert rollout is not None
        count = sum(int(rollout.mask[i].sum()) for i in mine)
        return int(self._reduce(torch.tensor([count], dtype=torch.float64), "sum").item())

    def _no_gradient_sync(self) -> Any:
        """Add gradients up locally; ranks exchange them in the last backward pass alone."""
        strategy = self.trainer.strategy
        return strategy.block_backward_sync() if hasattr(strategy, "block_backward_sync") else nullcontext()

    def _reduce(self, values: torch.Tensor, how: str) -> torch.Tensor:
        return reduce_over_ranks(values, how, self.device)


def local_indices(minibatch: torch.Tensor, per_rank: int, rank: int) -> list[int]:
    """Which responses of a global minibatch this rank holds, as local indices in ascending order."""
    first = rank * per_rank
    return [i - first for i in sorted(minibatch.tolist()) if first <= i < first + per_rank]
