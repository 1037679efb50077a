"""Question sets put together from several: so many questions of each, the same ones in every run."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from r1zero.config import DataConfig, SourceConfig
from r1zero.errors import UserError

if TYPE_CHECKING:
    from r1zero.batch import Question


def parts(cfg: DataConfig) -> Iterator[tuple[DataConfig, SourceConfig]]:
    """Each source of a mixture as a set of its own; what the sources have in common is the mixture's.

    Raises:
        UserError: A setting of one source stands beside the sources.
    """
    whole = {
        "path": cfg.path, "generator": cfg.generator, "where": cfg.where, "drop": cfg.drop, "subset": cfg.subset,
        "revision": cfg.revision, "question_key": cfg.question_key, "answer_key": cfg.answer_key,
    }  # fmt: skip
    for key, value in whole.items():
        if value:
            raise UserError(f"data.{key}={value} has no use beside data.sources: set it for a source")
    for name, source in cfg.sources.items():
        if source.path is None:
            raise UserError(f"data.sources.{name}.path is not set: give a hub id, a file or a folder")
        own: dict[str, Any] = {
            "path": source.path, "subset": source.subset, "split": source.split, "revision": source.revision,
            "question_key": source.question_key, "answer_key": source.answer_key, "where": source.where,
        }  # fmt: skip
        yield replace(cfg, name=str(name), sources={}, params={}, rows=None, limit=None, **own), source


def mix(cfg: DataConfig, load: Callable[[DataConfig], list[Question]]) -> list[Question]:
    """Draw ``count`` questions of every source, in the order of the sources and of their rows.

    The draw depends on ``data.params.seed`` (0) alone: runs with other seeds train on the same questions, and a
    resumed run finds them again.

    Raises:
        UserError: A source has too few questions, or the sum is not ``data.rows``.
    """
    mixed: list[Question] = []
    for part, source in parts(cfg):
        found = load(part)
        count = len(found) if source.count is None else source.count
        if count > len(found):
            raise UserError(f"data.sources.{part.name}.count={count} is more than the {len(found)} questions it has")
        draw = random.Random(f"{cfg.params.get('seed', 0)}/{part.name}")
        mixed += [found[at] for at in sorted(draw.sample(range(len(found)), count))]
    if cfg.rows is not None and len(mixed) != cfg.rows:
        raise UserError(
            f"data '{cfg.name}': its sources give {len(mixed)} questions where data.rows={cfg.rows} are expected: "
            "change a count, or data.rows"
        )
    return mixed[: cfg.limit]
