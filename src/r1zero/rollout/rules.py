"""The advantage and the credit rule that a run's settings name, tried out before anything is trained."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from r1zero.algo.advantages import ADVANTAGES
from r1zero.algo.credit import CREDITS, Decode, allocate
from r1zero.algo.own import FaultyRule, checked_advantages
from r1zero.algo_config import AlgoConfig
from r1zero.batch import Completion, Prompt, Question, RolloutBatch
from r1zero.errors import UserError, whole_message
from r1zero.launch.plugins import find_function


class Rules:
    """Both functions, looked up.

    Args:
        algo: names them and their parameters.
        decode: token ids -> text, for credit rules.

    Raises:
        UserError: one can't be found, or does not take its parameters.
    """

    def __init__(self, algo: AlgoConfig, decode: Decode) -> None:
        self.algo, self.decode = algo, decode
        self.advantage = find_function(algo.advantage, ADVANTAGES, "algo.advantage", algo.advantage_params)
        self.credit = find_function(algo.credit, CREDITS, "algo.credit", algo.credit_params)

    def advantages(self, rollout: RolloutBatch) -> torch.Tensor:
        """One for each response, by a published rule or the user's: float32 [N]."""
        algo = self.algo
        params = {"std_norm": algo.std_norm} if algo.advantage == "group" else algo.advantage_params
        return self._told("advantage", lambda: checked_advantages(self.advantage, rollout, params))

    def token_weights(self, rollout: RolloutBatch) -> list[torch.Tensor] | None:
        """Weights of the tokens, N rows float32 [T_i]; None where all of a response count alike."""
        if self.algo.credit == "uniform":
            return None
        params = self.algo.credit_params
        return self._told("credit", lambda: allocate(self.credit, rollout, self.decode, params))

    def _told(self, setting: str, call: Callable[[], Any]) -> Any:
        """A fault of a function in one line."""
        name = f"algo.{setting}={getattr(self.algo, setting)}"
        try:
            return call()
        except FaultyRule as error:
            raise UserError(f"{name}: {error}") from error
        except Exception as error:
            raise UserError(f"{name} failed: {type(error).__name__}: {whole_message(error)}") from error


def try_rules(algo: AlgoConfig, questions: int, group_size: int) -> None:
    """Call functions of the user's on made-up responses, so that a fault shows before a model is loaded.

    What rests on texts and columns of the questions is not known here: an error that such a function raises is
    left to the first rollout, unless it names something that no rollout has.

    Raises:
        UserError: a wrong number of values, one that is not finite, or a misspelled name.
    """
    rules = Rules(algo, lambda ids: " ".join(map(str, ids)))
    for first in range(3) if "." in algo.advantage + algo.credit else ():
        rollout = _made_up(questions, group_size, first)
        try:
            rollout.advantages = rules.advantages(rollout)
            rules.token_weights(rollout)
        except UserError as error:
            cause = error.__cause__
            named = isinstance(cause, AttributeError) and isinstance(
                cause.obj, (RolloutBatch, Completion, torch.Tensor)
            )
            if named or isinstance(cause, (FaultyRule, NameError)):
                raise


def _made_up(questions: int, group_size: int, first: int) -> RolloutBatch:
    """A rollout in which no response, every one and half of a group are right, in turn."""
    solved = [(0, group_size, group_size // 2)[(question + first) % 3] for question in range(questions)]
    right = torch.tensor([i < count for count in solved for i in range(group_size)])
    completions = [_response(1 + i % 7) for i in range(questions * group_size)]
    return RolloutBatch(
        completions=completions,
        group_size=group_size,
        version=0,
        rewards=right.float(),
        right=right,
        mask=[c.sampled() for c in completions],
        prompts=[Prompt(Question("What is 3 + 4?", ("7",)), "What is 3 + 4?", [1, 2]) for _ in solved],
    )


def _response(length: int) -> Completion:
    ids: Sequence[int] = range(1, length + 1)
    return Completion(list(ids), " ".join(map(str, ids)), "stop", [-1.0] * length)
