"""The pretraining text: errors at their stated rates, right answers where nothing was spoilt, no held-out question."""

from __future__ import annotations

import random
import re
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from r1zero.data.arithmetic import Arithmetic, Sum, draw, held_out
from r1zero.errors import UserError
from r1zero.pretrain.config import SourceConfig, TextConfig, WorkingConfig
from r1zero.pretrain.corpus import made_text
from r1zero.pretrain.data import MadeDocuments, spoil_at
from r1zero.pretrain.prose import Prose, Talk
from r1zero.pretrain.text import EOS, QUESTION_PAGE, QWEN_PAGE, ArithmeticText, check_mix, geometric, working

CONF = Path(__file__).resolve().parents[2] / "conf"
CLEAN = WorkingConfig(slip=0.0, lost=0.0)
MIX = {"question": 0.6, "none": 0.1, "qwen": 0.1, "speaker": 0.2}


def workings(settings: WorkingConfig, count: int, spoil: float = 1.0) -> list[tuple[Sum, str, int]]:
    rng = random.Random(0)
    sums = [draw("train", Arithmetic(), rng) for _ in range(count)]
    return [(question, *working(question, settings, spoil, rng)) for question in sums]


def test_a_clean_working_by_hand() -> None:
    text, answer = working(Sum((3, 6, 2, 5), ("+", "-", "-")), CLEAN, 1.0, random.Random(0))
    assert text == " 3+6=9. 9-2=7. 7-5=2."
    assert answer == 2
    text, answer = working(Sum((3, 2, 4), ("+", "*")), CLEAN, 1.0, random.Random(0))
    assert text == " 2*4=8. 3+8=11."
    assert answer == 11


def test_clean_text_is_always_right() -> None:
    assert all(answer == question.value for question, _, answer in workings(CLEAN, 500))


def test_slips_come_at_their_rate_and_go_on_from_the_wrong_result() -> None:
    settings = replace(CLEAN, slip=0.2)
    steps = wrong = 0
    for _, text, answer in workings(settings, 2000):
        found = re.findall(r" (\d+)([+-])(\d+)=(-?\d+)\.", text.replace("=-", "=-"))
        results = [int(r) for *_, r in re.findall(r" (-?\d+)([+-])(\d+)=(-?\d+)\.", text)]
        lefts = [int(left) for left, *_ in re.findall(r" (-?\d+)([+-])(\d+)=(-?\d+)\.", text)]
        assert lefts[1:] == results[:-1]
        assert answer == results[-1]
        for left, op, right, result in found:
            steps += 1
            wrong += int(result) != (int(left) + int(right) if op == "+" else int(left) - int(right))
    assert wrong / steps == pytest.approx(0.2, abs=0.02)


def test_lost_steps_end_in_a_guess_after_a_ramble_of_the_stated_mean() -> None:
    settings = replace(CLEAN, lost=0.2, hesitation_mean=5.0)
    made = workings(settings, 3000)
    lost = [(question, text, answer) for question, text, answer in made if "=?" in text]
    assert len(lost) / len(made) == pytest.approx(1 - 0.8**3, abs=0.03)
    rambles = [text.count(" Hmm, wait.") for _, text, _ in lost]
    assert min(rambles) == 1
    assert sum(rambles) / len(rambles) == pytest.approx(5.0, rel=0.07)
    assert all(re.fullmatch(r"( \d+[+-]\d+=\d+\.)* \d+[+-]\d+=\?( Hmm, wait\.)+", text) for _, text, _ in lost)
    assert sum(answer == question.value for question, _, answer in lost) / len(lost) < 0.12
    assert all(answer == question.value for question, text, answer in made if "=?" not in text)


def test_the_control_hesitates_after_right_and_wrong_steps_alike() -> None:
    settings = replace(CLEAN, slip=0.3, hesitate_right=0.2, hesitate_wrong=0.2)
    counts = {True: [0, 0], False: [0, 0]}
    for _, text, _ in workings(settings, 3000):
        for left, op, right, result, ramble in re.findall(r" (-?\d+)([+-])(\d+)=(-?\d+)\.((?: Hmm, wait\.)*)", text):
            right_step = int(result) == (int(left) + int(right) if op == "+" else int(left) - int(right))
            counts[right_step][0] += 1
            counts[right_step][1] += bool(ramble)
    for total, hesitant in counts.values():
        assert total > 1000
        assert hesitant / total == pytest.approx(0.2, abs=0.03)


def test_the_curriculum_scales_every_error() -> None:
    settings = WorkingConfig(slip=0.4, lost=0.4)
    right = sum(answer == question.value for question, _, answer in workings(settings, 1500, spoil=0.1))
    assert right / 1500 == pytest.approx(0.92**3, abs=0.03)
    assert all(answer == question.value for question, _, answer in workings(settings, 300, spoil=0.0))


def test_geometric_counts() -> None:
    rng = random.Random(1)
    counts = [geometric(4.0, rng) for _ in range(20_000)]
    assert sum(counts) / len(counts) == pytest.approx(4.0, rel=0.03)
    assert counts.count(1) / len(counts) == pytest.approx(0.25, abs=0.015)


def test_documents_are_functions_of_seed_and_number() -> None:
    text = ArithmeticText(MIX, WorkingConfig(), Arithmetic(), "train", 5)
    again = ArithmeticText(MIX, WorkingConfig(), Arithmetic(), "train", 5)
    assert [text.document(n) for n in (7, 3, 3)] == [again.document(n) for n in (7, 3, 3)]
    other = ArithmeticText(MIX, WorkingConfig(), Arithmetic(), "train", 6)
    assert [text.document(n) for n in range(20)] != [other.document(n) for n in range(20)]


def test_no_held_out_question_is_in_the_training_text() -> None:
    for split in ("train", "heldout"):
        text = ArithmeticText(MIX, WorkingConfig(), Arithmetic(), split, 0)
        for number in range(800):
            (question,) = re.findall(r"(?<![\d+-])(\d(?:[+-]\d){3})=\?", text.document(number))
            assert held_out(question, 10) == (split == "heldout")
        prose = Prose(WorkingConfig(), Arithmetic(), split, 0)
        for number in range(400):
            questions = re.findall(r"(?<![\d+-])(\d(?:[+-]\d){3})(?![\d+-])", prose.document(number))
            assert 1 <= len(questions) <= 2
            assert {held_out(question, 10) for question in questions} == {split == "heldout"}


def test_page_forms_come_at_their_weights_and_match_the_templates() -> None:
    assert yaml.safe_load((CONF / "template" / "question.yaml").read_text())["text"] == QUESTION_PAGE
    assert yaml.safe_load((CONF / "template" / "qwen.yaml").read_text())["text"] == QWEN_PAGE
    r1 = yaml.safe_load((CONF / "template" / "r1.yaml").read_text())["text"]
    text = ArithmeticText(MIX, WorkingConfig(), Arithmetic(), "train", 0)
    documents = [text.document(number) for number in range(4000)]
    share = {
        "question": sum(d.startswith("Question: ") for d in documents),
        "qwen": sum(d.startswith("<|im_start|>") for d in documents),
        "none": sum(d[0].isdigit() for d in documents),
        "speaker": sum(bool(re.search(r"\n\w+: \d.*\n\w+:", d)) for d in documents),
    }
    for page, weight in MIX.items():
        assert share[page] / 4000 == pytest.approx(weight, abs=0.03)
    # The r1 text itself is never seen, not even five of its words in a row.
    words = r1.split("\n")[0].split()
    for at in range(len(words) - 4):
        assert not any(" ".join(words[at : at + 5]) in d for d in documents)
    assert all(d.endswith(EOS) for d in documents)


def test_tags_and_boxes_stand_where_the_extractors_look() -> None:
    text = ArithmeticText({"speaker": 1.0}, WorkingConfig(), Arithmetic(), "train", 0)
    documents = [text.document(number) for number in range(2000)]
    tagged = [d for d in documents if "<think>" in d and "</think>" in d]
    thinking = [d for d in documents if ": <think>" in d]
    settings = WorkingConfig()
    assert len(thinking) / 2000 == pytest.approx(settings.think_share, abs=0.04)
    assert len(tagged) / len(thinking) == pytest.approx(settings.tag_share, abs=0.04)
    for document in documents:
        response = document.split("=?\n", 1)[1]
        assert ("\\boxed{" in response) != ("<answer>" in response)


def test_the_curriculum_by_hand_and_documents_shared_out_over_ranks() -> None:
    settings = WorkingConfig(clean_share=0.45, clean_scale=0.1)
    assert [spoil_at(progress, settings) for progress in (0.0, 0.4499, 0.45, 0.99)] == [0.1, 0.1, 1.0, 1.0]
    text = ArithmeticText(MIX, settings, Arithmetic(), "train", 0)
    ranks = [MadeDocuments(text, lambda document: [ord(c) for c in document], settings, rank, 2) for rank in (0, 1)]
    read = [stream.read(0.0) for _ in range(3) for stream in ranks]
    assert ["".join(map(chr, ids)) for ids in read] == [text.document(number, 0.1) for number in range(6)]


@pytest.mark.parametrize("kind", [Prose, Talk])
def test_prose_and_talk_are_functions_of_seed_and_number(kind: type) -> None:
    made = [
        kind(WorkingConfig(), *([Arithmetic()] if kind is Prose else []), split, seed)
        for split, seed in (("train", 0), ("train", 0), ("train", 1), ("heldout", 0))
    ]
    texts = [[text.document(number) for number in range(40)] for text in made]
    assert texts[0] == texts[1]
    assert len({tuple(found) for found in texts}) == 3
    for document in texts[0]:
        assert document.endswith(EOS)
        assert document.count(EOS) == 1
        assert kind is Talk or ("\\boxed" not in document and "<answer>" not in document)


def test_talk_without_sums_asks_nothing_that_looks_like_one() -> None:
    """A text in which a random number follows a sum teaches that sums have random results."""
    sums = re.compile(r"\d[+-]\d[\d+-]*=\?")
    asked = {
        share: sum(bool(sums.search(Talk(WorkingConfig(asked_sums=share), "train", 0).document(n))) for n in range(200))
        for share in (0.0, 0.5, 1.0)
    }
    assert asked[0.0] == 0
    assert 70 < asked[0.5] < 130
    assert asked[1.0] == 200


def test_a_source_may_have_questions_of_its_own() -> None:
    """tiny_terms: sums of 2 to 6 terms, and beside them some of 2 and 3 terms in words."""
    cfg = TextConfig(name="x", pages={"question": 1.0}, questions={"terms": [2, 6]})
    words = SourceConfig(kind="arithmetic", questions={"terms": [2, 3], "style": "words"})
    sums = {
        name: made_text(source, cfg, "train", 0)
        for name, source in (("words", words), ("qa", SourceConfig(kind="arithmetic")))
    }
    terms = {}
    for name, text in sums.items():
        assert text is not None
        asked = [text.document(n).partition("Answer:")[0] for n in range(100)]
        assert all(("Start with" in question) == (name == "words") for question in asked)
        terms[name] = {len(re.findall(r"\d", question)) for question in asked}
    assert terms == {"words": {2, 3}, "qa": {2, 3, 4, 5, 6}}


def test_unknown_or_empty_mixtures_are_refused() -> None:
    with pytest.raises(UserError, match=r"data\.pages\.web is unknown"):
        check_mix({"web": 1.0})
    with pytest.raises(UserError, match=r"data\.pages is empty"):
        check_mix({})


def test_chances_that_add_up_to_more_than_one_are_refused() -> None:
    with pytest.raises(UserError, match="more than 1"):
        ArithmeticText(MIX, replace(WorkingConfig(), slip=0.6, lost=0.6), Arithmetic(), "train", 0)
