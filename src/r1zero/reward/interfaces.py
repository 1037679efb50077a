"""The verifier as a function of other trainers and evaluators: TRL, verl, lm-evaluation-harness, lighteval.

Each takes the response and the gold answer in the caller's own shape and grades them as training does; the worker
processes are shared by all of a process. Nothing of those packages is imported here until it is needed.
"""

from __future__ import annotations

import atexit
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

from r1zero.config import RewardConfig
from r1zero.reward.gold import prepare_gold
from r1zero.reward.grader import GradeItem, Grader


@lru_cache(maxsize=4)
def grader(extractor: str = "boxed", timeout: float = 3.0) -> Grader:
    """The process's grader for one place of the answer, "boxed" or "answer_tag"."""
    made = Grader(RewardConfig(name="math_verify", timeout=timeout), extractor)
    atexit.register(made.close)
    return made


def scores(
    responses: Sequence[str], golds: Sequence[Any], extractor: str = "boxed", questions: Sequence[Any] | None = None
) -> list[float]:
    """1.0 or 0.0 for each response.

    Args:
        responses: Texts of the model.
        golds: One for each, of any shape that ``prepare_gold`` reads.
        extractor: Where the answer stands.
        questions: One for each, as text or as a conversation; an expression copied from it is not paid.
    """
    asked = [_text(one) for one in questions or [""] * len(responses)]
    items = [
        GradeItem(text, prepare_gold(gold), question=question)
        for text, gold, question in zip(responses, golds, asked, strict=True)
    ]
    return [outcome.reward for outcome in grader(extractor).grade_batch(items)]


def _text(said: Any) -> str:
    """A text, or what the last message of a conversation says."""
    return said if isinstance(said, str) else str(said[-1]["content"])


def trl_reward(column: str = "answer", extractor: str = "boxed") -> Callable[..., list[float]]:
    """A function for TRL's ``reward_funcs``; ``column`` of the data set holds the gold answers."""

    def math_reward(completions: list[Any], **columns: Any) -> list[float]:
        texts = [_text(one) for one in completions]
        return scores(texts, columns[column], extractor, columns.get("prompts"))

    return math_reward


def compute_score(
    data_source: str, solution_str: str, ground_truth: Any, extra_info: dict[str, Any] | None = None, **_: Any
) -> float:
    """The ``custom_reward_function`` of verl; ``extra_info`` may have an "extractor" and the "question"."""
    info = extra_info or {}
    return scores([solution_str], [ground_truth], info.get("extractor", "boxed"), [info.get("question") or ""])[0]


def process_results(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """``process_results`` of an lm-evaluation-harness task; the document's ``answer`` is the gold answer."""
    question = doc.get("problem") or doc.get("question") or ""
    return {"math_verify": scores(results[:1], [doc["answer"]], questions=[question])[0]}


def lighteval_metric(extractor: str = "boxed") -> Any:
    """A metric of lighteval: the mean over samples, whose ``choices[gold_index]`` are the gold answers."""
    from lighteval.metrics.metrics_sample import SampleLevelComputation
    from lighteval.metrics.utils.metric_utils import SampleLevelMetric
    from lighteval.tasks.requests import SamplingMethod

    class Verified(SampleLevelComputation):
        """Grades the first text of a response."""

        def compute(self, model_response: Any, doc: Any, **_: Any) -> float:
            return scores([model_response.final_text[0]], [doc.get_golds()], extractor, [doc.query])[0]

    return SampleLevelMetric(
        metric_name="math_verify",
        sample_level_fn=Verified(),
        category=SamplingMethod.GENERATIVE,
        corpus_level_fn=lambda values: sum(values) / len(values),
        higher_is_better=True,
    )
