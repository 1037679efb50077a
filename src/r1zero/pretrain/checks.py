"""Impossible settings of pretraining, found before anything is built."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from r1zero.errors import UserError
from r1zero.launch.files import read_json
from r1zero.launch.gpu import check_cuda
from r1zero.launch.renamed import bring_up_to_date
from r1zero.launch.run_folder import not_made
from r1zero.pretrain.config import PretrainConfig
from r1zero.pretrain.corpus import active_sources
from r1zero.ranges import check_ranges
from r1zero.train.checks import OWNED, check_attention, check_compile, check_known, check_set, check_targets

PADDED_VOCABULARY = 1024
"""Rows that an embedding may have beyond its tokenizer's entries: models round their vocabulary up."""


def check(config: DictConfig) -> PretrainConfig:
    """The settings as an object. Raises ``UserError`` for what can't work, naming keys and what to do."""
    check_set(config)
    check_known(config)
    check_ranges(config)
    bring_up_to_date(config)
    check_targets(config)
    cfg: Any = OmegaConf.to_object(config)
    check_sizes(cfg)
    active_sources(cfg.data)
    if cfg.init is None and (line := not_made(cfg.model.path)):
        raise UserError(line)
    if str(cfg.trainer.get("accelerator", "auto")) != "cpu":
        check_cuda("trainer=cpu")
    for key in cfg.trainer:
        if key in OWNED:
            raise UserError(f"trainer.{key} has no place here: pretraining sets it from its own settings")
    return cfg


def check_sizes(cfg: PretrainConfig) -> None:
    """Sizes and rates."""
    if (cfg.steps is None) == (cfg.epochs is None):
        raise UserError(f"steps={cfg.steps} and epochs={cfg.epochs}: give one of them, the other is null")
    if cfg.init is not None and cfg.model.context is None:
        raise UserError("model.context must be given for a new model")
    if cfg.model.context is not None and cfg.data.row_tokens > cfg.model.context:
        raise UserError(f"data.row_tokens={cfg.data.row_tokens} is over model.context={cfg.model.context}")
    if cfg.step_tokens % cfg.data.row_tokens:
        raise UserError(f"step_tokens={cfg.step_tokens} must be a multiple of data.row_tokens={cfg.data.row_tokens}")
    if cfg.steps is not None and cfg.optim.warmup_steps > cfg.steps:
        raise UserError(
            f"optim.warmup_steps={cfg.optim.warmup_steps} must lie between 0 and steps={cfg.steps}: lower it"
        )
    if cfg.optim.offload_states:
        raise UserError("optim.offload_states=true makes room for an engine that samples, and pretraining has none")
    if cfg.optim.context_parallel > 1:
        raise UserError("optim.context_parallel cuts the passes of reinforcement learning: leave it at 1 here")
    if cfg.optim.lr == 0:
        raise UserError("optim.lr=0 would learn nothing: give a learning rate above 0")
    if cfg.model.compile and cfg.init is not None:
        raise UserError("model.compile=true compiles the model at model.path, and init makes a new one: leave it off")
    check_compile(cfg)
    check_attention(cfg)
    if cfg.model.lora.rank:
        raise UserError(f"model.lora.rank={cfg.model.lora.rank}: pretraining trains all weights; leave it at 0")


def check_vocabulary(folder: Path, tokenizer: Any, path: str) -> None:
    """Refuse a tokenizer that is not the model's, by the folder's config.json: no weights are read."""
    rows = read_json(folder / "config.json").get("vocab_size")
    entries = len(tokenizer)
    if not isinstance(rows, int):
        return
    if entries > rows or rows - entries > max(PADDED_VOCABULARY, rows // 20):
        raise UserError(
            f"model.path={path}: the tokenizer has {entries} entries and the model {rows}; they don't belong together"
        )
