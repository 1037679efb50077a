"""Impossible settings of an evaluation or an analysis, found before anything heavy is imported."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from r1zero.data.sources import check_source
from r1zero.data.templates import template_of
from r1zero.errors import UserError
from r1zero.launch.gpu import check_cuda, check_quantization, has_gpu
from r1zero.launch.model_files import check_files
from r1zero.launch.run_folder import not_made
from r1zero.ranges import check_ranges
from r1zero.reward.signatures import check_named
from r1zero.rollout.choice import narrow, say
from r1zero.train.checks import LARGE_FOR_CPU, check_judge, folder_context

DRY_QUESTIONS, DRY_TOKENS = 2, 16


def check(config: DictConfig) -> None:
    """Refuse an evaluation that can't work, in one line; fills in what a local model folder says.

    Raises:
        UserError: naming the keys and what to do.
    """
    shrink_if_dry(config)
    check_common(config)
    if config.rescore is None and not config.benchmarks:
        raise UserError(
            "benchmarks=none leaves nothing to evaluate; choose e.g. benchmarks=math500 or benchmarks=paper"
        )
    if (config.sampling.temperature == 0) and config.sampling.n > 1:
        raise UserError(
            f"sampling.n={config.sampling.n} with sampling.temperature=0 gives equal responses; "
            "set sampling.n=1 or a temperature above 0"
        )
    check_pass_k(config.pass_k, config.sampling.n)
    if config.rescore is None:
        for data in config.benchmarks.values():
            check_source(data)
            check_judge(data, config.reward)
        if config.overlap is not None:
            check_source(config.overlap)


def check_pass_k(ks: Any, n: int) -> None:
    """pass@k can be estimated from n >= k responses only."""
    for k in ks:
        if not 1 <= k <= n:
            raise UserError(f"pass_k={k} needs sampling.n of at least {max(k, 1)}, which is {n}, and k of at least 1")


def check_common(config: DictConfig) -> None:
    """What evaluation and analysis have in common: model, sizes, machine, server."""
    missing = sorted(OmegaConf.missing_keys(config))
    if missing:
        needs = (config.get("paper") or {}).get("needs")
        hint = f"this row needs {needs}" if needs else f"give it on the command line as {missing[0]}=..."
        raise UserError(f"{missing[0]} is not set: {hint}")
    check_ranges(config)
    template_of(OmegaConf.to_object(config.template))  # type: ignore[arg-type]
    if "reward" in config:
        check_named(config.reward, config.template.extractor)
    if config.get("rescore") is not None:
        return
    if config.model.served:
        check_server(config.server)
    else:
        if config.server.url is not None:
            raise UserError(f"server.url={config.server.url} is given with model={config.model.name}; add model=server")
        check_model(config)


def check_server(server: Any, key: str = "server") -> None:
    """Address, kind and key of a server; the key itself is looked at, never shown."""
    if server.url is None:
        raise UserError(f"{key}.url is not set: give the address, e.g. {key}.url=http://127.0.0.1:8000/v1")
    if not str(server.url).startswith(("http://", "https://")):
        raise UserError(f"{key}.url={server.url} must start with http:// or https://")
    if server.key_env is not None and not os.environ.get(server.key_env):
        raise UserError(
            f"{key}.key_env={server.key_env}: this environment variable is not set; "
            f"export it, or set {key}.key_env=null for a server that wants no key"
        )


def check_model(config: DictConfig) -> None:
    """The machine must suit the model, and the context must hold prompt and response."""
    model = config.model
    if line := not_made(model.path):
        raise UserError(line)
    paper = config.get("paper")
    if not has_gpu():
        if config.device == "gpu":
            raise UserError("device=gpu: no NVIDIA GPU was found")
        if config.device == "auto" and model.params >= LARGE_FOR_CPU:
            what = f"the paper's row '{paper.row}'" if paper else f"model {model.name} ({model.params:g} B parameters)"
            needs = paper.needs if paper and paper.needs else f"an NVIDIA GPU for {model.path}"
            raise UserError(
                f"{what} needs {needs}, and no GPU was found: try it out with model=tiny dry=true, "
                "or insist with device=cpu"
            )
    elif config.device != "cpu":
        check_cuda("device=cpu")
    only = narrow(config)
    check_quantization(config.rollout)
    say(only)
    if model.context is None:
        model.context = folder_context(model.path)
    if Path(model.path).expanduser().is_dir():
        check_files(Path(model.path).expanduser())
    context = min(config.context or model.context, model.context)
    if config.context is not None and config.context > model.context:
        if not config.dry:
            raise UserError(
                f"context={config.context} is over the context of model {model.name}, {model.context} tokens"
            )
        config.context = None
    if config.sampling.max_tokens >= context and not typed("sampling.max_tokens"):
        fitting = context // 2
        print(
            f"sampling.max_tokens: {config.sampling.max_tokens} -> {fitting}, "
            f"half of the context of model {model.name}, {context} tokens"
        )
        config.sampling.max_tokens = fitting
    if config.sampling.max_tokens >= context:
        raise UserError(
            f"sampling.max_tokens={config.sampling.max_tokens} leaves no room for a prompt in a context of {context} "
            f"tokens (model {model.name}): lower it, or add dry=true to try things out"
        )


def typed(key: str) -> bool:
    """Whether the user has set a value; outside a command every value counts as set."""
    if not HydraConfig.initialized():
        return True
    return any(override.lstrip("+").startswith(f"{key}=") for override in HydraConfig.get().overrides.task)


def shrink_if_dry(config: DictConfig) -> None:
    """Cut the sizes of a dry run."""
    if config.dry:
        config.sampling.max_tokens = min(config.sampling.max_tokens, DRY_TOKENS)
        for key in ("limit", "questions"):
            if key in config:
                config[key] = min(config[key] or DRY_QUESTIONS, DRY_QUESTIONS)
