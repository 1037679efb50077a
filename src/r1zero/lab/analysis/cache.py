"""Answers of the judge on disk, keyed by what it was asked."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from r1zero.errors import UserError
from r1zero.launch.files import parse_json


@dataclass(frozen=True)
class Answer:
    """What the judge wrote, and the tokens it read and wrote."""

    text: str
    tokens_in: int
    tokens_out: int


class AnswerCache:
    """A file of JSON lines, one answer each, written as they come: what was paid for is never asked again.

    The key is a digest of everything that decides the answer. A line that is cut off or holds something else is passed
    over.

    Args:
        path: The file; made with its folder when the first answer comes.

    Raises:
        UserError: The file can't be read, or later not written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._answers: dict[str, Answer] = {}
        self._whole = True
        try:
            content = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
        except OSError as error:
            raise self._unusable(error) from error
        self._whole = not content or content.endswith("\n")
        for line in content.split("\n"):  # answers may hold other ends of lines
            try:
                item = parse_json(line)
                key, answer = item.pop("key"), Answer(**item)
            except (ValueError, KeyError, TypeError, AttributeError):
                continue
            if [type(value) for value in (key, *asdict(answer).values())] == [str, str, int, int]:
                self._answers[key] = answer

    def _unusable(self, error: OSError) -> UserError:
        return UserError(
            f"the judge's answers are kept in {self.path}, which can't be used ({error.strerror}): mend or move it"
        )

    @staticmethod
    def key(**decides: Any) -> str:
        """Digest of what decides an answer."""
        content = json.dumps(decides, sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(content.encode()).hexdigest()

    def get(self, key: str) -> Answer | None:
        """The answer, None where there is none yet."""
        return self._answers.get(key)

    def put(self, key: str, answer: Answer) -> None:
        """Keep an answer; it is in the file when this returns."""
        self._answers[key] = answer
        line = json.dumps({"key": key, **asdict(answer)}, ensure_ascii=False) + "\n"
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(line if self._whole else "\n" + line)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise self._unusable(error) from error
        self._whole = True

    def __len__(self) -> int:
        """Number of answers."""
        return len(self._answers)
