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


def elsewhere(cfg: DataConfig) -> dict[str, Any]:
    """Settings of a set that is read, which mean nothing to a mixture or a generator."""
    return {
        "path": cfg.path, "generator": cfg.generator, "where": cfg.where, "drop": cfg.drop, "subset": cfg.subset,
        "revision": cfg.revision, "question_key": cfg.question_key, "answer_key": cfg.answer_key,
    }  # fmt: skip


def parts(cfg: DataConfig) -> Iterator[tuple[DataConfig, SourceConfig]]:
    """Each source of a mixture as a set of its own; what the sources have in common is the mixture's.

    Raises:
        UserError: A setting of one source is given beside the sources.
    """
    for key, value in elsewhere(cfg).items():
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
    counts_of(cfg)


def counts_of(cfg: DataConfig) -> dict[str, int | None]:
    """Questions to draw of each source; None: all it has.

    Weights are shares of ``data.rows``: each source gets the whole number below its share, and what is left goes to the
    largest fractions, of equal ones to the first.

    Raises:
        UserError: Weights that do not add up to 1, stand beside counts, or have no ``data.rows`` to be shares of.
    """
    weights = {str(name): source.weight for name, source in cfg.sources.items()}
    if all(weight is None for weight in weights.values()):
        return {str(name): source.count for name, source in cfg.sources.items()}
    for name, source in cfg.sources.items():
        if source.weight is None or source.count is not None:
            raise UserError(f"data.sources.{name}: either every source has a weight, or each may have a count")
    total = sum(weight for weight in weights.values() if weight is not None)
    if abs(total - 1) > 1e-6:
        shown = " + ".join(f"{weight:g}" for weight in weights.values())
        raise UserError(f"data.sources: the weights add up to {total:g}, not to 1 ({shown})")
    if cfg.rows is None:
        raise UserError("data.rows is not set: the weights of data.sources are shares of it")
    shares = {name: (weight or 0.0) * cfg.rows for name, weight in weights.items()}
    counts = {name: int(share + 1e-9) for name, share in shares.items()}
    by_fraction = sorted(shares, key=lambda name: counts[name] - shares[name])
    for name in by_fraction[: cfg.rows - sum(counts.values())]:
        counts[name] += 1
    return dict(counts)


def of_source(part: DataConfig, job: Callable[[DataConfig], Any]) -> Any:
    """Do something with one source; an error names it."""
    try:
        return job(part)
    except UserError as error:
        raise UserError(f"data.sources.{part.name}: {error}") from None


def mix(cfg: DataConfig, load: Callable[[DataConfig], list[Question]]) -> list[Question]:
    """Draw the questions of every source, in the order of the sources and of their rows.

    The draw depends on ``data.params.seed`` (0) alone: runs with other seeds train on the same questions, and a
    resumed run finds them again.

    Raises:
        UserError: A source has too few questions, or the sum is not ``data.rows``.
    """
    mixed: list[Question] = []
    counts = counts_of(cfg)
    for part, source in parts(cfg):
        found = of_source(part, load)
        wanted = counts[part.name]
        count = len(found) if wanted is None else wanted
        if count > len(found):
            asked = f"count={count}" if source.weight is None else f"weight={source.weight:g} ({count} questions)"
            raise UserError(f"data.sources.{part.name}.{asked} is more than the {len(found)} questions it has")
        draw = random.Random(f"{cfg.params.get('seed', 0)}/{part.name}")
        mixed += [found[at] for at in sorted(draw.sample(range(len(found)), count))]
    if cfg.rows is not None and len(mixed) != cfg.rows:
        raise UserError(
            f"data '{cfg.name}': its sources give {len(mixed)} questions where data.rows={cfg.rows} are expected: "
            "change a count, or data.rows"
        )
    return mixed[: cfg.limit]
