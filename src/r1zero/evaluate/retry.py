"""Requests to an OpenAI-compatible server that are tried again, and reasons that never show a key."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from r1zero.errors import UserError, whole_message

T = TypeVar("T")
LONGEST_WAIT = 60.0
AGAIN = (408, 409, 429)


class RequestFailed(Exception):
    """A request that got no answer after all attempts, or one that no further attempt can help."""


class Caller:
    """Sends requests, a bounded number at a time, and tries again what may pass.

    When a request has failed in all its attempts by connection and nothing else got through meanwhile, the
    server is taken to be gone: the other requests then fail at once instead of waiting in turn.

    Args:
        concurrency: Requests under way at the same time.
        retries: Further attempts.
        backoff: Seconds before the first of them, doubled for each next one.
        key_env: Environment variable that holds the key; its value is cut out of every reason.
    """

    def __init__(self, concurrency: int, retries: int, backoff: float, key_env: str | None) -> None:
        self.retries, self.backoff, self.key_env = retries, backoff, key_env
        self._slots = asyncio.Semaphore(concurrency)
        self._last_success = 0.0
        self._gone: str | None = None

    async def call(self, request: Callable[[], Awaitable[T]]) -> T:
        """Await a request.

        Raises:
            RequestFailed: with the reason in one line.
        """
        async with self._slots:
            first_failure = 0.0
            for attempt in range(self.retries + 1):
                if self._gone is not None:
                    raise RequestFailed(self._gone)
                try:
                    answer = await request()
                except Exception as error:
                    reason, again, connection = self._judge(error)
                    first_failure = first_failure or time.monotonic()
                    if again and attempt < self.retries:
                        await asyncio.sleep(_wait(error, self.backoff * 2**attempt))
                        continue
                    reason += f" ({attempt + 1} attempts)" if attempt else ""
                    if connection and self._last_success < first_failure:
                        self._gone = reason
                    raise RequestFailed(reason) from None
                self._last_success = time.monotonic()
                return answer
            raise AssertionError("unreachable")

    def _judge(self, error: Exception) -> tuple[str, bool, bool]:
        """Reason, whether to try again, whether the server was out of reach."""
        import openai

        if isinstance(error, openai.APITimeoutError):
            return "the server took too long", True, False
        if isinstance(error, openai.APIConnectionError):
            cause = error.__cause__ or error
            return f"the server can't be reached: {type(cause).__name__}: {self._clean(cause)}", True, True
        if isinstance(error, openai.APIStatusError):
            code = error.status_code
            if code in (401, 403):
                return f"the server refused the key of ${self.key_env} (status {code})", False, False
            return f"status {code}: {self._clean(error)}", code in AGAIN or code >= 500, False
        if isinstance(error, (openai.APIError, ValueError, TypeError, AttributeError, IndexError)):
            return f"the answer is not that of an OpenAI-compatible server: {self._clean(error)}", True, False
        raise error

    def _clean(self, error: BaseException) -> str:
        text = whole_message(error)[:300]
        key = os.environ.get(self.key_env or "", "")
        return text.replace(key, "***") if key else text


def _wait(error: Exception, delay: float) -> float:
    """Seconds until the next attempt: what the server asks for, at most two minutes, or the back-off."""
    response: Any = getattr(error, "response", None)
    asked = response.headers.get("retry-after") if response is not None else None
    try:
        return min(max(float(asked), 0.0), 2 * LONGEST_WAIT) if asked is not None else min(delay, LONGEST_WAIT)
    except ValueError:
        return min(delay, LONGEST_WAIT)


def open_client(url: str, key_env: str | None, timeout: float) -> Any:
    """An asynchronous client of the ``openai`` package that makes no attempts of its own.

    Raises:
        UserError: the key's environment variable is not set.
    """
    import openai

    key = os.environ.get(key_env, "") if key_env else "none"
    if not key:
        raise UserError(f"environment variable {key_env} is not set; export the key, or set key_env=null")
    return openai.AsyncOpenAI(base_url=url, api_key=key, max_retries=0, timeout=timeout)
