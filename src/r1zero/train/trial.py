"""Tries the functions of the user's that a config names, before anything heavier than torch is imported."""

from __future__ import annotations

from omegaconf import OmegaConf

from r1zero.config import TrainConfig
from r1zero.data.samplers import SAMPLERS
from r1zero.launch.plugins import find_function
from r1zero.learn.objective import configured_objective
from r1zero.rollout.environments import find_environment
from r1zero.rollout.rules import try_rules


def try_functions(config: TrainConfig) -> None:
    """Look up objective, advantage, credit, order of questions and environment; call the first three on made-up values.

    Raises:
        UserError: one can't be imported, does not take its arguments, or gives what could not be learned from.
    """
    cfg: TrainConfig = OmegaConf.to_object(config)  # type: ignore[assignment]
    configured_objective(cfg.algo)
    try_rules(cfg.algo, cfg.rollout.questions, cfg.rollout.group_size)
    find_function(cfg.data.sampler, SAMPLERS, "data.sampler", cfg.data.sampler_params)
    find_environment(cfg.rollout)
