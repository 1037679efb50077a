"""What stands around an engine and answers the policy between its turns (``rollout.environment``)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from r1zero.launch.plugins import find_function
from r1zero.rollout.calculator import Calculator
from r1zero.rollout.engine import Engine
from r1zero.rollout_config import RolloutConfig

ENVIRONMENTS: dict[str, Callable[..., Engine]] = {"calculator": Calculator}
"""What ``rollout.environment`` can name."""


def find_environment(rollout: RolloutConfig) -> Callable[[Engine, Any, int], Engine] | None:
    """What puts ``rollout.environment`` around an engine; None where there is none.

    Raises:
        UserError: It is unknown, can't be imported, or does not take its params.
    """
    if rollout.environment is None:
        return None
    name, params = rollout.environment, {str(key): value for key, value in rollout.environment_params.items()}
    environment = find_function(name, ENVIRONMENTS, "rollout.environment", params)

    def around(engine: Engine, tokenizer: Any, context: int) -> Engine:
        return environment(engine, tokenizer, context, **params)

    return around
