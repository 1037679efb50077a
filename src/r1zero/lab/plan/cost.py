"""What a rollout step has to do, how the learner is laid out, and the least time that the parts of a step can take.

Floors, not forecasts: bytes over bandwidth and operations over rate. Real steps take longer; the ratio of
measured to floor says where to look.

Symbols: N parameters, W devices, D trained tokens, B sequences decoded at a time, L their mean context,
k bytes of keys and values per token.
"""

from __future__ import annotations

from dataclasses import dataclass

from r1zero.lab.plan.hardware import GPU, Shape

LAYOUTS = ("ddp", "fsdp", "lora", "fsdp-lora")

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
        micro_tokens: most tokens of one forward pass on a device.
        reference: bytes of a weight of the reference model that is kept for a KL term; 0: none is.
        kl_in_loss: whether that term is in the loss: the reference's pass then comes between a pass and its backward.
        kl_in_reward: whether it is in the reward: policy and reference make a pass each after sampling.
        entropy: whether the loss has an entropy term.
        pass_ranks: devices that make a pass together, each a share of its tokens (optim.context_parallel).
        engine_ranks: devices that an engine's model is cut over (rollout.tensor_parallel).
        engine_bytes: of a weight of the engine's layers; 1 where they are rounded (rollout.quantization).
        engine_wide: of its other weights, and of a number of its cache: 2, or 4 in float32.
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
    reference: int = 0
    kl_in_loss: bool = True
    kl_in_reward: bool = False
    entropy: bool = False
    pass_ranks: int = 1
    engine_ranks: int = 1
    engine_bytes: int = 2
    engine_wide: int = 2

    @property
    def least_tokens(self) -> int:
        """Of the smallest pass, on one device: one longest response with its prompt."""
        return -(-(int(self.prompt) + self.longest) // self.pass_ranks)


@dataclass(frozen=True)
class Learner:
    """How the learner is laid out.

    Attributes:
        layout: ddp (a replica per device; also one device alone), fsdp (sharded), lora (adapters, a replica each),
            fsdp-lora (adapters, sharded like the frozen weights under them).
        devices: W.
        bfloat16: whether compute runs in bfloat16.
        checkpointing: whether activations are computed again in the backward pass.
        adapters: parameters of LoRA adapters, of all devices together where they are sharded.
        moments: bytes of AdamW's moments for a parameter.
        offload: whether moments, and gradients that DDP keeps, leave the device while the engine samples.
    """

    layout: str
    devices: int
    bfloat16: bool = True
    checkpointing: bool = True
    adapters: int = 0
    moments: float = 8.0
    offload: bool = False

    @property
    def sharded(self) -> bool:
        """Whether each device holds its part of the weights."""
        return self.layout.startswith("fsdp")

    @property
    def adapted(self) -> bool:
        """Whether adapters are trained, over frozen weights."""
        return self.layout.endswith("lora")

    @property
    def half(self) -> int:
        """Bytes of a number in the format of compute."""
        return 2 if self.bfloat16 else 4

    @property
    def stream(self) -> int:
        """Bytes of a number of the states between layers; beside whole float32 weights they are float32."""
        return self.half if self.sharded or self.adapted else 4

    @property
    def buckets(self) -> bool:
        """Whether DDP averages the gradients over ranks, in buckets that it keeps."""
        return self.devices > 1 and not self.sharded


def engine_weights(shape: Shape, work: Work) -> float:
    """Bytes of the engine's weights on one device; embedding and head are never rounded."""
    layers = float(shape.layers * shape.layer)
    return (work.engine_wide * (shape.params - layers) + work.engine_bytes * layers) / work.engine_ranks


def concurrent(work: Work, devices: int) -> int:
    """B: sequences that a device decodes at a time."""
    return max(1, min(work.sequences, work.responses // devices))


def decode_step(
    shape: Shape, gpu: GPU, sequences: float, context: float, weights: float | None = None, wide: int = 2
) -> float:
    """Seconds to decode one token of each of B sequences: (2 N + B L k) / bandwidth.

    Args:
        shape: the model.
        gpu: the card.
        sequences: B.
        context: L, tokens.
        weights: bytes that are read of them; None: 2 N.
        wide: bytes of a number of the cache.
    """
    cache = sequences * context * cache_bytes(shape, wide)
    return ((2 * shape.params if weights is None else weights) + cache) / gpu.bandwidth


def cache_bytes(shape: Shape, wide: int) -> int:
    """k: bytes of keys and values per token, of ``wide`` bytes a number."""
    return shape.kv_bytes * wide // 2


def rollout_time(shape: Shape, gpu: GPU, work: Work, devices: int) -> float:
    """Seconds: all tokens at the rate of full batches, or the longest response alone, whichever is more."""
    b, weights = concurrent(work, devices), engine_weights(shape, work)
    tokens = work.responses / devices * work.tokens
    full = tokens / b * decode_step(shape, gpu, b, work.context, weights, work.engine_wide)
    context = work.prompt + work.longest / 2
    alone = work.longest * decode_step(shape, gpu, 1 / work.engine_ranks, context, weights, work.engine_wide)
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
    factor = (2 if learner.adapted else 3) + (1 if learner.checkpointing else 0)
    updated = (learner.adapters if learner.adapted else n) / (w if learner.sharded else 1)
    link = gpu.link if nodes == 1 else min(gpu.link, NETWORK)
    times = {"rollout": rollout_time(shape, gpu, work, w)}
    if work.optimizer_steps > 1:
        times["old log-probabilities"] = once
    if work.reference:
        times["reference"] = once * work.passes
    times["learner"] = factor * once * work.passes
    times["optimizer"] = work.optimizer_steps * 28 * updated / gpu.bandwidth
    if learner.buckets:
        times["gradients over ranks"] = work.optimizer_steps * 2 * 4 * updated / link
    times["sync"] = 4 * n / gpu.bandwidth + (2 * 2 * n / gpu.host if sleep else 0.0)
    if learner.sharded:
        times["sync"] += (learner.half if learner.adapted else 4) * n / link
    if learner.offload:
        times["moments to the host and back"] = 2 * learner.moments * updated / gpu.host
    return times


def sharding_traffic(shape: Shape, gpu: GPU, learner: Learner, work: Work, nodes: int = 1) -> float:
    """Seconds that FSDP's collectives take in a rollout step, hidden behind compute where the link is fast enough.

    Each forward and backward pass gathers the weights twice and reduces float32 gradients of what is trained once.
    """
    trained = work.responses / learner.devices * (work.prompt + work.tokens) * work.passes
    passes = max(work.optimizer_steps, trained / work.micro_tokens)
    link = gpu.link if nodes == 1 else min(gpu.link, NETWORK)
    trainable = learner.adapters if learner.adapted else shape.params
    return passes * (2 * learner.half * shape.params + 4 * trainable) / link
