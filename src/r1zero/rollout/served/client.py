"""One rollout server as seen from the trainer: narrow HTTP calls, and jobs that are watched until they end.

Light: the standard library alone, so that settings are checked against running servers before anything
heavy is imported.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from r1zero.errors import SyncError, UserError

PROTOCOL = 1
"""Number of the protocol; another one is refused."""
TOKEN = "R1ZERO_SERVER_TOKEN"
"""Environment variable with the token; the only place it is read from."""
LARGEST = 2**31
"""Bytes of the largest answer that is read."""
POLL = 2.0
"""Seconds that the server holds back the answer on a job that is not done."""
CONNECT = 5.0
"""Seconds for a connection, and for an answer that needs no work."""


class Unreachable(Exception):
    """No answer, or no progress for too long: the server is gone, hangs, or was started anew."""


class Hangs(Unreachable):
    """No progress for too long, though the server may still answer."""


class Failed(Exception):
    """The server's engine raised an error that is neither the user's nor one of the weights."""


class NotSynced(Exception):
    """The server serves other weights than those asked for: it was started anew, or another run uses it."""


class Cancelled(Exception):
    """The caller no longer wants the answer."""


class Remote:
    """Client of one server; keeps no connection and may be used from several threads.

    Args:
        url: http://host:port.
        token: sent as ``Authorization: Bearer``, when there is one.
    """

    def __init__(self, url: str, token: str | None) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.path.strip("/") or parts.query:
            raise UserError(f"rollout.urls: {url} is no address of a rollout server; write http://host:port")
        self.url, self._token = url.rstrip("/"), token
        self._parts = parts

    def health(self, timeout: float = CONNECT) -> dict[str, Any]:
        """What the server says of itself. Raises ``Unreachable``; ``UserError`` for another program or a bad token."""
        status, body = self._call("GET", "/health", timeout=timeout)
        content = self._read(status, body)
        if status != 200 or content.get("protocol") != PROTOCOL:
            raise UserError(
                f"{self.url} is no rollout server of this version; start one with scripts/serve.py and name its address"
            )
        return content

    def job(
        self,
        kind: str,
        request: dict[str, Any],
        timeout_s: float,
        unwanted: Callable[[], bool] = lambda: False,
    ) -> bytes:
        """Give the server a job and wait for it as long as it makes progress.

        Time is counted in polls, so a trainer that was suspended itself takes no server for a hung one.

        Args:
            kind: generate, load, or a step of a weight transfer.
            request: the job, as JSON holds it.
            timeout_s: seconds without progress after which the server counts as hung.
            unwanted: asked between polls; True ends the wait and the job.

        Raises:
            Unreachable, Hangs, Failed, NotSynced, Cancelled, SyncError, UserError
        """
        body = json.dumps(request).encode()
        try:
            status, answer = self._call("POST", f"/{kind}", body, timeout=max(CONNECT, min(timeout_s, 60.0)))
        except TimeoutError as error:
            raise Hangs(f"it made no progress for {timeout_s:g} s") from error
        if status != 202:
            self._raise(status, answer)
        name = self._read(status, answer)["job"]
        idle, steps = 0.0, -1
        while True:
            if unwanted():
                with contextlib.suppress(Exception):
                    self._call("DELETE", f"/jobs/{name}", timeout=1.0)
                raise Cancelled
            begun = time.monotonic()
            wait = min(POLL, timeout_s / 2)
            try:
                status, answer = self._call("GET", f"/jobs/{name}?wait={wait}", timeout=wait + min(CONNECT, timeout_s))
            except TimeoutError:
                status = 0
            if status == 200:
                return answer
            if status not in (0, 202):
                self._raise(status, answer)
            if status == 202 and (now := self._read(status, answer)["steps"]) != steps:
                idle, steps = 0.0, now
                continue
            idle += min(time.monotonic() - begun, POLL + CONNECT)
            if idle >= timeout_s:
                raise Hangs(f"it made no progress for {timeout_s:g} s")

    def _raise(self, status: int, answer: bytes) -> None:
        message = str(self._read(status, answer).get("error", f"status {status}"))
        if status == 401:
            raise UserError(
                f"{self.url} wants a token and got a wrong one or none: set {TOKEN} to the value it was started with"
            )
        if status == 400:
            raise UserError(message)
        if status == 409:
            raise NotSynced(message)
        if status == 422:
            raise SyncError(message)
        if status == 404:
            raise Unreachable("it was started anew and has forgotten the request")
        raise Failed(message)

    def _read(self, status: int, body: bytes) -> dict[str, Any]:
        if status == 401:
            body = b'{"error": "token"}'
        try:
            content = json.loads(body)
        except ValueError:
            content = None
        return content if isinstance(content, dict) else {}

    def _call(self, method: str, path: str, body: bytes | None = None, *, timeout: float) -> tuple[int, bytes]:
        kind = http.client.HTTPSConnection if self._parts.scheme == "https" else http.client.HTTPConnection
        connection = kind(str(self._parts.hostname), self._parts.port, timeout=timeout)
        headers = {"Content-Type": "application/json"}
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        try:
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            answer = response.read(LARGEST)
        except TimeoutError:
            raise
        except (OSError, http.client.HTTPException) as error:
            raise Unreachable(str(error) or type(error).__name__) from error
        finally:
            connection.close()
        if response.status == 401:
            self._raise(401, b"")
        return response.status, answer
