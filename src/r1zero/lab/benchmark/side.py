"""A side of the comparison as a process that speaks one JSON object a line and works only on request."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

from r1zero.errors import UserError
from r1zero.lab.benchmark.trl_side import MARK


class Side:
    """One side. While it waits for its turn it takes no CPU time.

    Args:
        name: of the side, for messages.
        command: how it is started.
        log: file that takes what it writes besides its messages.
        timeout: seconds that an answer may take.
        environment: variables over those of this process.
    """

    def __init__(
        self, name: str, command: list[str], log: Path, timeout: float, environment: dict[str, str] | None = None
    ) -> None:
        self.name, self.log, self.timeout = name, log, timeout
        self.started = time.perf_counter()
        self._file = log.open("w")
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._file,
            text=True,
            env={**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", **(environment or {})},
        )
        self._messages: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(MARK):
                self._messages.put(json.loads(line[len(MARK) :]))
            else:
                self._file.write(line)
                self._file.flush()
        self._messages.put(None)

    def wait_for(self, kind: str) -> dict[str, Any]:
        """The next message of a kind.

        Raises:
            UserError: the side ended, or took too long.
        """
        deadline = time.monotonic() + self.timeout
        while True:
            try:
                message = self._messages.get(timeout=max(deadline - time.monotonic(), 0.01))
            except queue.Empty as error:
                raise UserError(f"{self.name} gave no sign for {self.timeout:g} s; see {self.log}") from error
            if message is None:
                raise UserError(f"{self.name} ended before its time; {self.log} says why: {self._reason()}")
            if message["kind"] == kind:
                return message

    def tell(self, command: str, kind: str) -> dict[str, Any]:
        """Give the side its turn and wait for the answer. Raises ``UserError`` as :meth:`wait_for` does."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has ended: the wait says so, and why
            self._process.stdin.write(command + "\n")
            self._process.stdin.flush()
        return self.wait_for(kind)

    def _reason(self) -> str:
        self._process.wait(timeout=30)
        lines = [line.strip() for line in self.log.read_text().splitlines() if line.strip()]
        return lines[-1][:200] if lines else f"exit code {self._process.returncode}"

    def close(self) -> None:
        """End the process."""
        if self._process.stdin is not None and not self._process.stdin.closed:
            with contextlib.suppress(OSError):
                self._process.stdin.close()
        try:
            self._process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join(timeout=5)  # what it said last is in the log; a child of its own may hold the pipe open
        self._file.close()
