"""The two protocols around a plain analysis: choosing the template (Fig. 3), and Fig. 15's second stage."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from r1zero.lab.analysis.config import AnalyzeConfig
from r1zero.lab.analysis.results import share_answering
from r1zero.launch.console import console
from r1zero.launch.seeding import derive_seed

SCREENING = "templates"
"""Folder of the analyses by which a template is chosen, one for each."""
SECOND = "second"
"""Folder of the second stage."""

Study = Callable[[AnalyzeConfig, Path], dict[str, Any]]


def choose_template(cfg: AnalyzeConfig, run_dir: Path, study: Study) -> tuple[AnalyzeConfig, dict[str, Any]]:
    """Analyse with each of ``templates`` on ``screen_n`` responses, and keep the one under which most answer.

    Without a judge the share of responses with an answer where the template wants it decides instead; of equal
    ones the first.

    Args:
        cfg: The analysis.
        run_dir: Its folder; each template's analysis stands in ``templates/<name>``.
        study: Makes one analysis in a folder and returns its figures.

    Returns:
        the analysis with the template that was chosen, and the figures of the choice.
    """
    shares: dict[str, float] = {}
    by = "answering" if cfg.judge.via != "none" else "formatted"
    for name, template in cfg.templates.items():
        sampling = replace(cfg.sampling, n=cfg.screen_n)
        # Self-reflection is measured afterwards, under the chosen template.
        judge = replace(cfg.judge, reflection="keyword", answering_per_question=cfg.screen_n)
        trial = replace(
            cfg, template=template, templates={}, sampling=sampling, pass_k=cfg.screen_n, judge=judge, second_n=None
        )
        shares[name] = share_answering(study(trial, run_dir / SCREENING / name))
    chosen = max(shares, key=lambda name: shares[name])
    found = ", ".join(f"{name} {100 * share:.1f} %" for name, share in shares.items())
    what = "responses that answer" if by == "answering" else "responses with an answer in place (there is no judge)"
    console.print(f"template {chosen} is kept: {what}: {found}", soft_wrap=True)
    return replace(cfg, template=cfg.templates[chosen]), {"chosen": chosen, "by": by, "shares": shares}


def second_stage(cfg: AnalyzeConfig, table: pd.DataFrame) -> tuple[AnalyzeConfig, list[int]] | None:
    """Fig. 15's second stage: ``second_n`` new responses to each question with a self-reflecting one.

    Args:
        cfg: The analysis.
        table: Its responses.

    Returns:
        the settings of the second stage and the places of its questions; None where there is nothing to do.
    """
    if cfg.second_n is None:
        return None
    reflecting = table[table["reflects"].fillna(False).astype(bool)]
    chosen = sorted({int(question) for question in reflecting["question"]})
    if not chosen:
        console.print("no question has a self-reflecting response: there is no second stage")
        return None
    console.print(f"second stage: {cfg.second_n} responses to each of {len(chosen)} questions")
    sampling = replace(cfg.sampling, n=cfg.second_n)
    return replace(cfg, sampling=sampling, seed=derive_seed(cfg.seed, SECOND)), chosen
