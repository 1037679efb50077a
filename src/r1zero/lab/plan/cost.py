"""Memory of a device by part, and the least time that the parts of a rollout step can take.

Floors, not forecasts: bytes over bandwidth and operations over rate. Real steps take longer; the ratio of
measured to floor says where to look.

Symbols: N parameters, W devices, D trained tokens, B sequences decoded at a time, L their mean context,
k bytes of keys and values per token.
"""

from __future__ import annotations

from dataclasses import dataclass

from r1zero.lab.plan.hardware import GPU, Shape

LAYOUTS = ("ddp", "fsdp", "lora")

TILE_BYTES = 3 * 2**28
"""The head's logits, a tile of 2**26 at a time: two in float32, and as multiplied and as rounded in bfloat16."""
ENGINE_WORKSPACE = 2e9
"""What an engine takes besides weights and cache: activations of its largest batch, CUDA graphs."""
ENGINE_ASLEEP = 1e9
"""What of it stays on the card while it sleeps: CUDA graphs and buffers outside vLLM's pool. Assumed, not measured."""
CONTEXT = 1.5e9
"""CUDA contexts and communication buffers."""
FRAGMENTATION = 0.05
"""Share of a card that the allocator can't use."""
NETWORK = 50e9
"""Bytes per second and card between machines: one 400 Gbit/s port each."""


@dataclass(frozen=True)
class Work:
    """What one rollout step has to do, over all devices.

    Attributes:
        responses: P * G.
        tokens: mean length of a response.
        longest: the response limit; some response reaches it in nearly every step.
        prompt: mean length of a prompt.
        context: L, mean context of a sequence while it is decoded.
        sequences: most that a device decodes at a time.
        optimizer_steps: K.
        passes: inner epochs.
        micro_tokens: most tokens in one forward pass.
        reference: whether a reference model is kept for a KL term.
    """

    responses: int
    tokens: float
    longest: int
    prompt: float
    context: float
    sequences: int
    optimizer_steps: int
    passes: int
    micro_tokens: int
    reference: bool = False


@dataclass(frozen=True)
class Learner:
    """How the learner is laid out.

    Attributes:
        layout: ddp (a replica per device; also one device alone), fsdp (sharded), lora (adapters, a replica each).
        devices: W.
        bfloat16: whether compute runs in bfloat16.
        checkpointing: whether activations are computed again in the backward pass.
        adapters: parameters of LoRA adapters.
    """

    layout: str
    devices: int
    bfloat16: bool = True
    checkpointing: bool = True
    adapters: int = 0

    @property
    def buckets(self) -> bool:
        """Whether DDP averages the gradients over ranks, in buckets that it keeps."""
        return self.layout != "fsdp" and self.devices > 1


def learner_memory(shape: Shape, learner: Learner, work: Work) -> dict[str, float]:
    """Bytes of the learner on one device, by part, at its peak in the backward pass.

    Trained parameters are float32 with float32 gradients and two float32 moments: 16 bytes each.
    """
    n, e = shape.params, shape.embedding
    share = learner.devices if learner.layout == "fsdp" else 1
    trained = learner.adapters if learner.layout == "lora" else n / share
    half = 2 if learner.bfloat16 else 4
    parts = {"weights": 4 * trained, "gradients": 4 * trained, "Adam": 8 * trained}
    if learner.layout == "lora":
        parts["weights"] += half * n
    if work.reference:
        parts["reference"] = 4 * n / share
    if learner.layout == "fsdp":
        # The outermost unit (the head) stays whole; layers come one ahead, an embedding of its own where there are no
        # activations. Gathered, its gradient, and that gradient in float32 on its way to the other devices.
        parts["gathered"] = (2 * half + 4) * e + (3 * half + 4) * shape.layer
    parts["activations"] = activations(shape, learner, work.micro_tokens)
    parts["logits"] = TILE_BYTES + (0 if learner.layout == "lora" else (half % 4 + 4) * shape.embedding)
    return parts


def activations(shape: Shape, learner: Learner, tokens: int) -> float:
    """Bytes of activations for ``tokens`` tokens, of a Qwen2 or Llama decoder with fused attention.

    The factors of hidden and intermediate size were measured as live bytes of forward and backward passes
    (tests/scale/test_plan.py does so again). With checkpointing: the residual stream at each layer, and one
    layer with its gradients.
    """
    h, m = shape.hidden, shape.intermediate
    plain_lora = learner.layout == "lora"
    if not learner.bfloat16:
        saved, (layer_h, layer_m) = 4, (36, 16)
        peak_h, peak_m = (23 if plain_lora else 26), 24
    else:
        saved, (layer_h, layer_m) = (2 if learner.layout in ("lora", "fsdp") else 4), (32, 8)
        peak_h, peak_m = (31, 14) if plain_lora else (22, 12)
    ends = 3 * saved * h  # embedding's output, last norm, states of the head
    if learner.checkpointing:
        return tokens * (ends + shape.layers * saved * h + peak_h * h + peak_m * m)
    last = max(14 * h, (peak_m - layer_m) * m - 6.5 * h)
    copies = 2 * shape.layers * shape.layer if learner.bfloat16 and learner.layout == "ddp" else 0
    return tokens * (ends + shape.layers * (layer_h * h + layer_m * m) + last) + copies


def at_rest(parts: dict[str, float], learner: Learner) -> float:
    """Bytes of the learner while the engine samples: activations are gone, and gradients where nothing holds them.

    DDP holds them: they are views into its buckets, which it keeps from the first step to the last.
    """
    kept = ["weights", "Adam", "reference", *(["gradients"] if learner.buckets else [])]
    return sum(parts[name] for name in kept if name in parts)


def phases(
    shape: Shape, learner: Learner, work: Work, engine: dict[str, float], sleep: bool = True
) -> dict[str, float]:
    """Bytes on one device in every phase of a rollout step, in their order.

    Args:
        shape: the model.
        learner: the layout.
        work: sizes of the rollout step.
        engine: as :func:`engine_memory` says.
        sleep: whether the engine sleeps while the learner works.
    """
    parts = learner_memory(shape, learner, work)
    rest, beside = at_rest(parts, learner), ENGINE_ASLEEP if sleep else sum(engine.values())
    states = parts["weights"] + parts["Adam"] + parts.get("reference", 0.0)
    # One tensor at a time in the engine's format; gathered, or merged with its adapters, in float32 before.
    copy = (2 if learner.layout == "ddp" else 6) * max(shape.embedding, shape.hidden * shape.intermediate)
    found = {
        "the engine samples": rest + sum(engine.values()),
        "weights to the engine": rest + copy + (engine["engine weights"] + ENGINE_WORKSPACE if sleep else beside),
    }
    if work.optimizer_steps > 1:
        alone = sum(parts.values()) - (0.0 if learner.buckets else parts["gradients"])
        found["old log-probabilities"] = alone - parts["activations"] + forward(shape, learner, work) + beside
    found["forward and backward"] = sum(parts.values()) + beside
    found["the optimizer's step"] = states + parts["gradients"] + beside
    return found


def forward(shape: Shape, learner: Learner, work: Work) -> float:
    """Bytes of activations in a pass without backward, at most: one layer's, and the states that go through it."""
    wide = 4 if not learner.bfloat16 else 2
    return work.micro_tokens * (8 * shape.hidden + wide * 3 * shape.intermediate)


def engine_memory(shape: Shape, work: Work, devices: int) -> dict[str, float]:
    """Bytes of the engine on one device; the cache holds every sequence that is decoded at a time."""
    return {
        "engine weights": 2.0 * shape.params,
        "engine workspace": ENGINE_WORKSPACE,
        "key-value cache": concurrent(work, devices) * work.context * shape.kv_bytes,
    }


def concurrent(work: Work, devices: int) -> int:
    """B: sequences that a device decodes at a time."""
    return max(1, min(work.sequences, work.responses // devices))


def decode_step(shape: Shape, gpu: GPU, sequences: float, context: float) -> float:
    """Seconds to decode one token of each of B sequences: (2 N + B L k) / bandwidth."""
    return (2 * shape.params + sequences * context * shape.kv_bytes) / gpu.bandwidth


def rollout_time(shape: Shape, gpu: GPU, work: Work, devices: int) -> float:
    """Seconds: all tokens at the rate of full batches, or the longest response alone, whichever is more."""
    b = concurrent(work, devices)
    tokens = work.responses / devices * work.tokens
    full = tokens / b * decode_step(shape, gpu, b, work.context)
    alone = work.longest * decode_step(shape, gpu, 1, work.prompt + work.longest / 2)
    return max(full, alone)


def step_times(
    shape: Shape, gpu: GPU, learner: Learner, work: Work, nodes: int = 1, sleep: bool = True
) -> dict[str, float]:
    """Floors in seconds of the parts of a rollout step; one after the other.

    Learner: 6 N D, and 2 N D more with checkpointing; frozen weights need no gradient, which saves 2 N D.
    """
    n, w = shape.params, learner.devices
    trained = work.responses / w * (work.prompt + work.tokens)
    rate = gpu.sustained * (1.0 if learner.bfloat16 else 0.5)
    once = 2 * n * trained / rate
    factor = (2 if learner.layout == "lora" else 3) + (1 if learner.checkpointing else 0)
    updated = learner.adapters if learner.layout == "lora" else n / (w if learner.layout == "fsdp" else 1)
    link = gpu.link if nodes == 1 else min(gpu.link, NETWORK)
    times = {"rollout": rollout_time(shape, gpu, work, w)}
    if work.optimizer_steps > 1:
        times["old log-probabilities"] = once
    if work.reference:
        times["reference"] = once * work.passes
    times["learner"] = factor * once * work.passes
    times["optimizer"] = work.optimizer_steps * 28 * updated / gpu.bandwidth
    if w > 1 and learner.layout != "fsdp":
        times["gradients over ranks"] = work.optimizer_steps * 2 * 4 * updated / link
    times["sync"] = 4 * n / gpu.bandwidth + (2 * 2 * n / gpu.host if sleep else 0.0)
    if learner.layout == "fsdp":
        times["sync"] += 4 * n / link
    return times


def sharding_traffic(shape: Shape, gpu: GPU, learner: Learner, work: Work, nodes: int = 1) -> float:
    """Seconds that FSDP's collectives take in a rollout step, hidden behind compute where the link is fast enough.

    Each forward and backward pass gathers the weights twice and reduces float32 gradients once.
    """
    trained = work.responses / learner.devices * (work.prompt + work.tokens) * work.passes
    passes = max(work.optimizer_steps, trained / work.micro_tokens)
    link = gpu.link if nodes == 1 else min(gpu.link, NETWORK)
    return passes * (2 * (2 if learner.bfloat16 else 4) + 4) * shape.params / link
