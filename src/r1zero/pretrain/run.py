"""One pretraining run: build text, tokenizer, model and Trainer; fit; leave a Hugging Face folder."""

from __future__ import annotations

import json
import logging
import time
import warnings
from pathlib import Path
from typing import Any

import hydra
import pytorch_lightning as pl
import torch
import transformers
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger

from r1zero.data.arithmetic import settings_of
from r1zero.errors import UserError
from r1zero.policy import Policy, load_tokenizer, resolve_model
from r1zero.pretrain.config import PretrainConfig
from r1zero.pretrain.data import ArithmeticDocuments, PretrainData
from r1zero.pretrain.model import export, new_model
from r1zero.pretrain.module import PretrainModule
from r1zero.pretrain.text import ArithmeticText
from r1zero.pretrain.tokenizer import train_tokenizer


class Progress(pl.Callback):
    """One line on the console per held-out measurement; keeps the loss before training, across a resume too."""

    def __init__(self, step_tokens: int) -> None:
        self.step_tokens = step_tokens
        self.first: float | None = None
        self.started, self.started_at = 0.0, 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock."""
        self.started, self.started_at = time.perf_counter(), trainer.global_step

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Print step, losses and speed."""
        metrics = trainer.callback_metrics
        if self.first is None:
            self.first = float(metrics["heldout/loss"])
        if not trainer.is_global_zero or trainer.state.fn != "fit":
            return
        tokens = (trainer.global_step - self.started_at) * self.step_tokens
        print(
            f"step {trainer.global_step:6d} of {trainer.max_steps}   held-out loss {metrics['heldout/loss']:.4f} "
            f"(perplexity {metrics['heldout/perplexity']:.3f})   "
            f"{tokens / (time.perf_counter() - self.started):,.0f} tokens/s",
            flush=True,
        )

    def state_dict(self) -> dict[str, Any]:
        """The loss before training."""
        return {"first": self.first}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take it from the checkpoint."""
        self.first = state_dict["first"]


def check(cfg: PretrainConfig) -> None:
    """Refuse impossible sizes before anything is built. Raises ``UserError``."""
    if cfg.steps < 1:
        raise UserError(f"steps={cfg.steps} must be at least 1")
    if cfg.data.source != "arithmetic":
        raise UserError(f"data.source={cfg.data.source} is unknown; choose arithmetic")
    if cfg.init is not None and cfg.model.context is None:
        raise UserError("model.context must be given for a new model")
    if cfg.model.context is not None and cfg.data.row_tokens > cfg.model.context:
        raise UserError(f"data.row_tokens={cfg.data.row_tokens} is over model.context={cfg.model.context}")
    if cfg.step_tokens < 1 or cfg.step_tokens % cfg.data.row_tokens:
        raise UserError(f"step_tokens={cfg.step_tokens} must be a multiple of data.row_tokens={cfg.data.row_tokens}")
    if cfg.optim.schedule not in ("constant", "linear", "cosine"):
        raise UserError(f"optim.schedule={cfg.optim.schedule} is unknown; choose constant, linear or cosine")
    if not 0 <= cfg.optim.warmup_steps <= cfg.steps:
        raise UserError(f"optim.warmup_steps={cfg.optim.warmup_steps} must lie between 0 and steps={cfg.steps}")
    if not cfg.optim.lr > 0:
        raise UserError(f"optim.lr={cfg.optim.lr} must be positive")


def text_of(cfg: PretrainConfig, split: str) -> ArithmeticText:
    """The documents of ``split``."""
    return ArithmeticText(dict(cfg.data.mix), cfg.data.working, settings_of(cfg.data.questions), split, cfg.seed)


def model_and_tokenizer(cfg: PretrainConfig, text: ArithmeticText) -> tuple[Any, Any]:
    """A new model with a tokenizer trained on the text, or both from ``model.path``."""
    if cfg.init is not None:
        assert cfg.model.context is not None
        documents = (text.document(number) for number in range(cfg.init.tokenizer_documents))
        tokenizer = train_tokenizer(documents, cfg.init.vocab, cfg.model.context)
        return new_model(cfg.init, tokenizer, cfg.model.context, cfg.seed), tokenizer
    folder = resolve_model(cfg.model)
    tokenizer = load_tokenizer(folder, cfg.model.trust_remote_code)
    model = Policy.from_folder(folder, cfg.model).model
    if len(tokenizer) > model.get_input_embeddings().num_embeddings:
        raise UserError(
            f"model.path={cfg.model.path}: the tokenizer has {len(tokenizer)} entries, the model only "
            f"{model.get_input_embeddings().num_embeddings}; they don't belong together"
        )
    return model, tokenizer


def newest_checkpoint(folder: Path) -> Path:
    """The checkpoint that a resumed run goes on from. Raises ``UserError`` when the folder has none."""
    found = sorted((folder / "checkpoints").glob("*.ckpt"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise UserError(f"resume={folder} has no checkpoint; was it run with checkpoint_every above 0?")
    return found[-1]


def build_trainer(cfg: PretrainConfig, config: DictConfig, folder: Path, progress: Progress) -> pl.Trainer:
    """The Trainer of ``config.trainer`` with what this run needs; :func:`pretrain` adds the accumulation."""
    loggers: list[Any] = [CSVLogger(save_dir=folder, name="", version="")]
    loggers += [hydra.utils.instantiate(entry) for entry in config.logger.values()]
    callbacks: list[pl.Callback] = [progress]
    if cfg.checkpoint_every:
        callbacks.append(
            ModelCheckpoint(
                dirpath=folder / "checkpoints",
                filename="step_{step}",
                auto_insert_metric_name=False,
                every_n_train_steps=cfg.checkpoint_every,
            )
        )
    return hydra.utils.instantiate(
        config.trainer,
        max_epochs=1,
        max_steps=cfg.steps,
        gradient_clip_val=cfg.optim.max_grad_norm or None,
        num_sanity_val_steps=0,
        log_every_n_steps=10,
        use_distributed_sampler=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=bool(cfg.checkpoint_every),
        logger=loggers,
        callbacks=callbacks,
        default_root_dir=folder,
    )


def pretrain(config: DictConfig, folder: Path) -> Path:
    """Pretrain as ``config`` says and leave config.yaml, metrics.csv, summary.json and policy/ in ``folder``.

    Returns the model folder. Raises ``UserError`` for a setting that can't work.
    """
    cfg: PretrainConfig = OmegaConf.to_object(config)  # type: ignore[assignment]
    check(cfg)
    quiet()
    if cfg.threads is not None:
        torch.set_num_threads(cfg.threads)
    folder.mkdir(parents=True, exist_ok=True)
    OmegaConf.save(config, folder / "config.yaml", resolve=True)

    text = text_of(cfg, "train")
    model, tokenizer = model_and_tokenizer(cfg, text)
    model.train()
    heldout_text = text_of(cfg, "heldout")
    heldout = [
        list(tokenizer.encode(heldout_text.document(number), add_special_tokens=False))
        for number in range(cfg.data.heldout_documents)
    ]
    progress = Progress(cfg.step_tokens)
    trainer = build_trainer(cfg, config, folder, progress)
    rows, parts = split_rows(cfg, trainer.world_size)
    trainer.accumulate_grad_batches = parts
    trainer.val_check_interval = min(cfg.eval_every, cfg.steps) * parts
    data = PretrainData(
        lambda rank, world: ArithmeticDocuments(text, tokenizer, rank, world),
        heldout,
        length=cfg.data.row_tokens,
        rows=rows,
        parts=parts,
        steps=cfg.steps,
        pad=tokenizer.pad_token_id,
    )
    module = PretrainModule(model, cfg.optim, cfg.steps)

    started, cpu = time.perf_counter(), time.process_time()
    checkpoint = newest_checkpoint(Path(cfg.resume)) if cfg.resume else None
    if checkpoint is None:
        trainer.validate(module, data, verbose=False)
    trainer.fit(module, data, ckpt_path=checkpoint, weights_only=True)
    trainer.validate(module, data, verbose=False)
    last = float(trainer.callback_metrics["heldout/loss"])
    policy = folder / "policy"
    if trainer.is_global_zero:
        export(model, tokenizer, policy)
        summary = {
            "steps": trainer.global_step,
            "tokens": cfg.steps * cfg.step_tokens,
            "heldout_loss": {"first": progress.first, "last": last},
            "parameters": sum(p.numel() for p in model.parameters()),
            "seconds": round(time.perf_counter() - started, 1),
            "cpu_seconds": round(time.process_time() - cpu, 1),
            "policy": str(policy),
        }
        (folder / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
        print(
            f"held-out loss {progress.first:.4f} -> {last:.4f} in {summary['seconds']:.0f} s; model folder {policy}",
            flush=True,
        )
    return policy


def split_rows(cfg: PretrainConfig, world: int) -> tuple[int, int]:
    """Rows per optimizer step over all devices, and the micro-batches that each device's share is cut into."""
    rows = cfg.step_tokens // cfg.data.row_tokens
    if rows % world:
        raise UserError(f"step_tokens={cfg.step_tokens}: {rows} rows can't be shared by {world} devices")
    share = rows // world
    largest = max(1, cfg.optim.micro_batch_tokens // cfg.data.row_tokens)
    return rows, next(parts for parts in range(1, share + 1) if share % parts == 0 and share // parts <= largest)


def quiet() -> None:
    """Keep the console to this project's own lines: notices of the libraries are not the user's to act on."""
    for name in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=".*exists and is not empty.*")
    warnings.filterwarnings("ignore", message=".*`isinstance\\(treespec, LeafSpec\\)` is deprecated.*")
    transformers.utils.logging.disable_progress_bar()
