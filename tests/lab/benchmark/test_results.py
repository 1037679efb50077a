"""Medians, ratios and tables of the benchmark, from steps written by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from r1zero.errors import UserError
from r1zero.lab.benchmark import limits, results
from r1zero.lab.plan.hardware import Shape

SHAPE = Shape(2, 8, 2, 1, 4, 16, 100, tied=True, bias=False)
CASE: dict[str, Any] = {"name": "hand", "lengths": [], "dtype": "float32"}
MACHINE = {"flops": 1e6, "bandwidth": 1e6}


def ours(seconds: float) -> dict[str, Any]:
    parts = {
        "rollout": 0.4,
        "reward": 0.0,
        "sync": 0.05,
        "old_logprobs": 0.0,
        "forward_backward": 0.3,
        "optimizer": 0.05,
    }
    work = {"tokens": 1000, "prompt_tokens": 200, "longest": 90, "inactive": 0.25}
    return {"seconds": seconds, "parts": parts, "peak": 500, **work}


def trl(seconds: float) -> dict[str, Any]:
    parts = {"rollout": 0.5, "reward": 0.0, "forward": 0.2, "backward": 0.4, "optimizer": 0.1, "prepare": 0.6}
    return {"seconds": seconds, "parts": parts, "tokens": 1000, "peak": 2000}


def record(**change: Any) -> dict[str, Any]:
    steps = {"ours": [ours(s) for s in (0.9, 1.0, 1.2)], "trl": [trl(s) for s in (1.8, 5.0, 1.5)]}
    measured = {"steps": steps, "first_step": {"ours": 9.0, "trl": 8.0}, "versions": {}, **change}
    return results.summarise(CASE, MACHINE, measured, SHAPE)


def test_ratios_are_medians_over_turns_not_ratios_of_medians() -> None:
    """Turns give 0.5, 0.2 and 0.8; the sides' own medians would give 1.0 / 1.8."""
    ratio = record()["ratio"]
    assert ratio["median"] == pytest.approx(0.5)
    assert ratio["memory"] == 0.25


def test_parts_add_up_to_the_step() -> None:
    sides = record()["sides"]
    assert sides["ours"]["parts"]["everything else"] == pytest.approx(0.2)
    assert sides["trl"]["parts"]["forward_backward"] == pytest.approx(0.6)
    assert sides["trl"]["parts"]["everything else"] == pytest.approx(0.6)
    assert sides["ours"]["tokens_per_s"] == pytest.approx(1000.0)


def test_drawing_responses_is_not_the_learners_work() -> None:
    measured = {"steps": {"ours": [ours(1.0)], "trl": [trl(2.0)]}, "first_step": {}, "versions": {}}
    one = results.summarise(CASE | {"lengths": [1, 9]}, MACHINE, measured, SHAPE)
    assert one["sides"]["ours"]["median"] == pytest.approx(0.55)
    assert one["sides"]["trl"]["median"] == pytest.approx(1.5)


def test_the_least_time_counts_what_computes() -> None:
    """By hand: the body has 2 layers of 592 parameters and a norm of 8, the head 800; a quarter is inactive."""
    body, head = 2 * 592 + 8, 800
    assert (SHAPE.params, SHAPE.embedding) == (body + head, head)
    work = {"tokens": 1000.0, "prompt_tokens": 200.0, "longest": 90.0, "active": 0.75}
    least = limits.floors(SHAPE, MACHINE, work, CASE)
    assert least["learn"] == pytest.approx(6 * 0.75 * (body * 1200 + head * 1000) / 1e6)
    assert least["rollout"] == pytest.approx(2 * (body + head) * 1000 / 1e6), "here products outweigh reads"


def test_the_table_goes_between_its_markers(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "results.json").write_text(json.dumps(record()))
    readme = tmp_path / "README.md"
    readme.write_text(f"above\n{results.MARKS[0]}\nold\n{results.MARKS[1]}\nbelow\n")
    for _ in range(2):  # a second time changes nothing
        assert results.write_table(tmp_path, readme) == 0
        text = readme.read_text()
        assert text.startswith("above\n<!-- benchmark -->\n| case |")
        assert text.endswith("<!-- /benchmark -->\nbelow\n")
        assert "old" not in text
        assert "| hand | 1.00 | 1.80 | 0.50 (" in text
    readme.write_text("no markers")
    with pytest.raises(UserError, match="once each"):
        results.write_table(tmp_path, readme)
    with pytest.raises(UserError, match="measure something first"):
        results.write_table(tmp_path / "a", None)


def test_the_engine_beside_bare_vllm_is_told_by_tokens_per_second() -> None:
    """100 tokens in 2 s against 120 in 3 s, and in 4 s: 1.25 and 1.6667; the round on two threads stands apart."""
    row = {"variant": "own LLM", "threads": 1, "tokens": 100, "ours": 2.0, "bare_tokens": 120, "same": 0.0}
    rounds = [row | {"bare": 3.0}, row | {"bare": 4.0}, row | {"bare": 3.0, "threads": 2, "same": 1.0}]
    one, two = record(bare=rounds)["bare"]
    assert (one["threads"], one["same"], one["ours"]) == (1, 0.0, 50.0)
    assert (one["low"], one["high"]) == pytest.approx((1.25, 100 / 2 / (120 / 4)))
    assert (two["threads"], two["same"]) == (2, 1.0)
    assert two["median"] == pytest.approx(1.25)
