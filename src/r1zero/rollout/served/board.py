"""Who does what in one call: the parts that wait, and what came of those that were done."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable

from r1zero.batch import Completion
from r1zero.rollout.parts import Part

ATTEMPTS = 3
"""Servers that may break down over one part before it is taken for the cause."""


class Board:
    """Parts of one call, shared out among threads, one a server."""

    def __init__(self, parts: Iterable[Part]) -> None:
        self._waiting = deque(parts)
        self._open = len(self._waiting)
        self._done: dict[int, list[list[Completion]]] = {}
        self._attempts: dict[int, int] = {}
        self._changed = threading.Condition()
        self.error: BaseException | None = None
        self.down: dict[str, str] = {}
        """Servers that do not answer, and why."""

    def over(self) -> bool:
        """Whether all is done, or something went wrong for good."""
        return self._open == 0 or self.error is not None

    def take(self) -> Part | None:
        """The next part; waits while others may still give one back. None: all is over."""
        with self._changed:
            while not self.over():
                if self._waiting:
                    return self._waiting.popleft()
                self._changed.wait(0.5)
        return None

    def done(self, part: Part, groups: list[list[Completion]]) -> None:
        """A part's responses."""
        with self._changed:
            self._done[part.start] = groups
            self._open -= 1
            self._changed.notify_all()

    def give_back(self, part: Part, reason: str) -> None:
        """A server broke down over a part: the next one takes it, unless it breaks them all."""
        with self._changed:
            count = self._attempts[part.start] = self._attempts.get(part.start, 0) + 1
            if count >= ATTEMPTS:
                self.error = RuntimeError(
                    f"{count} attempts at prompts {part.start} to {part.stop - 1} failed, the last one because {reason}"
                )
            self._waiting.appendleft(part)
            self._changed.notify_all()

    def fail(self, error: BaseException) -> None:
        """Nothing that another server could mend."""
        with self._changed:
            self.error = self.error or error
            self._changed.notify_all()

    def wait(self) -> list[list[Completion]]:
        """Wait until all is over; the responses in prompt order. Raises what went wrong."""
        try:
            with self._changed:
                while not self.over():
                    self._changed.wait(0.2)  # in slices, so that a signal is heard
        except BaseException as error:
            self.fail(error)
            raise
        if self.error is not None:
            raise self.error
        return [group for start in sorted(self._done) for group in self._done[start]]
