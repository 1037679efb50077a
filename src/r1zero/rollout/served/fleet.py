"""Server processes of our own: started, watched, started again when they die, ended with whoever started them."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import r1zero
from r1zero.errors import UserError
from r1zero.rollout.served.client import TOKEN

log = logging.getLogger("r1zero")

RESTARTS = 5
"""Deaths in a row, none of them after a whole minute of service, after which a server is given up."""
STEADY = 60.0
PAUSE = 1.0
"""Seconds before another attempt, times the deaths so far."""
START_SECONDS = 1800.0
"""Time for a start: reading a large model and compiling for a GPU take minutes."""
END_SECONDS = 8.0
RANKS = (
    "RANK",
    "LOCAL_RANK",
    "WORLD_SIZE",
    "LOCAL_WORLD_SIZE",
    "GROUP_RANK",
    "NODE_RANK",
    "MASTER_ADDR",
    "MASTER_PORT",
)


class Process:
    """One server process and what its start reported."""

    def __init__(self, settings: dict[str, Any], environment: dict[str, str], log_file: Path) -> None:
        self.begun = time.monotonic()
        read, write = os.pipe()
        with log_file.open("a") as output:
            self.popen = subprocess.Popen(
                [sys.executable, "-m", "r1zero.rollout.served.main"],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                env=environment,
                pass_fds=(write,),
            )
        os.close(write)
        self._report = os.fdopen(read)
        assert self.popen.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.popen.stdin.write(json.dumps({**settings, "report": write}).encode() + b"\n")
            self.popen.stdin.flush()

    def started(self) -> dict[str, Any]:
        """Wait for the start's report: a port, or an error; empty where the process died without a word.

        One line, not all until the end: workers of a cut model hold the other end of the pipe as well.
        """
        with self._report:
            text = self._report.readline()
        return json.loads(text) if text else {}

    def end(self) -> None:
        """End it in order, by closing its input, or else by force; wait for it."""
        assert self.popen.stdin is not None
        with contextlib.suppress(OSError):
            self.popen.stdin.close()
        try:
            self.popen.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            self.popen.wait()


class Fleet:
    """Several servers that are kept running by a thread of their own.

    The thread starts them, because the kernel ends them with the thread that did, and lives as long as the fleet.

    Args:
        settings: what ``main.py`` reads, one a server.
        environments: what to change in the environment of each; None takes a variable away.
        token: expected by the servers, handed over in their environment.
        logs: folder of server0.log, ...
    """

    def __init__(
        self,
        settings: list[dict[str, Any]],
        *,
        token: str | None,
        logs: Path,
        environments: list[dict[str, str | None]] | None = None,
    ) -> None:
        self.settings, self.logs, self.token = settings, logs, token
        self._environments = environments or [{} for _ in settings]
        self._processes: list[Process | None] = [None] * len(settings)
        self._deaths = [0] * len(settings)
        self._complaints: dict[int, str] = {}
        self._closing = threading.Event()
        self._ready = threading.Event()
        self.failure: Exception | None = None
        self.restarts = 0
        logs.mkdir(parents=True, exist_ok=True)
        self._thread = threading.Thread(target=self._run, daemon=True, name="fleet")
        self._thread.start()

    def wait(self) -> list[str]:
        """Wait for the first start; the addresses. Raises ``UserError`` or ``RuntimeError`` where one fails."""
        try:
            while not self._ready.wait(0.2):  # in slices, so that a signal is heard
                pass
        except BaseException:
            self.close()
            raise
        if self.failure is not None:
            self.close()
            raise self.failure
        return [self.url(index) for index in range(len(self.settings))]

    def url(self, index: int) -> str:
        """Address of one server."""
        host = self.settings[index]["host"]
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
        return f"http://{f'[{host}]' if ':' in host else host}:{self.settings[index]['port']}"

    def pid(self, index: int) -> int:
        """Process id of one server."""
        process = self._processes[index]
        return process.popen.pid if process is not None else 0

    def kill(self, index: int) -> None:
        """Kill one that hangs; it is started again."""
        process = self._processes[index]
        if process is not None:
            process.popen.kill()

    def close(self) -> None:
        """End all of them; safe to call twice."""
        self._closing.set()
        if self._thread is not threading.current_thread():
            self._thread.join()

    def _run(self) -> None:
        try:
            for index in range(len(self.settings)):
                self._start(index)
            for index in range(len(self.settings)):
                self._settle(index)
        except Exception as error:
            self.failure = error
        self._ready.set()
        while not self._closing.wait(0.2) and self.failure is None:
            try:
                self._look()
            except Exception as error:
                self.failure = error
        for process in self._processes:
            if process is not None and process.popen.stdin is not None:
                with contextlib.suppress(OSError):
                    process.popen.stdin.close()  # all at once, then wait for each
        for process in self._processes:
            if process is not None:
                process.end()

    def _look(self) -> None:
        dead = [
            i for i, process in enumerate(self._processes) if process is not None and process.popen.poll() is not None
        ]
        for index in dead:
            process = self._processes[index]
            assert process is not None
            code = process.popen.returncode
            self._deaths[index] = 1 if time.monotonic() - process.begun > STEADY else self._deaths[index] + 1
            how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            if self._deaths[index] > RESTARTS:
                times = f"ended {self._deaths[index]} times in a row ({how})"
                why = self._complaints.get(index) or f"its last words: {self._last_words(index)}"
                raise UserError(f"rollout server {index} {times}; {why}")
            if self._deaths[index] > 1 and self._closing.wait(PAUSE * self._deaths[index]):
                return
            log.warning("rollout server %d ended (%s): it is started again", index, how)
            self.restarts += 1
            self._start(index)
        for index in dead:
            try:
                self._settle(index)
            except (RuntimeError, UserError) as error:  # it counts as dead again; memory may come free a little later
                self._complaints[index] = str(error)

    def _start(self, index: int) -> None:
        environment = {
            name: value
            for name, value in os.environ.items()
            if name not in RANKS and not name.startswith("TORCHELASTIC")
        }
        source = str(Path(r1zero.__file__).parents[1])
        environment["PYTHONPATH"] = os.pathsep.join([source, *filter(None, [os.environ.get("PYTHONPATH")])])
        for name, value in {TOKEN: self.token, **self._environments[index]}.items():
            if value is None:
                environment.pop(name, None)
            else:
                environment[name] = value
        self._processes[index] = Process(self.settings[index], environment, self.logs / f"server{index}.log")

    def _settle(self, index: int) -> None:
        """Wait for a start to end well."""
        process = self._processes[index]
        assert process is not None
        timer = threading.Timer(START_SECONDS, process.popen.kill)
        ended = threading.Event()
        threading.Thread(target=self._kill_on_close, args=(process, ended), daemon=True, name="start").start()
        timer.start()
        try:
            report = process.started()
        finally:
            timer.cancel()
            ended.set()
        if self._closing.is_set():
            return
        if "error" in report:
            raise (
                UserError(report["error"])
                if report["user"]
                else RuntimeError(f"a rollout server can't start: {report['error']}")
            )
        if "port" not in report:
            raise RuntimeError(f"a rollout server died while it started; its last words: {self._last_words(index)}")
        self.settings[index]["port"] = report["port"]

    def _kill_on_close(self, process: Process, ended: threading.Event) -> None:
        while not ended.wait(0.2):
            if self._closing.is_set():
                process.popen.kill()
                return

    def _last_words(self, index: int) -> str:
        file = self.logs / f"server{index}.log"
        lines = (
            [line for line in file.read_text(errors="replace").splitlines() if line.strip()] if file.is_file() else []
        )
        return f"{lines[-1].strip()[:300]} ({file})" if lines else f"none ({file})"
