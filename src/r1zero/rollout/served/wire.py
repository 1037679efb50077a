"""What trainer and server say to each other: JSON one way, safetensors the other; nothing is ever unpickled.

Token ids go out; sampled ids, their log-probabilities (float64, bit for bit) and texts come back. Everything
that arrives is checked against its type before it is used.
"""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from r1zero.batch import Completion
from r1zero.errors import UserError
from r1zero.rollout.engine import Sampling

REASONS = ("stop", "length")
TYPES: dict[str, Any] = {"int": int, "float": float, "bool": bool, "tuple[str, ...]": list, "tuple[int, ...]": list}


def encode_sampling(sampling: Sampling) -> dict[str, Any]:
    """Sampling settings as JSON holds them."""
    return dataclasses.asdict(sampling)


def decode_sampling(content: Any) -> Sampling:
    """The inverse; raises ``UserError`` for a missing, unknown or mistyped field."""
    fields = {field.name: str(field.type) for field in dataclasses.fields(Sampling)}
    if not isinstance(content, dict) or content.keys() != fields.keys():
        raise UserError("the request's sampling settings are not those of this version of r1zero")
    values: dict[str, Any] = {}
    for name, kind in fields.items():
        value: Any = content[name]
        if kind == "float" and type(value) is int:
            value = float(value)
        if type(value) is not TYPES[kind]:
            raise UserError(f"the request's sampling setting {name} is no {kind}")
        if kind.startswith("tuple"):
            inner = str if "str" in kind else int
            if any(type(item) is not inner for item in value):
                raise UserError(f"the request's sampling setting {name} is no {kind}")
            value = tuple(value)
        values[name] = value
    return Sampling(**values)


def decode_prompts(content: Any) -> list[list[int]]:
    """Lists of token ids; raises ``UserError`` for anything else."""
    whole = isinstance(content, list) and all(
        isinstance(ids, list) and all(type(i) is int and 0 <= i < 2**31 for i in ids) for ids in content
    )
    if not whole:
        raise UserError("the request's prompts are no lists of token ids")
    return content


def encode_groups(groups: list[list[Completion]]) -> bytes:
    """Responses in prompt order as safetensors: ids, lengths, ends, log-probabilities, texts in UTF-8."""
    import numpy as np
    from safetensors.numpy import save

    flat = [completion for group in groups for completion in group]
    texts = json.dumps([c.text for c in flat]).encode()
    arrays: dict[str, np.ndarray] = {
        "groups": np.array([len(group) for group in groups], dtype=np.int32),
        "lengths": np.array([len(c.ids) for c in flat], dtype=np.int32),
        "ids": np.array([i for c in flat for i in c.ids], dtype=np.int32),
        "reasons": np.array([REASONS.index(c.finish_reason) for c in flat], dtype=np.uint8),
        "texts": np.frombuffer(texts, dtype=np.uint8),
    }
    if flat and flat[0].logprobs is not None:
        arrays["logprobs"] = np.array([v for c in flat for v in c.logprobs or []], dtype=np.float64)
    return save(arrays)


def decode_groups(body: bytes, prompts: int, sampling: Sampling) -> list[list[Completion]]:
    """The inverse; raises ``ValueError`` when the answer is not ``sampling.n`` whole responses for each prompt."""
    from safetensors.numpy import load

    arrays = load(body)
    lengths, ids, reasons = (arrays[name].tolist() for name in ("lengths", "ids", "reasons"))
    texts = json.loads(arrays["texts"].tobytes())
    logprobs = arrays["logprobs"].tolist() if sampling.logprobs else None
    sizes = [len(reasons), len(texts), *arrays["groups"].tolist()]
    if sizes != [prompts * sampling.n] * 2 + [sampling.n] * prompts or sum(lengths) != len(ids):
        raise ValueError("the server's answer does not have the size that was asked for")
    if logprobs is not None and len(logprobs) != len(ids):
        raise ValueError("the server's answer lacks log-probabilities")
    flat, at = [], 0
    for length, reason, text in zip(lengths, reasons, texts, strict=True):
        end = at + length
        flat.append(Completion(ids[at:end], text, REASONS[reason], logprobs[at:end] if logprobs is not None else None))
        at = end
    return [flat[i * sampling.n : (i + 1) * sampling.n] for i in range(prompts)]
