"""Bytes on a device, by part and in every phase of a rollout step.

Counted on real learners by tests: a rank's live bytes in every phase (tests/scale/test_fsdp.py), those of a pass by
token (tests/lab/plan). Symbols: E the embedding's parameters, L a layer's, m the largest matrix of a layer.
"""

from __future__ import annotations

from itertools import pairwise

from r1zero.lab.plan.cost import Learner, Work, cache_bytes, concurrent, engine_weights
from r1zero.lab.plan.hardware import Shape

TILE = (4096, 16384)
"""Tokens and entries of the vocabulary whose logits the head works on at a time (r1zero.algo.logprobs)."""
ENGINE_WORKSPACE = 2e9
"""What an engine takes besides weights and cache: activations of its largest batch, CUDA graphs."""
ENGINE_ASLEEP = 1e9
"""What of it stays on the card while it sleeps: CUDA graphs and buffers outside vLLM's pool. Assumed, not measured."""
CONTEXT = 1.5e9
"""CUDA contexts and communication buffers."""
FRAGMENTATION = 0.05
"""Share of a card that the allocator can't use."""
STEP = "the optimizer's step"
"""The last of the phases."""


def learner_memory(shape: Shape, learner: Learner, work: Work) -> dict[str, float]:
    """Bytes of the learner on one device, by part, at its peak between forward and backward passes.

    Trained parameters are float32 with float32 gradients and two float32 moments: 16 bytes each, or 10 with
    moments in 8 bits.
    """
    n = shape.params
    share = learner.devices if learner.sharded else 1
    trained = (learner.adapters if learner.adapted else n) / share
    parts = {"weights": 4 * trained, "gradients": 4 * trained, "Adam": learner.moments * trained}
    if learner.adapted:
        parts["weights"] += learner.half * n / share
    if work.reference:
        parts["reference"] = work.reference * n / share
    return parts | max(moments(shape, learner, work), key=lambda moment: sum(moment.values()))


def moments(shape: Shape, learner: Learner, work: Work) -> list[dict[str, float]]:
    """Bytes that come and go in an optimizer step's passes, at each moment that may be their peak.

    Copies are weights gathered or cast, and gradients on their way. The moments: the head's work, forward and backward;
    the backward pass of a layer; the last gradients on their way; the reference's pass, with what the policy's keeps.
    FSDP's outermost unit, the head, stays whole from one end to the other, and so does the reference's. Of layers one
    is gathered and one comes ahead, and the gradient of the one before is in float32 on its way to the other devices;
    what that one had kept is gone by then. Frozen layers have none.
    """
    e, layer, half, tokens = float(shape.embedding), shape.layer, learner.half, work.micro_tokens
    matrix = shape.hidden * shape.intermediate
    forward, backward = head(shape, learner, work)
    kept, again = kept_activations(shape, learner, tokens), activations(shape, learner, tokens)
    loss = bool(work.reference) and work.kl_in_loss
    if learner.layout == "fsdp-lora":
        adapted = layer + learner.adapters / shape.layers
        roots, held = half * e * (2.0 if loss else 1.0), half * adapted
        ahead, end, gradient = 2 * half * adapted, half * e * (0 if shape.tied else 1), 0.0
    elif learner.layout == "lora":
        roots = held = ahead = end = gradient = 0.0
    elif learner.layout == "ddp":
        roots = held = 0.0
        # Waits for the embedding's where both are one parameter; one device alone adds each up where it stays.
        gradient = 4.0 * e * shape.tied * learner.buckets
        ahead = 4.0 * matrix
        if learner.bfloat16:
            ahead += 2 * matrix + 2 * layer * learner.checkpointing
        end = 4.0 * e * learner.buckets + gradient
    else:
        roots, held = half * e * (2.0 if loss else 1.0), half * layer
        gradient = half * e
        ahead = 2 * half * layer + max(4.0 * layer - kept_layer(shape, learner, tokens), 0.0) + half * matrix
        end = half * e * (1 if shape.tied else 2) + 4.0 * e
    found = [
        {"copies": roots + held, "activations": kept, "logits": forward},
        {"copies": roots + held, "activations": kept, "logits": backward},
        {"copies": roots + ahead, "activations": again, "logits": gradient},
        {"copies": roots + end, "activations": 3.0 * half * tokens * shape.hidden, "logits": 0.0},
    ]
    if loss:
        own, reference = passing_reference(shape, learner, work)
        found.append({"copies": own, "activations": kept + reference, "logits": 0.0})
    return found


def head(shape: Shape, learner: Learner, work: Work) -> tuple[float, float]:
    """Bytes of the head's work, forward and backward: tiles of logits, and the gradient of its weight.

    In float32 two tiles forward and one backward (two with an entropy term), and where states are bfloat16 one that is
    multiplied in that. Counted as written; compiled on a card the float32 tiles are never stored.
    """
    rows, columns = min(TILE[0], work.micro_tokens), min(TILE[1], shape.vocab)
    states = work.micro_tokens * shape.hidden
    rounded = learner.stream == 2
    forward, backward = 8.0 + 2 * rounded, 4.0 + 2 * rounded + 4 * work.entropy
    gradient = 0.0
    if learner.layout == "ddp":
        gradient = 4.0 * (shape.embedding if learner.buckets else columns * shape.hidden)
    elif learner.layout == "fsdp":
        one = shape.vocab <= columns
        gradient = learner.half * shape.embedding + rounded * (6 if one else 8) * columns * shape.hidden
    tile = rows * columns
    return forward * tile + learner.stream * states, backward * tile + 4 * states + gradient


def activations(shape: Shape, learner: Learner, tokens: int) -> float:
    """Bytes of activations for ``tokens`` tokens at their most, of a Qwen2 or Llama decoder with fused attention.

    What a pass keeps, and what the backward pass of one layer makes.
    """
    h, m = shape.hidden, shape.intermediate
    _, (_, layer_m), (peak_h, peak_m) = _factors(learner)
    more = peak_h * h + peak_m * m if learner.checkpointing else max(14 * h, (peak_m - layer_m) * m - 6.5 * h)
    return kept_activations(shape, learner, tokens) + tokens * more


def kept_activations(shape: Shape, learner: Learner, tokens: int) -> float:
    """Bytes that a pass over ``tokens`` tokens keeps for its backward pass; checkpointed, the states at each layer.

    Without it, and in bfloat16 over float32 weights, a rounded copy of the layers' weights too.
    """
    ends = tokens * 3 * _factors(learner)[0] * shape.hidden  # embedding's output, last norm, states of the head
    copies = learner.bfloat16 and learner.layout == "ddp" and not learner.checkpointing
    return ends + shape.layers * (kept_layer(shape, learner, tokens) + 2.0 * shape.layer * copies)


def kept_layer(shape: Shape, learner: Learner, tokens: int) -> float:
    """Those of one layer, without a copy of its weights."""
    saved, (layer_h, layer_m), _ = _factors(learner)
    kept = saved * shape.hidden
    return float(tokens * (kept if learner.checkpointing else layer_h * shape.hidden + layer_m * shape.intermediate))


def _factors(learner: Learner) -> tuple[int, tuple[int, int], tuple[int, int]]:
    """Bytes of a state that is kept; of a layer's, by hidden and inner size; of its backward pass, by the same.

    Measured as live bytes of forward and backward passes; tests/lab/plan does so again.
    """
    lora = learner.adapted
    if not learner.bfloat16:
        return 4, (28 if lora else 36, 16), (23 if lora else 26, 24)
    layer_h = {"ddp": 32, "fsdp": 23, "lora": 27, "fsdp-lora": 18}[learner.layout]
    return learner.stream, (layer_h, 8), (31, 14) if lora else (22, 12)


def passing(shape: Shape, learner: Learner, work: Work, adapters: float | None = None) -> float:
    """Bytes of a pass without a backward pass at its most: at its start, between layers, in a layer, or in the head.

    FSDP keeps what was gathered last until the next is there, so of the units at the start two are held twice, and
    between two layers there are three. ``adapters``: their parameters, where they are not the learner's.
    """
    e, half, tokens, stream = shape.embedding, learner.half, work.micro_tokens, learner.stream
    adapters = learner.adapters * learner.adapted if adapters is None else adapters
    layer = shape.layer + adapters / shape.layers
    ends = stream * 2 * (shape.hidden + shape.head_dim)  # embedding's output, angles, a layer's states
    wide = (4 if adapters else 3) * shape.intermediate  # an adapter's product comes beside the layer's own
    inner = tokens * (ends + stream * 2 * shape.hidden + half * wide)
    forward, _ = head(shape, learner, work)
    if learner.sharded:
        start = half * (2.0 * e + 2 * layer if shape.tied else 4.0 * e)
        between = tokens * ends + half * (e + 3 * layer)
        return max(start, between, inner + half * (e + 2 * layer), forward + half * (e + layer))
    rounded = 2 * shape.hidden * shape.intermediate if learner.layout == "ddp" and learner.bfloat16 else 0
    return max(inner + rounded, forward)


def passing_reference(shape: Shape, learner: Learner, work: Work) -> tuple[float, float]:
    """Bytes that the policy leaves gathered for the reference's pass (its head), and those of that pass.

    A reference in bfloat16 beside float32 states has a part of its head cast for each tile.
    """
    own = learner.half * shape.embedding * learner.sharded
    cast = 4 * min(TILE[1], shape.vocab) * shape.hidden if work.reference < learner.stream else 0
    return float(own), passing(shape, learner, work, 0.0) + cast


def at_rest(parts: dict[str, float], learner: Learner) -> float:
    """Bytes of the learner while the engine samples: activations are gone, and gradients where nothing holds them.

    DDP holds them: they are views into its buckets, which it keeps from the first step to the last. With offload they
    and the moments are in the host's memory, or nowhere.
    """
    kept = ["weights", "reference"]
    if not learner.offload:
        kept += ["Adam", *(["gradients"] if learner.buckets else [])]
    return sum(parts[name] for name in kept if name in parts)


def learning(parts: dict[str, float], learner: Learner, work: Work) -> float:
    """Bytes of the learner at its peak; moments that are away come back at the first optimizer step."""
    return sum(parts.values()) - (parts["Adam"] if learner.offload and work.optimizer_steps == 1 else 0.0)


def phases(
    shape: Shape, learner: Learner, work: Work, engine: dict[str, float], sleep: bool = True
) -> dict[str, float]:
    """Bytes on one device in every phase of a rollout step.

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
    woken = engine["engine weights"] + ENGINE_WORKSPACE if sleep else beside
    found = {
        "the engine samples": rest + sum(engine.values()),
        "weights to the engine": rest + sending(shape, learner, work) + woken,
    }
    once = passing(shape, learner, work)
    if work.reference and work.kl_in_reward:  # by turns; FSDP leaves the head of the other gathered
        own, reference = passing_reference(shape, learner, work)
        found["reference log-probabilities"] = rest + own + max(once, reference) + beside
    if work.optimizer_steps > 1:
        away = parts["Adam"] if learner.offload else 0.0
        found["old log-probabilities"] = (
            states - away + (parts["gradients"] if learner.buckets else 0.0) + once + beside
        )
    found["forward and backward"] = learning(parts, learner, work) + beside
    found[STEP] = states + parts["gradients"] + beside
    return found


def sending(shape: Shape, learner: Learner, work: Work) -> float:
    """Bytes of weights on their way to the engine: one is made while it copies the one before.

    Each is gathered (FSDP) or merged with its adapters (LoRA) in float32, and cast to the engine's format where that is
    another; the float32 one is let go of as soon as the engine asks for the next.
    """
    cast = work.engine_wide if work.engine_wide != 4 else 0
    base = 0 if work.engine_wide == learner.half else work.engine_wide  # frozen weights are in the format of compute
    q, kv = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    inner = [shape.hidden * width for width in (q, kv, kv, q, *[shape.intermediate] * 3)]
    gathered = learner.half * (learner.layout == "fsdp-lora")
    made = cast if learner.layout == "ddp" else 4 + max(gathered, cast)
    kept = cast if learner.layout == "ddp" else cast or 4
    ends = (gathered + base, base or gathered) if learner.adapted else (made, kept)  # no adapters there
    edge = (ends[0] * shape.embedding, ends[1] * shape.embedding)
    layers = [(made * size, kept * size) for size in inner]
    order = [(0, 0), edge, *layers, *layers, *([] if shape.tied else [edge])]
    return float(max(before[1] + one[0] for before, one in pairwise(order)))


def engine_memory(shape: Shape, work: Work, devices: int) -> dict[str, float]:
    """Bytes of the engine on one device; the cache holds every sequence that is decoded at a time."""
    return {
        "engine weights": engine_weights(shape, work),
        "engine workspace": ENGINE_WORKSPACE,
        "key-value cache": concurrent(work, devices) * work.context * cache_bytes(shape, work.engine_wide),
    }
