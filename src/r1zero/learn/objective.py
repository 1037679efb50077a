"""The objective that a run's settings name, tried out before anything is trained."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from r1zero.algo.check import ObjectiveError, check_objective
from r1zero.algo.objective import OBJECTIVES, Loss
from r1zero.algo_config import AlgoConfig
from r1zero.errors import UserError
from r1zero.launch.plugins import find_function
from r1zero.learn.measure import MAXIMA, MEANS, TOTALS


def configured_objective(algo: AlgoConfig) -> Callable[..., Loss]:
    """``algo.loss`` with its parameters; has an attribute ``figures``, the names of what one of the user's reports.

    Raises:
        UserError: there is no such function, it does not take ``algo.loss_params``, or ``check_objective`` finds fault
            with it.
    """
    function = find_function(algo.loss, OBJECTIVES, "algo.loss", algo.loss_params)
    try:
        figures = {} if algo.loss in OBJECTIVES else check_objective(function, algo, **algo.loss_params)
    except ObjectiveError as error:
        raise UserError(f"algo.loss={algo.loss}: {error}") from error
    built_in = {*MEANS, *MAXIMA, *TOTALS} - {"policy/clip_frac", "loss/kl"}  # these two are an objective's to report
    if taken := sorted(built_in & figures.keys()):
        raise UserError(f"algo.loss={algo.loss}: its figure {taken[0]!r} is one of the learner's: give it another name")
    objective: Callable[..., Loss] = partial(function, **algo.loss_params)
    objective.__dict__.update(getattr(function, "__dict__", {}), figures=tuple(figures))
    return objective
