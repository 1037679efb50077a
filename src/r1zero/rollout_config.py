"""The ``rollout`` group: sampling, and the engines that do it. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from r1zero.ranges import chosen, ranged


@dataclass
class RayConfig:
    """Where the samplers of rollout=ray run and how they share the work."""

    address: str | None = None
    """null: a Ray of the run's own on this machine; auto: one that runs here; host:port or ray://host:port."""
    engine: str = chosen("vllm", "hf")
    """Engine of a sampler: vllm or hf."""
    batching: str = chosen("exact", "continuous")
    """exact: the draws of rollout=vllm with as many parts; continuous: requests of all ranks share a running batch."""
    transfer: str = chosen("object", "nccl")
    """How weights travel: object, through Ray's shared memory; nccl, from GPU to GPU."""
    gpus: float | None = ranged(None, at_least=0, at_most=1024)
    """GPUs that a sampler reserves; null: rollout.tensor_parallel where there are any, else 0."""
    cpus: float = ranged(1.0, above=0, at_most=4096)
    """What a sampler reserves of Ray's count of CPUs."""
    object_store_gib: float | None = ranged(None, above=0, at_most=10**5)
    """GiB of shared memory for weights, of a Ray of the run's own; null: what one version needs."""
    wait_s: float = ranged(120.0, above=0, at_most=10**6)
    """Seconds to wait for a cluster: for its answer, and for free places on it."""


def _with_async(schema: type[Any]) -> type[Any]:
    """Let the setting ``async_steps`` be called ``async``, a word of Python's own that no class body can annotate."""
    schema.__annotations__["async"] = schema.__annotations__.pop("async_steps")
    made = schema.async_steps
    made.init = made.repr = made.compare = False  # what a dataclass writes out as code must not hold the word
    setattr(schema, "async", made)
    schema.async_steps = property(lambda self: getattr(self, "async"))
    return schema


@dataclass
@_with_async
class RolloutConfig:
    """Sampling, and the engine that does it."""

    name: str = MISSING
    questions: int = ranged(128, at_least=1, at_most=10**6)
    """P: questions per rollout step, over all ranks."""
    group_size: int = ranged(8, at_least=2, at_most=10**5, note="the mean of a group is the baseline")
    """G: responses per question."""
    max_tokens: int = ranged(3000, at_least=1, at_most=10**8)
    """Response-length limit in tokens."""
    temperature: float = ranged(1.0, above=0, at_most=100, note="a greedy sampler explores nothing")
    top_p: float = ranged(1.0, above=0, at_most=1)
    top_k: int = ranged(-1, at_least=-1, at_most=10**7, note="-1 or 0 turns it off")
    sync_tolerance: float | None = ranged(None, above=0, at_most=1000)
    """Largest mean |sampler - learner| log-probability difference in nats before training stops; null: by dtype."""
    dtype: str = chosen("auto", "float32", "bfloat16")
    """Number format of the engine; auto: model.dtype, bfloat16 beside quantization."""
    quantization: str | None = chosen(None, "fp8")
    """fp8: the engine rounds the weights of linear layers to 8 bits at every sync, by output channel, and their inputs
    by token (vLLM; cards from Ada and Hopper on, and CPUs); turns sampler_correction on."""
    gpu_memory: float | None = ranged(None, above=0, at_most=1, note="a share of the GPU's memory")
    """Share of the GPU's memory that the engine may take (vLLM); null: 0.45 beside a learner, 0.9 without one."""
    kv_cache_gib: float | None = ranged(None, above=0, at_most=10**5)
    """GiB of key-value cache on a CPU (vLLM); null: what a rollout step or an evaluation can need, at most 1."""
    enforce_eager: bool | None = None
    """Skip torch.compile and CUDA graphs (vLLM); null: true on a CPU, false on a GPU."""
    sleep: bool = True
    """Give the engine's GPU memory to the learner between rollouts (vLLM)."""
    sleep_level: int | None = chosen(None, 1, 2)
    """1: weights are kept in the host's memory meanwhile; 2: they are given up and loaded again from the learner, which
    is quicker for large models; null: 2 from 3 billion parameters (vLLM)."""
    batch_invariant: bool = False
    """Kernels whose sums do not depend on the responses beside a response, at some cost in speed (vLLM on NVIDIA GPUs):
    its log-probabilities are then the same in every batch, and so are draws with rollout.ray.batching=continuous."""
    max_num_seqs: int | None = ranged(None, at_least=1, at_most=10**6)
    """Most responses sampled at the same time; null: a rank's of a whole step, vLLM's own default at least."""
    async_steps: int = chosen(0, 1)
    """Written rollout.async. 1: sample step k + 1 while step k is learned, sampler_correction on; 0: take turns."""
    timeout_s: float = ranged(600.0, above=0, at_most=10**6)
    """Seconds without a decoding step after which an engine counts as hung."""
    measured: dict[str, float] = ranged({}, above=0, at_most=10**6)
    """Milliseconds a decoding step of hf and vllm by which rollout=auto chose; filled in by the run."""
    environment: str | None = None
    """What answers between turns of the policy: calculator, or the import path of a function
    (engine, tokenizer, context, **params) -> engine; null: nothing, there is one turn."""
    environment_params: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments of the environment, e.g. {calls: 3}."""
    save: str | None = chosen(None, "full", "text")
    """What completions/ keeps: text, or full, with all that audit.py needs; null: full below 10,000 tokens a step."""
    parts: int | None = ranged(None, at_least=1, at_most=10**6)
    """Parts that a rank's prompts are sampled in, each by a seed of its own; null: 1, or one a sampler (ray)."""
    samplers: int = ranged(1, at_least=1, at_most=4096)
    """Engines that share the work (ray)."""
    ray: RayConfig = field(default_factory=RayConfig)
    """Where they run (ray)."""
    tensor_parallel: int = ranged(1, at_least=1, at_most=1024)
    """Devices that the model of each sampler is cut over (ray), or ranks that share one engine (vllm)."""

    @property
    def ranks_per_engine(self) -> int:
        """Training ranks that sample together."""
        return self.tensor_parallel if self.name == "vllm" else 1

    def format(self, model: str) -> str:
        """The engine's number format beside a model of format ``model``."""
        if self.dtype != "auto":
            return self.dtype
        return "bfloat16" if self.quantization else model
