"""From sampled ids to text, in one way for every engine, and the checks on requests that engines share."""

from __future__ import annotations

import math
from typing import Any

from r1zero.batch import Completion
from r1zero.errors import UserError
from r1zero.rollout.engine import Sampling


def response_texts(
    tokenizer: Any, responses: list[list[int]], finish_reasons: list[str], sampling: Sampling
) -> list[str]:
    """Decode responses: no special tokens, the stop id that ended one left out, text cut at its stop string.

    The stop string itself stays when ``sampling.keep_stop``; characters that the last token carries
    beyond it go. Ids that the tokenizer lacks (a model's padded vocabulary rows) decode to nothing (trap 28).
    """
    known = len(tokenizer)
    stop_ids = set(sampling.stop_ids)
    bodies = []
    for ids, reason in zip(responses, finish_reasons, strict=True):
        body = ids[:-1] if reason == "stop" and ids and ids[-1] in stop_ids else ids
        bodies.append([i for i in body if i < known])
    texts = tokenizer.batch_decode(bodies, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    if not sampling.stop:
        return texts
    return [
        cut_at_stop(text, sampling) if reason == "stop" else text
        for text, reason in zip(texts, finish_reasons, strict=True)
    ]


def cut_at_stop(text: str, sampling: Sampling) -> str:
    """Cut the text at the stop string that stands first, after it or before it as ``keep_stop`` says."""
    hits = [(at, stop) for stop in sampling.stop if (at := text.find(stop)) >= 0]
    if not hits:
        return text
    at, stop = min(hits)
    return text[: at + len(stop)] if sampling.keep_stop else text[:at]


NOT_FINITE = (
    "the sampler's logits are NaN or infinite: the model's weights are broken, or its number format is too narrow for "
    "it (rollout.dtype=float32 tells the two apart)"
)


def check_sampled(groups: list[list[Completion]]) -> None:
    """Refuse tokens that were drawn from what is no distribution; without log-probabilities nothing is known.

    Raises:
        UserError: a log-probability is not finite.
    """
    for group in groups:
        if not all(map(math.isfinite, (p for completion in group for p in completion.logprobs or ()))):
            raise UserError(NOT_FINITE)


def check_request(prompts: list[list[int]], sampling: Sampling, context: int) -> None:
    """Refuse what no engine can do, before anything is sampled.

    Raises ``UserError`` for a prompt that does not fit the context together with the response limit
    (trap 27), an empty prompt, a negative temperature, and several equal greedy responses.
    """
    if sampling.temperature < 0:
        raise UserError(f"temperature={sampling.temperature} must not be negative")
    if sampling.temperature == 0 and sampling.n > 1:
        raise UserError(
            f"temperature 0 gives {sampling.n} equal responses per prompt; set n=1 or a temperature above 0"
        )
    for index, ids in enumerate(prompts):
        if not ids:
            raise UserError(f"prompt {index} has no tokens; give the template some text")
        if len(ids) + sampling.max_tokens > context:
            raise UserError(
                f"prompt {index} has {len(ids)} tokens and the response limit is {sampling.max_tokens}: together over "
                f"the engine's context of {context}; lower data.max_prompt_tokens or the response limit"
            )
