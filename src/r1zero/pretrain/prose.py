r"""Two more kinds of synthetic text, for the bases of Fig. 7 in miniature.

``Prose`` is what a web page about sums is to a question-answer page: the same facts and workings, in running
text without a question, a box or a tag. ``Talk`` holds no arithmetic at all: made-up words, speakers who ask and
answer in the forms of :mod:`r1zero.pretrain.text`, and numbers that mean nothing; it teaches forms alone.
"""

from __future__ import annotations

import random

from r1zero.data.arithmetic import Arithmetic, draw
from r1zero.pretrain.config import WorkingConfig
from r1zero.pretrain.text import EOS, SPEAKERS, preamble, working

_OPENINGS = ("Take {sum}.", "Let us look at {sum}.", "As for {sum}:", "Here is {sum}.", "{sum} goes like this:")
_CLOSINGS = ("This makes {value}.", "The result is {value}.", "That leaves {value}.", "In all {value}.")


class Prose:
    """Web-like text: made-up sentences around sums that are worked out in running text."""

    def __init__(self, settings: WorkingConfig, questions: Arithmetic, split: str, seed: int) -> None:
        self.settings, self.questions, self.split, self.seed = settings, questions, split, seed

    def document(self, number: int, spoil: float = 1.0) -> str:
        """Document ``number``: one or two sums between sentences that have nothing to do with them."""
        rng = random.Random(f"prose/{self.split}/{self.seed}/{number}")
        parts = [preamble(rng.randint(2, 12), rng)]
        for _ in range(rng.randint(1, 2)):
            question = draw(self.split, self.questions, rng)
            text, value = working(question, self.settings, spoil, rng)
            opening = rng.choice(_OPENINGS).format(sum=question.symbols)
            parts += [f"{opening}{text} {rng.choice(_CLOSINGS).format(value=value)}", preamble(rng.randint(2, 8), rng)]
        return " ".join(parts) + EOS


class Talk:
    """Speakers asking and answering in made-up words; an answer is a number that follows from nothing."""

    def __init__(self, settings: WorkingConfig, split: str, seed: int) -> None:
        self.settings, self.split, self.seed = settings, split, seed

    def document(self, number: int, spoil: float = 1.0) -> str:
        """Document ``number``."""
        rng = random.Random(f"talk/{self.split}/{self.seed}/{number}")
        asks, answers = rng.choice(SPEAKERS)
        words = round(self.settings.preamble_words * rng.random() ** 2)
        words_asked = rng.random() < 1.0 - self.settings.asked_sums
        asked = preamble(rng.randint(1, 6), rng) if words_asked else _numbers(rng) + "=?"
        page = f"{preamble(words, rng)}\n{asks}: {asked}\n{answers}:"
        said = f" {preamble(rng.randint(1, 8), rng)}"
        value = rng.randint(0, self.settings.guess_max)
        if rng.random() >= self.settings.think_share:
            return f"{page}{said} So \\boxed{{{value}}}{EOS}"
        tagged = rng.random() < self.settings.tag_share
        ending = f" </think> <answer> {value} </answer>" if tagged else f" So \\boxed{{{value}}}"
        return f"{page} <think>{said}{ending}{EOS}"


def _numbers(rng: random.Random) -> str:
    """Digits and signs in the look of a sum; what follows them in the text has nothing to do with it."""
    return str(rng.randint(1, 9)) + "".join(f"{rng.choice('+-')}{rng.randint(1, 9)}" for _ in range(3))
