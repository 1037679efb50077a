"""LoRA: adapters alone are trained, saved and resumed; W is never touched (semantics 11, 12; traps 40, 41, 42, 54)."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from objective_support import algo_config, fit, make_module, make_prompt, random_prompts, random_rollout
from r1zero.config import LoRAConfig, ModelConfig, RolloutConfig
from r1zero.errors import UserError
from r1zero.learn.collate import collate
from r1zero.learn.lora import is_adapter
from r1zero.learn.policy import Policy
from r1zero.rollout.build import build_engine
from r1zero.rollout.engine import Sampling
from r1zero.rollout.hf.engine import HFEngine
from r1zero.rollout.sync import CheckedWeights, expected_parameters
from run_support import SMALL, Server, checkpoint, differing, status, table
from tiny_models import make_tiny

TARGETS = ["q_proj", "v_proj", "down_proj"]
MODELS = [("qwen2", True), ("qwen2", False), ("llama", True)]


def lora_policy(folder: Path, dtype: str = "float32", rank: int = 4, **lora: Any) -> Policy:
    settings = LoRAConfig(**{"rank": rank, "targets": TARGETS} | lora)
    cfg = ModelConfig(name="t", path=str(folder), dtype=dtype, lora=settings)
    torch.manual_seed(0)
    return Policy.from_folder(folder, cfg)


def adapters(policy: Policy) -> dict[str, torch.Tensor]:
    return {n: p for n, p in policy.model.named_parameters() if is_adapter(n)}


def frozen(policy: Policy) -> dict[str, torch.Tensor]:
    return {n: p.detach().clone() for n, p in policy.model.named_parameters() if not is_adapter(n)}


@torch.no_grad()
def move(policy: Policy, seed: int, scale: float = 0.05) -> Policy:
    """Change every adapter as an update would; B is no longer zero."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in adapters(policy).values():
        parameter.add_(scale * torch.randn(parameter.shape, generator=generator))
    return policy


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny(tmp_path_factory.mktemp("lora") / "tiny")


# -- merged weights ----------------------------------------


@pytest.mark.parametrize(("arch", "tied"), MODELS)
def test_merged_weights_are_those_of_peft(tmp_path: Path, arch: str, tied: bool) -> None:
    """Traps 40, 42: the names of the plain model, a tied head once; W + alpha / r * B A as peft merges it."""
    folder = make_tiny(tmp_path / "model", arch=arch, tied=tied)
    policy = move(lora_policy(folder, alpha=6), 1)
    plain = AutoModelForCausalLM.from_pretrained(folder)
    ours = dict(policy.named_weights())
    assert list(ours) == [name for name, _ in plain.named_parameters()]
    assert ("lm_head.weight" in ours) != tied

    theirs = get_peft_model(plain, LoraConfig(r=4, lora_alpha=6, target_modules=TARGETS))
    state = {f"base_model.model.{name}": value for name, value in adapters(policy).items()}
    assert not theirs.load_state_dict(state, strict=False).unexpected_keys
    merged = dict(theirs.merge_and_unload().named_parameters())
    base = dict(AutoModelForCausalLM.from_pretrained(folder).named_parameters())
    for name, tensor in ours.items():
        assert torch.allclose(tensor, merged[name], atol=1e-6), name
        adapted = any(name.endswith(f"{target}.weight") for target in TARGETS)
        assert torch.equal(tensor, base[name]) != adapted, name


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_base_is_bit_equal_after_a_hundred_syncs(folder: Path, dtype: str) -> None:
    """Trap 41. Merging in place and taking the product off again, as the control does, does not pass."""
    policy = lora_policy(folder, dtype)
    before = frozen(policy)
    assert {t.dtype for t in before.values()} == {getattr(torch, dtype)}
    control = copy.deepcopy(policy)
    expected = expected_parameters(str(folder))
    layers = [m for m in control.model.modules() if hasattr(m, "lora_A")]
    for cycle in range(100):
        move(policy, cycle)
        checked = CheckedWeights(policy.named_weights(), expected, torch.bfloat16)
        assert len(list(checked)) == len(expected)
        checked.verify(cycle)
        move(control, cycle)
        for layer in layers:
            layer.merge()
            layer.unmerge()
    after = frozen(policy)
    assert all(torch.equal(after[name], before[name]) for name in before)
    drifted = frozen(control)
    assert any(not torch.equal(drifted[name], before[name]) for name in before)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_new_adapters_add_nothing(folder: Path, dtype: str) -> None:
    """B starts at zero: the first rollout is the base model's, bit for bit."""
    base = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype))
    ours = dict(lora_policy(folder, dtype).named_weights())
    assert all(torch.equal(ours[name].to(p.dtype), p) for name, p in base.named_parameters())


def test_rotary_frequencies_keep_their_format(folder: Path) -> None:
    model = lora_policy(folder, "bfloat16").model
    assert model.base_model.rotary_emb.inv_freq.dtype == torch.float32


# -- engines ----------------------------------------


def sampled_and_learned(policy: Policy, engine: Any, folder: Path) -> float:
    """Largest |sampler - learner| log-probability difference over a few samples."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    prompts = [make_prompt(tokenizer.encode(text)) for text in ("What is 12 + 30?", "A")]
    groups = engine.generate([p.ids for p in prompts], Sampling(n=4, max_tokens=24), seed=3)
    worst = 0.0
    for prompt, group in zip(prompts, groups, strict=True):
        micro = collate([prompt] * len(group), group)
        with torch.no_grad():
            logp, _ = policy(micro)
        given = torch.tensor([value for c in group for value in c.logprobs])
        worst = max(worst, float((logp[micro.mask] - given).abs().max()))
    return worst


@pytest.mark.parametrize("engine", [pytest.param("vllm", marks=pytest.mark.vllm), "hf"])
def test_engines_serve_what_the_adapters_make(folder: Path, engine: str) -> None:
    """Log-probabilities of sampler and learner agree after each sync of a tied model, and not without one."""
    policy = lora_policy(folder)
    config = RolloutConfig(name=engine, kv_cache_gib=0.05, max_num_seqs=32)
    served = build_engine(config, str(folder), dtype="float32", context=256, seed=1)
    try:
        assert isinstance(served, HFEngine) == (engine == "hf")
        for version in range(3):
            served.load_weights(policy.named_weights(), version)
            assert sampled_and_learned(policy, served, folder) < 1e-4
            move(policy, version, scale=0.2)
            assert sampled_and_learned(policy, served, folder) > 1e-2
    finally:
        served.close()


# -- training ----------------------------------------


@pytest.mark.parametrize(("dtype", "precision"), [("float32", "32-true"), ("bfloat16", "bf16-mixed")])
def test_adapters_alone_are_trained_in_float32(folder: Path, dtype: str, precision: str) -> None:
    """Semantics 11, trap 54: also beside frozen bfloat16 weights, and every adapter moves."""
    policy = lora_policy(folder, dtype)
    base, start = frozen(policy), {n: p.detach().clone() for n, p in adapters(policy).items()}
    module = make_module(policy, algo_config("drgrpo", minibatch_size=8), lr=1e-3)
    history = fit(module, lambda step: random_rollout(step, flat_groups=()), 2, precision=precision)
    assert all(torch.equal(t, base[n]) for n, t in frozen(policy).items())
    assert {p.dtype for p in adapters(policy).values()} == {torch.float32}
    assert all(not torch.equal(p, start[n]) for n, p in adapters(policy).items())
    assert history[0]["policy/grad_norm"] > 0
    optimizer: Any = module.configure_optimizers()["optimizer"]
    assert sum(p.numel() for g in optimizer.param_groups for p in g["params"]) == sum(t.numel() for t in start.values())


def test_two_forwards_agree_in_training_mode(folder: Path) -> None:
    """Semantics 12, trap 29: adapters bring no dropout."""
    policy = move(lora_policy(folder), 0)

    micro = collate(random_prompts(0, 4), random_rollout(0).completions[::4])
    assert policy.training
    assert torch.equal(policy(micro)[0], policy(micro)[0])


# -- files ----------------------------------------


def test_state_dicts_hold_adapters_alone_and_load_strictly(folder: Path) -> None:
    """Frozen weights come from the model's folder; a missing adapter is an error, and so is another's key."""
    policy = move(lora_policy(folder), 1)
    module = make_module(policy, algo_config("drgrpo"))
    state = {name: value.clone() for name, value in module.state_dict().items()}
    assert state
    assert all(is_adapter(name) for name in state)
    other = make_module(lora_policy(folder), algo_config("drgrpo"))
    other.load_state_dict(state)
    assert all(torch.equal(value, state[name]) for name, value in other.state_dict().items())
    name, value = state.popitem()
    with pytest.raises(RuntimeError, match="Missing key"):
        other.load_state_dict(state)
    with pytest.raises(RuntimeError, match="Unexpected key"):
        other.load_state_dict(state | {name: value, "policy.model.extra.lora_A.default.weight": value})


@pytest.mark.parametrize(("arch", "tied"), MODELS)
def test_exports_load_in_transformers_and_peft(tmp_path: Path, arch: str, tied: bool) -> None:
    folder = make_tiny(tmp_path / "model", arch=arch, tied=tied)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    micro = collate(random_prompts(0, 4), random_rollout(0).completions[::4])
    found = []
    for export in ("merged", "adapter"):
        policy = move(lora_policy(folder, export=export), 5)
        policy.save(tmp_path / export, tokenizer, torch.float32)
        with torch.no_grad():
            found.append(policy(micro)[0])
    assert torch.equal(*found)
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    adapted = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(folder), str(tmp_path / "adapter"))
    with torch.no_grad():
        for model in (merged, adapted.merge_and_unload()):
            assert torch.allclose(Policy(model)(micro)[0], found[0], atol=1e-5)
        assert not torch.allclose(Policy(AutoModelForCausalLM.from_pretrained(folder))(micro)[0], found[0], atol=1e-2)
    assert json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["base_model_name_or_path"]
    size = {
        name: sum(f.stat().st_size for f in (tmp_path / name).glob("*.safetensors")) for name in ("merged", "adapter")
    }
    assert size["adapter"] < size["merged"] / 4


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (["q_proj", "query"], "no layer query; it has .*q_proj"),
        (["lm_head"], "lm_head is the model's embedding or head"),
        (["embed_tokens"], "embed_tokens is the model's embedding or head"),
        (["input_layernorm"], "input_layernorm is no linear layer"),
    ],
)
def test_targets_that_make_no_sense_are_refused(folder: Path, targets: list[str], message: str) -> None:
    """Trap 40: an adapter on a tied head would be lost at the merge."""
    with pytest.raises(UserError, match=message):
        lora_policy(folder, targets=targets)


# -- runs ----------------------------------------

LORA = ["model.lora.rank=4", "optim.lr=1e-3"]


def test_a_run_with_adapters_resumes_exactly_and_learns_nothing_else(server: Server, tmp_path: Path) -> None:
    """Four rollout steps at once, and two and two: the same checkpoint, bit for bit, and it is small."""
    done = server.run([*SMALL, *LORA, f"hydra.run.dir={tmp_path / 'whole'}"], tmp_path)
    assert done.code == 0, done.err
    done = server.run([*SMALL, *LORA, f"hydra.run.dir={tmp_path / 'cut'}"], tmp_path, "kill_in_rollout:4")
    assert done.code == -9
    done = server.run(["resume=cut"], tmp_path)
    assert done.code == 0, done.err
    assert status(tmp_path / "cut")["state"] == "finished"
    one, two = checkpoint(tmp_path / "whole", 4), checkpoint(tmp_path / "cut", 4)
    for key in ("state_dict", "optimizer_states", "lr_schedulers", "r1zero"):
        assert differing(one[key], two[key], key) == []
    assert all(is_adapter(name) for name in one["state_dict"])
    moved = [name for name, value in one["state_dict"].items() if ".lora_B." in name and value.abs().max() > 1e-4]
    assert len(moved) == len(one["state_dict"]) / 2
    assert table(tmp_path / "whole") == table(tmp_path / "cut")
    size = (tmp_path / "whole" / "checkpoints" / "step_000004.ckpt").stat().st_size
    full = 12 * sum(p.numel() for p in AutoModelForCausalLM.from_pretrained(tmp_path / "whole" / "policy").parameters())
    assert size < full / 4

    done = server.run(["resume=cut", "steps=6", "model.lora.rank=8"], tmp_path)
    assert done.code == 1
    assert len(done.errors) == 1
    assert "holds another model" in done.errors[0]
