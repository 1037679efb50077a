"""Builds the parts of a run from its config: Trainer, callbacks, loggers, sampling settings."""

from __future__ import annotations

import inspect
import logging
import math
import sys
from pathlib import Path
from typing import Any

import hydra
import pytorch_lightning as pl
import torch
from omegaconf import DictConfig, OmegaConf

from r1zero.algo_config import Correction
from r1zero.config import TrainConfig
from r1zero.data.templates import Template
from r1zero.errors import UserError
from r1zero.launch import compat
from r1zero.launch.loggers import RunLogger, finish_wandb
from r1zero.launch.masking import masked
from r1zero.launch.number_format import PRECISION
from r1zero.launch.resume import keep_settings, record_settings
from r1zero.launch.run_folder import Status, one_line
from r1zero.launch.targets import check_kinds
from r1zero.launch.trackers import Tracker
from r1zero.rollout.engine import Sampling
from r1zero.rollout_config import RolloutConfig
from r1zero.train.callbacks.checkpoint import discard_half_written
from r1zero.train.context import RunContext

log = logging.getLogger("r1zero")

FILTERED_TOLERANCE = 0.5
"""Largest mean difference of log-probabilities, in nats, where top-k cuts the sampler's distribution: foreign weights
differ by more (a stale head: 1.8)."""

EIGHT_BITS = 0.5
"""The same where the engine rounds weights and inputs to 8 bits. Measured on equal weights: a mean of 0.016 nats for
the embedded model and 0.18 for SmolLM2-135M, where bfloat16 alone makes 0.007 and 0.04."""


def build_trainer(cfg: Any, config: DictConfig, **more: Any) -> pl.Trainer:
    """Lightning's Trainer from the ``trainer`` group. One epoch is the whole run; precision follows the model.

    Args:
        cfg: settings of training or of pretraining.
        config: the same as Hydra composed them.
        **more: further arguments of the Trainer.
    """
    check_kinds(config)
    try:
        trainer = hydra.utils.instantiate(
            config.trainer,
            precision=PRECISION[cfg.model.dtype],
            max_epochs=1,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
            log_every_n_steps=1,
            **more,
        )
    except Exception as error:
        raise UserError(f"trainer can't be built: {one_line(error.__cause__ or error)}") from error
    compat.leave_signals_alone(trainer)
    return trainer


def fit(trainer: pl.Trainer, module: pl.LightningModule, data: pl.LightningDataModule, checkpoint: Path | None) -> None:
    """Train. Lightning turns an interruption into ``exit(1)``; here it stays an interruption, with its signal."""
    try:
        trainer.fit(module, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    except SystemExit as error:
        if isinstance(error.__context__, KeyboardInterrupt):
            raise error.__context__ from None
        raise


class Accepted(pl.Callback):
    """Begins to write: everything is restored, so the checkpoint fits the settings. Comes before all others.

    Until here a resumed run has changed nothing in its folder, and can still be refused.

    Args:
        config: the settings.
        run_dir: the run folder.
        resume: whether the run is resumed.
        status: of the run folder.
        loggers: those of this run; started here.
    """

    def __init__(self, config: DictConfig, run_dir: Path, resume: bool, status: Status, loggers: list[Any]) -> None:
        self.config, self.run_dir, self.resume, self.status, self.loggers = config, run_dir, resume, status, loggers

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Store the settings of a resumed run, start the loggers."""
        self.status.accept()
        if self.status.is_main and self.resume:
            discard_half_written(self.run_dir)
            # Pretraining has optimizer steps alone.
            taken = getattr(pl_module, "rollout_step", trainer.global_step)
            keep_settings(self.run_dir, self.config, taken)
            record_settings(self.run_dir, self.config)
        self.loggers += build_loggers(self.config, trainer.global_rank)
        trainer.loggers = self.loggers


def build_callbacks(config: DictConfig, context: RunContext) -> list[pl.Callback]:
    """Callbacks of the ``callbacks`` group, in its order; one whose constructor takes ``context`` is given it."""
    built = []
    for name, node in config.callbacks.items():
        if node is None:
            continue
        try:
            target = hydra.utils.get_class(node._target_)
            takes_context = "context" in inspect.signature(target).parameters
            extra = {"context": context} if takes_context else {}
            # Not through Hydra's instantiate: it would try to turn the context's dataclasses into configs.
            keywords = {str(k): v for k, v in node.items() if k != "_target_"}
            built.append(target(**keywords, **extra))
        except Exception as error:
            raise UserError(f"callbacks.{name} can't be built: {one_line(error)}") from error
    return built


def build_loggers(config: DictConfig, rank: int) -> list[Any]:
    """Loggers of the ``logger`` group.

    One that can't start is left out with a warning, and training continues: metrics.csv is always written.
    """
    loggers = []
    for name, node in config.logger.items():
        if node is None:
            continue
        try:
            logger = hydra.utils.instantiate(node)
            if rank == 0:
                logger.log_hyperparams(masked(OmegaConf.to_container(config, resolve=True)))
            loggers.append(logger)
        except Exception as error:
            log.warning("logger %s can't start (%s): training continues without it", name, one_line(error))
    return loggers


def template_sampling(template: Template, stop_ids: tuple[int, ...], logprobs: bool, **settings: Any) -> Sampling:
    """Sampling settings with the template's stop rules."""
    return Sampling(stop=template.stop, keep_stop=template.keep_stop, stop_ids=stop_ids, logprobs=logprobs, **settings)


def train_sampling(cfg: TrainConfig, template: Template, stop_ids: tuple[int, ...]) -> Sampling:
    """Sampling of rollouts."""
    wanted = {name: getattr(cfg.rollout, name) for name in ("max_tokens", "temperature", "top_p", "top_k")}
    return template_sampling(template, stop_ids, logprobs=True, n=cfg.rollout.group_size, **wanted)


def eval_sampling(cfg: TrainConfig, template: Template, stop_ids: tuple[int, ...]) -> Sampling:
    """Sampling of evaluations during training."""
    wanted = {name: getattr(cfg.eval, name) for name in ("n", "temperature", "top_p")}
    limit = cfg.eval.max_tokens or cfg.rollout.max_tokens
    return template_sampling(template, stop_ids, logprobs=False, max_tokens=limit, **wanted)


def settle_correction(config: DictConfig) -> None:
    """Put off or token in the place of ``algo.sampler_correction=auto``, in place, once number formats are settled.

    In float32 sampler and learner differ by less than 1e-6 nats a token (measured), and a weight would be noise. In
    bfloat16 tokens differ by 0.007 to 0.04 nats on average and single ones by 0.6 (measured on a CPU), which is a bias
    that a weight takes away; beside ``rollout.quantization`` by more.
    """
    if config.algo.sampler_correction == Correction.auto:  # a string of the same word counts, too
        formats = {config.model.dtype, RolloutConfig.format(config.rollout, config.model.dtype)}
        config.algo.sampler_correction = "off" if formats == {"float32"} else "token"


def sync_tolerance(cfg: TrainConfig) -> float:
    """Largest mean |sampler - learner| log-probability difference that the number format explains, in nats.

    Measured on equal weights: below 1e-6 in float32; a mean of 0.007 to 0.04 in bfloat16; ``EIGHT_BITS``
    beside weights and inputs of 8 bits. A sampler
    that cuts the distribution renormalises and the learner does not: they differ by -log(kept mass), which
    top-p bounds by -log(top_p) and top-k by nothing (trap 20).
    """
    rollout = cfg.rollout
    if rollout.sync_tolerance is not None:
        return rollout.sync_tolerance
    if rollout.top_k > 0:
        log.warning(
            "rollout.top_k=%d: the sampler renormalises over what it keeps and the learner does not, by an amount "
            "that is not known beforehand; the limit of their difference is %g nats (rollout.sync_tolerance)",
            rollout.top_k,
            FILTERED_TOLERANCE,
        )
        return FILTERED_TOLERANCE
    formats = {cfg.model.dtype, rollout.format(cfg.model.dtype)}
    explained = EIGHT_BITS if rollout.quantization else 1e-3 if formats == {"float32"} else 0.1
    return explained - math.log(rollout.top_p)


def size_of(model: torch.nn.Module) -> str:
    """Number of parameters as people say it: 0.37 M, 1.54 B."""
    count = sum(parameter.numel() for parameter in model.parameters())
    return f"{count / 1e9:.2f} B" if count > 5e8 else f"{count / 1e6:.2f} M"


def log_policy(policy: Path, loggers: list[Any]) -> None:
    """Hand a finished run's policy to W&B where ``logger.wandb.log_model`` asks for it."""
    for logger in loggers:
        if isinstance(logger, RunLogger):
            try:
                logger.log_policy(policy)
            except Exception as error:
                log.warning("W&B did not take the policy (%s): it is in %s", one_line(error), policy)


def close_loggers(loggers: list[Any]) -> None:
    """Finish trackers' runs on every way out, so that nothing later in this process writes into them (trap 55)."""
    failed = sys.exc_info()[0] is not None  # called in a finally
    if any(isinstance(logger, pl.loggers.WandbLogger) for logger in loggers):
        finish_wandb(failed)
    for logger in loggers:
        if isinstance(logger, Tracker):
            logger.close(failed)
