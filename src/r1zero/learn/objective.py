"""The objective that a run's settings name, tried out before anything is trained."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from r1zero.algo.objective import OBJECTIVES, Loss
from r1zero.algo_config import AlgoConfig
from r1zero.launch.plugins import find_function


def configured_objective(algo: AlgoConfig) -> Callable[..., Loss]:
    """``algo.loss`` with its parameters.

    Raises:
        UserError: there is no such function, or it does not take ``algo.loss_params``.
    """
    function = find_function(algo.loss, OBJECTIVES, "algo.loss", algo.loss_params)
    return partial(function, **algo.loss_params) if algo.loss_params else function
