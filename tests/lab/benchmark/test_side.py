"""A side as a process: messages, silence, and an end before its time."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from r1zero.errors import UserError
from r1zero.lab.benchmark.side import Side

TALKS = """
import sys
print("a remark", flush=True)
print('@@{"kind": "ready"}', flush=True)
for line in sys.stdin:
    print('@@{"kind": "step", "told": "%s"}' % line.strip(), flush=True)
print("the last word", flush=True)
"""
ENDS = """
import sys
print('@@{"kind": "ready"}', flush=True)
sys.exit("ValueError: no such model")
"""


def side(tmp_path: Path, script: str, timeout: float = 60.0) -> Side:
    return Side("ours", [sys.executable, "-c", script], tmp_path / "side.log", timeout)


def test_it_works_when_it_is_told_to_and_its_log_is_whole(tmp_path: Path) -> None:
    one = side(tmp_path, TALKS)
    one.wait_for("ready")
    assert one.tell("bare 2", "step")["told"] == "bare 2"
    one.close()
    assert (tmp_path / "side.log").read_text().splitlines() == ["a remark", "the last word"]


def test_an_end_before_its_time_is_one_line_with_the_reason(tmp_path: Path) -> None:
    """Also where it ended while it was not its turn: what it is told then finds nobody."""
    one = side(tmp_path, ENDS)
    one.wait_for("ready")
    one._process.wait()
    with pytest.raises(UserError, match=r"ours ended before its time; .*side\.log says why: ValueError: no such model"):
        one.tell("step", "step")
    one.close()


def test_silence(tmp_path: Path) -> None:
    one = side(tmp_path, "import sys; sys.stdin.read()", timeout=0.2)
    with pytest.raises(UserError, match=r"gave no sign for 0\.2 s"):
        one.wait_for("ready")
    one.close()
