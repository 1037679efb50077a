"""Where probability goes: right answers alone, kinds of tokens, KL by another road, the figure from run folders."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer

from r1zero.algo.advantages import right_only
from r1zero.batch import Completion, RolloutBatch
from r1zero.errors import UserError
from r1zero.lab.study import near_zero
from report_support import make_run

ROOT = Path(__file__).resolve().parents[3]
TINY = ROOT / "src" / "r1zero" / "data" / "assets" / "tiny"


@pytest.fixture(scope="module")
def sharper(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded model with its last norm doubled: every logit is twice as large."""
    model = AutoModelForCausalLM.from_pretrained(TINY)
    model.model.norm.weight.data *= 2
    folder = tmp_path_factory.mktemp("sharper") / "policy"
    model.save_pretrained(folder)
    return folder


def test_right_answers_alone_are_pushed() -> None:
    rewards = torch.tensor([1.0, 0, 0, 0])
    batch = RolloutBatch([Completion([1], "", "stop")] * 4, 4, 0, rewards, rewards == 1, mask=[])
    assert right_only(batch).tolist() == [0.75, 0, 0, 0]


@pytest.mark.parametrize(
    ("token", "kind"),
    [("3", "numbers"), ("=?\n", "signs"), ("-", "signs"), (" Hmm", "hesitation"), (",", "hesitation"), (" \\", "box"),
     ("}", "box"), ("<|endoftext|>", "end"), (".", "other"), (" ", "other")],
)  # fmt: skip
def test_kinds_of_tokens(token: str, kind: str) -> None:
    assert near_zero.kind_of(token) == kind


def test_divergence_by_another_road(sharper: Path) -> None:
    """One text, token by token: doubled logits are the base's distribution squared and normalised."""
    base, policy = (AutoModelForCausalLM.from_pretrained(path).eval() for path in (TINY, sharper))
    tokenizer = AutoTokenizer.from_pretrained(TINY)
    prompt = tokenizer.encode("Question: 3+6-2-5=?\nAnswer:", add_special_tokens=False)
    text = tokenizer.encode(" 3+6=9.", add_special_tokens=False)
    table, opening = near_zero.moved(base, policy, tokenizer, [prompt], [text])
    expected = []
    for at in range(len(text)):
        with torch.no_grad():
            q = base(torch.tensor([prompt + text[:at]])).logits[0, -1].double().softmax(dim=-1)
        p = q**2 / (q**2).sum()
        expected.append((near_zero.kind_of(tokenizer.decode([text[at]])), float((p * (p / q).log()).sum())))
    for row in table.itertuples():
        same = [value for kind, value in expected if kind == row.kind]
        assert row.tokens == len(same)
        assert row.kl == pytest.approx(sum(same) / len(same), rel=1e-4)
        assert row.entropy_policy < row.entropy_base
    assert set(table["kind"]) == {"numbers", "signs", "other"}
    space = opening[opening["token"] == " "].iloc[0]
    assert 0.5 < space["base"] < space["policy"] <= 1


def test_the_figure_and_its_tables(tmp_path: Path, sharper: Path) -> None:
    for seed, name in enumerate(("near_zero_plain", "near_zero_slow")):
        folder = make_run(tmp_path, name, seed, data="arithmetic_words", accuracy=(0.5, 0.25))
        config = yaml.safe_load((folder / "config.yaml").read_text())
        config["model"]["path"] = str(TINY)
        config["template"] |= {"text": "Question: {question}\nAnswer:", "extractor": "boxed"}
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
        (folder / "policy").symlink_to(sharper if seed == 0 else TINY)
    made = near_zero.report([tmp_path], tmp_path / "out", questions=3)
    assert [path.name for path in made] == ["near_zero.png", "near_zero_kinds.csv", "near_zero_first_tokens.csv"]
    kinds = pd.read_csv(made[1])
    assert (kinds[kinds["run"] == "near_zero_slow"]["kl"] == 0).all()  # the base itself
    assert (kinds[kinds["run"] == "near_zero_plain"]["kl"] > 0).all()
    curve = pd.read_csv(tmp_path / "out" / "near_zero.csv")
    assert curve[curve["series"] == "near_zero_plain"]["mean"].tolist() == [0.5, 0.25]
    (tmp_path / next(tmp_path.glob("near_zero_slow*")).name / "policy").unlink()
    with pytest.raises(UserError, match="has no policy"):
        near_zero.report([tmp_path], tmp_path / "out", questions=1)
