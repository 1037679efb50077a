"""Nothing that comes with a model folder is run: no Python files, no pickles, no chat template outside its sandbox."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from r1zero.config import ModelConfig
from r1zero.data.templates import Template
from r1zero.errors import UserError
from r1zero.learn.policy import Policy, load_tokenizer
from r1zero.rollout.sync import expected_parameters
from tiny_models import make_tiny, tiny_tokenizer

CHAT = Template(name="chat", text="{question}", chat=True)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model folder with a Python file that makes ``canary`` when it is imported."""
    made = make_tiny(tmp_path / "model", context=128)
    (made / "own.py").write_text(
        f"open({str(tmp_path / 'canary')!r}, 'w').close()\n"
        "from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM\n"
        "class Config(Qwen2Config): model_type = 'unheard_of'\n"
        "class Model(Qwen2ForCausalLM): config_class = Config\n"
        "class Tokenizer(PreTrainedTokenizerFast): pass\n"
    )
    return made


def change(file: Path, **values: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


AUTO = {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"}


def test_code_beside_a_known_model_is_left_alone(folder: Path, tmp_path: Path) -> None:
    change(folder / "config.json", auto_map=AUTO)
    change(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": ["own.Tokenizer", None]})
    load_tokenizer(folder)
    Policy.from_folder(folder, ModelConfig(name="folder", path=str(folder)))
    expected_parameters(str(folder))
    assert not (tmp_path / "canary").exists()


def test_a_model_that_needs_its_code_is_refused_in_one_line(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    change(folder / "config.json", auto_map=AUTO, model_type="unheard_of")
    with pytest.raises(UserError) as caught:
        Policy.from_folder(folder, ModelConfig(name="folder", path=str(folder)))
    assert "needs Python code that comes with it, and none is run; model.trust_remote_code=true" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "canary").exists()
    # The same folder, trusted: the code is run, so the test would notice.
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))
    Policy.from_folder(folder, ModelConfig(name="folder", path=str(folder), trust_remote_code=True))
    assert (tmp_path / "canary").exists()


def test_pickled_weights_are_refused_in_one_line(folder: Path, tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return open, (str(tmp_path / "canary"), "w")

    (folder / "model.safetensors").unlink()
    torch.save({"model.norm.weight": Evil()}, folder / "pytorch_model.bin")
    with pytest.raises(UserError, match="are pickled Python objects, which are not loaded") as caught:
        Policy.from_folder(folder, ModelConfig(name="folder", path=str(folder)))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize(
    "template",
    [
        "{{ cycler.__init__.__globals__.os.system('touch CANARY') }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.__class__.__init__.__globals__['sys'] }}",
        "{{ self.__init__.__globals__.__builtins__.open('CANARY', 'w') }}",
        "{% set x = messages.append(1) %}",
        "{% for i in range(10000000) %}{% endfor %}",
        "{{ 'x' % ",
    ],
)
def test_chat_templates_run_in_a_sandbox(template: str, tmp_path: Path) -> None:
    """What reaches for Python, changes its input or never ends is an error in one line."""
    tokenizer = tiny_tokenizer.__wrapped__()
    tokenizer.chat_template = template.replace("CANARY", str(tmp_path / "canary"))
    with pytest.raises(UserError, match="the chat template of this model can't be used") as caught:
        CHAT.encode("1+1", tokenizer)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "canary").exists()


def test_a_question_is_no_template() -> None:
    tokenizer = tiny_tokenizer.__wrapped__()
    text, _ = CHAT.encode("{{ 7 * 7 }} {% set x = 1 %}", tokenizer)
    assert "{{ 7 * 7 }} {% set x = 1 %}" in text
