"""Tiny random models of many architectures: our log-probabilities are those of the model's own logits, or a refusal."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from r1zero.algo.logprobs import logprobs_from_logits
from r1zero.config import ModelConfig
from r1zero.errors import UserError
from r1zero.launch.model_files import check_files, check_trainable
from r1zero.learn.collate import MicroBatch
from r1zero.learn.policy import Policy
from tiny_models import make_tiny

SMALL: dict[str, Any] = {
    "vocab_size": 320, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 128, "pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 0,
}  # fmt: skip
MODELS: dict[str, dict[str, Any]] = {
    "Llama": {}, "Qwen2": {}, "Qwen3": {"head_dim": 8}, "Mistral": {}, "Phi3": {}, "Olmo2": {}, "SmolLM3": {},
    "Starcoder2": {}, "Gemma": {"head_dim": 8}, "Gemma2": {"head_dim": 8, "final_logit_softcapping": None},
    "Gemma3Text": {"head_dim": 8}, "Granite": {"logits_scaling": 8.0}, "Cohere": {"logit_scale": 0.0625},
    "Cohere2": {"logit_scale": 0.25, "head_dim": 8},
    "GPTNeoX": {}, "Falcon": {}, "StableLm": {}, "Glm4": {"head_dim": 8},
    "Qwen3Moe": {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "head_dim": 8},
    "Mixtral": {"num_local_experts": 4},
}  # fmt: skip


def build(name: str, **more: Any) -> Policy:
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**{**SMALL, **more})
    return Policy(transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32))


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_log_probabilities_are_those_of_the_models_own_logits(name: str, temperature: float) -> None:
    policy = build(name, **MODELS[name])
    with torch.no_grad():  # far from uniform, so that a scale that is left out shows
        policy.model.get_output_embeddings().weight.mul_(20)
    policy.check_head()
    ids = torch.arange(3, 19).unsqueeze(0)
    mask = torch.ones(1, 15, dtype=torch.bool)
    batch = MicroBatch(ids, torch.arange(16).unsqueeze(0), torch.arange(15), ids[0, 1:], mask)
    with torch.no_grad():
        ours, _ = policy.eval()(batch, temperature=temperature)
        theirs, _ = logprobs_from_logits(policy.model(ids).logits[0, :-1], ids[0, 1:], temperature=temperature)
    torch.testing.assert_close(ours[0], theirs, atol=2e-4, rtol=2e-4)


@pytest.mark.parametrize("name", MODELS)
def test_a_short_response_is_the_same_beside_a_long_one(name: str) -> None:
    """Point 4 of B12: alone, and in one batch with a sequence of three times its length."""
    policy = build(name, **MODELS[name]).eval()
    with torch.no_grad():
        policy.model.get_output_embeddings().weight.mul_(20)
    policy.check_head()
    short, long = torch.arange(3, 15), torch.arange(3, 39)
    ids = torch.stack([torch.nn.functional.pad(short, (0, 24)), long])
    mask = torch.zeros(2, 35, dtype=torch.bool)
    mask[0, :11] = mask[1] = True
    source = torch.cat([torch.arange(11), 36 + torch.arange(35)])
    positions = torch.arange(36).repeat(2, 1)
    with torch.no_grad():
        both, _ = policy(MicroBatch(ids, positions, source, torch.cat([short[1:], long[1:]]), mask))
        one = MicroBatch(short[None], positions[:1, :12], torch.arange(11), short[1:], mask[:1, :11])
        alone, _ = policy(one)
    torch.testing.assert_close(both[0, :11], alone[0], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("size", [1e-3, 1.0, 100.0])
def test_capped_logits_are_refused_by_name_whatever_their_size(size: float) -> None:
    """B14: small logits pass through a cap unchanged, and a check of them alone would not see it."""
    policy = build("Gemma2", head_dim=8, final_logit_softcapping=30.0)
    with torch.no_grad():
        policy.model.get_output_embeddings().weight.mul_(size)
    with pytest.raises(UserError, match=r"final_logit_softcapping=30\.0"):
        policy.check_head()


def test_a_bias_behind_the_head_is_refused() -> None:
    policy = build("Phi", partial_rotary_factor=0.5)
    with torch.no_grad():
        policy.model.get_output_embeddings().bias.fill_(3.0)
    with pytest.raises(UserError, match="changes its logits after the output matrix"):
        policy.check_head()


def test_weights_that_are_not_finite_are_named(tmp_path: Path) -> None:
    folder = make_tiny(tmp_path / "m")
    file = folder / "model.safetensors"
    weights = load_file(file)
    name = next(n for n in weights if "layers.1.mlp" in n)
    weights[name][0, 0] = float("nan")
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(UserError, match=rf"weights of this model are not finite \(.*{name.split('.', 1)[1]}\)"):
        Policy.from_folder(folder, ModelConfig(name="x", path=str(folder), dtype="float32"))


def test_cut_files_and_missing_ones_are_found_from_their_headers(tmp_path: Path) -> None:
    """C8."""
    folder = make_tiny(tmp_path / "m")
    check_files(folder)
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    for content, says in (
        (whole[:-100], "where its header announces"),
        (whole[:50], "is cut or no safetensors file"),
        (b"", "is cut or no safetensors file"),
        (struct.pack("<Q", 4) + b"nope", "has no safetensors header"),
    ):
        weights.write_bytes(content)
        with pytest.raises(UserError, match=says) as error:
            check_files(folder)
        assert "\n" not in str(error.value)
    weights.write_bytes(whole)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "model-00001-of-00002.safetensors"}}))
    with pytest.raises(UserError, match=r"lacks model-00001-of-00002\.safetensors"):
        check_files(folder)
    index.unlink()
    (folder / "tokenizer.json").unlink()
    with pytest.raises(UserError, match="has no tokenizer"):
        check_files(folder)


CONFIGS = [
    (
        {"rope_scaling": {"rope_type": "longrope"}, "original_max_position_embeddings": 4096},
        8192,
        "hf",
        "type longrope",
    ),
    ({"rope_scaling": {"type": "dynamic", "factor": 2.0}, "max_position_embeddings": 64}, 128, "hf", "type dynamic"),
    ({"rope_parameters": {"a": {"rope_type": "longrope"}}}, 64, "vllm", "use another model"),
    ({"num_experts": 4}, 64, "vllm", "num_experts=4, a mixture of experts"),
    ({"attn_logit_softcapping": 50.0}, 64, "hf", r"attn_logit_softcapping=50\.0, a cap of attention's scores"),
    ({"text_config": {"rope_parameters": {"rope_type": "dynamic"}}}, 64, "hf", "type dynamic"),
]


@pytest.mark.parametrize(("config", "context", "engine", "says"), CONFIGS)
def test_what_depends_on_neighbours_or_is_not_taken_is_refused(
    config: dict[str, Any], context: int, engine: str, says: str, tmp_path: Path
) -> None:
    """B12, B13."""
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=says):
        check_trainable(tmp_path, context, engine)


@pytest.mark.parametrize(
    ("config", "context", "engine"),
    [
        ({"rope_scaling": {"rope_type": "longrope"}, "original_max_position_embeddings": 4096}, 4096, "vllm"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, 8192, "vllm"),
        ({"rope_scaling": None, "num_experts": 1}, 64, "vllm"),
        ({"num_experts": 4}, 64, "hf"),
    ],
)
def test_what_is_the_same_for_all_neighbours_is_accepted(
    config: dict[str, Any], context: int, engine: str, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    check_trainable(tmp_path, context, engine)


@pytest.mark.parametrize("kind", ["longrope", "dynamic"])
def test_such_rope_does_depend_on_the_neighbours(kind: str) -> None:
    """Why it is refused: a short response alone, and beside a long one, in one batch."""
    scaling: dict[str, Any] = {"rope_type": kind, "rope_theta": 10000.0, "factor": 4.0}
    if kind == "longrope":
        scaling |= {"short_factor": [1.0] * 4, "long_factor": [8.0] * 4, "original_max_position_embeddings": 16}
    policy = build("Llama", rope_parameters=scaling, max_position_embeddings=16 if kind == "dynamic" else 64)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.mul_(5)
    short = torch.arange(3, 15).unsqueeze(0)
    long = torch.arange(3, 51).unsqueeze(0)
    both = torch.nn.functional.pad(short, (0, 36)).repeat(2, 1)
    both[1] = long
    with torch.no_grad():
        alone = policy.eval().model(short).logits[0]
        beside = policy.model(both).logits[0, :12]
    assert (alone - beside).abs().max() > 1e-3


@pytest.mark.parametrize("safe", [True, False])
def test_hub_downloads_take_what_the_model_needs(safe: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """C9: files of a repository by the patterns that are asked for, as the hub's client applies them."""
    import huggingface_hub
    from huggingface_hub.utils import filter_repo_objects

    from r1zero.learn.policy import resolve_model

    weights = "model.safetensors" if safe else "pytorch_model.bin"
    files = [
        "config.json",
        weights,
        "qwen.tiktoken",
        "code.py",
        "consolidated.safetensors",
        "original/consolidated.00.pth",
    ]

    def download(name: str, revision: str | None, allow_patterns: list[str], ignore_patterns: list[str]) -> str:
        for file in filter_repo_objects(files, allow_patterns=allow_patterns, ignore_patterns=ignore_patterns):
            (tmp_path / file).touch()
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    resolve_model(ModelConfig(name="x", path="org/model", trust_remote_code=safe))
    taken = {path.name for path in tmp_path.iterdir()}
    assert taken == {"config.json", weights, "qwen.tiktoken"} | ({"code.py"} if safe else set())
