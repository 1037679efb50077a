"""The objective: pure functions of tensors and scalars. Nothing here knows a model or a logger.

What an objective or an advantage function of your own needs is here: ``from r1zero.algo import Loss, ...``.
"""

from r1zero.algo.advantages import sum_over_ranks
from r1zero.algo.check import ObjectiveError, check_objective
from r1zero.algo.objective import Loss, Objective, Scale, TokenValues

__all__ = ["Loss", "Objective", "ObjectiveError", "Scale", "TokenValues", "check_objective", "sum_over_ranks"]
