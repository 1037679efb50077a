"""What runs inside a worker process: comparisons that need math-verify, and plug-in reward functions."""

from __future__ import annotations

import importlib
import inspect
import json
import logging
import math
import socket
from collections.abc import Callable
from functools import lru_cache
from typing import Any


def preload() -> None:
    """Import what every worker needs and warm its caches, once, before the first fork."""
    logging.disable(logging.WARNING)
    from r1zero.reward.rules import compare, mathverify

    mathverify.equal(r"\frac{1}{2}", r"x+1")
    compare.decide("1", "2", cas=mathverify.equal)


def serve(sock: socket.socket) -> None:
    """Answer jobs, one JSON line each, until the other side closes the socket."""
    with sock.makefile("rwb") as stream:
        stream.write(b"ready\n")
        stream.flush()
        for line in stream:
            result = _run(json.loads(line))
            stream.write(json.dumps(result).encode() + b"\n")
            stream.flush()


def _run(job: dict[str, Any]) -> dict[str, Any]:
    try:
        return HANDLERS[job["kind"]](job)
    except MemoryError:
        return {"error": "crash", "detail": "MemoryError"}
    except RecursionError:
        return {"error": "crash", "detail": "RecursionError"}
    except BaseException as error:
        return {"error": "crash", "detail": f"{type(error).__name__}: {error}"[:500]}


def _compare(job: dict[str, Any]) -> dict[str, Any]:
    from r1zero.reward.rules import compare, mathverify

    verdict = compare.against_any(job["answer"], tuple(job["gold"]), prose=job["prose"], cas=mathverify.equal)
    return {"right": verdict.right, "rule": verdict.rule}


def _call(job: dict[str, Any]) -> dict[str, Any]:
    function = load_function(job["path"])
    arguments = dict(job["arguments"])
    arguments["gold"] = tuple(arguments["gold"])
    value = function(**select_arguments(function, arguments), **job["params"])
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"{job['path']} returned {number}")
    return {"value": number}


def _explain(job: dict[str, Any]) -> dict[str, Any]:
    from r1zero.reward.rules import mathverify
    from r1zero.reward.rules.latex import canonical
    from r1zero.reward.workers.limits import MAX_TEXT, too_costly

    if len(job["text"]) > MAX_TEXT:
        return {"canonical": "", "parsed": "too long to be parsed"}
    text = canonical(job["text"])
    if too_costly(text):
        return {"canonical": text, "parsed": "too costly to be parsed"}
    read = [str(part)[:300] for part in mathverify.parse_answer(text) if not isinstance(part, str)]
    return {"canonical": text, "parsed": "; ".join(read) or "nothing"}


HANDLERS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "compare": _compare,
    "call": _call,
    "explain": _explain,
}


@lru_cache(maxsize=64)
def load_function(path: str) -> Callable[..., float]:
    """The function that an import path ("package.module.function") names.

    Raises:
        ImportError: There is no such module or attribute.
    """
    module, _, name = path.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except AttributeError as error:
        raise ImportError(f"{module} has no function {name}") from error


def select_arguments(function: Callable[..., float], available: dict[str, Any]) -> dict[str, Any]:
    """Those of the available arguments that the function takes; all of them when it has ``**kwargs``."""
    parameters = inspect.signature(function).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return available
    return {name: value for name, value in available.items() if name in parameters}
