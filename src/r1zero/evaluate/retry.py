"""Requests to an OpenAI-compatible server, and reasons of failures that never show a key."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from r1zero.errors import UserError, whole_message

T = TypeVar("T")
UNREACHED = "the server can't be reached"


class RequestFailed(Exception):
    """A request that got no answer after all attempts, or one that no further attempt can help."""


class Caller:
    """Sends requests, a bounded number at a time; the client tries again what may pass.

    When a request has failed by connection in all its attempts and nothing else got through meanwhile, the
    server is taken to be gone: the other requests then fail at once instead of waiting in turn.

    Args:
        concurrency: Requests under way at the same time.
        key_env: Environment variable that holds the key; its value is cut out of every reason.
    """

    def __init__(self, concurrency: int, key_env: str | None) -> None:
        self.key_env = key_env
        self._slots = asyncio.Semaphore(concurrency)
        self._last_success = 0.0
        self._gone: str | None = None

    async def call(self, request: Callable[[], Awaitable[T]]) -> T:
        """Await a request.

        Raises:
            RequestFailed: with the reason in one line.
        """
        async with self._slots:
            if self._gone is not None:
                raise RequestFailed(self._gone)
            begun = time.monotonic()
            try:
                answer = await request()
            except Exception as error:
                reason = self._reason(error)
                if reason.startswith(UNREACHED):
                    reason += f" (tried for {time.monotonic() - begun:.0f} s)"
                    if self._last_success < begun:
                        self._gone = reason
                raise RequestFailed(reason) from None
            self._last_success = time.monotonic()
            return answer

    def _reason(self, error: Exception) -> str:
        import openai

        if isinstance(error, openai.APITimeoutError):
            return "the server took too long"
        if isinstance(error, openai.APIConnectionError):
            cause = error.__cause__ or error
            return f"{UNREACHED}: {type(cause).__name__}: {self._clean(cause)}"
        if isinstance(error, openai.APIStatusError):
            if error.status_code in (401, 403):
                return f"the server refused the key of ${self.key_env} (status {error.status_code})"
            return f"status {error.status_code}: {self._clean(error)}"
        if isinstance(error, (openai.APIError, ValueError, TypeError, AttributeError, IndexError)):
            return f"the answer is not that of an OpenAI-compatible server: {self._clean(error)}"
        raise error

    def _clean(self, error: BaseException) -> str:
        text = whole_message(error)[:300]
        key = os.environ.get(self.key_env or "", "")
        return text.replace(key, "***") if key else text


def open_client(url: str, key_env: str | None, timeout: float, retries: int) -> Any:
    """An asynchronous client of the ``openai`` package, whose waits between attempts double up to 8 s.

    Raises:
        UserError: the key's environment variable is not set.
    """
    import openai

    key = os.environ.get(key_env, "") if key_env else "none"
    if not key:
        raise UserError(f"environment variable {key_env} is not set; export the key, or set key_env=null")
    return openai.AsyncOpenAI(base_url=url, api_key=key, max_retries=retries, timeout=timeout)
