"""One training run: build the parts, fit, leave a folder that says what happened."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytorch_lightning as pl
import torch
import transformers
from omegaconf import DictConfig, OmegaConf

from r1zero.algo_config import AlgoConfig
from r1zero.config import TrainConfig
from r1zero.data.datamodule import PromptDataModule
from r1zero.data.templates import template_of
from r1zero.errors import UserError
from r1zero.launch import compat
from r1zero.launch.console import console, titled
from r1zero.launch.files import write_json
from r1zero.launch.model_files import check_trainable
from r1zero.launch.number_format import settle
from r1zero.launch.rank_watch import watched_ranks
from r1zero.launch.resume import name_changes, record_settings
from r1zero.launch.run_folder import Status, run_folder, shown, stack_versions
from r1zero.launch.seeding import derive_seed
from r1zero.learn.fsdp import receives_weights
from r1zero.learn.module import PolicyGradientModule
from r1zero.learn.policy import Policy, eos_ids, load_tokenizer, resolve_model
from r1zero.reward.grader import Grader
from r1zero.rollout.build import build_engine
from r1zero.rollout.choice import settle_engine
from r1zero.rollout.engine import Engine
from r1zero.rollout.live import LiveEngine
from r1zero.rollout.vllm.cache import largest_request
from r1zero.train import build
from r1zero.train.callbacks.checkpoint import check_checkpoint, newest_checkpoint
from r1zero.train.callbacks.metrics import MetricsCallback
from r1zero.train.callbacks.progress import closing_table
from r1zero.train.callbacks.rollout import RolloutCallback
from r1zero.train.checks import check_cut, check_groups, optimizer_steps
from r1zero.train.context import RunContext
from r1zero.train.curves import draw_curves
from r1zero.train.hub import push

log = logging.getLogger("r1zero")


def train(config: DictConfig, run_dir: Path) -> int:
    """Run, or continue, one training run in ``run_dir``.

    Returns:
        exit code: 0, or 128 + the signal's number when the run was asked to stop.

    Raises:
        UserError: whatever the user can mend, in one line.
    """
    with run_folder(run_dir, config.steps, config.resume) as status:
        settle(config, run_dir)
        settle_engine(config, run_dir)
        build.settle_correction(config)
        cfg: TrainConfig = OmegaConf.to_object(config)  # type: ignore[assignment]
        if status.is_main and not cfg.resume:
            record_settings(run_dir, config)
        with Grader(cfg.reward, extractor=cfg.template.extractor) as grader:
            return _train(cfg, config, run_dir, status, grader)


def _train(cfg: TrainConfig, config: DictConfig, run_dir: Path, status: Status, grader: Grader) -> int:
    transformers.utils.logging.disable_progress_bar()
    torch.manual_seed(derive_seed(cfg.seed, "initialisation"))
    checkpoint = newest_checkpoint(run_dir) if cfg.resume else None
    if status.is_main and cfg.resume:
        name_changes(config, run_dir)
        if checkpoint is None:
            log.warning("no step was taken in %s yet: the run starts from its beginning", shown(run_dir))
    folder = resolve_model(cfg.model)
    check_trainable(folder, cfg.model.context, cfg.rollout.name)  # a hub id has a folder from here on
    check_cut(cfg, folder)
    tokenizer = load_tokenizer(folder, cfg.model.trust_remote_code)
    template = template_of(cfg.template)
    grader.check_functions()
    data = PromptDataModule(
        cfg.data,
        cfg.benchmarks,
        template,
        tokenizer,
        questions_per_step=cfg.rollout.questions,
        steps=cfg.steps,
        seed=cfg.seed,
        eval_limit=cfg.eval.limit,
        eval_prompt_limit=(cfg.model.context or 0) - (cfg.eval.max_tokens or cfg.rollout.max_tokens),
        check_golds=grader.audit_golds,
    )
    data.setup()
    trainer = build.build_trainer(cfg, config)
    check_groups(cfg, trainer.num_devices)
    meta = receives_weights(trainer.strategy)
    policy = Policy.from_folder(folder, cfg.model, meta=meta)
    module = PolicyGradientModule(
        policy,
        Policy.from_folder(folder, cfg.model, trainable=False, meta=meta) if cfg.algo.needs_reference else None,
        cfg.algo,
        cfg.optim,
        cfg.rollout,
        total_steps=cfg.steps * optimizer_steps(cfg),
        sync_tolerance=build.sync_tolerance(cfg),
        seed=cfg.seed,
    )
    if checkpoint is not None:
        check_checkpoint(checkpoint, module, trainer.strategy)
    stop_ids = template.stop_ids(tokenizer, eos_ids(folder))

    evaluation = build.eval_sampling(cfg, template, stop_ids)

    def start_engine() -> Engine:
        with console.status(f"starting the {cfg.rollout.name} engine"):
            return build_engine(
                cfg.rollout,
                str(folder),
                dtype=cfg.model.dtype,
                context=cfg.model.context or 0,
                seed=derive_seed(cfg.seed, "engine", trainer.global_rank // cfg.rollout.ranks_per_engine),
                device=str(trainer.strategy.root_device),
                trust_remote_code=cfg.model.trust_remote_code,
                responses=cfg.rollout.questions * cfg.rollout.group_size // trainer.world_size,
                evaluated=largest_request(
                    [prompts[:: trainer.world_size] for prompts in data.benchmarks.values()],
                    evaluation.n,
                    evaluation.max_tokens,
                    cfg.model.context if cfg.rollout.environment else None,
                ),
                on_hang=lambda line: status.write("failed", error=line),
            )

    context = RunContext(
        cfg=cfg,
        run_dir=run_dir,
        tokenizer=tokenizer,
        engine=LiveEngine(start_engine, lambda: trainer.world_size),
        grader=grader,
        sampling=build.train_sampling(cfg, template, stop_ids),
        eval_sampling=evaluation,
        benchmarks=data.benchmarks,
        trainer=trainer,
    )
    loggers: list[Any] = []
    try:
        compat.set_callbacks(
            trainer,
            [
                *trainer.callbacks,  # type: ignore[attr-defined]
                build.Accepted(config, run_dir, bool(cfg.resume), status, loggers),
                RolloutCallback(context),
                *build.build_callbacks(config, context),
            ],
        )
        _describe(cfg, context, policy, data, checkpoint)
        status.write("running")
        with watched_ranks(lambda line: status.write("failed", error=line)):
            build.fit(trainer, module, data, checkpoint)
        if not module.policy_version and not context.interrupted:
            raise UserError(
                "no optimizer step had gradients that are finite, so nothing was learned: lower optim.lr, check the "
                "model's weights, or use model.dtype=float32"
            )
        if context.is_main:
            _finish(run_dir, context, summarize(cfg, context, module, trainer))
            if not context.interrupted:
                build.log_policy(run_dir / "policy", loggers)
                if url := push(run_dir / "policy", cfg.hub):
                    console.print(f"  hub      {url}", soft_wrap=True)
        status.write("interrupted" if context.interrupted else "finished", step=module.rollout_step)
        trainer.strategy.barrier("finished")  # a launcher kills the other ranks when one of them ends with a code
        return 128 + context.interrupted if context.interrupted and context.is_main else 0
    finally:
        context.close()
        build.close_loggers(loggers)


def _describe(
    cfg: TrainConfig, context: RunContext, policy: Policy, data: PromptDataModule, checkpoint: Path | None
) -> None:
    """Say in three lines what is about to run."""
    if not context.is_main:
        return
    algo, rollout = cfg.algo, cfg.rollout
    console.print(
        titled(
            cfg.name,
            f": {algo.name} ({objective_of(algo)}), model {cfg.model.name} ({build.size_of(policy)} parameters), "
            f"template {cfg.template.name}, data {cfg.data.name} ({len(data.prompts):,} questions), seed {cfg.seed}",
        )
    )
    console.print(
        f"  {cfg.steps} rollout steps of {rollout.questions} questions x {rollout.group_size} responses, "
        f"{optimizer_steps(cfg)} optimizer step(s) each; engine {rollout.name}, {context.world_size} rank(s); "
        f"folder {shown(context.run_dir)}"
    )
    if checkpoint is not None:
        console.print(f"  continuing from {shown(checkpoint)}")


def objective_of(algo: AlgoConfig) -> str:
    """The functions that decide what is learned, and the settings that the built-in ones go by."""
    ratio = [] if algo.ratio.value == "token" else [f"ratio={algo.ratio.value}"]
    clip = [] if algo.clip.value == "ppo" else [f"clip={algo.clip.value}"]
    composed = [*ratio, *clip, f"length_norm={algo.length_norm.value}"]
    loss = composed if algo.loss == "policy_gradient" else [f"loss={algo.loss}"]
    group = algo.advantage == "group"
    advantage = f"std_norm={str(algo.std_norm).lower()}" if group else f"advantage={algo.advantage}"
    credit = [] if algo.credit == "uniform" else [f"credit={algo.credit}"]
    taken_off = [f"{name}={getattr(algo, name):g}" for name in ("overlong", "kl_in_reward") if getattr(algo, name)]
    return ", ".join([*loss, advantage, *taken_off, *credit])


def summarize(
    cfg: TrainConfig, context: RunContext, module: PolicyGradientModule, trainer: pl.Trainer
) -> dict[str, Any]:
    """What ``summary.json`` holds."""
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    totals = next((c.totals for c in callbacks if isinstance(c, MetricsCallback)), {})
    evaluations = context.evaluations
    return {
        "name": cfg.name,
        "algo": cfg.algo.name,
        "model": cfg.model.name,
        "template": cfg.template.name,
        "data": cfg.data.name,
        "seed": cfg.seed,
        "engine": cfg.rollout.name,
        "interrupted": bool(context.interrupted),
        "rollout_steps": module.rollout_step,
        "optimizer_steps": module.policy_version,
        "tokens": module.tokens_seen,
        "seconds": totals.get("time", 0.0),
        "sync": {"logprob_diff_mean": totals.get("sync_diff", 0.0) / max(totals.get("sync_steps", 0.0), 1.0)},
        "eval": {
            "sampling": {"n": cfg.eval.n, "temperature": cfg.eval.temperature},
            "first": evaluations[0] if evaluations else {},
            "last": evaluations[-1] if evaluations else {},
        },
        "versions": stack_versions(),
    }


def _finish(run_dir: Path, context: RunContext, summary: dict[str, Any]) -> None:
    """Write the summary and the curves, print the closing table and where things are."""
    write_json(run_dir / "summary.json", summary)
    curves = draw_curves(run_dir)
    if summary["eval"]["last"]:
        console.print(closing_table(summary))
    console.print(
        f"{summary['tokens']:,} tokens sampled in {summary['rollout_steps']} rollout steps and "
        f"{summary['optimizer_steps']} optimizer steps, {summary['seconds']:.0f} s; sampler and learner differ by "
        f"{summary['sync']['logprob_diff_mean']:.1e} nats a token on average"
    )
    for label, path in (("policy", run_dir / "policy"), ("curves", curves), ("metrics", run_dir / "metrics.csv")):
        console.print(f"  {label:8s} {shown(path)}", soft_wrap=True)
    if auditable(run_dir, summary["rollout_steps"] - 1):
        console.print(
            f"  audit    python scripts/audit.py {shown(run_dir)}   (recomputes the last step)", soft_wrap=True
        )
    if context.cfg.closing and not context.interrupted:
        console.print(context.cfg.closing, soft_wrap=True, highlight=False, markup=False)
    if context.interrupted:
        console.print(f"stopped on request; continue with: python train.py resume={shown(run_dir)}", soft_wrap=True)


def auditable(run_dir: Path, step: int) -> bool:
    """Whether a rollout step can be recomputed from the folder: the weights before it, and its token ids."""
    completions = next((run_dir / "completions").glob(f"step_{step:06d}*.parquet"), None)
    before = run_dir / "checkpoints" / f"step_{step:06d}.ckpt"
    return completions is not None and before.is_file() and "ids" in pq.read_schema(completions).names
