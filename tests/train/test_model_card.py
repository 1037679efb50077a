"""policy/ works on a copy elsewhere: its chat template is the training template, and so are its stops."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import AutoTokenizer, GenerationConfig

from evaluate_support import TINY
from r1zero.config import AlgoConfig, DataConfig, ModelConfig, TemplateConfig, TrainConfig
from r1zero.data.templates import Template, template_of
from r1zero.train.model_card import describe
from tiny_models import make_tiny

TEXT = 'Say "why" {not} \\boxed{}.\nQ: {question}\n\tA: {{x}} é'


def config(text: str, stop: tuple[str, ...] = ()) -> TrainConfig:
    template = TemplateConfig(name="mine", text=text, stop=list(stop))
    return TrainConfig(
        algo=AlgoConfig(name="drgrpo"), model=ModelConfig(name="m", path="hub/m"), template=template,
        data=DataConfig(name="d"),
    )  # fmt: skip


@pytest.mark.parametrize("arch", ["qwen2", "llama"])
def test_the_chat_template_gives_the_prompts_of_the_training(arch: str, tmp_path: Path) -> None:
    """A BOS included, where the tokenizer puts one."""
    folder = make_tiny(tmp_path / "model", arch=arch)
    cfg = config(TEXT)
    describe(folder, cfg, AutoTokenizer.from_pretrained(folder), (1,), [])
    tokenizer = AutoTokenizer.from_pretrained(folder)
    _, wanted = template_of(cfg.template).encode("1+1=?", tokenizer)
    messages = [{"role": "user", "content": "1+1=?"}]
    given = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert list(given) == wanted
    plain = Template("chat_plain", "{question}", chat=True)
    assert plain.encode("1+1=?", tokenizer)[1] == wanted


def test_stops_and_card(tmp_path: Path) -> None:
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": 9, "temperature": 0.5}))
    results = [
        {"step": 0, "sums": {"accuracy": 0.25}},
        {"step": 9, "sums": {"accuracy": 0.5}, "average": {"accuracy": 0.5}},
    ]
    cfg = config("Q {question}", stop=("</answer>",))
    describe(tmp_path, cfg, AutoTokenizer.from_pretrained(TINY), (0, 2), results)
    loaded = GenerationConfig.from_pretrained(tmp_path)
    assert loaded.eos_token_id == [0, 2]
    assert loaded.stop_strings == ["</answer>"]
    assert loaded.temperature == 0.5
    text = (tmp_path / "README.md").read_text()
    assert text.startswith("---\nbase_model: hub/m\n")
    assert "| sums | before | 25.0 |" in text
    assert "| sums | after | 50.0 |" in text
    assert "average" not in text
    assert "</answer>" in text
