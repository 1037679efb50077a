"""Verdicts of a run that deserve a look: likely false negatives, likely false positives, failures."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pandas as pd

from r1zero.errors import UserError
from r1zero.reward.gold import prepare_gold
from r1zero.reward.outcome import Status
from r1zero.reward.rules import compare
from r1zero.reward.rules.latex import canonical, key
from r1zero.reward.rules.number import parse_number

NEEDED = ("completion", "gold", "extracted", "reward", "status")
TAIL = 300
ENDING = 60
"""Characters of a response's end that are printed: a line of 80 columns holds them."""
SUSPECT_LENGTH = 3


def read_completions(folder: Path) -> pd.DataFrame:
    """All completions below a folder (or in one file), in the order of the files' names.

    Raises:
        UserError: There are none, or columns are missing.
    """
    files = [folder] if folder.is_file() else sorted(folder.rglob("*.parquet"))
    if not files:
        raise UserError(f"no completions (*.parquet) under {folder}; name a run's completions folder")
    frames = []
    for file in files:
        try:
            frame = pd.read_parquet(file)
        except Exception as error:
            raise UserError(f"can't read {file}: {error}") from error
        missing = [name for name in NEEDED if name not in frame.columns]
        if missing:
            raise UserError(
                f"{file} lacks the columns {', '.join(missing)}; it has {', '.join(map(str, frame.columns))}"
            )
        frames.append(frame.assign(file=file.name))
    return pd.concat(frames, ignore_index=True)


def suspicion(row: dict[str, Any]) -> tuple[str, str] | None:
    """Why one verdict deserves a look: ("false negative" | "false positive" | "failure", reason), or None.

    Args:
        row: completion, gold (any shape that ``prepare_gold`` takes), extracted, status, and rule if there is one.
    """
    status = str(row["status"])
    golds = prepare_gold(row["gold"])
    extracted = row["extracted"] if isinstance(row["extracted"], str) else None
    if status in (Status.timeout.value, Status.crash.value):
        return "failure", f"the verifier failed ({status})"
    if status == Status.bad_gold.value or not golds:
        return "failure", "no gold answer"
    if status == Status.right.value:
        reason = _too_easy(extracted or "", golds, str(row.get("rule", "")))
        return ("false positive", reason) if reason else None
    reason = _nearly(extracted, golds) if extracted is not None else _unseen(str(row["completion"]), golds)
    return ("false negative", reason) if reason else None


def _too_easy(extracted: str, golds: tuple[str, ...], rule: str) -> str:
    """Why a right verdict may be wrong, "" when nothing speaks against it."""
    try:
        if not compare.against_any(extracted, golds, prose=True).right:
            return "the verifier of today says wrong"
    except compare.NeedsCas:
        if rule == "":
            return "only math-verify can tell"
    except Exception as error:
        return f"a rule raises {type(error).__name__}"
    digits = [set(re.findall(r"\d+", canonical(form))) for form in golds]
    if rule.startswith("math_verify") and not any(set(re.findall(r"\d+", extracted)) == found for found in digits):
        return "math-verify alone, and the digits differ"
    if len(extracted) > SUSPECT_LENGTH * max(len(form) for form in golds) + 20:
        return "the answer is much longer than the gold"
    if rule == "sentence":
        return "a sentence around the number"
    return ""


def _nearly(extracted: str, golds: tuple[str, ...]) -> str:
    """Why a wrong answer may be right, "" when nothing speaks for it."""
    try:
        if compare.against_any(extracted, golds, prose=True).right:
            return "the verifier of today says right"
    except compare.NeedsCas:
        pass
    except Exception as error:
        return f"a rule raises {type(error).__name__}"
    bare = _bare(extracted)
    given = parse_number(canonical(extracted))
    for form in golds:
        if bare and bare == _bare(form):
            return "equal but for brackets and marks"
        if sorted(key(extracted)) == sorted(key(form)):
            return "the same characters in another order"
        wanted = parse_number(canonical(form))
        if wanted and given and wanted.value and 0 < abs(given.value / wanted.value - 1) < 0.01:
            return "within 1% of the gold"
        if len(form) > 1 and canonical(form) in canonical(extracted):
            return "the gold stands inside the answer"
    return ""


def _unseen(completion: str, golds: tuple[str, ...]) -> str:
    """Whether a response without an extracted answer names the gold near its end."""
    tail = completion[-TAIL:]
    for form in golds:
        if re.search(rf"(?<![\w.\\]){re.escape(form)}(?![\w\\]|\.\d)", tail):
            return "no answer was found, and the gold stands near the end"
    return ""


def _bare(text: str) -> str:
    """Letters, digits, and a minus that may be a sign: -2 is not 2, twenty-one is twenty one."""
    text = re.sub(r"(?<=[^\W\d])-(?=[^\W\d])", "", text.lower().replace("\u2212", "-"))
    return "".join(char for char in text if char.isalnum() or char == "-")


def suspects(frame: pd.DataFrame) -> pd.DataFrame:
    """Rows with a suspicion, as columns ``suspect`` and ``reason``; failures and rare reasons first."""
    found = [suspicion(row) for row in frame.to_dict("records")]
    kept = frame.assign(
        suspect=[pair[0] if pair else None for pair in found], reason=[pair[1] if pair else "" for pair in found]
    ).dropna(subset=["suspect"])
    order = kept.groupby(["suspect", "reason"])["reason"].transform("size") if len(kept) else []
    return kept.assign(_count=order).sort_values(["suspect", "_count"], kind="stable").drop(columns="_count")


def audit(folder: Path, limit: int) -> None:
    """Print the suspects of a run one below the other, at any width, and how many there are of each kind."""
    frame = read_completions(folder)
    chosen = suspects(frame)
    print(f"{len(chosen)} of {len(frame)} verdicts deserve a look")
    for _, row in chosen.head(limit).iterrows():
        print(f"\n{row['suspect']}: {row['reason']}")
        print(f"  where    {row['file']}:{row.name}")
        print(f"  verdict  {row['status']} {row.get('rule', '')}".rstrip())
        print(f"  gold     {' | '.join(prepare_gold(row['gold']))}")
        print(f"  answer   {row['extracted'] if isinstance(row['extracted'], str) else 'nothing'}")
        print(f"  ends     ...{' '.join(str(row['completion'])[-ENDING:].split())}")
    print()
    for (suspect, reason), count in chosen.groupby(["suspect", "reason"]).size().items():
        print(f"{count:>6}  {suspect}: {reason}")
    if len(chosen) > limit:
        print(f"{len(chosen) - limit} more; --limit shows them")
