r"""One canonical spelling of a short piece of LaTeX or plain text: linear, own code.

``canonical`` maps unicode to LaTeX, drops what only moves ink about (spacing and sizing commands, math
delimiters, fonts, markdown stars) and spells synonyms one way. It never changes letters, digits, signs,
brackets or their order, so two texts with one canonical form are the same answer.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

_SYMBOLS = {
    "\u2212": "-", "\u2013": "-", "\u2014": "-", "\u2010": "-", "\u2011": "-", "\ufe63": "-",
    "\u00d7": r"\times ", "\u2715": r"\times ", "\u00b7": r"\cdot ", "\u22c5": r"\cdot ", "\u2219": r"\cdot ",
    "\u00f7": "/", "\u2044": "/", "\u2215": "/",
    "\u00b1": r"\pm ", "\u2213": r"\mp ",
    "\u2264": r"\leq ", "\u2265": r"\geq ", "\u2a7d": r"\leq ", "\u2a7e": r"\geq ", "\u2260": r"\neq ",
    "\u2248": r"\approx ", "\u221e": r"\infty ", "\u221a": r"\sqrt ", "\u221b": r"\sqrt[3] ",
    "\u2208": r"\in ", "\u222a": r"\cup ", "\u2229": r"\cap ", "\u2205": r"\emptyset ", "\u00d8": r"\emptyset ",
    "\u2216": r"\setminus ", "\u2220": r"\angle ",
    "\u211d": r"\mathbb{R}", "\u2124": r"\mathbb{Z}", "\u2115": r"\mathbb{N}", "\u211a": r"\mathbb{Q}",
    "\u2102": r"\mathbb{C}",
    "\u00b0": r"^{\circ}", "\u02da": r"^{\circ}", "\u00ba": r"^{\circ}",
    "\u03b1": r"\alpha ", "\u03b2": r"\beta ", "\u03b3": r"\gamma ", "\u03b4": r"\delta ", "\u03b5": r"\epsilon ",
    "\u03b8": r"\theta ", "\u03bb": r"\lambda ", "\u03bc": r"\mu ", "\u00b5": r"\mu ", "\u03c0": r"\pi ",
    "\u03c1": r"\rho ", "\u03c3": r"\sigma ", "\u03c4": r"\tau ", "\u03c6": r"\phi ", "\u03d5": r"\phi ",
    "\u03c9": r"\omega ", "\u0394": r"\Delta ", "\u03a9": r"\Omega ", "\u210f": r"\hbar ",
    "\u2032": "'", "\u2019": "'", "\u2018": "'", "\u201c": '"', "\u201d": '"',
    "\uff0c": ",", "\u3001": ",", "\uff1b": ";", "\u3002": ".", "\u060c": ",", "\u066b": ".", "\u066c": ",",
    "\u6216": r"\text{or}", "\u6216\u8005": r"\text{or}", "\u548c": r"\text{and}", "\u4e0e": r"\text{and}",
    "\u20ac": r"\text{EUR}", "\u00a3": r"\text{GBP}", "\u00a5": r"\text{JPY}", "\u20b9": r"\text{INR}",
    "\u2030": r"\text{permille}", "\u2026": r"\ldots ", "\u22ef": r"\ldots ",
    "\u230a": r"\lfloor ", "\u230b": r"\rfloor ", "\u2308": r"\lceil ", "\u2309": r"\rceil ",
    "\u27e8": r"\langle ", "\u27e9": r"\rangle ", "\u3008": r"\langle ", "\u3009": r"\rangle ",
    "\u2192": r"\to ", "\u2211": r"\sum ", "\u220f": r"\prod ", "\u222b": r"\int ",
}  # fmt: skip
_SUPERSCRIPTS = dict(
    zip("\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079\u207a\u207b\u207f", "0123456789+-n", strict=True)
)
_SUBSCRIPTS = dict(zip("\u2080\u2081\u2082\u2083\u2084\u2085\u2086\u2087\u2088\u2089", "0123456789", strict=True))

_MERGED = {
    r"\dfrac": r"\frac", r"\nicefrac": r"\frac", r"\sfrac": r"\frac", r"\xfrac": r"\frac",
    r"\tfrac": r"\frac", r"\cfrac": r"\frac", r"\dbinom": r"\binom", r"\tbinom": r"\binom",
    r"\choose": r"\choose", r"\le": r"\leq", r"\ge": r"\geq", r"\leqslant": r"\leq", r"\geqslant": r"\geq",
    r"\leqq": r"\leq", r"\geqq": r"\geq", r"\ne": r"\neq", r"\lt": "<", r"\gt": ">", r"\times": r"\cdot",
    r"\ast": r"\cdot", r"\div": "/", r"\lbrace": r"\{", r"\rbrace": r"\}", r"\lbrack": "[", r"\rbrack": "]",
    r"\lparen": "(", r"\rparen": ")", r"\vert": "|", r"\lvert": "|", r"\rvert": "|", r"\mid": "|",
    r"\varnothing": r"\emptyset", r"\dots": r"\ldots", r"\cdots": r"\ldots", r"\dotsc": r"\ldots",
    r"\dotsb": r"\ldots", r"\degree": r"^{\circ}", r"\degrees": r"^{\circ}", r"\textdegree": r"^{\circ}",
    r"\varphi": r"\phi", r"\varepsilon": r"\epsilon", r"\imath": "i", r"\rightarrow": r"\to",
    r"\textrm": r"\text", r"\textbf": r"\text", r"\textit": r"\text", r"\textnormal": r"\text",
    r"\textsf": r"\text", r"\texttt": r"\text", r"\mbox": r"\text", r"\hbox": r"\text", r"\mathrm": r"\text",
    r"\mathop": r"\text", r"\operatorname": r"\text", r"\operatorname*": r"\text", r"\emph": r"\text",
    r"\rm": r"\text", r"\mathsf": r"\text", r"\mathtt": r"\text", r"\textsc": r"\text", r"\textup": r"\text",
    r"\euro": r"\text{EUR}", r"\pounds": r"\text{GBP}", r"\textdollar": r"\$", r"\&": r"\text{and}",
    r"\land": r"\text{and}", r"\wedge": r"\text{and}", r"\lor": r"\text{or}", r"\vee": r"\text{or}",
    r"\And": r"\text{and}", r"\colon": ":", r"\backslash": r"\setminus", r"\slash": "/", r"\ordinarycolon": ":",
    r"\tg": r"\tan", r"\ctg": r"\cot", r"\arctg": r"\arctan", r"\sen": r"\sin", r"\cosec": r"\csc",
}  # fmt: skip
_DROPPED = {
    r"\left", r"\right", r"\middle", r"\big", r"\Big", r"\bigg", r"\Bigg", r"\bigl", r"\bigr", r"\Bigl", r"\Bigr",
    r"\biggl", r"\biggr", r"\Biggl", r"\Biggr", r"\bigm", r"\displaystyle", r"\textstyle", r"\scriptstyle",
    r"\limits", r"\nolimits", r"\mathbf", r"\boldsymbol", r"\bm", r"\bf", r"\it", r"\mathit", r"\mathnormal",
    r"\bold", r"\pmb", r"\large", r"\Large", r"\small", r"\normalsize", r"\!", r"\/", r"\-", r"\mathstrut", r"\strut",
    r"\null", r"\relax", r"\nobreak", r"\underline", r"\mathord", r"\mathbin", r"\mathrel", r"\mathclose",
    r"\mathopen", r"\ensuremath", r"\boxed", r"\fbox", r"\hfill", r"\noindent", r"\allowbreak", r"\centering",
}  # fmt: skip
_BLANKS = {r"\,", r"\;", r"\:", r"\>", r"\ ", r"\quad", r"\qquad", "~", r"\space", r"\enspace", r"\thinspace",
           r"\nobreakspace"}  # fmt: skip
_SIZED = {r"\hspace", r"\vspace", r"\hspace*", r"\kern", r"\mspace", r"\phantom", r"\hphantom", r"\vphantom", r"\color",
          r"\textcolor", r"\label", r"\tag"}  # fmt: skip
_DELIMITERS = {"$", r"\(", r"\)", r"\[", r"\]"}
_TEXT_LETTERS = {"e", "i", "d"}

_LEX = re.compile(r"\\[a-zA-Z]+\*?|\\.|\s+|\*+|[^\\]", re.DOTALL)
_WRAPPED = re.compile(r"\\text\{([^{}]*\d[^{}]*)\}")  # text that holds a number is read like any other answer
_INDEXED_ROOT = re.compile("([\u00b2-\u00b9\u2074-\u2079])\u221a")
_DIGITS = re.compile(r"-?\d+(?:\.\d+)?")
_ELLIPSIS = re.compile(r"\.{3,}")
_INNER_TEXT = re.compile(r"\\(?:text|mathrm|textbf|mbox|textit|textrm)\s*\{([^{}]*)\}")
_DOLLAR = re.compile(r"(?<!\\)\$")
_MARKED_THOUSANDS = re.compile(r"(?<=\d)(?:\{,\}|,\s*\\!|\\!\s*,|\{,\\!\}|')\s*(?=\d{3}(?!\d))")
_SPACED_THOUSANDS = re.compile(r"[\s$\-]*(?:\\\$)?\d{1,3}(?:\s*,?\s*\\[,;:! ]\s*\d{3})+(?!\d)(?:\.\d+)?[\s$.]*")
_GLUED = re.compile(r"(?<=[\d)\]}$])\s*(or|and)\s*(?=[A-Z(\[\d\\]|[a-z]\s*=)")
_QUAD = re.compile(r"(\\q?quad)(?=[a-zA-Z])")


@lru_cache(maxsize=4096)
def _ascii(char: str) -> str:
    """LaTeX for one character that is not ASCII; "" for what can't be seen, the character itself if unknown."""
    if char in _SYMBOLS:
        return _SYMBOLS[char]
    category = unicodedata.category(char)
    if category == "Nd":
        return str(unicodedata.decimal(char))
    if category == "No" and "\u2044" in unicodedata.normalize("NFKC", char):
        over, under = unicodedata.normalize("NFKC", char).split("\u2044")
        return rf"\frac{{{over}}}{{{under}}}" if over and under else char
    if category in ("Cc", "Cf", "Cs", "Co", "Cn", "Mn") or char == "\ufe0f":
        return " " if char.isspace() else ""
    if category == "Zs":
        return " "
    folded = unicodedata.normalize("NFKC", char)
    if folded != char and len(folded) == 1:
        return folded if ord(folded) < 128 else _ascii(folded)
    return char


def to_latex(text: str) -> str:
    """Spell unicode digits, signs, superscripts and vulgar fractions as LaTeX; drop control characters."""
    if text.isascii() and text.isprintable():
        return text
    text = _INDEXED_ROOT.sub(lambda match: rf"\sqrt[{_SUPERSCRIPTS[match.group(1)]}]", text)
    out: list[str] = []
    script = ""
    for char in text:
        kind = "^" if char in _SUPERSCRIPTS else "_" if char in _SUBSCRIPTS else ""
        if script and kind != script:
            out.append("}")
        if kind and kind != script:
            out.append(kind + "{")
        script = kind
        if kind:
            out.append((_SUPERSCRIPTS if kind == "^" else _SUBSCRIPTS)[char])
        elif " " <= char <= "~":
            out.append(char)
        elif char in "\t\n\r\f\v":
            out.append(" ")
        else:
            out.append(_ascii(char))
    if script:
        out.append("}")
    return "".join(out)


def lex(text: str) -> list[str]:
    r"""Canonical tokens: single characters, commands, ``\text{...}`` as one token, " " for any blank.

    Braces that hold nothing and a font's braces stay; ``canonical`` removes the ones that don't matter.
    """
    text = _MARKED_THOUSANDS.sub("", _QUAD.sub(r"\1 ", to_latex(text)))
    if _SPACED_THOUSANDS.fullmatch(text):
        text = re.sub(r",?\s*\\[,;:! ]", "", text)
    text = _GLUED.sub(r"\\text{\1}", text)
    raw = _LEX.findall(_ELLIPSIS.sub(r"\\ldots ", text))
    out: list[str] = []
    index = 0
    while index < len(raw):
        token = raw[index]
        index += 1
        if token.isspace() or token in _BLANKS:
            if out and out[-1] != " ":
                out.append(" ")
            continue
        if token in _DELIMITERS:
            continue
        if token[0] == "*":
            if len(token) == 1 and out:
                out.append(r"\cdot")
            elif (
                len(token) == 2
                and out
                and out[-1].isalnum()
                and index < len(raw)
                and (raw[index].isdigit() or raw[index] in "-(")
            ):
                out.append("^")
            continue
        if token in _DROPPED:
            continue
        if token in _SIZED:
            if index < len(raw) and raw[index] == "{":
                _, index = _group(raw, index)
            continue
        token = _MERGED.get(token, token)
        if token == r"\text":
            while index < len(raw) and raw[index].isspace():
                index += 1
            if index < len(raw) and raw[index] == "{":
                content, index = _group(raw, index)
                inner = " ".join(_INNER_TEXT.sub(r"\1", _DOLLAR.sub(" ", content)).split())
                if inner in _TEXT_LETTERS:
                    out.append(inner)
                elif _DIGITS.fullmatch(inner):
                    out.extend(inner)
                elif inner:
                    out.append(rf"\text{{{inner}}}")
            continue
        if token == r"\backslash" or token == "\\":
            continue
        out.append(token)
    while out and out[-1] == " ":
        out.pop()
    return out


def _group(raw: list[str], index: int) -> tuple[str, int]:
    """Text of the brace group that opens at index, and the index behind it."""
    depth = 0
    parts: list[str] = []
    while index < len(raw):
        token = raw[index]
        index += 1
        if token == "{":
            depth += 1
            if depth == 1:
                continue
        elif token == "}":
            depth -= 1
            if depth == 0:
                break
        if token not in _DROPPED:
            parts.append(" " if token in _BLANKS else token)
    return "".join(parts), index


def _tidy(tokens: list[str]) -> list[str]:
    """Drop a trailing stop, and braces round the whole or round a brace group."""
    tokens = list(tokens)
    while tokens and tokens[-1] in (".", " ", ";", ",", r"\cdot", "\\\\", "_", "`"):
        tokens.pop()
    while tokens and tokens[0] in (" ", "_", "`", "\\\\"):
        tokens = tokens[1:]
    while len(tokens) >= 2 and tokens[0] == "{" and tokens[-1] == "}" and _closes(tokens, 0) == len(tokens) - 1:
        tokens = tokens[1:-1]
        while tokens and tokens[-1] in (".", " "):
            tokens = tokens[:-1]
        while tokens and tokens[0] == " ":
            tokens = tokens[1:]
    return tokens


def _closes(tokens: list[str], start: int) -> int:
    depth = 0
    for index in range(start, len(tokens)):
        depth += (tokens[index] == "{") - (tokens[index] == "}")
        if depth == 0:
            return index
    return -1


def join(tokens: list[str]) -> str:
    """Text of canonical tokens; blanks stay only where digits, letters or a comma's item would run together."""
    out: list[str] = []
    for index, token in enumerate(tokens):
        if token == " ":
            before = out[-1] if out else ""
            after = tokens[index + 1] if index + 1 < len(tokens) else ""
            if (before[-1:].isalnum() and after[:1].isalnum()) or before == ",":
                out.append(" ")
            continue
        if out and out[-1][0] == "\\" and out[-1][-1].isalpha() and token[0].isalpha():
            out.append(" ")
        out.append(token)
    return "".join(out)


@lru_cache(maxsize=65536)
def canonical(text: str) -> str:
    r"""The one spelling of text.

    >>> canonical(r"$\dfrac{1}{2}\,.$")
    '\\frac{1}{2}'
    """
    spelled = join(_tidy(lex(text)))
    wrapped = _WRAPPED.fullmatch(spelled)
    return canonical(wrapped.group(1)) if wrapped else spelled


@lru_cache(maxsize=65536)
def key(text: str) -> str:
    r"""What two equal spellings share: ``canonical`` without blanks, optional braces and explicit signs of product.

    >>> key(r"\frac12") == key(r"\frac{1}{2}")
    True
    """
    spaced = _tidy(lex(text))
    tokens = [
        token
        for index, token in enumerate(spaced)
        if token != " " or (spaced[index - 1].isdigit() and spaced[index + 1].isdigit())
    ]
    out: list[str] = []
    index = 0
    while index < len(tokens):
        # {x} holds one token: the braces are optional wherever they stand
        if (
            tokens[index] == "{"
            and index + 2 < len(tokens)
            and tokens[index + 2] == "}"
            and tokens[index + 1] not in "{}"
        ):
            out.extend(_plain_word(tokens[index + 1]))
            index += 3
            continue
        out.extend(_plain_word(tokens[index]))
        index += 1
    return "\x1f".join(out)


def _plain_word(token: str) -> list[str]:
    r"""The letters of ``\text{word}``: a word is the same word without its wrapper."""
    if token.startswith("\\text{") and token[6:-1].isalpha():
        return list(token[6:-1])
    return [token]
