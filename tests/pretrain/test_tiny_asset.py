"""The committed base model: its size, its files, and the figures that RL starts from (sampled, real extraction)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from transformers import AutoTokenizer

from r1zero.batch import Completion, Question
from r1zero.config import ASSETS
from r1zero.data.arithmetic import generate
from r1zero.data.templates import Template
from r1zero.learn.policy import eos_ids
from r1zero.reward.extract import extract
from r1zero.rollout.engine import Sampling
from r1zero.rollout.hf.engine import HFEngine

CONF = Path(__file__).resolve().parents[2] / "conf"
TINY = ASSETS / "tiny"
LIMIT = 192


def template(name: str) -> Template:
    fields = yaml.safe_load((CONF / "template" / f"{name}.yaml").read_text())
    return Template(
        name, fields["text"], stop=tuple(fields.get("stop", ())), extractor=fields.get("extractor", "boxed")
    )


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(TINY)


@pytest.fixture(scope="module")
def engine() -> HFEngine:
    return HFEngine(str(TINY), dtype="float32", context=1024)


@pytest.fixture(scope="module")
def questions() -> list[Question]:
    return generate("heldout", 150, 3)


def sample(
    engine: HFEngine, tokenizer: Any, name: str, questions: list[Question], temperature: float = 1.0
) -> list[tuple[bool, Completion]]:
    form = template(name)
    prompts = [form.encode(question.text, tokenizer)[1] for question in questions]
    sampling = Sampling(
        n=2 if temperature else 1,
        max_tokens=LIMIT,
        temperature=temperature,
        stop=form.stop,
        keep_stop=True,
        stop_ids=form.stop_ids(tokenizer, eos_ids(TINY)),
        logprobs=False,
    )
    made = engine.generate(prompts, sampling, seed=0)
    return [
        (extract(response.text, form.extractor).answer == question.gold[0], response)
        for question, group in zip(questions, made, strict=True)
        for response in group
    ]


def share(graded: list[tuple[bool, Completion]]) -> float:
    return sum(right for right, _ in graded) / len(graded)


def test_files_and_size() -> None:
    files = {path.name for path in TINY.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"} <= files
    assert "generation_config.json" in files
    assert sum(path.stat().st_size for path in TINY.iterdir()) < 2_000_000


def test_every_template_fits_the_context(tokenizer: Any) -> None:
    lengths = {
        name: len(template(name).encode("9+9-9+9=?", tokenizer)[1]) for name in ("question", "none", "qwen", "r1")
    }
    assert lengths["none"] < lengths["question"] <= 24
    assert lengths["r1"] > 150
    assert max(lengths.values()) + LIMIT <= 1024


def test_special_ids(tokenizer: Any) -> None:
    assert tokenizer.convert_tokens_to_ids(["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|pad|>"]) == [0, 1, 2, 3]
    assert eos_ids(TINY) == (0, 2)


def test_matching_template(engine: HFEngine, tokenizer: Any, questions: list[Question]) -> None:
    """Half right when sampled, nearly all when greedy; wrong answers longer, by the hesitations of the lost ones."""
    graded = sample(engine, tokenizer, "question", questions)
    assert 0.40 <= share(graded) <= 0.60
    right, wrong = ([len(response.ids) for ok, response in graded if ok is kind] for kind in (True, False))
    assert 2 < sum(wrong) / len(wrong) - sum(right) / len(right) < 12
    assert not any(response.truncated for _, response in graded)
    lost = [(ok, response) for ok, response in graded if "Hmm, wait." in response.text]
    assert 0.15 < len(lost) / len(graded) < 0.40
    assert share(lost) < 0.15
    greedy = sample(engine, tokenizer, "question", questions, temperature=0.0)
    assert share(greedy) > 0.85


def test_r1_template_starts_low_but_not_at_zero(engine: HFEngine, tokenizer: Any, questions: list[Question]) -> None:
    graded = sample(engine, tokenizer, "r1", questions)
    assert 0.10 <= share(graded) <= 0.32
    tagged = [response for _, response in graded if "</answer>" in response.text]
    assert 0.25 < len(tagged) / len(graded) < 0.75
    # They end on the stop string, and no EOS is wasted after it.
    assert all(response.text.endswith("</answer>") and response.finish_reason == "stop" for response in tagged)
