"""What runs inside a worker process: comparisons that need math-verify, and plug-in reward functions."""

from __future__ import annotations

import inspect
import json
import logging
import math
import os
import socket
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from r1zero.errors import UserError
from r1zero.launch.allowed import load
from r1zero.reward.signatures import misfit


def preload() -> None:
    """Import what every worker needs and warm its caches, once, before the first fork."""
    logging.disable(logging.WARNING)
    from r1zero.reward.rules import compare, mathverify

    mathverify.equal(r"\frac{1}{2}", r"x+1")
    compare.decide("1", "2", cas=mathverify.equal)


def serve(sock: socket.socket) -> None:
    """Answer jobs, one JSON line each with the job's number, until the other side closes the socket.

    A process that a reward function forks loses the socket at once: it can't answer in the worker's place,
    nor keep the socket open when the worker ends.
    """
    os.register_at_fork(after_in_child=lambda: _lose(sock.fileno()))
    with sock.makefile("rwb") as stream:
        stream.write(f"ready {os.getpid()}\n".encode())
        stream.flush()
        for line in stream:
            job = json.loads(line)
            stream.write(json.dumps({"id": job["id"], "result": _run(job)}).encode() + b"\n")
            stream.flush()


def _lose(descriptor: int) -> None:
    """Replace a file by nothing: reading ends, and what is written is lost."""
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, descriptor)
    os.close(nothing)


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


def _extract(job: dict[str, Any]) -> dict[str, Any]:
    answer = load_function(job["path"])(job["text"])
    if answer is not None and not isinstance(answer, str):
        raise TypeError(f"{job['path']} returned a {type(answer).__name__}, neither text nor None")
    return {"answer": answer and answer.strip()}


def _signature(job: dict[str, Any]) -> dict[str, Any]:
    """Whether a function can be called as it will be: a fault in words, and what it has to say beforehand."""
    try:
        function = load_function(job["path"])
        parameters = inspect.signature(function).parameters
    except ValueError:  # one written in C does not tell
        return {}
    except Exception as error:
        return {"fault": f"it can't be loaded ({type(error).__name__}: {error})"}
    fault = misfit(parameters, job["params"], job["offered"])
    notice = getattr(function, "notice", None)
    return {"fault": fault, "notice": notice() if callable(notice) and not fault else None}


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
    "extract": _extract,
    "signature": _signature,
    "explain": _explain,
}


@lru_cache(maxsize=64)
def load_function(path: str) -> Callable[..., Any]:
    """The function that an import path ("package.module.function") names.

    Raises:
        ImportError: There is no such module or attribute.
    """
    try:
        return load(path, "path")
    except UserError as error:
        raise ImportError(str(error)) from error


def select_arguments(function: Callable[..., float], available: dict[str, Any]) -> dict[str, Any]:
    """Those of the available arguments that the function takes; all of them when it has ``**kwargs``."""
    parameters = inspect.signature(function).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return available
    return {name: value for name, value in available.items() if name in parameters}
