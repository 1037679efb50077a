r"""Where the final answer is in a response; own linear scans, no LaTeX library.

Only the response is searched, never the question or the prompt. ``boxed`` takes the last ``\boxed{}``
or ``\fbox{}`` that has an argument; ``answer_tag`` the one ``<answer>`` block after the thinking.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise

from r1zero.reward.outcome import Status


@dataclass(frozen=True)
class Extraction:
    """What was found: ``answer`` is None unless ``status`` is None.

    ``prose`` says that the answer is free text of a tag, where a sentence may surround one number.
    """

    answer: str | None
    status: Status | None = None
    prose: bool = False


EXTRACTORS = ("boxed", "answer_tag")
MISSING = Extraction(None, Status.no_answer)
UNFORMATTED = Extraction(None, Status.unformatted)

_BOX = re.compile(r"\\(?:boxed|fbox)(?![a-zA-Z])")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
_BLANK = " \t\r\n\f\v\u00a0"
_TOKEN = re.compile(r"[-+\u2212]?\d[\d.,]*(?<![.,])|[A-Za-z](?=\s*(?:\$|\\[)\]]))|\\[A-Za-z]+(?=\s*(?:\$|\\[)\]]))")
_NAME = r"(?:[a-zA-Z]|\\[a-zA-Z]+)(?:_(?:\{[^{}]*\}|\w))?(?:\([a-z]\))?"
# What may stand between two boxes of one list answer: marks, "and", the name of the next box, the letter of a part.
_GLUE = re.compile(
    r"(?:[\s,;.$&~*]|\\[()\[\],;:! \\]|\\q?quad\b|\band\b|\bor\b|\\text\s*\{\s*(?:(?:,|and|or)\s*)?\}"
    r"|[\u3001\u3002\uff0c\uff1b\u548c\u6216])*"
)
_PART = rf"(?:\(?(?:[a-h]|[ivx]{{1,4}}|[1-9])\)|{_NAME}\s*=)"
_NAMED_GLUE = re.compile(
    rf"(?:[\s,;$&~*]|\\[()\[\],;:! \\]|\\q?quad\b|\band\b|\bor\b|\\text\s*\{{|\}}|(?:for )?part\b)*{_PART}"
    r"(?:[\s$&]|\\[(\[,;:!])*|\s*(?:\\text\s*\{\s*)?for part \([a-h]\)(?: and)?\s*\}?\s*"
)
_BOX_NAME = re.compile(rf"(?<![\w\\])({_NAME})\s*=(?:[\s$&]|\\[(\[,;:!])*$")
_PAIR = re.compile(r"</?think>|</?answer>")
_LEAD = re.compile(
    r"(?:(?:so|thus|hence|therefore|then)[\s,]+)?(?:(?:the|my|our)\s+)?(?:(?:final|correct)\s+)?(?:answer|result)\s*(?:is|:|=)\s*:?",
    re.IGNORECASE,
)


def _braces(text: str) -> dict[int, int]:
    """Map the position of every opening brace that is closed to its closing one; escaped braces don't count."""
    ends: dict[int, int] = {}
    stack: list[int] = []
    for match in _BRACE.finditer(text):
        mark = match.group()
        if mark == "{":
            stack.append(match.start())
        elif mark == "}" and stack:
            ends[stack.pop()] = match.start()
    return ends


def _boxes(text: str) -> tuple[list[tuple[int, int, str]], bool]:
    """Spans and arguments of the boxes in text, innermost only, and whether the last one is cut off."""
    marks = list(_BOX.finditer(text))
    if not marks:
        return [], False
    ends = _braces(text)
    found: list[tuple[int, int, str]] = []
    cut = False
    for mark in marks:
        start = mark.end()
        while start < len(text) and text[start] in _BLANK:
            start += 1
        if text.startswith("{", start):
            end = ends.get(start)
            cut = end is None
            if end is None:
                continue
            content = text[start + 1 : end].strip()
            if content.strip(_BLANK + "$~"):
                while found and found[-1][1] > mark.start() and found[-1][1] > end:
                    found.pop()  # this box lies inside an earlier one: the inner one is the answer
                found.append((mark.start(), end + 1, content))
        else:
            token = _TOKEN.match(text, start)
            if token:
                cut = False
                found.append((mark.start(), token.end(), token.group()))
    return found, cut


def boxed(text: str) -> Extraction:
    r"""Answer of a response that puts it into a box.

    The last box that has an argument counts. Boxes separated by nothing but commas, stops, "and", "or"
    and blanks are one list answer, repeats dropped. An empty box or the bare word is ignored; a last box
    that is never closed is not an answer, whatever comes before it.

    Args:
        text: The response alone, any length.

    Returns:
        The answer, or ``Status.no_answer``.
    """
    found, cut = _boxes(text)
    if cut or not found:
        return MISSING
    group, named = [found[-1]], False
    for box in reversed(found[:-1]):
        if _NAMED_GLUE.fullmatch(text, box[1], group[-1][0]) and _told_apart(text, box, group[-1]):
            named = True
        elif not _GLUE.fullmatch(text, box[1], group[-1][0]):
            break
        group.append(box)
    group.reverse()
    if named:
        names = [_BOX_NAME.search(text[max(box[0] - 40, 0) : box[0]]) for box in group]
        if all(names) and not any("=" in box[2] for box in group):
            return Extraction(", ".join(f"{name[1]}={box[2]}" for name, box in zip(names, group, strict=True) if name))
        return Extraction(", ".join(content for _, _, content in group))
    distinct = {"".join(content.split()): content for _, _, content in group}
    return Extraction(", ".join(distinct.values()))


def _told_apart(text: str, one: tuple[int, int, str], two: tuple[int, int, str]) -> bool:
    """Whether two boxes don't carry one and the same name, as a correction would."""
    names = [_BOX_NAME.search(text[max(box[0] - 40, 0) : box[0]]) for box in (one, two)]
    return not (names[0] and names[1] and names[0][1] == names[1][1]) and bool(names[0]) == bool(names[1])


def boxes_of_gold(text: str) -> str | None:
    """All boxes of a short gold answer that begins with one and has a word or two between them, as one list."""
    found, cut = _boxes(text)
    if cut or len(found) < 2 or found[0][0] > 4:
        return None
    between = [text[one[1] : two[0]] for one, two in pairwise(found)]
    if any(len(words) > 3 or "." in gap for gap in between for words in [gap.split()]):
        return None
    return ", ".join(content for _, _, content in found)


def answer_tag(text: str, strict: bool = False) -> Extraction:
    """Answer of a response that thinks first and answers in tags; the prompt has opened the thinking.

    After the last ``</think>`` there must be exactly one ``<answer>...</answer>``. A box inside it counts,
    else its whole text less math delimiters, a leading "the answer is" and the last stop.

    Args:
        text: The response alone, its stop string included (trap 26).
        strict: Demand exactly one space between ``</think>`` and ``<answer>``, as the paper's code does.

    Returns:
        The answer, ``Status.unformatted`` or ``Status.no_answer``.
    """
    thought = text.rfind("</think>")
    if thought < 0:
        return UNFORMATTED
    start = thought + len("</think>")
    tags = list(_PAIR.finditer(text, start))
    if [tag.group() for tag in tags] != ["<answer>", "</answer>"]:
        return UNFORMATTED
    if strict and text[start : tags[0].start()] != " ":
        return UNFORMATTED
    inside = text[tags[0].end() : tags[1].start()].strip()
    found, cut = _boxes(inside)
    if cut:
        return MISSING
    if found:
        return boxed(inside)
    inside = re.sub(r"\\(?:boxed|fbox)\s*\{[\s$~]*\}", "", inside).strip()
    lead = _LEAD.match(inside)
    if lead:
        inside = inside[lead.end() :].strip()
    if not inside.strip(_BLANK + "$~.*"):
        return MISSING
    return Extraction(inside, prose=True)


def extract(text: str | None, extractor: str, strict_tags: bool = False) -> Extraction:
    """Answer of a response by the extractor that its template names.

    Raises:
        ValueError: The extractor is unknown.
    """
    if extractor not in EXTRACTORS:
        raise ValueError(f"unknown extractor {extractor!r}")
    if not text:
        return MISSING
    return boxed(text) if extractor == "boxed" else answer_tag(text, strict_tags)
