"""The process of one rollout server: `python -m r1zero.rollout.served.main`, started by ``fleet.py``.

Its settings come as one line of JSON on standard input, which then stays open: when it closes, whoever started
the server is gone, and the server ends. How the start went is told as one line of JSON on a pipe of its own.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import logging
import multiprocessing
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

from r1zero.errors import UserError
from r1zero.rollout.served.client import TOKEN

PR_SET_PDEATHSIG = 1
PATIENCE = 5.0
"""Seconds that an orderly end may take."""


def follow_parent() -> None:
    """Ask the kernel to kill this process when its parent's thread ends, even when it can't read its input."""
    if sys.platform == "linux":
        parent = os.getppid()
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)


def wait_for_the_end(server: Any) -> None:
    """End the process soon after its standard input has closed."""
    while os.read(0, 1024):
        pass
    server.stop()
    threading.Event().wait(PATIENCE)
    end(1)


def end(code: int) -> None:
    """End this process at once, and the workers of a cut model, which would follow a little later."""
    for child in multiprocessing.active_children():
        child.kill()
        child.join(1.0)
    sys.stdout.flush()
    os._exit(code)  # vLLM's threads and atexit hooks have nothing left to do


def build(settings: dict[str, Any]) -> Any:
    """The engine, and the server in front of it."""
    from r1zero.rollout.identity import identity, sizes
    from r1zero.rollout.served.server import EngineServer
    from r1zero.rollout.sync import expected_parameters

    engine_settings = dict(settings["engine"])
    path = engine_settings.pop("model_path")
    if settings["kind"] == "vllm":
        from r1zero.rollout.vllm.engine import VLLMEngine

        engine: Any = VLLMEngine(path, **engine_settings)
    else:
        raise UserError(f"there is no server with engine {settings['kind']}")
    from transformers import AutoTokenizer

    trust = engine_settings["trust_remote_code"]
    tokenizer = AutoTokenizer.from_pretrained(path, revision=engine_settings["revision"], trust_remote_code=trust)
    parameters = expected_parameters(path, revision=engine_settings["revision"], trust_remote_code=trust)
    about = {
        **identity(parameters, tokenizer),
        "model": path,
        "sizes": sizes(Path(path)),
        **{name: engine_settings[name] for name in ("dtype", "context", "tensor_parallel", "transfer")},
    }
    try:
        return EngineServer(
            engine,
            about,
            token=os.environ.get(TOKEN) or None,
            root=Path(settings["root"]),
            address=(settings["host"], settings["port"]),
        )
    except OSError as error:
        raise UserError(f"can't listen at {settings['host']}:{settings['port']}: {error.strerror}") from error


def main() -> None:
    """Start, tell how that went, serve, end."""
    follow_parent()
    # The trainer decides when to end: Ctrl-C and a scheduler's SIGTERM reach every process of the group, and a
    # rollout under way is still wanted by a trainer that saves a checkpoint first.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s")
    with open(0, "rb", buffering=0, closefd=False) as lines:
        settings = json.loads(lines.readline())
    with os.fdopen(settings["report"], "w") as report:
        try:
            server = build(settings)
        except BaseException as error:
            known = isinstance(error, UserError)
            words = " ".join(str(error).split()) or type(error).__name__
            print(json.dumps({"error": words, "user": known}), file=report, flush=True)
            if known:
                os._exit(1)
            raise
        print(json.dumps({"port": server.port}), file=report, flush=True)
    threading.Thread(target=wait_for_the_end, args=(server,), daemon=True, name="parent").start()
    whole = server.run()
    with contextlib.suppress(Exception):
        server.engine.close()
    end(0 if whole else 1)


if __name__ == "__main__":
    main()
