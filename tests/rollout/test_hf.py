"""What is particular to the transformers engine: chunks, padding, neutral generation config."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from rollout_support import CONTEXT, Served, start

from r1zero.errors import UserError
from r1zero.rollout.engine import Sampling
from r1zero.rollout.hf_engine import HFEngine


def test_chunks_and_padding_change_no_greedy_token(folders: dict[str, Path], texts: list[str]) -> None:
    """Trap 18: one row at a time, or all in one left-padded batch."""
    one = Served("hf", folders["untied"])
    prompts = one.prompts(texts)
    sampling = Sampling(temperature=0.0, max_tokens=20, stop_ids=(0,))
    together = one.engine.generate(prompts, sampling, seed=1)
    single = HFEngine(str(folders["untied"]), dtype="float32", context=CONTEXT, max_num_seqs=1)
    alone = single.generate(prompts, sampling, seed=1)
    assert [g[0].ids for g in together] == [g[0].ids for g in alone]


def test_generation_config_of_the_model_changes_nothing(
    tmp_path: Path, folders: dict[str, Path], texts: list[str]
) -> None:
    """Trap 21: the folder's penalties, cuts and EOS ids reach nothing."""
    tuned = {"repetition_penalty": 1.5, "top_k": 2, "top_p": 0.3, "temperature": 0.1, "eos_token_id": [0, 5, 6, 7]}
    folder = tmp_path / "tuned"
    shutil.copytree(folders["tied"], folder)
    (folder / "generation_config.json").write_text(json.dumps({**tuned, "do_sample": True}))
    plain, other = start("hf", folders["tied"]), start("hf", folder)
    prompts = Served("hf", folder).prompts(texts)
    for sampling in (Sampling(n=4, max_tokens=30), Sampling(temperature=0.0, max_tokens=30)):
        assert plain.generate(prompts, sampling, seed=1) == other.generate(prompts, sampling, seed=1)


def test_stop_string_is_not_found_in_the_name_of_a_special_token(folders: dict[str, Path]) -> None:
    """Stops are those of the text, which special tokens leave no trace in; vLLM looks for them there too."""
    one = Served("hf", folders["tied"])
    groups = one.engine.generate(one.prompts(["A"]), Sampling(n=64, max_tokens=40, stop=("im_",)), seed=3)
    special = one.tokenizer.convert_tokens_to_ids("<|im_start|>")
    assert any(special in c.ids[:-1] for c in groups[0])
    assert all("im_" in one.decode(c.ids) or c.finish_reason == "length" for c in groups[0])


def test_no_weights_is_the_users_error(tmp_path: Path, folders: dict[str, Path]) -> None:
    (tmp_path / "config.json").write_text((folders["tied"] / "config.json").read_text())
    with pytest.raises(UserError, match=r"model\.path=") as caught:
        HFEngine(str(tmp_path), dtype="float32", context=CONTEXT)
    assert "\n" not in str(caught.value)


def test_closed_engine(folders: dict[str, Path]) -> None:
    engine = start("hf", folders["tied"])
    engine.close()
    engine.close()
    with pytest.raises(RuntimeError, match="closed"):
        engine.generate([[5]], Sampling(max_tokens=1), seed=0)
