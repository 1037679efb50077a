"""Where the answer stands: boxes, tags, what is cut off, what the question says (traps 26, 48)."""

from __future__ import annotations

import time

import pytest

from r1zero.reward.extract import answer_tag, boxed, extract
from r1zero.reward.outcome import Status

BOXED = [
    ("so \\boxed{15}.", "15"),
    ("\\boxed{12}. No: the total is \\boxed{15}", "15"),
    ("\\fbox{17}", "17"),
    ("\\boxed {17}", "17"),
    ("\\boxed\n{17}", "17"),
    ("$\\boxed 9$", "9"),
    ("$\\boxed 42$ units", "42"),
    ("$\\boxed9$", "9"),
    ("\\boxed{\\boxed{17}}", "17"),
    ("\\boxed{x=\\boxed{17}}", "17"),
    ("\\fbox{$\\boxed{17}$}", "17"),
    ("\\boxed{\\left\\{\\frac{1}{2},3\\right\\}}", "\\left\\{\\frac{1}{2},3\\right\\}"),
    ("\\boxed{\\{1,2\\}}", "\\{1,2\\}"),
    ("\\boxed{[0,1)}", "[0,1)"),
    ("\\boxed{36} as asked, within \\boxed{}.", "36"),
    ("\\boxed{36}, put in \\boxed{ } as asked", "36"),
    ("\\boxed{36}. I used \\boxed as asked", "36"),
    ("\\boxed{8}}}.", "8"),
    ("{{{ \\boxed{8}", "8"),
    ("\\boxed{1}, \\boxed{2}", "1, 2"),
    ("$\\boxed{1}$ and $\\boxed{2}$", "1, 2"),
    ("\\boxed{1} or \\boxed{2}.", "1, 2"),
    ("\\boxed{1}\\quad\\boxed{2}", "1, 2"),
    ("\\boxed{1}\n\n\\boxed{1}", "1"),
    ("**Final Answer**\n\\boxed{840}\n\\boxed{ 840 }", "840"),
    ("Case 1: \\boxed{1}. Case 2: \\boxed{2}, \\boxed{3}", "2, 3"),
    ("\\boxed{8}\nUser: and 3+4?\nAssistant: \\boxed{7}", "7"),
    ("\\boxed{\\text{a } \\{ b}", "\\text{a } \\{ b"),
    ("\\boxed{a \\\\{b}}", "a \\\\{b}"),
    ("\\boxed{\n1\n}", "1"),
    ("\\boxedanswer{3} \\boxed{4}", "4"),
    ("\\boxed{3} \\boxed{\\frac{1}{2", None),
    ("\\boxed{\\frac{3}{4}", None),
    ("\\boxed{", None),
    ("\\boxed", None),
    ("\\boxed{}", None),
    ("\\boxed{ ~ }", None),
    ("\\boxed{$$}", None),
    ("The answer is 42.", None),
    ("", None),
    ("Put your answer in \\boxed{}. I get 5.", None),
]


@pytest.mark.parametrize(("response", "answer"), BOXED)
def test_last_box_with_an_argument(response, answer):
    """The last balanced box counts; empty ones and the bare word don't; an unclosed last one is no answer."""
    found = boxed(response)
    assert found.answer == answer
    assert found.status is (None if answer is not None else Status.no_answer)


TAGS = [
    (" I add. </think> <answer> 42 </answer>", "42", None),
    (" I add. </think><answer>42</answer>", "42", None),
    (" I add. </think>\n\n<answer>\n42\n</answer>\n", "42", None),
    (" </think> So: <answer> 42 </answer>", "42", None),
    (" </think> <answer> 42 </answer> Done.", "42", None),
    (" <answer> 7 </answer> no </think> <answer> 42 </answer>", "42", None),
    (" use <answer> here </think> <answer> 42 </answer>", "42", None),
    (" </think> no </think> <answer> 42 </answer>", "42", None),
    (" \\boxed{41} </think> <answer> 42 </answer>", "42", None),
    (" </think> <answer>\\boxed{42}</answer>", "42", None),
    (" </think> <answer>It is $\\boxed{42}$, as \\boxed{} asks.</answer>", "42", None),
    (" </think> <answer>\\boxed{1} and \\boxed{2}</answer>", "1, 2", None),
    (" </think> <answer> The answer is 42. </answer>", "42.", None),
    (" </think> <answer> So, the final answer is: $x$ </answer>", "$x$", None),
    (" </think> <answer> \\boxed{42 </answer>", None, Status.no_answer),
    (" </think> <answer></answer>", None, Status.no_answer),
    (" </think> <answer> $ $ </answer>", None, Status.no_answer),
    (" </think> <answer>\\boxed{}</answer>", None, Status.no_answer),
    (" </think> <answer> 42", None, Status.unformatted),
    (" </think> 42 </answer>", None, Status.unformatted),
    (" </think> </answer> 42 <answer>", None, Status.unformatted),
    (" </think> <answer> 7 </answer> <answer> 42 </answer>", None, Status.unformatted),
    (" </think> <answer> 7 <answer> 42 </answer>", None, Status.unformatted),
    (" </think> <answer> 7 </answer> </answer>", None, Status.unformatted),
    (" </think> <answer> 7 </think> </answer>", None, Status.unformatted),
    (" 42 <answer> 42 </answer>", None, Status.unformatted),
    ("The value is \\boxed{42}", None, Status.unformatted),
    (" </think> <ANSWER> 42 </ANSWER>", None, Status.unformatted),
]


@pytest.mark.parametrize(("response", "answer", "status"), TAGS)
def test_one_answer_block_after_the_thinking(response, answer, status):
    """Exactly one block after the last </think> counts, a box inside it, nothing outside it."""
    found = answer_tag(response)
    assert found.answer == answer
    assert found.status is status


@pytest.mark.parametrize(
    ("between", "accepted"), [(" ", True), ("", False), ("\n", False), ("  ", False), (" so ", False)]
)
def test_strict_tags_want_exactly_one_space(between, accepted):
    """reward.strict_tags is the paper's code: "</think> <answer>" and nothing else."""
    response = f" I add. </think>{between}<answer> 42 </answer>"
    assert (extract(response, "answer_tag", strict_tags=True).answer == "42") is accepted
    assert extract(response, "answer_tag", strict_tags=False).answer == "42"


@pytest.mark.parametrize(
    "unit", ["{", "\\boxed{", "}", "\\boxed{1}", "\\boxed{} ", "<answer>", "$", "\\", "\\text{", " "]
)
def test_extraction_is_linear(unit):
    """100,000 characters of anything take well under a second, in both extractors."""
    text = unit * (100_000 // len(unit))
    begin = time.process_time()
    for response in (
        text,
        f"\\boxed{{1}}{text}",
        f"\\boxed{{1}}{text}\\boxed{{2}}",
        f"</think> <answer>{text}</answer>",
    ):
        extract(response, "boxed")
        extract(response, "answer_tag")
    assert time.process_time() - begin < 4.0


def test_unknown_extractor_is_an_error():
    with pytest.raises(ValueError, match="unknown extractor"):
        extract("5", "regex")
