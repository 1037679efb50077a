"""The trained folder behind vLLM's own server, asked a few questions: to others it is a model like any."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from r1zero.errors import UserError

START_SECONDS = 400


def ask(policy: Path, prompts: Sequence[str], log: Path, max_tokens: int = 64, context: int = 512) -> list[str]:
    """Serve a folder, complete the prompts greedily, and stop the server.

    Args:
        policy: model folder.
        prompts: texts to complete.
        log: the server's output.
        max_tokens: of an answer.
        context: of the server, tokens.

    Returns:
        one completion a prompt.

    Raises:
        UserError: the server did not come up.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(policy), "--port", str(port)]
    command += ["--served-model-name", "policy", "--enforce-eager", "--max-model-len", str(context)]
    command += ["--kv-cache-memory-bytes", str(2**30)]  # else 0.92 of the memory must be free
    environment = os.environ | {"VLLM_LOGGING_LEVEL": "ERROR"}
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as out:
        server = subprocess.Popen(command, env=environment, stdout=out, stderr=subprocess.STDOUT)
    try:
        url = f"http://127.0.0.1:{port}/v1"
        _wait(server, url, log)
        answers = []
        for prompt in prompts:
            body = {"model": "policy", "prompt": prompt, "max_tokens": max_tokens, "temperature": 0}
            request = urllib.request.Request(
                f"{url}/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
            )
            with urllib.request.urlopen(request, timeout=120) as reply:
                found: dict[str, Any] = json.load(reply)
            answers.append(str(found["choices"][0]["text"]))
        return answers
    finally:
        server.terminate()
        try:
            server.wait(30)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def _wait(server: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if server.poll() is not None:
            break
        try:
            urllib.request.urlopen(f"{url}/models", timeout=2).close()
            return
        except OSError:
            time.sleep(1)
    raise UserError(f"vLLM's server did not come up, see {log}")
