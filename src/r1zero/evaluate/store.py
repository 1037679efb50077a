"""Responses on disk, one parquet file per chunk of questions, so that nothing drawn is drawn again."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from r1zero.batch import Prompt, Question
from r1zero.errors import UserError
from r1zero.evaluate.sampler import Failure, Key, Response, Sampler
from r1zero.launch.files import read_json, whole, write_whole
from r1zero.launch.run_folder import one_line, shown
from r1zero.launch.seeding import derive_seed
from r1zero.reward.grader import Grader
from r1zero.reward.outcome import Outcome, Status
from r1zero.rollout.engine import Sampling
from r1zero.rollout.scoring import grade_texts

log = logging.getLogger("r1zero")


class ResponseStore:
    """The folder ``responses/<set>/part_00000.parquet`` of an evaluation.

    Args:
        folder: Where the parts go.
        chunk: Questions per part.
        seed: The run's seed; a part is drawn with a seed of (seed, set, part), whatever was drawn before.
    """

    def __init__(self, folder: Path, chunk: int, seed: int) -> None:
        self.folder, self.chunk, self.seed = folder, chunk, seed
        self.failures: list[dict[str, Any]] = []

    def part(self, name: str, number: int) -> Path:
        """File of a part."""
        return self.folder / name / f"part_{number:05d}.parquet"

    def missing(self, name: str, questions: int, n: int) -> int:
        """Responses of a set that are not there yet."""
        held = sum(len(self.read_part(name, number)) for number in range(-(-questions // self.chunk)))
        return questions * n - held

    def read_part(self, name: str, number: int) -> pd.DataFrame:
        """Rows of a part; none where it was not written."""
        path, none = self.part(name, number), pd.DataFrame({"question": [], "sample": []})
        if not path.is_file():
            return none
        try:
            return read_table(path)
        except UserError as error:
            log.warning("%s: its responses are drawn again", error)
            return none

    def read(self, name: str) -> pd.DataFrame:
        """All rows of a set in the order of questions and samples."""
        parts = [read_table(path) for path in sorted((self.folder / name).glob("part_*.parquet"))]
        if not parts:
            return pd.DataFrame()
        return pd.concat(parts).sort_values(["question", "sample"], ignore_index=True)

    def sets(self) -> list[str]:
        """Names of the sets that have parts."""
        return sorted(path.name for path in self.folder.glob("*") if path.is_dir())

    def collect(
        self,
        name: str,
        prompts: Sequence[Prompt],
        sampler: Sampler,
        grader: Grader,
        sampling: Sampling,
        advance: Callable[[int], None] = lambda count: None,
    ) -> None:
        """Draw, grade and write what is missing of a set, part by part.

        Args:
            name: The set, a folder name.
            prompts: All its prompts, always the same ones in the same order.
            sampler: Where responses come from.
            grader: The verifier.
            sampling: Settings; ``n`` responses per prompt.
            advance: Told how many responses came to hand, those of an earlier run included.
        """
        for number, start in enumerate(range(0, len(prompts), self.chunk)):
            chunk = prompts[start : start + self.chunk]
            old = self.read_part(name, number)
            held = {(int(q) - start, int(s)) for q, s in zip(old["question"], old["sample"], strict=True)}
            advance(len(held))
            wanted = {(q, s) for q in range(len(chunk)) for s in range(sampling.n)} - held
            if not wanted:
                continue
            drawn = sampler.sample(chunk, sampling, derive_seed(self.seed, "evaluate", name, number), wanted)
            self._note_failures(name, start, drawn)
            got = {key: r for key, r in drawn.items() if key in wanted and isinstance(r, Response)}
            if got:
                new = graded_rows(name, start, chunk, got, grader)
                table = pd.concat([old, new]) if len(old) else new
                self.write_part(name, number, table.sort_values(["question", "sample"]))
            advance(len(got))

    def write_part(self, name: str, number: int, table: pd.DataFrame) -> None:
        """Write a part whole or not at all."""
        path = self.part(name, number)
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole(path) as aside:
            table.to_parquet(aside, index=False, write_page_checksum=True)

    def _note_failures(self, name: str, start: int, drawn: dict[Key, Response | Failure]) -> None:
        for (question, sample), result in sorted(drawn.items()):
            if isinstance(result, Failure):
                self.failures.append(
                    {"set": name, "question": start + question, "sample": sample, "reason": result.reason}
                )


def read_table(path: Path) -> pd.DataFrame:
    """Rows of a Parquet file whose checksums hold.

    Raises:
        UserError: naming the file that can't be read or is not what was written.
    """
    try:
        return pd.read_parquet(path, page_checksum_verification=True)
    except Exception as error:
        raise UserError(f"{shown(path)} can't be read ({one_line(error)})") from error


def graded_rows(
    name: str, start: int, prompts: Sequence[Prompt], responses: dict[Key, Response], grader: Grader
) -> pd.DataFrame:
    """One row per response: what was asked, what came, and what the verifier says."""
    keys = sorted(responses)
    outcomes = grade_texts(
        grader,
        [
            (prompts[q].question, responses[q, s].text, responses[q, s].truncated, responses[q, s].tokens)
            for q, s in keys
        ],
    )
    rows = [
        question_columns(name, start + q, prompts[q].question)
        | {"sample": s, "response": responses[q, s].text, "tokens": responses[q, s].tokens}
        | {"finish_reason": responses[q, s].finish_reason}
        | grade_columns(outcome)
        for (q, s), outcome in zip(keys, outcomes, strict=True)
    ]
    return pd.DataFrame(rows)


def question_columns(name: str, number: int, question: Question) -> dict[str, Any]:
    """The columns that say what was asked; level and subject "" where the set has none."""
    meta = question.meta
    subject = next((meta[key] for key in ("subject", "type", "category", "subfield") if key in meta), "")
    return {
        "set": name,
        "question": number,
        "row": question.row,
        "level": str(meta.get("level", "")),
        "subject": str(subject),
        "text": question.text,
        "gold": list(question.gold),
        "meta": json.dumps(meta),
    }


def grade_columns(outcome: Outcome) -> dict[str, Any]:
    """The columns that a verdict fills."""
    return {
        "right": outcome.right,
        "status": outcome.status.value,
        "reward": outcome.reward,
        "extracted": outcome.extracted,
        "rule": outcome.rule,
        "seconds": outcome.seconds,
    }


def outcomes_of(table: pd.DataFrame) -> list[Outcome]:
    """The verdicts of a table as objects again."""
    columns = (table[name] for name in ("status", "reward", "extracted", "rule", "seconds", "right"))
    return [
        Outcome(Status(s), r, e, rule, sec, verdict=bool(right))
        for s, r, e, rule, sec, right in zip(*columns, strict=True)
    ]


def question_of(row: Any) -> Question:
    """The question of a row, as far as grading needs it."""
    return Question(row.text, tuple(row.gold), row.set, int(row.row), json.loads(getattr(row, "meta", "{}")))


# -- what the responses were drawn with --------------------------------------------------------------------


def describe_draw(
    model: dict[str, Any], template: Any, sampling: Sampling, seed: int, chunk: int, sets: dict[str, list[Prompt]]
) -> dict[str, Any]:
    """What decides the responses; stored beside them, and compared before more are added."""
    return {
        "model": model,
        "template": {"name": template.name, "text": template.text, "extractor": template.extractor},
        "sampling": {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(sampling).items()},
        "seed": seed,
        "chunk": chunk,
        "sets": {name: {"questions": len(p), "digest": _digest(p)} for name, p in sets.items()},
    }


def check_draw(folder: Path, draw: dict[str, Any]) -> None:
    """Refuse to add responses to a folder whose own were drawn otherwise; :func:`record_draw` stores the description.

    Raises:
        UserError: naming the first setting that differs, or the description can't be read.
    """
    path = folder / "draw.json"
    if not path.is_file():
        return
    try:
        stored = read_json(path)
    except UserError as error:
        raise UserError(f"{error}: start a new evaluation") from error
    for key, old, new in _differences(stored, json.loads(json.dumps(draw))):
        raise UserError(
            f"resume={shown(folder)}: its responses were drawn with {key}={old}, not {new}; "
            "give the same settings, or start a new evaluation"
        )


def record_draw(folder: Path, draw: dict[str, Any]) -> None:
    """Store what decides the responses beside them."""
    write_whole(folder / "draw.json", json.dumps(draw, indent=1) + "\n")


def _differences(old: Any, new: Any, where: str = "") -> Iterator[tuple[str, Any, Any]]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in {**old, **new}:
            yield from _differences(old.get(key), new.get(key), f"{where}.{key}" if where else key)
    elif old != new:
        yield where, old, new


def _digest(prompts: Sequence[Prompt]) -> str:
    content = json.dumps([(p.text, p.question.gold) for p in prompts])
    return hashlib.blake2b(content.encode(), digest_size=8).hexdigest()
