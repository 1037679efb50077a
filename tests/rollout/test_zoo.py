"""The table of docs/models.md: tiny random models of many architectures, trained weights served by vLLM.

An engine starts in seconds, so three of them are tried; all: ``R1ZERO_ZOO=all pytest -s tests/rollout/test_zoo.py``.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from rollout_support import differences, start

from r1zero.config import ModelConfig
from r1zero.errors import SyncError, UserError
from r1zero.launch.model_files import check_trainable
from r1zero.learn.policy import Policy
from r1zero.rollout.engine import Sampling
from tiny_models import perturb, tiny_tokenizer

ROOT = Path(__file__).resolve().parents[2]
SMALL: dict[str, Any] = {
    "vocab_size": 320, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "max_position_embeddings": 256, "pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 0,
    "initializer_range": 0.08, "tie_word_embeddings": False,
}  # fmt: skip
TIED: dict[str, Any] = {"tie_word_embeddings": True}
HEAD: dict[str, Any] = {"head_dim": 32}
EXPERTS: dict[str, Any] = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
LATENT: dict[str, Any] = {
    "n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "kv_lora_rank": 16, "q_lora_rank": 16,
    "qk_nope_head_dim": 16, "qk_rope_head_dim": 16, "v_head_dim": 32, "n_group": 1, "topk_group": 1,
}  # fmt: skip
GEMMA: dict[str, Any] = HEAD | TIED | {"query_pre_attn_scalar": 32}
ZOO: dict[str, dict[str, Any]] = {
    "Llama": TIED, "Qwen2": {}, "Qwen3": HEAD, "Mistral": HEAD, "Ministral3": HEAD, "Phi3": {},
    "Gemma": HEAD | TIED,
    "Gemma2": GEMMA | {"final_logit_softcapping": None, "attn_logit_softcapping": None}, "Gemma3Text": GEMMA,
    "Granite": {"logits_scaling": 8.0}, "SmolLM3": {}, "Olmo2": {}, "Olmo3": {}, "Glm": HEAD, "Nemotron": HEAD,
    "Falcon": {"new_decoder_architecture": True, "num_kv_heads": 1, "alibi": False},
    "GPTNeoX": {"num_key_value_heads": 2}, "Starcoder2": {}, "StableLm": {}, "Glm4": HEAD,
    "Cohere": {"logit_scale": 0.0625} | TIED, "Cohere2": {"logit_scale": 0.25} | HEAD | TIED,
    "DeepseekV2": LATENT, "DeepseekV3": LATENT, "Qwen3Moe": EXPERTS | HEAD,
    "Qwen2Moe": EXPERTS | {"shared_expert_intermediate_size": 32}, "Mixtral": {"num_local_experts": 4},
    "Olmoe": {"num_experts": 4}, "GraniteMoe": {"num_local_experts": 4, "logits_scaling": 8.0},
    "GptOss": {"num_local_experts": 4} | HEAD,
    "Ernie4_5_Moe": HEAD | {"moe_num_experts": 4, "moe_k": 2, "moe_intermediate_size": 32},
    "Phimoe": {"num_local_experts": 4}, "FlexOlmo": {"num_experts": 4, "num_experts_per_tok": 2},
    "MiniMaxM2": HEAD | {"num_local_experts": 4, "num_experts_per_tok": 2},
    "GraniteMoeShared": {"num_local_experts": 4},
    "Ernie4_5": HEAD, "Exaone4": HEAD, "Arcee": HEAD, "SeedOss": HEAD, "Cwm": HEAD, "Jais2": HEAD,
    "HunYuanDenseV1": HEAD, "Olmo": {}, "Phi": {"num_key_value_heads": 2},
    "OPT": {"ffn_dim": 128, "word_embed_proj_dim": 64},
    "GPT2": {"n_positions": 256, "n_inner": 128}, "GPTBigCode": {"n_positions": 256, "n_inner": 128},
    "GPTJ": {"rotary_dim": 32, "n_positions": 256}, "Bloom": TIED, "VaultGemma": GEMMA,
    "MiniCPM3": {key: LATENT[key] for key in LATENT if key.endswith(("rank", "dim"))} | {"num_key_value_heads": 2},
    "Mamba": {}, "FalconMamba": {}, "Lfm2": {"layer_types": ["conv", "full_attention"]},
}  # fmt: skip
TRIED = [name for name in ZOO if os.environ.get("R1ZERO_ZOO") == "all" or name in ("SmolLM3", "DeepseekV2", "Lfm2")]
"""One that vLLM serves by transformers' own code, one refused before an engine starts, one that ends its start."""


def page() -> dict[str, str]:
    """Name of transformers' config class: what the table says of vLLM."""
    rows = re.findall(r"^\| `(\w+)` \| [^|]+ \| ([^|]+) \|", (ROOT / "docs" / "models.md").read_text(), re.MULTILINE)
    return {name: says.strip() for name, says in rows}


def outcome(name: str, folder: Path) -> str:
    """ "equal", or the refusal's sentence, of one architecture."""
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**SMALL | ZOO[name])
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    if not config.tie_word_embeddings:
        with torch.no_grad():  # far from uniform
            model.get_output_embeddings().weight.mul_(4)
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    prompts = [tiny_tokenizer().encode(text) for text in ("What is 12 + 30?", "A", "Tom has 3 apples.\nAnswer:")]
    try:
        check_trainable(folder, 128, "vllm")
        policy = Policy.from_folder(folder, ModelConfig(name="x", path=str(folder), dtype="float32"), trainable=False)
        engine = start("vllm", folder)
        try:
            for version in range(3):  # the folder's own weights, then two syncs
                if version:
                    perturb(policy.model, seed=version, scale=0.02)
                    engine.load_weights(policy.named_weights(), version)
                groups = engine.generate(prompts, Sampling(n=4, max_tokens=30, stop_ids=(0,)), seed=version)
                gap = differences(policy.model, prompts, groups).max().item()
                drawn = [value for group in groups for one in group for value in one.logprobs or ()]
                assert sum(drawn) / len(drawn) < -0.5, "a model that is sure of every token shows no difference"
                print(f"{name}, version {version}: {gap:.1e} nats")
                assert gap < 1e-4
        finally:
            engine.close()
    except (UserError, SyncError) as error:
        return str(error)
    return "equal"


@pytest.mark.slow
@pytest.mark.vllm
@pytest.mark.parametrize("name", TRIED)
def test_the_sampler_equals_the_learner_after_two_syncs_or_the_model_is_refused(name: str, tmp_path: Path) -> None:
    says = page()[name]
    found = outcome(name, tmp_path)
    assert found == "equal" if says == "equal" else says.removeprefix("refused: ") in found


def test_the_page_has_all_of_them() -> None:
    assert set(page()) == set(ZOO)
