"""The parts of an evaluation or an analysis: template, prompts, sampling settings, sampler."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from r1zero.batch import Prompt
from r1zero.config import DataConfig
from r1zero.data.datamodule import PromptDataModule
from r1zero.data.overlap import overlap
from r1zero.data.prompts import load_questions
from r1zero.data.templates import Template, template_of
from r1zero.errors import UserError
from r1zero.evaluate.config import SamplingConfig
from r1zero.evaluate.sampler import EngineSampler, Sampler
from r1zero.launch.console import console
from r1zero.launch.files import read_yaml
from r1zero.launch.gpu import has_gpu
from r1zero.launch.seeding import derive_seed
from r1zero.learn.policy import eos_ids, load_tokenizer, resolve_model
from r1zero.rollout.build import build_engine
from r1zero.rollout.engine import Engine, Sampling
from r1zero.rollout.vllm.cache import largest_request
from r1zero.train.build import template_sampling

log = logging.getLogger("r1zero")


def sampling_of(cfg: SamplingConfig, template: Template, stop_ids: tuple[int, ...], **changed: Any) -> Sampling:
    """Sampling settings with the template's stop rules; no log-probabilities are asked for."""
    return template_sampling(template, stop_ids, logprobs=False, **{**vars(cfg), **changed})


class Subject:
    """The model that is asked: prompts for it, and a sampler that is started when it is needed.

    Args:
        cfg: The root of evaluate.yaml or analyze.yaml.
        sets: Question sets by name.
    """

    def __init__(self, cfg: Any, sets: dict[str, DataConfig]) -> None:
        self.cfg = cfg
        self.template = template_of(cfg.template)
        self.dropped: dict[str, int] = {}
        self.stop_ids: tuple[int, ...] = ()
        self.folder: Path | None = None
        if cfg.model.served:
            self.prompts = self._served_prompts(sets)
        else:
            self.folder = resolve_model(cfg.model)
            tokenizer = load_tokenizer(self.folder, cfg.model.trust_remote_code)
            self.stop_ids = self.template.stop_ids(tokenizer, eos_ids(self.folder))
            self.prompts = self._prompts(sets, tokenizer)
        self._warn_template()

    @property
    def model_context(self) -> int:
        """Longest prompt + response that the model was made for, in tokens."""
        assert self.cfg.model.context is not None, "checks.check fills it in"
        return self.cfg.model.context

    def _served_prompts(self, sets: dict[str, DataConfig]) -> dict[str, list[Prompt]]:
        """Texts alone: the server tokenises; of a chat template it gets the user message."""
        return {
            name: [
                Prompt(question, self.template.render(question.text), [])
                for question in load_questions(data, self.cfg.seed)[: self.cfg.limit]
            ]
            for name, data in sets.items()
        }

    def _prompts(self, sets: dict[str, DataConfig], tokenizer: Any) -> dict[str, list[Prompt]]:
        cfg = self.cfg
        room = (cfg.context or self.model_context) - cfg.sampling.max_tokens
        if cfg.dry:
            return {
                name: [
                    Prompt(question, text, ids[-room:])
                    for question in load_questions(data, cfg.seed)[: cfg.limit]
                    for text, ids in [self.template.encode(question.text, tokenizer)]
                ]
                for name, data in sets.items()
            }
        data = PromptDataModule(
            None, sets, self.template, tokenizer, seed=cfg.seed, eval_limit=cfg.limit, eval_prompt_limit=room
        )
        data.setup()
        self.dropped = {name: count for name, count in data.dropped.items() if count}
        for name, count in self.dropped.items():
            log.warning("set %s: %d prompts are too long for the context and are left out", name, count)
        return data.benchmarks

    def describe(self) -> dict[str, Any]:
        """The model, as far as it decides what is drawn."""
        cfg = self.cfg
        if cfg.model.served:
            return {"name": cfg.model.name, "path": cfg.server.model or cfg.model.path, "kind": cfg.server.kind}
        about = {"name": cfg.model.name, "path": cfg.model.path, "revision": cfg.model.revision}
        rounded = {"quantization": cfg.rollout.quantization} if cfg.rollout.quantization else {}
        return about | {"dtype": cfg.rollout.format(cfg.model.dtype), "engine": cfg.rollout.name} | rounded

    def sampler(self) -> Sampler:
        """The engine of this process, started at its first use, or the server."""
        cfg = self.cfg
        if cfg.model.served:
            from r1zero.evaluate.served import ServedModel

            return ServedModel(cfg.server, self.template)
        longest = max(len(prompt.ids) for prompts in self.prompts.values() for prompt in prompts)
        context = cfg.context or min(longest + cfg.sampling.max_tokens, self.model_context)

        def start() -> Engine:
            with console.status(f"starting the {cfg.rollout.name} engine"):
                return build_engine(
                    cfg.rollout,
                    str(self.folder),
                    dtype=cfg.model.dtype,
                    context=context,
                    seed=derive_seed(cfg.seed, "engine"),
                    device="cuda" if has_gpu() and cfg.device != "cpu" else "cpu",
                    trust_remote_code=cfg.model.trust_remote_code,
                    evaluated=largest_request(
                        [prompts[: cfg.chunk] for prompts in self.prompts.values()],
                        cfg.sampling.n,
                        cfg.sampling.max_tokens,
                        context if cfg.rollout.environment else None,
                    ),
                )

        return EngineSampler(start)

    def _warn_template(self) -> None:
        """Say so when a policy of this package is asked through another template than it was trained with."""
        trained = self._training_config().get("template", {}).get("name")
        if trained and trained != self.template.name:
            log.warning("this policy was trained with template=%s and is asked with %s", trained, self.template.name)

    def _training_config(self) -> dict[str, Any]:
        """The config of the RL run that made the model; empty where it was made otherwise (by pretraining, say)."""
        file = self.folder.parent / "config.yaml" if self.folder is not None else None
        if file is None or not file.is_file() or not self.folder.name.startswith("policy"):  # type: ignore[union-attr]
            return {}
        content = read_yaml(file)
        return content if "algo" in content else {}

    def overlaps(self) -> dict[str, Any]:
        """What each set has in common with the training questions; empty where none are known (trap 36)."""
        cfg = self.cfg
        train = cfg.overlap
        if train is None:
            known = self._training_config().get("data")
            train = DataConfig(**known) if isinstance(known, dict) else None
        if train is None:
            return {}
        try:
            questions = load_questions(train, cfg.seed)
        except UserError as error:
            if cfg.overlap is not None:
                raise
            log.warning("the overlap with the training questions is not measured: %s", error)
            return {}
        found = {}
        for name, prompts in self.prompts.items():
            common = overlap(questions, [prompt.question for prompt in prompts])
            found[name] = {"train": train.name, "exact": common.exact, "near": common.near - common.exact}
            if common.exact:
                log.warning("set %s holds questions of the training set %s: %s", name, train.name, common)
        return found
