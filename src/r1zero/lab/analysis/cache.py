"""Answers of the judge on disk, keyed by what it was asked."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Answer:
    """What the judge wrote, and the tokens it read and wrote."""

    text: str
    tokens_in: int
    tokens_out: int


class AnswerCache:
    """A file of JSON lines, one answer each, written as they come: what was paid for is never asked again.

    The key is a digest of everything that decides the answer. A line cut off by a kill is passed over.

    Args:
        path: The file; made with its folder when the first answer comes.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._answers: dict[str, Answer] = {}
        self._whole = True
        if path.is_file():
            content = path.read_text()
            self._whole = not content or content.endswith("\n")
            for line in content.splitlines():
                try:
                    item = json.loads(line)
                    key = item.pop("key")
                    self._answers[key] = Answer(**item)
                except (ValueError, KeyError, TypeError):
                    continue

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
        self.path.parent.mkdir(parents=True, exist_ok=True)
        line = json.dumps({"key": key, **asdict(answer)}, ensure_ascii=False) + "\n"
        with self.path.open("a") as file:
            file.write(line if self._whole else "\n" + line)
            file.flush()
            os.fsync(file.fileno())
        self._whole = True

    def __len__(self) -> int:
        """Number of answers."""
        return len(self._answers)
