"""One pretraining run: build text, tokenizer, model and Trainer; fit; leave a Hugging Face folder."""

from __future__ import annotations

import json
import math
import time
import warnings
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import transformers
from omegaconf import DictConfig

from r1zero.errors import UserError
from r1zero.launch import compat
from r1zero.launch.console import console, titled
from r1zero.launch.files import write_json, write_whole
from r1zero.launch.number_format import settle
from r1zero.launch.resume import name_changes, record_settings
from r1zero.launch.run_folder import Status, run_folder, shown, stack_versions
from r1zero.learn.policy import Policy, load_tokenizer, resolve_model
from r1zero.pretrain.callbacks import PretrainContext
from r1zero.pretrain.checks import check, check_vocabulary
from r1zero.pretrain.config import PretrainConfig
from r1zero.pretrain.corpus import Corpus, encoder
from r1zero.pretrain.curves import draw_curves
from r1zero.pretrain.data import PretrainData
from r1zero.pretrain.model import check_init, export, new_model
from r1zero.pretrain.module import PretrainModule
from r1zero.pretrain.speed import device_peak, too_low
from r1zero.pretrain.tokenizer import train_tokenizer
from r1zero.train import build
from r1zero.train.build import build_callbacks, build_trainer, close_loggers, fit, size_of
from r1zero.train.callbacks.checkpoint import newest_checkpoint


def pretrain(config: DictConfig, folder: Path) -> int:
    """Pretrain as ``config`` says; leave config.yaml, metrics.csv, curves.png, summary.json and policy/ in ``folder``.

    Returns:
        exit code: 0, or 128 + the signal's number when the run was asked to stop.

    Raises:
        UserError: for whatever the user can mend, in one line.
    """
    cfg = check(config)
    with run_folder(folder, cfg.steps or 0, cfg.resume) as status:
        settle(config, folder)
        cfg.model.dtype = config.model.dtype
        return _pretrain(cfg, config, folder, status)


def _pretrain(cfg: PretrainConfig, config: DictConfig, folder: Path, status: Status) -> int:
    transformers.utils.logging.disable_progress_bar()
    warnings.filterwarnings("ignore", message=".*`isinstance\\(treespec, LeafSpec\\)` is deprecated.*")
    if cfg.threads is not None:
        torch.set_num_threads(cfg.threads)
    checkpoint = newest_checkpoint(folder) if cfg.resume else None
    if cfg.resume and checkpoint is None:
        raise UserError(f"resume={cfg.resume} has no checkpoint; was it run with checkpoint_every above 0?")
    if cfg.resume and status.is_main:
        name_changes(config, folder)
    elif status.is_main:
        record_settings(folder, config)
        (folder / "tokens.json").unlink(missing_ok=True)

    corpus = Corpus(cfg.data, cfg.seed)
    model, tokenizer = model_and_tokenizer(cfg, corpus)
    encode = encoder(tokenizer)
    heldout = corpus.heldout(encode)
    steps = cfg.steps if cfg.steps is not None else steps_of(cfg, corpus, encode, folder)
    status.steps = steps
    model.train()

    trainer = build_trainer(
        cfg,
        config,
        max_steps=steps,
        gradient_clip_val=cfg.optim.max_grad_norm or None,
        default_root_dir=folder,
    )
    rows, parts = split_rows(cfg, trainer.world_size)
    trainer.accumulate_grad_batches = parts
    trainer.val_check_interval = min(cfg.eval_every, steps) * parts
    device, dtype = trainer.strategy.root_device, getattr(torch, cfg.model.dtype)
    if cfg.peak_tflops is not None:
        peak, peak_from = cfg.peak_tflops * 1e12, "peak_tflops"
    else:
        peak, peak_from = device_peak(device, dtype)
    context = PretrainContext(
        cfg=cfg,
        run_dir=folder,
        is_main=trainer.is_global_zero,
        steps=steps,
        parts=parts,
        peak=peak * trainer.world_size,
        peak_from=peak_from,
        devices=trainer.world_size,
    )
    data = PretrainData(
        lambda rank, world: corpus.documents(encode, rank, world),
        heldout,
        length=cfg.data.row_tokens,
        rows=rows,
        parts=parts,
        steps=steps,
        pad=tokenizer.pad_token_id,
    )
    module = PretrainModule(model, cfg.optim, steps, cfg.model.compile_head)
    if context.is_main:
        describe(cfg, context, model, corpus, checkpoint)
    started, cpu = time.perf_counter(), time.process_time()
    loggers: list[Any] = []
    try:
        accepted = Accepted(config, folder, bool(cfg.resume), status, loggers)
        own = [accepted, *build_callbacks(config, context)]  # type: ignore[arg-type]
        compat.set_callbacks(trainer, [*trainer.callbacks, *own])  # type: ignore[attr-defined]
        status.write("running")
        if checkpoint is None:
            trainer.validate(module, data, verbose=False)
            context.first = float(trainer.callback_metrics["heldout/loss"])
            context.before = {k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith("heldout/")}
        fit(trainer, module, data, checkpoint)
        if context.interrupted:
            if context.is_main:
                console.print(f"stopped on request; continue with resume={shown(folder)}", soft_wrap=True)
            status.write("interrupted", step=trainer.global_step)
            return 128 + context.interrupted if context.is_main else 0
        trainer.validate(module, data, verbose=False)
        weights = module.whole_weights(dtype)
        if context.is_main:
            export(model, weights, tokenizer, folder / "policy", dtype)
            finish(cfg, context, model, trainer, peak, time.perf_counter() - started, time.process_time() - cpu)
        status.write("finished", step=trainer.global_step)
        return 0
    finally:
        close_loggers(loggers)


class Accepted(build.Accepted):
    """Refuses further steps of a run that has ended: its pass over the loader is over, and nothing would be trained."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """See :class:`r1zero.train.build.Accepted`. Raises ``UserError`` where the schedule has ended."""
        ended = trainer.fit_loop.epoch_loop.batch_progress.is_last_batch
        if self.resume and ended and trainer.global_step < self.status.steps:
            raise UserError(
                f"{shown(self.run_dir)} has taken its {trainer.global_step} steps to the end of their schedule: more "
                f"of them are a new run in another folder, with init=null model.path={shown(self.run_dir / 'policy')}"
            )
        super().on_train_start(trainer, pl_module)


def model_and_tokenizer(cfg: PretrainConfig, corpus: Corpus) -> tuple[Any, Any]:
    """A new model with a tokenizer trained on the text, or both from ``model.path``.

    Raises:
        UserError: the sizes don't fit, or tokenizer and model don't belong together.
    """
    if cfg.init is not None:
        assert cfg.model.context is not None
        check_init(cfg.init)
        if cfg.init.tokenizer is not None:
            tokenizer = load_tokenizer(Path(cfg.init.tokenizer))
        else:
            tokenizer = train_tokenizer(corpus.sample(cfg.init.tokenizer_documents), cfg.init.vocab, cfg.model.context)
        return new_model(cfg.init, tokenizer, cfg.model.context, cfg.seed), tokenizer
    folder = resolve_model(cfg.model)
    tokenizer = load_tokenizer(folder, cfg.model.trust_remote_code)
    check_vocabulary(folder, tokenizer, cfg.model.path)
    return Policy.from_folder(folder, cfg.model).model, tokenizer


def steps_of(cfg: PretrainConfig, corpus: Corpus, encode: Any, folder: Path) -> int:
    """Optimizer steps of ``epochs`` passes. The tokens are counted once and kept, so a resumed run needn't count."""
    kept = folder / "tokens.json"
    if kept.is_file():
        tokens = int(json.loads(kept.read_text())["tokens_of_a_pass"])
    else:
        console.print("counting the tokens of a pass over the text")
        tokens = corpus.tokens_of_a_pass(encode)
        write_whole(kept, json.dumps({"tokens_of_a_pass": tokens}) + "\n")
    assert cfg.epochs is not None
    steps = max(1, math.ceil(cfg.epochs * tokens / cfg.step_tokens))
    if cfg.optim.warmup_steps > steps:
        raise UserError(f"optim.warmup_steps={cfg.optim.warmup_steps} is over the {steps} steps that "
                        f"epochs={cfg.epochs} takes ({tokens:,} tokens a pass)")  # fmt: skip
    return steps


def finish(
    cfg: PretrainConfig,
    context: PretrainContext,
    model: Any,
    trainer: pl.Trainer,
    peak: float,
    seconds: float,
    cpu: float,
) -> None:
    """Write summary and curves; say where everything is."""
    folder, last = (
        context.run_dir,
        {k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith("heldout/")},
    )
    totals = context.totals
    rate = totals["tokens"] / max(totals["seconds"], 1e-9)
    mfu = totals["flops"] / max(totals["seconds"], 1e-9) / context.peak
    summary = {
        "name": cfg.name,
        "model": cfg.model.name,
        "data": cfg.data.name,
        "mix": {name: weight for name, weight in cfg.data.mix.items() if weight is not None},
        "seed": cfg.seed,
        "steps": trainer.global_step,
        "tokens": context.steps * cfg.step_tokens,
        "heldout_loss": {"first": context.first, "last": last["heldout/loss"]},
        "heldout": last,
        "parameters": sum(p.numel() for p in model.parameters()),
        "seconds": round(seconds, 1),
        "cpu_seconds": round(cpu, 1),
        "tokens_per_second": round(rate, 1),
        "mfu": round(mfu, 4),
        "peak_tflops": peak / 1e12,
        "peak_from": context.peak_from,
        "policy": str(folder / "policy"),
        "versions": stack_versions(),
    }
    write_json(folder / "summary.json", summary)
    curves = draw_curves(folder)
    console.print(
        f"held-out loss {context.first:.4f} -> {last['heldout/loss']:.4f} (perplexity "
        f"{last['heldout/perplexity']:.3f}) in {seconds:.0f} s; {rate:,.0f} tokens/s, MFU {mfu:.1%}",
        highlight=False,
    )
    if line := too_low(mfu, peak, context.peak_from):
        console.print(line, soft_wrap=True, highlight=False)
    for label, path in (("policy", folder / "policy"), ("curves", curves), ("metrics", folder / "metrics.csv")):
        console.print(f"  {label:8s} {shown(path)}", soft_wrap=True, highlight=False)


def describe(
    cfg: PretrainConfig, context: PretrainContext, model: Any, corpus: Corpus, checkpoint: Path | None
) -> None:
    """Say what is about to run."""
    origin = "new" if cfg.init is not None else f"from {cfg.model.path}"
    total = sum(corpus.weights.values())
    mixture = ", ".join(f"{name} {weight / total:.0%}" for name, weight in corpus.weights.items())
    console.print(
        titled(cfg.name, f": {size_of(model)} parameters ({origin}), text {mixture}, seed {cfg.seed}"),
        soft_wrap=True,
    )
    console.print(
        f"  {context.steps} steps of {cfg.step_tokens:,} tokens in rows of {cfg.data.row_tokens}, {context.parts} "
        f"micro-batch(es) a step; folder {shown(context.run_dir)}",
        soft_wrap=True,
        highlight=False,
    )
    peak = f"  peak of a device, for the MFU: {context.peak / context.devices / 1e12:.3g} TFLOP/s ({context.peak_from})"
    console.print(peak, soft_wrap=True, highlight=False)
    if checkpoint is not None:
        console.print(f"  continuing from {shown(checkpoint)}", soft_wrap=True)


def split_rows(cfg: PretrainConfig, world: int) -> tuple[int, int]:
    """Rows per optimizer step over all devices, and the micro-batches that each device's share is cut into."""
    rows = cfg.step_tokens // cfg.data.row_tokens
    if rows % world:
        raise UserError(f"step_tokens={cfg.step_tokens}: {rows} rows can't be shared by {world} devices")
    largest = max(1, cfg.optim.micro_batch_tokens // cfg.data.row_tokens)
    return rows, -(-(rows // world) // largest)
