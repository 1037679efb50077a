"""Figures of an analysis, from a table of graded, searched and judged responses."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pandas as pd

from r1zero.evaluate.intervals import Estimate, estimates, resampled_means
from r1zero.lab.analysis import keywords
from r1zero.launch.seeding import derive_seed
from r1zero.reward.outcome import Status

REFLECTS = 2
"""The judge's label of a response that looks back at itself."""
CLASSES = ("right", "wrong", "unformatted", "truncated")
"""What becomes of a response in Fig. 14 and Table 5; one whose verification failed is among the wrong ones."""


def add_keywords(table: pd.DataFrame) -> pd.DataFrame:
    """Add ``keywords`` (the distinct ones found) and ``keyword`` (whether any)."""
    counts = [keywords.count(text) for text in table["response"]]
    return table.assign(keywords=[sorted(c) for c in counts], keyword=[bool(c) for c in counts])


def add_reflection(table: pd.DataFrame, judged: bool) -> pd.DataFrame:
    """Add ``reflects``: a keyword, and the judge's word for it where there is a judge.

    Missing (not False) where there is a keyword and the judge's answer is unparsable or missing.
    """
    reflects = table["keyword"].astype("boolean")
    if judged:
        label = (table["reflection"].astype("Int64") == REFLECTS).astype("boolean")
        reflects = reflects & label  # False and missing is False; True and missing is missing
    return table.assign(reflects=reflects)


def mean_over_questions(
    table: pd.DataFrame, column: str, resamples: int, seed: int, how: str = "mean"
) -> dict[str, Any] | None:
    """A share with its interval over questions; rows without a value are left out.

    Args:
        table: Responses of one temperature.
        column: Of zeros and ones, or missing.
        resamples: Resamples of the questions.
        seed: The run's seed.
        how: "mean" of a question's responses, or "max": whether any of them.

    Returns:
        value, low, high, the number of questions, and of responses; None where there is no value at all.
    """
    rows = table[table[column].notna()]
    if rows.empty:
        return None
    values = rows[column].astype(float).groupby(rows["question"]).agg(how).to_numpy()[:, None]
    draws = resampled_means(values, resamples, derive_seed(seed, "bootstrap", column, how))
    return estimates(values, draws)[0].as_dict() | {"questions": len(values), "responses": len(rows)}


def reflection_figures(table: pd.DataFrame, resamples: int, seed: int) -> dict[str, Any]:
    """Self-reflection at one temperature: by keyword, by judge, by both; per response and per question."""
    found: dict[str, Any] = {}
    judged = table.assign(judge=(table["reflection"].astype("Int64") == REFLECTS).astype("boolean"))
    for name, column in (("keyword", "keyword"), ("judge", "judge"), ("both", "reflects")):
        found[name] = {
            "per_response": mean_over_questions(judged, column, resamples, seed),
            "per_question": mean_over_questions(judged, column, resamples, seed, "max"),
        }
    found["cross"] = cross_table(table)
    return found


def cross_table(table: pd.DataFrame) -> dict[str, dict[str, int]]:
    """Responses by keyword ("yes", "no") and by the judge's label, "none" where there is no label."""
    labels = ["none" if pd.isna(label) else str(int(label)) for label in table["reflection"]]
    counts = Counter(zip(("yes" if k else "no" for k in table["keyword"]), labels, strict=True))
    present = sorted(set(labels))
    return {k: {label: counts[k, label] for label in present} for k in ("yes", "no")}


def keyword_counts(table: pd.DataFrame) -> dict[str, dict[str, int]]:
    """Of each keyword: occurrences, responses that hold it, and of these the right ones."""
    total = {word: {"occurrences": 0, "responses": 0, "right": 0} for word in keywords.KEYWORDS}
    for text, right in zip(table["response"], table["right"], strict=True):
        for word, times in keywords.count(text).items():
            total[word]["occurrences"] += times
            total[word]["responses"] += 1
            total[word]["right"] += int(right)
    return total


def classes(table: pd.DataFrame) -> pd.Series:
    """The one of ``CLASSES`` that each response belongs to."""
    found = pd.Series("wrong", index=table.index)
    found[table["status"].isin((Status.no_answer.value, Status.unformatted.value))] = "unformatted"
    found[(table["status"] == Status.truncated.value) | (table["finish_reason"] == "length")] = "truncated"
    found[table["right"].astype(bool)] = "right"
    return found


def outcomes_by_level(table: pd.DataFrame) -> dict[str, dict[str, int]]:
    """Fig. 14: responses of each class by level; one row "all" where the set has no levels."""
    levels = table["level"].where(table["level"] != "", "all")
    counts = pd.crosstab(levels, classes(table)).reindex(columns=list(CLASSES), fill_value=0)
    return {str(level): {name: int(row[name]) for name in CLASSES} for level, row in counts.iterrows()}


def lengths_by_class(table: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """Table 5: number and mean length of the responses of each class, in characters and tokens; None without any."""
    found = {}
    for name, rows in table.groupby(pd.Categorical(classes(table), CLASSES), observed=False):
        characters, tokens = rows["response"].str.len().mean(), rows["tokens"].mean()
        lengths = {"characters": float(characters), "tokens": float(tokens)} if len(rows) else {}
        found[str(name)] = {"responses": len(rows), "characters": None, "tokens": None} | lengths
    return found


def reflection_gain(table: pd.DataFrame) -> pd.DataFrame:
    """Accuracy with minus accuracy without self-reflection, per question.

    Compared within one question and temperature, where both kinds of responses exist, then averaged over the
    temperatures of a question: self-reflection is more frequent at high temperatures, where accuracy is lower.

    Returns:
        Columns question, with_reflection, without, gain, responses; sorted by gain.
    """
    rows = table[table["reflects"].notna()].assign(
        right=lambda t: t["right"].astype(float), reflects=lambda t: t["reflects"].astype(bool)
    )
    columns = ["question", "with_reflection", "without", "gain", "responses"]
    if rows.empty:
        return pd.DataFrame(columns=columns)
    cells = rows.groupby(["question", "temperature", "reflects"])["right"].agg(["mean", "size"]).unstack("reflects")
    cells = cells.reindex(columns=pd.MultiIndex.from_product([["mean", "size"], [True, False]])).dropna()
    pairs = pd.DataFrame(
        {
            "with_reflection": cells["mean", True],
            "without": cells["mean", False],
            "responses": cells["size", True] + cells["size", False],
        }
    )
    pairs["gain"] = pairs["with_reflection"] - pairs["without"]
    how = {"with_reflection": "mean", "without": "mean", "gain": "mean", "responses": "sum"}
    found = pairs.groupby(level="question").agg(how).reset_index()
    return found.sort_values(["gain", "question"], ignore_index=True)[columns]


def gain_summary(gains: pd.DataFrame, resamples: int, seed: int) -> dict[str, Any] | None:
    """Mean gain over questions with its interval, and on how many it is above, at and below 0."""
    if gains.empty:
        return None
    values = gains[["gain"]].to_numpy(dtype=float)
    draws = resampled_means(values, resamples, derive_seed(seed, "bootstrap", "gain"), prior=0.1, lowest=-1.0)
    low, high = np.quantile(draws[:, 0], (0.025, 0.975))
    mean = Estimate(float(values.mean()), float(low), float(high))
    signs = [int((values > 0).sum()), int((values == 0).sum()), int((values < 0).sum())]
    median = float(np.median(values))
    return {
        **mean.as_dict(),
        "median": median,
        "questions": len(values),
        "above": signs[0],
        "equal": signs[1],
        "below": signs[2],
    }
