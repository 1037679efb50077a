"""The Lightning data module: prompts for training, prompts of each benchmark."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl
import torch

from r1zero.batch import Prompt
from r1zero.config import DataConfig
from r1zero.data.loader import Order, PromptLoader, shuffled
from r1zero.data.overlap import Overlap, overlap
from r1zero.data.prompts import GoldCheck, build_prompts, load_questions
from r1zero.data.samplers import SAMPLERS, Rule, SampledLoader, uniform
from r1zero.data.templates import Template
from r1zero.errors import UserError
from r1zero.launch.plugins import find_function

log = logging.getLogger("r1zero")


class PromptDataModule(pl.LightningDataModule):
    """Loads the question set and the benchmarks, all through one template and one tokenizer.

    Attributes:
        prompts: Training prompts after :meth:`setup`.
        benchmarks: Prompts of each benchmark after :meth:`setup`, by the benchmark's name.
        dropped: Prompts that were too long, by the benchmark's name, "train" for the training set.
        overlaps: What the training set has in common with each benchmark.
    """

    def __init__(
        self,
        data: DataConfig | None,
        benchmarks: Mapping[str, DataConfig],
        template: Template,
        tokenizer: Any,
        questions_per_step: int = 1,
        steps: int = 0,
        seed: int = 0,
        eval_limit: int | None = None,
        eval_prompt_limit: int | None = None,
        order: Order = shuffled,
        check_golds: GoldCheck | None = None,
    ) -> None:
        """Nothing is read before :meth:`setup`.

        Args:
            data: The set to train on; None to evaluate only.
            benchmarks: Sets to evaluate on, by name.
            template: How a question becomes a prompt.
            tokenizer: The policy's tokenizer.
            questions_per_step: P over all ranks.
            steps: Rollout steps of the run.
            seed: Governs the order of questions, and of generated ones which they are.
            eval_limit: Use only the first questions of each benchmark.
            eval_prompt_limit: Longest benchmark prompt that leaves room for a response, in tokens.
            order: Gives the order of a pass over the training questions.
            check_golds: Judges the gold answers of every set when it is loaded.
        """
        super().__init__()
        self._data = data
        self._benchmarks = dict(benchmarks)
        self._template = template
        self._tokenizer = tokenizer
        self._questions_per_step = questions_per_step
        self._steps = steps
        self._seed = seed
        self._eval_limit = eval_limit
        self._eval_prompt_limit = eval_prompt_limit
        self._order = order
        self._check_golds = check_golds
        self._rule: Rule | None = None
        self._ready = False
        self.prompts: list[Prompt] = []
        self.benchmarks: dict[str, list[Prompt]] = {}
        self.dropped: dict[str, int] = {}
        self.overlaps: dict[str, Overlap] = {}

    def setup(self, stage: str | None = None) -> None:
        """Load everything, once however often Lightning calls it.

        Raises:
            UserError: A set can't be used, or has fewer questions than a rollout step asks.
        """
        if self._ready:
            return
        if self._data is not None:
            data = self._data
            self._rule = find_function(data.sampler, SAMPLERS, "data.sampler", data.sampler_params)
            self.prompts = self._prompts("train", data)
            if self._steps and len(self.prompts) < self._questions_per_step:
                raise UserError(
                    f"rollout.questions={self._questions_per_step} is more than the {len(self.prompts)} usable "
                    f"questions of data '{self._data.name}'; lower it, or use a larger set"
                )
        for name, cfg in self._benchmarks.items():
            self.benchmarks[name] = self._prompts(name, cfg, self._eval_limit, self._eval_prompt_limit)
            if self._data is not None:
                self._compare(name)
        self._ready = True

    def train_dataloader(self) -> PromptLoader:
        """The loader of this rank.

        A finished run that is resumed with more steps continues: its checkpoint calls the last batch the
        epoch's last, which is undone here, between the restore of the loops and their start.
        """
        trainer = self.trainer
        rank, world_size = (trainer.global_rank, trainer.world_size) if trainer is not None else (0, 1)
        if trainer is not None and trainer.state.fn == "fit":
            progress = trainer.fit_loop.epoch_loop.batch_progress
            if progress.current.ready < self._steps:
                progress.is_last_batch = False
        common = (self.prompts, self._questions_per_step, self._steps, self._seed, rank, world_size, self._order)
        if self._rule is None or self._rule is uniform:
            return PromptLoader(*common)
        assert self._data is not None
        return SampledLoader(*common, rule=self._rule, params=self._data.sampler_params)

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Prompts are lists of token ids; nothing of them goes to a device."""
        return batch

    def _prompts(self, name: str, cfg: DataConfig, limit: int | None = None, room: int | None = None) -> list[Prompt]:
        questions = load_questions(cfg, self._seed, self._check_golds)[:limit]
        longest = cfg.max_prompt_tokens if room is None else min(cfg.max_prompt_tokens, room)
        prompts, dropped = build_prompts(questions, self._template, self._tokenizer, longest)
        self.dropped[name] = dropped
        if dropped:
            log.info(
                "data '%s': %d of %d prompts left out for being longer than %d tokens",
                cfg.name, dropped, len(questions), longest,
            )  # fmt: skip
        return prompts

    def _compare(self, name: str) -> None:
        """Measure what a benchmark has in common with the training set; warn of equal questions (trap 36)."""
        train, held = ([prompt.question for prompt in prompts] for prompts in (self.prompts, self.benchmarks[name]))
        found = self.overlaps[name] = overlap(train, held)
        if found.exact:
            log.warning("benchmark '%s' has questions of the training set: %s; don't report it", name, found)
