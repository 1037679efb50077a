"""reward.pool=ray: the verdicts of the local pool from the machines of a cluster, whatever is lost."""

from __future__ import annotations

import contextlib
import os
from typing import Any

import psutil
import pytest
from rollout_support import local_ray

from r1zero.config import RewardConfig
from r1zero.errors import UserError
from r1zero.reward.grader import GradeItem, Grader
from r1zero.reward.workers import ray_pool
from run_support import until

__all__ = ["local_ray"]
pytestmark = pytest.mark.ray

ITEMS = [
    GradeItem(rf"so \boxed{{{answer}}}", (gold,))
    for answer, gold in (
        ("42", "42"), ("\\frac{1}{2}", "0.5"), ("x^2-1", "(x-1)(x+1)"), ("7", "8"), ("\\sqrt{8}", "2\\sqrt{2}"),
    )
]  # fmt: skip


def config(**settings: Any) -> RewardConfig:
    return RewardConfig(name="math_verify", workers=1, **settings)


def machines_at_work() -> list[psutil.Process]:
    """The actors that hold a pool."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, ProcessLookupError):
            ours = os.getsid(process.pid) == os.getsid(0) and process.status() != psutil.STATUS_ZOMBIE
            if ours and "ray::Machine" in " ".join(process.cmdline()):
                found.append(process)
    return found


def test_the_verdicts_are_those_of_the_local_pool(local_ray: None) -> None:
    """Two machines; one is killed in between: its jobs go to the other, nothing is lost, nothing is left."""
    with Grader(config(), extractor="boxed") as local:
        expected = local.grade_batch(ITEMS)
    strip = lambda outcomes: [(o.right, o.reward, o.status) for o in outcomes]  # noqa: E731
    with Grader(config(pool="ray", machines=2), extractor="boxed") as grader:
        assert strip(grader.grade_batch(ITEMS)) == strip(expected)
        assert grader.pool.workers == 2
        machines = machines_at_work()
        assert len(machines) == 2
        machines[0].kill()
        more = [GradeItem(item.response.replace("so", f"so {n}"), item.gold) for n, item in enumerate(ITEMS * 4)]
        assert [o.right for o in grader.grade_batch(more)] == [o.right for o in expected] * 4
    until(lambda: machines_at_work() == [], 30)


def test_no_place(local_ray: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_pool, "WAIT", 1.0)
    with pytest.raises(UserError, match=r"reward\.machines=99: the cluster has no place for as many within 1 s"):
        Grader(config(pool="ray", machines=99), extractor="boxed").start()
