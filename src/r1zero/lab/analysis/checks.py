"""Impossible settings of an analysis, found before anything heavy is imported."""

from __future__ import annotations

from omegaconf import DictConfig

from r1zero.data.sources import check_source
from r1zero.errors import UserError
from r1zero.evaluate.checks import check_common, check_pass_k, check_server, shrink_if_dry
from r1zero.ranges import check_ranges

TASKS = ("answering", "reflection")


def check(config: DictConfig) -> None:
    """Refuse an analysis that can't work, in one line.

    Raises:
        UserError: naming the keys and what to do.
    """
    if config.labelled is not None:
        check_ranges(config)
        if config.judge.via == "none":
            raise UserError("labelled: judge=none labels nothing; choose judge=openai, local or model")
        check_judge(config.judge)
        return
    shrink_if_dry(config)
    check_common(config)
    check_source(config.data)
    check_templates(config)
    check_temperatures(list(config.temperatures), config.sampling.n)
    check_pass_k([config.pass_k], config.sampling.n)
    check_judge(config.judge)


def check_templates(config: DictConfig) -> None:
    """Templates to choose from: several, each with a place for the question."""
    if len(config.templates) == 1:
        raise UserError(
            f"templates has {', '.join(config.templates)} alone, which leaves no choice: choose template=... instead"
        )
    for name, template in config.templates.items():
        if template.text.count("{question}") != 1:
            raise UserError(f"templates.{name}.text must hold {{question}} exactly once")


def check_temperatures(temperatures: list[float], n: int) -> None:
    """Temperatures: some, each once, and 0 only where one response is drawn."""
    if not temperatures:
        raise UserError("temperatures=[] leaves nothing to analyze; give e.g. temperatures=[0.1,0.5,1.0]")
    if len(set(temperatures)) < len(temperatures):
        raise UserError(f"temperatures={temperatures}: each must stand there once")
    if 0 in temperatures and n > 1:
        raise UserError(f"temperatures={temperatures}: 0 gives {n} equal responses; leave it out, or set sampling.n=1")


def check_judge_sizes(judge: DictConfig) -> None:
    """A judge in this process needs room for what it reads."""
    if judge.via == "model" and judge.context <= judge.max_tokens:
        raise UserError(
            f"judge.context={judge.context} leaves no room for a question beside judge.max_tokens={judge.max_tokens}"
        )


def check_judge(judge: DictConfig) -> None:
    """The judge: how it is reached, its key, its prompts."""
    if judge.via == "none":
        return
    if judge.model is None:
        raise UserError(f"judge.model is not set: name the model that judge={judge.name} asks")
    check_judge_sizes(judge)
    if judge.via == "server":
        try:
            check_server(judge, "judge")
        except UserError as error:
            raise UserError(f"{error} (judge=none leaves the judge out)") from None
    for task in TASKS:
        prompt = judge.prompts.get(task)
        if prompt is None:
            raise UserError(f"judge.prompts.{task} is missing; see conf/judge/prompts/default.yaml")
        if "{response}" not in prompt.user or not prompt.labels:
            raise UserError(f"judge.prompts.{task} must hold {{response}} in its user text, and labels")
