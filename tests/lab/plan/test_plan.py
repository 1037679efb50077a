"""The calculator against worked values, and against bytes counted on real learners."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from live_bytes import LiveBytes
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config

from objective_support import algo_config, make_module, random_rollout
from objective_support import fit as train_on
from r1zero.config import LoRAConfig
from r1zero.errors import UserError
from r1zero.lab.plan import cost, memory
from r1zero.lab.plan.command import plan
from r1zero.lab.plan.cost import Learner, Work, decode_step, rollout_time, step_times
from r1zero.lab.plan.fit import fit
from r1zero.lab.plan.hardware import GPUS, LLAMA_3B, QWEN_1_5B, QWEN_7B, SHAPES, Shape, shape_of
from r1zero.lab.plan.memory import learner_memory
from r1zero.learn.collate import MicroBatch
from r1zero.learn.lora import add_adapters, is_adapter
from r1zero.learn.policy import Policy
from tiny_models import make_tiny

ROOT = Path(__file__).resolve().parents[3]
H100 = replace(GPUS["h100"], peak=1000e12)  # 400 TFLOP/s sustained, as in the worked values

PAPER = Work(
    responses=1024,
    tokens=800,
    longest=3000,
    prompt=150,
    context=1500,
    sequences=256,
    optimizer_steps=8,
    passes=1,
    micro_tokens=16384,
)
"""The paper's rollout step: 128 x 8 responses in eight optimizer steps."""

# -- worked values ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "weights", "kv", "step", "rate", "decode", "learner", "old"),
    [
        (QWEN_1_5B, 3.1, 28_672, 4.2, 61, 13.5, 22.5, 7.5),
        (LLAMA_3B, 6.4, 114_688, 15.1, 17, 48, 47, 16),
        (QWEN_7B, 15.2, 57_344, 11.1, 23, 36, 111, 37),
    ],
    ids=["1.5B", "3B", "7B"],
)
def test_one_step_of_the_paper_on_an_h100(
    shape: Shape, weights: float, kv: int, step: float, rate: float, decode: float, learner: float, old: float
) -> None:
    """Weights GB, KV bytes a token, ms a decode step, thousand tokens/s, seconds of each phase (6 N D, 2 N D)."""
    close = lambda value: pytest.approx(value, rel=0.03)  # noqa: E731
    assert 2 * shape.params / 1e9 == close(weights)
    assert shape.kv_bytes == kv
    seconds = decode_step(shape, H100, 256, 1500)
    assert 1e3 * seconds == close(step)
    assert 256 / seconds / 1e3 == close(rate)
    assert rollout_time(shape, H100, PAPER, 1) == close(decode)
    times = step_times(shape, H100, Learner("ddp", 1, checkpointing=False), PAPER)
    assert times["learner"] == close(learner)
    assert times["old log-probabilities"] == close(old)


def test_the_other_floors_by_hand() -> None:
    """Checkpointing 8 N D, adapters 4 and 6 N D, one optimizer step needs no old pass, eight devices an eighth."""
    once = 2 * QWEN_7B.params * 1024 * 950 / 400e12
    learn = lambda layout, ckpt, devices=1: step_times(  # noqa: E731
        QWEN_7B, H100, Learner(layout, devices, checkpointing=ckpt, adapters=40_000_000), PAPER
    )
    assert learn("ddp", True)["learner"] == pytest.approx(4 * once)
    assert learn("lora", False)["learner"] == pytest.approx(2 * once)
    assert learn("lora", True)["learner"] == pytest.approx(3 * once)
    assert learn("fsdp", True, 8)["learner"] == pytest.approx(4 * once / 8)
    assert learn("ddp", True)["optimizer"] == pytest.approx(8 * 28 * QWEN_7B.params / 3.35e12)
    assert learn("ddp", True, 8)["gradients over ranks"] == pytest.approx(8 * 8 * QWEN_7B.params / 450e9)
    assert "gradients over ranks" not in learn("ddp", True)
    single = step_times(QWEN_7B, H100, Learner("ddp", 1), replace(PAPER, optimizer_steps=1))
    assert "old log-probabilities" not in single
    awake = step_times(QWEN_1_5B, H100, Learner("ddp", 1), PAPER, sleep=False)
    assert awake["sync"] == pytest.approx(1.85e-3, rel=0.02)  # read and write 3.1 GB in the card's own memory


def test_the_longest_response_bounds_a_small_rollout() -> None:
    """3,000 tokens one after the other, however few responses there are."""
    few = replace(PAPER, responses=8)
    alone = 3000 * (2 * QWEN_7B.params + (150 + 1500) * QWEN_7B.kv_bytes) / 3.35e12
    assert rollout_time(QWEN_7B, H100, few, 1) == pytest.approx(alone)
    assert rollout_time(QWEN_7B, H100, few, 8) == pytest.approx(alone)


def test_what_an_80_gb_card_holds() -> None:
    """1.5B comfortably, 3B with an engine that sleeps, 7B with adapters or sharded, and not otherwise."""
    h100 = GPUS["h100"]
    targets = LoRAConfig().targets
    lora = Learner("lora", 1, adapters=QWEN_7B.adapters(16, targets))
    awake = fit(QWEN_1_5B, h100, Learner("ddp", 1), PAPER, sleep=False)
    assert awake.work == PAPER
    asleep, awake = (fit(LLAMA_3B, h100, Learner("ddp", 1), PAPER, sleep) for sleep in (True, False))
    assert asleep.work.micro_tokens == PAPER.micro_tokens
    assert asleep.work.sequences > 100
    assert awake.work.micro_tokens < PAPER.micro_tokens
    assert awake.work.sequences < 60
    assert not fit(QWEN_7B, h100, Learner("ddp", 1), PAPER).fits
    assert not fit(QWEN_7B, h100, Learner("ddp", 8), PAPER).fits
    assert fit(QWEN_7B, h100, lora, PAPER).fits
    assert fit(QWEN_7B, h100, Learner("fsdp", 8), PAPER).fits
    assert not fit(QWEN_7B, GPUS["rtx4090"], Learner("fsdp", 8), PAPER).fits
    one_step = replace(PAPER, optimizer_steps=1)  # states that were away come back whole for the optimizer
    assert not fit(QWEN_7B, h100, Learner("ddp", 1, offload=True), one_step).fits


@pytest.mark.parametrize("sleep", [True, False])
@pytest.mark.parametrize("layout", cost.LAYOUTS)
def test_settings_that_are_advised_fit(layout: str, sleep: bool) -> None:
    """Learner and engine together stay below what the card has, in both phases."""
    for shape in (QWEN_1_5B, LLAMA_3B, QWEN_7B):
        for gpu in GPUS.values():
            learner = Learner(layout, 8, adapters=shape.adapters(16, LoRAConfig().targets))
            found = fit(shape, gpu, learner, PAPER, sleep)
            if not found.fits:
                continue
            parts = learner_memory(shape, learner, found.work)
            engine = found.engine_share * gpu.memory
            assert memory.at_rest(parts, learner) + engine <= found.usable
            assert sum(parts.values()) + (memory.ENGINE_ASLEEP if sleep else engine) <= found.usable
            assert max(found.phases.values()) <= found.usable
            names = ("engine weights", "engine workspace", "key-value cache")
            assert engine >= sum(found.parts[name] for name in names)


def test_ddp_keeps_its_gradients_while_the_engine_samples() -> None:
    """B3: 4 bytes a parameter in buckets; the engine's share is as much smaller, and 1.5B fits 40 GB with that."""
    card = GPUS["a100-40"]
    one, eight = (fit(QWEN_1_5B, card, Learner("ddp", devices), PAPER) for devices in (1, 8))
    parts = one.parts
    more = memory.at_rest(parts, eight.learner) - memory.at_rest(parts, one.learner)
    assert more == 4 * QWEN_1_5B.params
    assert one.engine_share - eight.engine_share == pytest.approx(more / card.memory, abs=0.011)
    assert eight.fits
    assert max(eight.phases.values()) <= eight.usable
    assert (
        memory.at_rest(parts, eight.learner) + one.engine_share * card.memory > eight.usable
    )  # what was suggested once
    sharded = Learner("fsdp", 8)
    assert memory.at_rest(learner_memory(QWEN_1_5B, sharded, PAPER), sharded) == 12 * QWEN_1_5B.params / 8


def test_states_that_leave_while_the_engine_samples() -> None:
    """12 of 16 bytes under DDP, 8 of 12 elsewhere; at the learner's peak they are away before a single update alone."""
    n = QWEN_1_5B.params
    engine = memory.engine_memory(QWEN_1_5B, PAPER, 8)
    for layout, devices, gone in (("ddp", 1, 8 * n), ("ddp", 8, 12 * n), ("fsdp", 8, n)):
        stays, leaves = (Learner(layout, devices, offload=offload) for offload in (False, True))
        for name, less in (
            ("the engine samples", gone),
            ("weights to the engine", gone),
            ("old log-probabilities", 8 * n / (8 if layout == "fsdp" else 1)),
            ("forward and backward", 0),
            ("the optimizer's step", 0),
        ):
            one, other = (memory.phases(QWEN_1_5B, x, PAPER, engine)[name] for x in (stays, leaves))
            assert one - other == pytest.approx(less), (layout, name)
    single = replace(PAPER, optimizer_steps=1)
    peaks = [memory.phases(QWEN_1_5B, Learner("ddp", 1, offload=x), single, engine) for x in (False, True)]
    assert peaks[0]["forward and backward"] - peaks[1]["forward and backward"] == 8 * n
    seconds = step_times(QWEN_1_5B, H100, leaves, PAPER)["moments to the host and back"]
    assert seconds == pytest.approx(16 * n / 8 / H100.host)
    card = GPUS["a100-40"]
    shares = [fit(QWEN_1_5B, card, Learner("ddp", 8, offload=x), PAPER).engine_share for x in (False, True)]
    assert shares[1] - shares[0] == pytest.approx(12 * n / card.memory, abs=0.011)


@pytest.mark.parametrize(
    ("settings", "reference", "adam"),
    [
        (["algo.kl_coef=0.1"], 2, 8),
        (["algo.kl_in_reward=0.1", "model.reference_dtype=float32"], 4, 8),
        (["algo.kl_coef=0.1", "model.dtype=float32", "optim.state_bits=8"], 4, 2.03125),
        (["optim.offload_states=true"], 0, 8),
    ],
)
def test_settings_of_memory_reach_the_plan(said: Any, settings: list[str], reference: int, adam: float) -> None:
    out = said("model=qwen1.5b", *settings)
    n = QWEN_1_5B.params / 1e9
    rows = [line.replace("│", "").split() for line in out.partition("least time")[0].splitlines()]
    found = {row[0]: row[1] for row in reversed(rows) if row and row[0] in ("Adam", "reference")}
    assert found["Adam"] == f"{adam * n:.1f}"
    assert found.get("reference", "0.0") == f"{reference * n:.1f}"
    assert ("optim.offload_states=true" in out) == ("optim.offload_states=true" in settings)


def test_phases_name_what_is_there_in_each() -> None:
    """The optimizer's step has no activations, sampling no gradients, and a sleeping engine leaves a rest."""
    learner = Learner("ddp", 1)
    engine = memory.engine_memory(QWEN_1_5B, PAPER, 1)
    found = memory.phases(QWEN_1_5B, learner, PAPER, engine)
    n = QWEN_1_5B.params
    assert found["the engine samples"] == 12 * n + sum(engine.values())
    assert found["the optimizer's step"] == 16 * n + memory.ENGINE_ASLEEP
    assert found["forward and backward"] > found["old log-probabilities"] > 12 * n
    awake = memory.phases(QWEN_1_5B, learner, PAPER, engine, sleep=False)
    beside = sum(engine.values()) - memory.ENGINE_ASLEEP
    assert awake["forward and backward"] == pytest.approx(found["forward and backward"] + beside)
    assert "old log-probabilities" not in memory.phases(QWEN_1_5B, learner, replace(PAPER, optimizer_steps=1), engine)


def test_published_runs_lie_in_the_range(said: Any) -> None:
    """Steps of others took between the two ends of the range, and the paper's 27 hours hold a few hundred steps."""
    from r1zero.lab.plan.published import RANGE, RUNS

    out = said("--published")
    for run in RUNS:
        assert run.name.split()[0] in out
        if run.steps is not None:
            assert RANGE[0] < 3600 * run.hours / run.steps / run.floor < RANGE[1], run.name
        else:
            assert 100 < 3600 * run.hours / RANGE[1] / run.floor < 3600 * run.hours / RANGE[0] / run.floor < 1331


def test_published_runs_fit_where_they_did() -> None:
    """And not where they ran out of memory; what others gave their engines is no more than the plan would."""
    from r1zero.lab.plan.published import MEMORY

    assert len(MEMORY) >= 6
    for run in MEMORY:
        assert run.fit.fits == run.fitted, run.name
        assert (run.share or 0.0) <= run.fit.engine_share, run.name


# -- shapes -----------------------------------------------------------------------------------------------


def hugging_face(shape: Shape) -> Any:
    """The model of a shape, without memory for its weights."""
    settings = dict(
        vocab_size=shape.vocab,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        tie_word_embeddings=shape.tied,
    )
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config((Qwen2Config if shape.bias else LlamaConfig)(**settings))


@pytest.mark.parametrize("shape", list(dict.fromkeys(SHAPES.values())), ids=lambda s: f"{s.params / 1e9:.2f}B")
def test_parameters_are_those_of_transformers(shape: Shape) -> None:
    assert sum(p.numel() for p in hugging_face(shape).parameters()) == shape.params


def test_every_hub_model_of_the_configs_has_its_shape() -> None:
    """And the size that the config names."""
    for file in sorted((ROOT / "conf" / "model").glob("*.yaml")):
        config = yaml.safe_load(file.read_text())
        if "params" in config and "${" not in config["path"] and not config.get("served"):
            assert shape_of(config["path"]).params / 1e9 == pytest.approx(config["params"], rel=0.01), file.name


@pytest.mark.parametrize(("arch", "tied"), [("qwen2", True), ("qwen2", False), ("llama", True)])
def test_a_folder_brings_its_own_shape(tmp_path: Path, arch: str, tied: bool) -> None:
    """Parameters, adapters and bytes of keys and values, counted on the model itself."""
    model = AutoModelForCausalLM.from_pretrained(make_tiny(tmp_path, arch=arch, tied=tied, hidden=128))
    shape = shape_of(str(tmp_path))
    assert sum(p.numel() for p in model.parameters()) == shape.params
    cache = model(torch.arange(10)[None], use_cache=True).past_key_values
    held = sum(t.numel() * 2 for layer in cache.layers for t in (layer.keys, layer.values))
    assert held == 10 * shape.kv_bytes
    lora = LoRAConfig(rank=3)
    add_adapters(model, lora, torch.float32)
    counted = sum(p.numel() for n, p in model.named_parameters() if is_adapter(n))
    assert counted == shape.adapters(3, lora.targets)


def test_a_folder_that_is_no_such_model(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    with pytest.raises(UserError, match="describes no model that the plan knows"):
        shape_of(str(tmp_path))
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match="can't be read as JSON"):
        shape_of(str(tmp_path))


# -- bytes of a real learner ------------------------------------------------------------------------------


def small(intermediate: int = 768, hidden: int = 256, layers: int = 3) -> Shape:
    return Shape(layers, hidden, hidden // 64, hidden // 128, 64, intermediate, 512, tied=True, bias=True)


def real_policy(shape: Shape, learner: Learner) -> Policy:
    config = hugging_face(replace(shape, layers=1)).config
    config.num_hidden_layers = shape.layers
    config.layer_types = ["full_attention"] * shape.layers
    model = AutoModelForCausalLM.from_config(config).float()
    policy = Policy(model).train()
    if learner.layout == "lora":
        add_adapters(model, LoRAConfig(rank=4), torch.bfloat16 if learner.bfloat16 else torch.float32)
    if learner.checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return policy


def peak_bytes(policy: Policy, learner: Learner, rows: int, length: int = 256) -> int:
    """Live bytes at the peak of one forward and backward pass, parameters and gradients left out."""
    ids = torch.randint(0, 512, (rows, length), generator=torch.Generator().manual_seed(0))
    half = length // 2
    source = torch.cat([torch.arange(r * length + half - 1, (r + 1) * length - 1) for r in range(rows)])
    micro = MicroBatch(
        ids, torch.arange(length).expand(rows, -1), source, ids[:, half:].reshape(-1),
        torch.ones(rows, half, dtype=torch.bool),
    )  # fmt: skip
    known = [*policy.parameters(), *policy.buffers()]
    for parameter in policy.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.zeros_like(parameter)
            known.append(parameter.grad)
    with LiveBytes(known) as live, torch.autocast("cpu", torch.bfloat16, learner.bfloat16, cache_enabled=False):
        policy(micro)[0].sum().backward()
    return live.peak


@pytest.mark.parametrize(
    "shape", [small(), small(1536), small(hidden=512), small(layers=6)], ids=["base", "wide_mlp", "wide", "deep"]
)
@pytest.mark.parametrize(
    "learner",
    [
        Learner("ddp", 1),
        Learner("ddp", 1, checkpointing=False),
        Learner("ddp", 1, bfloat16=False),
        Learner("ddp", 1, bfloat16=False, checkpointing=False),
        Learner("lora", 1),
        Learner("lora", 1, bfloat16=False),
    ],
    ids=lambda x: f"{x.layout}-{'bf16' if x.bfloat16 else 'fp32'}-{'checkpointed' if x.checkpointing else 'kept'}",
)
def test_activations_against_bytes_counted(shape: Shape, learner: Learner) -> None:
    """What 1,024 more tokens cost, within 10 %: logits and copies of weights do not depend on tokens."""
    policy = real_policy(shape, learner)
    few, many = (peak_bytes(policy, learner, rows) for rows in (2, 6))
    expected = memory.activations(shape, learner, 6 * 256) - memory.activations(shape, learner, 2 * 256)
    assert many - few == pytest.approx(expected, rel=0.10)


@pytest.mark.parametrize("layout", ["ddp", "lora"])
def test_weights_gradients_and_moments_against_bytes_counted(tmp_path: Path, layout: str) -> None:
    """16 bytes for each trained parameter, to the byte, after a step of Adam."""
    shape = shape_of(str(make_tiny(tmp_path)))
    policy = Policy(AutoModelForCausalLM.from_pretrained(tmp_path)).train()
    lora = LoRAConfig(rank=4)
    if layout == "lora":
        add_adapters(policy.model, lora, torch.bfloat16)
    module = make_module(policy, algo_config("drgrpo", minibatch_size=16))
    gradients: list[int] = []

    class Count(torch.nn.Module):
        def on_before_optimizer_step(self, *args: Any) -> None:
            gradients.append(sum(p.grad.nbytes for p in policy.parameters() if p.grad is not None))

    module.on_before_optimizer_step = Count().on_before_optimizer_step  # type: ignore[method-assign]
    train_on(module, random_rollout, 1, precision="bf16-mixed")
    optimizer: Any = module.optimizers()
    moments = sum(value.nbytes for state in optimizer.state.values() for name, value in state.items() if name != "step")
    learner = Learner(layout, 1, adapters=shape.adapters(4, lora.targets))
    parts = learner_memory(shape, learner, PAPER)
    assert sum(p.nbytes for p in policy.parameters()) == parts["weights"]
    assert gradients[0] == parts["gradients"]
    assert moments == parts["Adam"]


# -- the command ------------------------------------------------------------------------------------------


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    code = (
        "import runpy, sys\n"
        "try: runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "finally: print(sorted({'torch', 'transformers', 'pytorch_lightning'} & sys.modules.keys()))"
    )
    script = str(ROOT / "scripts" / "plan.py")
    return subprocess.run(
        [sys.executable, "-c", f"import sys; sys.argv[:] = [{script!r}, *sys.argv[1:]]\n{code}", *arguments],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def test_the_command_prints_a_plan_without_torch() -> None:
    done = run("model=qwen7b", "gpus=8")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith(
        "qwen7b: 7.62 B parameters, 57,344 bytes of keys and values a token; 1 machine(s) x 8 h100"
    )
    advice = [line for line in lines if "python train.py" in line]
    assert [line.split(":")[0] for line in advice] == ["fsdp", "lora", "fsdp-lora"]
    assert "trainer=fsdp trainer.devices=8 rollout.gpu_memory=0." in advice[0]
    assert "model.lora.rank=16" in advice[1]
    assert "trainer=fsdp trainer.devices=8 model.lora.rank=16" in advice[2]
    assert lines[-1] == "[]"


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Any:
    def say(*arguments: str) -> str:
        from r1zero import config

        config.register()
        plan(list(arguments), ROOT / "conf")
        return capsys.readouterr().out

    return say


@pytest.mark.parametrize("model", ["qwen1.5b", "llama3b", "qwen7b"])
@pytest.mark.parametrize("nodes", [1, 4])
def test_commands_that_are_advised_compose(said: Any, model: str, nodes: int) -> None:
    """train.py takes every line that the plan prints."""
    from hydra import compose, initialize_config_dir

    lines = [line for line in said(f"model={model}", "gpus=8", f"nodes={nodes}").splitlines() if "train.py" in line]
    assert lines
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        for line in lines:
            compose("train", overrides=line.split("train.py ")[1].split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["gpus=0"], "gpus=0: gpus must be a whole number of at least 1"),
        (["gpus=two"], "gpus must be a whole number"),
        (["gpu=h9"], "gpu=h9 is unknown; choose one of b200"),
        (["gpus=3"], "rollout.questions=128 can't be dealt out over 3 devices"),
        (["algo.minibatch_size=100"], "does not divide the 1024 responses"),
        (["model=folder"], "model.path is not set"),
        (["model=server"], "model=server is served elsewhere, by the server at server.url: nothing to plan here"),
        (["model=deepseek_r1_zero"], "model=deepseek_r1_zero is served elsewhere"),
        (["model.lora.targets=[c_attn]"], "not c_attn"),
        (["rollout=ray"], "counts an engine on each learner's card"),
        (["--multirun"], "no such option"),
        (["trainer.devices=4", "gpus=2"], "trainer.devices=4: the plan is asked for gpus=2; say gpus=4 and leave"),
        (["trainer.devices=[0,1,2]", "gpus=2"], "the plan is asked for gpus=2; say gpus=3 and leave"),
        (
            ["trainer.num_nodes=2", "gpus=2"],
            "trainer.num_nodes=2: the plan is asked for nodes=1; say nodes=2 and leave",
        ),
        (
            ["prompt=1000000"],
            "prompt=1000000: a run leaves out prompts of more than data.max_prompt_tokens=1024 tokens",
        ),
        (["--published", "foo=bar"], "foo=bar: --published prints published runs as they were; leave foo=bar out"),
        (["hydra.run.dir=x"], "hydra.run.dir=x: the plan starts no run and writes no folder; leave hydra.run.dir out"),
        (["+hydra/launcher=slurm"], "the plan starts no run and writes no folder"),
    ],
)
def test_what_makes_no_sense_is_one_line(said: Any, arguments: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message.replace("(", r"\(")) as caught:
        said(*arguments)
    assert "\n" not in str(caught.value)


def test_what_says_the_same_twice_is_taken(said: Any) -> None:
    """And a run whose prompts are short is planned with those."""
    assert "trainer.devices=2" in said("model=qwen1.5b", "gpus=2", "trainer.devices=2")
    short = said("model=qwen1.5b", "data.max_prompt_tokens=64")
    assert short == said("model=qwen1.5b", "data.max_prompt_tokens=64", "prompt=64")
    assert short != said("model=qwen1.5b")


def test_an_unknown_model_is_one_line() -> None:
    done = run("model=qwen70b")
    assert done.returncode == 1
    assert done.stderr.startswith("error: model=qwen70b: there is no such option; ")
    assert len(done.stderr.splitlines()) == 1


def test_ranks_that_share_an_engine_or_a_pass_share_its_bytes() -> None:
    """Half the engine's weights on each of two, a quarter of its layers where they are rounded too; half a response."""
    parts = memory.engine_memory(QWEN_1_5B, PAPER, 8)
    layers = QWEN_1_5B.layers * QWEN_1_5B.layer
    cut = memory.engine_memory(QWEN_1_5B, replace(PAPER, engine_ranks=2), 8)
    rounded = memory.engine_memory(QWEN_1_5B, replace(PAPER, engine_ranks=2, engine_bytes=1), 8)
    assert cut["engine weights"] == parts["engine weights"] / 2 == QWEN_1_5B.params
    assert rounded["engine weights"] == cut["engine weights"] - layers / 2
    assert cut["key-value cache"] == parts["key-value cache"]
    long = replace(PAPER, longest=32000, micro_tokens=1)
    whole, half = (fit(QWEN_1_5B, GPUS["h100"], Learner("ddp", 8), replace(long, pass_ranks=ranks)) for ranks in (1, 2))
    assert (whole.work.micro_tokens, half.work.micro_tokens) == (32150, 16075)
    assert half.parts["activations"] == pytest.approx(whole.parts["activations"] / 2)
