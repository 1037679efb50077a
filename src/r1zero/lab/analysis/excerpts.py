"""A page of responses that look back at themselves, to be read in a browser."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any

import pandas as pd

from r1zero.lab.analysis import keywords
from r1zero.lab.analysis.measures import REFLECTS
from r1zero.launch.files import write_whole

AROUND = 350
"""Characters shown before the first and after the last marked word; the whole response can be unfolded."""
OTHERS = 6
"""Of the responses shown for the keywords, each further section shows one in so many."""

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 52rem; margin: 2rem auto; padding: 0 1rem;
       color: #222; background: #fff; }
article { border: 1px solid #ddd; border-radius: 6px; padding: 0.8rem 1.2rem; margin: 1.2rem 0; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; font: 14px/1.5 ui-monospace, monospace; margin: 0.6rem 0; }
mark { background: #f0e442; color: #000; padding: 0 0.15em; border-radius: 2px; }
.facts { color: #555; font-size: 0.85rem; }
.question { border-left: 3px solid #0072b2; padding-left: 0.8rem; }
summary { cursor: pointer; color: #0072b2; font-size: 0.85rem; }
nav a { margin-right: 0.8em; white-space: nowrap; }
@media (prefers-color-scheme: dark) {
  body { background: #16181c; color: #ddd; } article { border-color: #444; } .facts { color: #aaa; }
  summary, nav a { color: #56b4e9; }
}
"""


def choose(table: pd.DataFrame, count: int) -> pd.DataFrame:
    """Responses to show: those that the judge confirms first, then right ones, keywords taking turns."""
    found = table[table["keyword"]].copy()
    if found.empty:
        return found
    found["leader"] = [words[0] for words in found["keywords"]]
    found["sure"] = found["reflects"].fillna(False).astype(bool)
    found = found.sort_values(["sure", "right", "question", "sample"], ascending=[False, False, True, True])
    found["turn"] = found.groupby("leader").cumcount()
    return found.sort_values(["turn", "leader"], kind="stable").head(count).sort_values(["leader", "turn"])


def further(table: pd.DataFrame) -> dict[str, tuple[str, pd.DataFrame, tuple[str, ...]]]:
    """Sections beside the keywords' own: {title: (what it shows, its responses, the words that are marked)}.

    Fig. 11's two kinds of false positives, where a judge was asked, and the aha cases.
    """
    aha = table[[bool(keywords.count(text, keywords.AHA)) for text in table["response"]]]
    found: dict[str, tuple[str, pd.DataFrame, tuple[str, ...]]] = {}
    found["Aha"] = ("words of the aha cases, which count for nothing", aha, keywords.AHA)
    label = table["reflection"].astype("Int64")
    if label.notna().any():
        yes = (label == REFLECTS).fillna(False).astype(bool)
        no = (label != REFLECTS).fillna(False).astype(bool)
        keyword = table["keyword"].astype(bool)
        found = {
            "Keyword alone": (
                "the judge sees no self-reflection: false positives of the keywords, or oversights of the judge",
                table[keyword & no],
                keywords.KEYWORDS,
            ),
            "Judge alone": (
                "no keyword: self-reflection in other words, or false positives of the judge",
                table[yes & ~keyword],
                keywords.KEYWORDS,
            ),
        } | found
    return found


def write_page(table: pd.DataFrame, title: str, count: int, path: Path) -> int:
    """Write the page; nothing in a response is taken as HTML.

    Returns:
        how many responses it shows.
    """
    chosen = choose(table, count)
    total = int(table["keyword"].sum())
    parts = [
        "<!doctype html>\n<html lang='en'><head><meta charset='utf-8'>",
        "<meta name='viewport' content='width=device-width, initial-scale=1'>",
        f"<title>{escape(title)}: excerpts</title><style>{STYLE}</style></head><body>",
        f"<h1>{escape(title)}</h1>",
        f"<p>{total:,} of {len(table):,} responses hold a keyword of self-reflection; {len(chosen)} are shown.</p>",
    ]
    groups = list(chosen.groupby("leader", sort=True)) if len(chosen) else []
    others = {name: found for name, found in further(table).items() if len(found[1]) and count}
    links = [(str(word), len(rows)) for word, rows in groups] + [
        (name, len(rows)) for name, (_, rows, _) in others.items()
    ]
    parts += ["<nav>", *(f"<a href='#{_anchor(name)}'>{escape(name)} ({size})</a>" for name, size in links), "</nav>"]
    for word, rows in groups:
        parts.append(f"<h2 id='{_anchor(word)}'>{escape(str(word))}</h2>")
        parts += [article(row) for row in rows.itertuples()]
    shown = len(chosen)
    for name, (what, rows, words) in others.items():
        few = rows.sort_values(["question", "temperature", "sample"]).head(max(1, count // OTHERS))
        parts.append(f"<h2 id='{_anchor(name)}'>{escape(name)}</h2>")
        parts.append(f"<p>{len(rows):,} responses, {len(few)} shown: {escape(what)}.</p>")
        parts += [article(row, words) for row in few.itertuples()]
        shown += len(few)
    parts.append("</body></html>\n")
    write_whole(path, "\n".join(parts))
    return shown


def article(row: Any, words: tuple[str, ...] = keywords.KEYWORDS) -> str:
    """One response with its question, what is known about it, and the words marked."""
    facts = [f"question {row.question}, sample {row.sample}", f"temperature {row.temperature:g}"]
    facts += ["right" if row.right else f"not right ({row.status})", f"{row.tokens} tokens"]
    if not pd.isna(row.reflection):
        facts.append(f"judge's label {int(row.reflection)}")
    text = row.response
    spans = keywords.spans(text, words) or [(0, AROUND, "")]
    start = max(0, spans[0][0] - AROUND)
    end = min(len(text), spans[-1][1] + AROUND)
    shown = ("... " if start else "") + marked(text[start:end], words) + (" ..." if end < len(text) else "")
    whole = f"<details><summary>whole response</summary><pre>{marked(text, words)}</pre></details>"
    return (
        f"<article><p class='facts'>{escape('; '.join(facts))}</p>"
        f"<p class='question'>{escape(row.text)}</p><pre>{shown}</pre>"
        f"{whole if start or end < len(text) else ''}</article>"
    )


def marked(text: str, words: tuple[str, ...] = keywords.KEYWORDS) -> str:
    """The text as HTML with the words marked."""
    out, at = [], 0
    for start, end, _ in keywords.spans(text, words):
        out += [escape(text[at:start]), f"<mark>{escape(text[start:end])}</mark>"]
        at = end
    return "".join([*out, escape(text[at:])])


def _anchor(word: Any) -> str:
    return str(word).replace(" ", "-")
