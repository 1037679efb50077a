"""What is particular to the transformers engine: rows that come and go, padding, draws, neutral generation config."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rollout_support import CONTEXT, Served, differences, start
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel, MistralConfig, MistralForCausalLM

from r1zero.errors import UserError
from r1zero.rollout.engine import Sampling
from r1zero.rollout.hf.draw import GAMMA, hashed, pick, streams, uniform
from r1zero.rollout.hf.engine import HFEngine
from r1zero.rollout.hf.slots import Slots


def folder_of(model: str, root: Path, tied: Path) -> Path:
    """A model whose cache is of another kind: a sliding window; learned positions, with no room beyond the context."""
    shape: dict[str, Any] = dict(vocab_size=384, hidden_size=32, num_hidden_layers=2, num_attention_heads=2)
    torch.manual_seed(0)
    if model == "window":
        more = dict(num_key_value_heads=1, intermediate_size=64, sliding_window=12, max_position_embeddings=CONTEXT)
        made: Any = MistralForCausalLM(MistralConfig(**shape, **more))
    else:
        made = GPT2LMHeadModel(GPT2Config(**shape, n_positions=64))
    with torch.no_grad():
        for tensor in made.parameters():
            tensor.mul_(4)  # far from uniform, so that tokens depend on those before them
    made.save_pretrained(root / model)
    AutoTokenizer.from_pretrained(tied).save_pretrained(root / model)
    return root / model


@pytest.mark.parametrize("model", ["tied", "window", "learned"])
def test_rows_that_come_and_go_change_no_response(
    model: str, tmp_path: Path, folders: dict[str, Path], texts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trap 18: one at a time, three rows that are filled again and again, or all at once: the same responses."""
    folder = folders["tied"] if model == "tied" else folder_of(model, tmp_path, folders["tied"])
    context = 64 if model == "learned" else CONTEXT
    prompts = Served("hf", folders["tied"]).prompts(texts)
    sampling = Sampling(n=6, max_tokens=context - max(map(len, prompts)), stop_ids=tuple(range(0, 384, 16)))
    shifted, shift = [], Slots._shift
    monkeypatch.setattr(
        Slots, "_shift", lambda self: (shifted.append(self.used), shift(self), shifted.append(self.used))
    )
    engines = [HFEngine(str(folder), dtype="float32", context=context, max_num_seqs=rows) for rows in (1, 3, 32)]
    alone, few, all_at_once = [engine.generate(prompts, sampling, seed=4) for engine in engines]
    responses = [[[c.ids for c in group] for group in groups] for groups in (alone, few, all_at_once)]
    assert responses[0] == responses[1] == responses[2]
    assert len({c.length for group in alone for c in group}) > 8
    assert len({tuple(c.ids) for group in alone for c in group}) == 18
    assert differences(engines[1]._model, prompts, few).max() < 1e-4
    assert bool(shifted) is (model != "window")  # whose rows start together
    if model != "window":
        assert max(shifted) < 3 * context
        assert any(b < a for a, b in zip(shifted[::2], shifted[1::2], strict=True))


def test_draws_are_hashes_of_seed_response_and_position() -> None:
    """SplitMix64's first number for seed 0, as published; shares of the draws; no token of probability 0."""
    assert hashed(np.array([GAMMA]))[0] == 0xE220A8397B1DCDAF
    numbers = np.stack([uniform(streams(5, 4000), np.full(4000, at)) for at in range(8)])
    assert numbers.min() >= 0
    assert numbers.max() < 1
    assert len(np.unique(numbers)) == numbers.size
    assert np.abs(np.histogram(numbers, bins=10)[0] / numbers.size - 0.1).max() < 0.005
    assert np.abs(np.corrcoef(numbers) - np.eye(8)).max() < 0.06
    logprobs = torch.tensor([0.0, 0.5, 0.0, 0.3, 0.2, 0.0]).log()
    edges = np.array([0.0, 0.49, 0.51, 0.79, 0.81, 1 - 2.0**-48])
    assert pick(logprobs.expand(6, -1), edges).tolist() == [1, 1, 3, 3, 4, 4]
    assert pick(logprobs.log_softmax(-1).expand(1, -1), edges[-1:]).tolist() == [4]


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
