"""Score a policy on question sets: the one path that in-training and offline evaluation share."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from r1zero.algo.stats import ReduceFn, Tally
from r1zero.batch import Completion, Prompt, Question
from r1zero.reward.grader import GradeItem
from r1zero.reward.outcome import Outcome
from r1zero.rollout.engine import Engine, Sampling

if TYPE_CHECKING:
    from r1zero.reward.grader import Grader


@dataclass(frozen=True)
class Sample:
    """One response to one question of a benchmark, graded."""

    prompt: Prompt
    completion: Completion
    grade: Outcome


def grade_texts(grader: Grader, items: Sequence[tuple[Question, str, bool, int]]) -> list[Outcome]:
    """Grade (question, response text, whether the token limit cut it, its tokens), in order."""
    return grader.grade_batch(
        [
            GradeItem(text, question.gold, truncated, question.text, tokens=tokens, meta=question.meta)
            for question, text, truncated, tokens in items
        ]
    )


def sample_and_grade(
    engine: Engine, grader: Grader, prompts: Sequence[Prompt], sampling: Sampling, seed: int
) -> list[Sample]:
    """Sample ``sampling.n`` responses for each prompt and grade them; samples in prompt order."""
    groups = engine.generate([prompt.ids for prompt in prompts], sampling, seed)
    pairs = [(prompt, completion) for prompt, group in zip(prompts, groups, strict=True) for completion in group]
    grades = grade_texts(grader, [(p.question, c.text, c.truncated, c.length) for p, c in pairs])
    return [Sample(prompt, completion, grade) for (prompt, completion), grade in zip(pairs, grades, strict=True)]


def summarize_samples(samples: Sequence[Sample], reduce_fn: ReduceFn | None = None) -> dict[str, float]:
    """Mean figures of graded samples over all ranks; lengths in tokens, stop tokens included.

    A response is right where the verifier says so, whatever other rewards are summed besides.
    """
    right = torch.tensor([s.grade.right for s in samples], dtype=torch.bool)
    lengths = torch.tensor([float(s.completion.length) for s in samples])
    tally = Tally()
    tally.mean("accuracy", right.float())
    tally.mean("length", lengths)
    tally.mean("length_correct", lengths, right)
    tally.mean("length_incorrect", lengths, ~right)
    tally.mean("truncated_frac", torch.tensor([float(s.completion.truncated) for s in samples]))
    return tally.reduce(reduce_fn)


def evaluate(
    engine: Engine,
    grader: Grader,
    benchmarks: dict[str, list[Prompt]],
    sampling: Sampling,
    seed: int,
    *,
    rank: int = 0,
    world_size: int = 1,
    reduce_fn: ReduceFn | None = None,
) -> tuple[dict[str, dict[str, float]], dict[str, list[Sample]]]:
    """Evaluate on every benchmark, questions dealt out over ranks.

    Returns:
        {benchmark: {"accuracy", "length", "length_correct", "length_incorrect", "truncated_frac", "seconds"}},
        with an entry "average" that holds the unweighted mean over benchmarks; and this rank's samples.
    """
    results: dict[str, dict[str, float]] = {}
    samples: dict[str, list[Sample]] = {}
    for name, prompts in benchmarks.items():
        started = time.perf_counter()
        mine = prompts[rank::world_size]
        # Also where nothing is left for this rank: an engine of several ranks needs all of them.
        samples[name] = sample_and_grade(engine, grader, mine, sampling, seed)
        results[name] = summarize_samples(samples[name], reduce_fn)
        results[name]["seconds"] = time.perf_counter() - started
    if results:
        metrics = ("accuracy", "length", "truncated_frac")
        results["average"] = {m: sum(r[m] for r in results.values()) / len(results) for m in metrics}
    return results, samples
