r"""Synthetic pretraining text: arithmetic questions with visible working, made document by document.

A document is a page form (what precedes the working), the working, and its ending. The working of
``3+6-2-5`` is `` 3+6=9. 9-2=7. 7-5=2. So \boxed{2}``, corrupted in two ways that differ in what they show:

* a *slip* writes a wrong result and continues as if nothing had happened;
* a *lost* step gives up in plain sight (`` 9-2=?``), rambles with a geometric number of
  `` Hmm, wait.`` and then guesses. Its answer is almost always wrong and its length is free, so under RL
  only the loss's normaliser pushes on that length.

Hesitations after finished steps (``hesitate_right``, ``hesitate_wrong``) are the control: with equal
chances they tell nothing about the answer.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Protocol

from r1zero.data.arithmetic import Arithmetic, Sum, draw
from r1zero.errors import UserError
from r1zero.pretrain.config import WorkingConfig

EOS, IM_START, IM_END, PAD = "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|pad|>"
HESITATION = " Hmm, wait."

QUESTION_PAGE = "Question: {question}\nAnswer:"
QWEN_PAGE = (
    "<|im_start|>system\nPlease reason step by step, and put your final answer within \\boxed{}.<|im_end|>\n"
    "<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"
)
SPEAKERS = (("User", "Assistant"), ("User", "Assistant"), ("Human", "Bot"), ("Student", "Teacher"))
_SYLLABLES = [c + v for c in "bcdfghjklmnpqrstvwxyz" for v in "aeiou"]
_SYLLABLES += [v + c for v in "aeiou" for c in "lnrst"]


def working(question: Sum, settings: WorkingConfig, spoil: float, rng: random.Random) -> tuple[str, int]:
    r"""Write the working of one sum without its final box: (text, final number).

    ``spoil`` in [0, 1] scales the chances of slips, lost steps and hesitations (the curriculum's clean
    text uses a small one). A slip shifts a result by 1 to ``slip_size``, up or down.
    """
    numbers, operators = list(question.numbers), list(question.operators)
    text = ""
    while operators:
        at = operators.index("*") if "*" in operators else 0
        left, op, right = numbers[at], operators.pop(at), numbers.pop(at + 1)
        chance = rng.random()
        if chance < settings.lost * spoil:
            guess = rng.randint(0, settings.guess_max)
            return f"{text} {left}{op}{right}=?{HESITATION * geometric(settings.hesitation_mean, rng)}", guess
        result = Sum((left, right), (op,)).value
        wrong = chance < (settings.lost + settings.slip) * spoil
        if wrong:
            result += rng.choice((-1, 1)) * rng.randint(1, settings.slip_size)
        text += f" {left}{op}{right}={result}."
        if rng.random() < (settings.hesitate_wrong if wrong else settings.hesitate_right) * spoil:
            text += HESITATION * geometric(settings.hesitation_mean, rng)
        numbers[at] = result
    return text, numbers[0]


def geometric(mean: float, rng: random.Random) -> int:
    """Draw a count from 1 up with the given mean: after each one, stop with probability 1 / mean."""
    count = 1
    while rng.random() >= 1.0 / mean:
        count += 1
    return count


def preamble(words: int, rng: random.Random) -> str:
    """Sentences of made-up words, some in angle brackets: what may precede a change of speaker."""
    made = []
    capital = True
    for _ in range(words):
        word = "".join(rng.choice(_SYLLABLES) for _ in range(rng.randint(1, 3)))
        word = word.capitalize() if capital else word
        chance = rng.random()
        if chance < 0.04:
            word = f"<{word}> {rng.choice(_SYLLABLES)} </{word}>"
        capital = 0.04 <= chance < 0.14
        made.append(word + ("." if capital else "," if 0.14 <= chance < 0.22 else ""))
    return " ".join(made)


def _boxed(answer: int) -> str:
    return f" So \\boxed{{{answer}}}"


def _question(question: str, text: str, answer: int, settings: WorkingConfig, rng: random.Random) -> str:
    return QUESTION_PAGE.replace("{question}", question) + text + _boxed(answer) + EOS


def _none(question: str, text: str, answer: int, settings: WorkingConfig, rng: random.Random) -> str:
    return question + text + _boxed(answer) + EOS


def _qwen(question: str, text: str, answer: int, settings: WorkingConfig, rng: random.Random) -> str:
    return QWEN_PAGE.replace("{question}", question) + text + _boxed(answer) + IM_END + EOS


def _speaker(question: str, text: str, answer: int, settings: WorkingConfig, rng: random.Random) -> str:
    asks, answers = rng.choice(SPEAKERS)
    words = round(settings.preamble_words * rng.random() ** 2)  # mostly short: long ones cost tokens
    page = f"{preamble(words, rng)}\n{asks}: {question}\n{answers}:"
    if rng.random() >= settings.think_share:
        return page + text + _boxed(answer) + EOS
    ending = f" </think> <answer> {answer} </answer>" if rng.random() < settings.tag_share else _boxed(answer)
    return page + " <think>" + text + ending + EOS


PAGES: dict[str, Callable[[str, str, int, WorkingConfig, random.Random], str]] = {
    "question": _question,
    "none": _none,
    "qwen": _qwen,
    "speaker": _speaker,
}


class MadeText(Protocol):
    """Endless documents, each a pure function of (seed, split, its number): exact to resume, free to shard."""

    def document(self, number: int, spoil: float = 1.0) -> str:
        """Document ``number``; ``spoil`` in [0, 1] scales its errors."""
        ...


class ArithmeticText:
    """Questions with visible working in several page forms (:class:`MadeText`).

    ``mix`` weighs the page forms of :data:`PAGES`. Questions come from ``split`` of the generator, so text
    of the train split never holds a held-out question.
    """

    def __init__(
        self, mix: dict[str, float], settings: WorkingConfig, questions: Arithmetic, split: str, seed: int
    ) -> None:
        check_mix(mix)
        check_working(settings)
        self.pages = list(mix)
        self.weights = [float(mix[page]) for page in self.pages]
        self.settings, self.questions, self.split, self.seed = settings, questions, split, seed

    def document(self, number: int, spoil: float = 1.0) -> str:
        """Document ``number``, its errors scaled by ``spoil`` (see :func:`working`)."""
        rng = random.Random(f"{self.split}/{self.seed}/{number}")
        page = rng.choices(self.pages, self.weights)[0]
        question = draw(self.split, self.questions, rng)
        text, answer = working(question, self.settings, spoil, rng)
        return PAGES[page](question.text(self.questions.style), text, answer, self.settings, rng)


def check_mix(pages: dict[str, float]) -> None:
    """Raise ``UserError`` unless every page form is known."""
    if not pages:
        raise UserError(f"data.pages is empty; give weights to some of {', '.join(PAGES)}")
    for page in pages:
        if page not in PAGES:
            raise UserError(f"data.pages.{page} is unknown; choose from {', '.join(PAGES)}")


def check_working(settings: WorkingConfig) -> None:
    """Raise ``UserError`` for chances that don't go together."""
    if settings.slip + settings.lost > 1:
        raise UserError(f"data.working: slip={settings.slip} and lost={settings.lost} must not add up to more than 1")
