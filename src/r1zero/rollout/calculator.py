"""A small environment of several turns: the policy writes ``12*3=``, a calculator writes ``36``, the policy reads on.

It is an engine around an engine and shows all that an environment needs. Each turn of the policy ends at the
string that calls the tool; the answer's tokens are put behind it with ``Completion.mask`` False, so they have no
gradient and count in no length; the next turn continues prompt, response and answer, as the same engine sees
any prompt. The response limit holds for all tokens together, those of the answers included.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any

from r1zero.batch import Completion
from r1zero.errors import UserError
from r1zero.launch.seeding import derive_seed
from r1zero.rollout.engine import Engine, EngineAround, Sampling
from r1zero.rollout.text import response_texts

CALL = "="
"""Ends a turn; a call where an expression of at least two numbers precedes it."""
SPARE = 8
"""Turns that may end at a ``CALL`` without an expression; after that it ends no more turns of that response."""
LONGEST = 100
"""Characters of the longest expression that is answered."""

_EXPRESSION = re.compile(r"(?<![\w.)+*/-])(?<![+*/-] )[-(]*\d+(?:\.\d+)?\)*(?: ?[-+*/] ?\(*\d+(?:\.\d+)?\)*)+ ?=$")
_OPERATORS: dict[type, Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


def answer(text: str) -> str | None:
    """What the calculator writes behind a text that ends in a call: an integer, or a decimal of 6 digits.

    None where the text ends in no call, or in one without a value (``1/0=``, brackets that don't match).
    """
    tail = text[-LONGEST:]
    found = _EXPRESSION.search(tail)
    if found is None or (found.start() == 0 and len(text) > len(tail)):  # cut in two, it would have another value
        return None
    try:
        value = _value(ast.parse(found.group()[:-1].strip(), mode="eval").body)
    except (SyntaxError, ValueError, ZeroDivisionError):
        return None
    return str(value.numerator) if value.denominator == 1 else f"{float(value):.6g}"


def _value(node: ast.AST) -> Fraction:
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        return _OPERATORS[type(node.op)](_value(node.left), _value(node.right))
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_value(node.operand)
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        return Fraction(str(node.value))
    raise ValueError("not arithmetic")


@dataclass
class _Response:
    """One response as it grows; ``reason`` is None while it is unfinished."""

    prompt: list[int]
    calls: int
    spare: int = SPARE
    ids: list[int] = field(default_factory=list)
    mask: list[bool] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    reason: str | None = None

    @property
    def listens(self) -> bool:
        """Whether a call ends its next turn."""
        return self.calls > 0 and self.spare > 0

    def add(self, ids: Sequence[int], logprobs: Sequence[float], sampled: bool) -> None:
        """Append tokens of the policy or of the calculator."""
        self.ids += ids
        self.logprobs += logprobs
        self.mask += [sampled] * len(ids)


class Calculator(EngineAround):
    """See the module. Equal arguments, weights and seed give equal responses, as with the engine inside.

    Args:
        engine: Samples the turns.
        tokenizer: The model's.
        context: Longest prompt + response of the engine, in tokens.
        calls: Most answers that a response gets.

    Raises:
        UserError: ``calls`` makes no sense.
    """

    def __init__(self, engine: Engine, tokenizer: Any, context: int, calls: int = 1) -> None:
        if not isinstance(calls, int) or not 1 <= calls <= 1000:
            raise UserError(f"rollout.environment_params.calls={calls} must be a number from 1 to 1000")
        super().__init__(engine)
        self.tokenizer, self.context, self.calls = tokenizer, context, calls

    def generate(self, prompts: list[list[int]], sampling: Sampling, seed: int) -> list[list[Completion]]:
        """See :meth:`r1zero.rollout.engine.Engine.generate`; the first turn of a group is one request."""
        groups = [[_Response(list(prompt), self.calls) for _ in range(sampling.n)] for prompt in prompts]
        listening = replace(sampling, stop=(*sampling.stop, CALL))
        responses, number = [response for group in groups for response in group], 0
        first = [turn for turns in self.engine.generate(prompts, listening, seed) for turn in turns]
        for response, turn in zip(responses, first, strict=True):
            self._take(response, turn, sampling)
        while waiting := [response for response in responses if response.reason is None]:
            for batch, settings in self._batches(waiting, sampling):
                number += 1
                asked = [response.prompt + response.ids for response in batch]
                turns = self.engine.generate(asked, settings, derive_seed(seed, "turn", number))
                for response, (one,) in zip(batch, turns, strict=True):
                    self._take(response, one, sampling)
        return [[self._completion(response, sampling) for response in rows] for rows in groups]

    def _batches(self, waiting: Sequence[_Response], sampling: Sampling) -> list[tuple[list[_Response], Sampling]]:
        """Responses that can be sampled by one request: they listen alike, and the longest limit fits them all."""
        batches: list[tuple[list[_Response], Sampling]] = []
        for listens in (True, False):
            rows = [response for response in waiting if response.listens is listens]
            rows.sort(key=lambda response: len(response.ids))  # those with most room first
            stop = (*sampling.stop, CALL) if listens else sampling.stop
            for row in rows:
                length = len(row.prompt) + len(row.ids)
                if batches and batches[-1][1].stop == stop and length + batches[-1][1].max_tokens <= self.context:
                    batches[-1][0].append(row)
                else:
                    room = sampling.max_tokens - len(row.ids)
                    batches.append(([row], replace(sampling, n=1, max_tokens=room, stop=stop)))
        return batches

    def _take(self, response: _Response, turn: Completion, sampling: Sampling) -> None:
        """Add a turn of the policy, and the calculator's answer where it ends in a call."""
        room = sampling.max_tokens - len(response.ids)
        listened = response.listens
        response.add(turn.ids[:room], (turn.logprobs or [0.0] * len(turn.ids))[:room], sampled=True)
        if len(turn.ids) > room or turn.finish_reason == "length":
            response.reason = "length"
        elif not listened or turn.ids[-1] in sampling.stop_ids or self._stopped(turn.ids, sampling):
            response.reason = "stop"
        else:
            said = answer(self._decode(response.ids))
            if said is None:
                response.spare -= 1
            else:
                response.calls -= 1
                put = list(self.tokenizer.encode(said, add_special_tokens=False))
                if len(response.ids) + len(put) < sampling.max_tokens:
                    response.add(put, [0.0] * len(put), sampled=False)
                else:
                    response.reason = "length"
            if len(response.ids) >= sampling.max_tokens:
                response.reason = "length"

    def _stopped(self, ids: list[int], sampling: Sampling) -> bool:
        text = self._decode(ids)
        return any(stop in text for stop in sampling.stop)

    def _decode(self, ids: list[int]) -> str:
        known = [token for token in ids if token < len(self.tokenizer)]
        return self.tokenizer.decode(known, skip_special_tokens=True, clean_up_tokenization_spaces=False)

    def _completion(self, response: _Response, sampling: Sampling) -> Completion:
        assert response.reason is not None
        (text,) = response_texts(self.tokenizer, [response.ids], [response.reason], sampling)
        return Completion(
            ids=response.ids,
            text=text,
            finish_reason=response.reason,
            logprobs=response.logprobs if sampling.logprobs else None,
            mask=None if all(response.mask) else response.mask,
        )
