"""The actors: ``Sampler`` holds an engine, ``Weights`` knows where the newest weights are.

A sampler that Ray starts again takes the newest weights by itself. Imports nothing heavy, so that the environment
is in place before torch reads it.
"""

from __future__ import annotations

import os
import secrets
import warnings
from collections.abc import Iterator
from typing import Any

from r1zero.errors import UserError

RANKS = (
    "RANK",
    "LOCAL_RANK",
    "WORLD_SIZE",
    "LOCAL_WORLD_SIZE",
    "GROUP_RANK",
    "NODE_RANK",
    "MASTER_ADDR",
    "MASTER_PORT",
)
"""Variables of the trainer that the engine would take for its own."""


WEIGHTS = "weights"
"""Name of the ``Weights`` actor in a run's namespace."""


class NotSynced(Exception):
    """The sampler serves other weights than those asked for, and finds no better ones."""


class Unwanted(Exception):
    """The trainer has given this call up."""


class Weights:
    """What the newest weights are called and where they lie; one a run, beside the trainer."""

    def __init__(self) -> None:
        self._held: tuple[int | None, str | None, list[Any]] = (None, None, [])

    def give(self, version: int | None, push: str | None, shards: list[Any]) -> None:
        """Replace the weights of before; ``shards`` are references to Ray's objects."""
        self._held = (version, push, shards)

    def newest(self) -> tuple[int | None, str | None, list[Any]]:
        """Version, name of the push, references."""
        return self._held


class Sampler:
    """One engine, for all ranks of a run.

    Args:
        spec: ``kind`` (vllm, continuous or hf), ``engine`` (its arguments), ``environment``; ``namespace`` of the run,
            in which its :class:`Weights` are found. Ray keeps it for restarts, so it holds plain values alone.
    """

    def __init__(self, spec: dict[str, Any]) -> None:
        import ray

        for name in RANKS:
            os.environ.pop(name, None)
        os.environ.update(spec["environment"])
        self.boot = secrets.token_hex(8)
        self.node = ray.get_runtime_context().get_node_id()
        self.steps = 0
        self.push: str | None = None
        self.fault: Exception | None = None
        self._call = self._dropped = ""
        try:
            self._weights = ray.get_actor(WEIGHTS, spec["namespace"])
            self.engine = build(spec)
            self.engine.on_step = self._step
            self.about = about(spec["engine"])
            if self._newest()[1] is not None:
                self._load()
        except Exception as error:  # said by the first call; Ray would call it a creation that failed, for good
            self.fault = error

    def _step(self) -> None:
        self.steps += 1
        if self._call and self._call == self._dropped:
            raise Unwanted

    def drop(self, call: str) -> None:
        """Give a call up, if it is the one under way. Requests that share a running batch go on to their end."""
        self._dropped = call

    def state(self) -> dict[str, Any]:
        """Answered while the engine works: signs of life, and what is served. Raises what the start ran into."""
        if self.fault is not None:
            raise self.fault
        return {**self.about, "boot": self.boot, "pid": os.getpid(), "node": self.node, "steps": self.steps}

    def load(self, push: str) -> int | None:
        """Take the weights of this push; the version served."""
        self._catch_up(push)
        return self.engine.version

    def generate(
        self,
        prompts: list[list[int]],
        sampling: Any,
        seed: int | list[int],
        version: int | None,
        push: str | None,
        call: str,
    ) -> list[Any]:
        """Sample with the weights of this push, see :meth:`r1zero.rollout.engine.Engine.generate`.

        Args:
            prompts: token ids.
            sampling: settings.
            seed: of the call; with continuous batching, of each prompt.
            version: the policy's.
            push: name of the weights.
            call: name of the call, for :meth:`drop`.

        Raises:
            NotSynced: it serves other weights.
        """
        self._catch_up(push)
        if (self.engine.version, self.push) != (version, push):
            raise NotSynced(f"version {self.engine.version} is served here, not version {version}")
        if call == self._dropped:
            raise Unwanted
        self._call = call if isinstance(seed, int) else ""
        try:
            return self.engine.generate(prompts, sampling, seed)
        finally:
            self._call = ""

    def transfer(self, step: str, request: dict[str, Any]) -> None:
        """One step of vLLM's own weight transfer, see :meth:`r1zero.rollout.vllm.engine.VLLMEngine.transfer`."""
        self.push = None
        self.engine.transfer(step, request)
        if step == "finish_weight_update":
            self.push = request["push"]

    def close(self) -> None:
        """Free the engine before the process is ended."""
        self.engine.close()

    def _catch_up(self, push: str | None) -> None:
        if self.fault is not None:
            raise self.fault
        if push is not None and self.push != push and self._newest()[1] == push:
            self._load()

    def _newest(self) -> Any:
        import ray

        newest: Any = self._weights.newest.remote()
        return ray.get(newest)

    def _load(self) -> None:
        version, push, shards = self._newest()
        if not shards:
            return  # they came by a transfer, which keeps none
        self.push = None
        self.engine.load_weights(unpacked(shards), version)
        self.push = push


def build(spec: dict[str, Any]) -> Any:
    """The engine of a sampler."""
    if spec["kind"] == "hf":
        from r1zero.rollout.hf.engine import HFEngine

        return HFEngine(**spec["engine"])
    from r1zero.rollout.vllm.process import LOG_LEVEL

    os.environ.setdefault(*LOG_LEVEL)
    if spec["kind"] == "continuous":
        from r1zero.rollout.vllm.continuous import ContinuousEngine

        return ContinuousEngine(**spec["engine"])
    from r1zero.rollout.vllm.engine import VLLMEngine

    return VLLMEngine(**spec["engine"])


def about(engine: dict[str, Any]) -> dict[str, Any]:
    """What model this is and by what it is sampled, to be held against the trainer's."""
    from transformers import AutoTokenizer

    from r1zero.rollout.identity import cards, identity, releases
    from r1zero.rollout.sync import expected_parameters

    source = {name: engine[name] for name in ("revision", "trust_remote_code")}
    tokenizer = AutoTokenizer.from_pretrained(engine["model_path"], **source)
    return identity(expected_parameters(engine["model_path"], **source), tokenizer) | {
        "releases": releases(),
        "cards": cards(),
    }


def packed(tensors: dict[str, Any]) -> dict[str, Any]:
    """A shard as Ray passes it on without copies: {name: (dtype, shape, bytes)}. Ray pickles tensors whole."""
    import torch

    out = {}
    for name, tensor in tensors.items():
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        out[name] = (str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape), flat.view(torch.uint8).numpy())
    return out


def unpacked(shards: list[Any]) -> Iterator[tuple[str, Any]]:
    """Named tensors of all shards, one shard in reach at a time; they lie in Ray's memory and are read only."""
    import ray
    import torch

    for shard in shards:
        for name, (dtype, shape, flat) in ray.get(shard).items():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # torch has no tensors that can't be written to
                tensor = torch.from_numpy(flat)
            yield name, tensor.view(getattr(torch, dtype)).reshape(shape)


def check_prompts(prompts: list[list[int]], rows: int) -> None:
    """Refuse token ids that the model has no row for: they would end the engine, for all ranks."""
    for index, ids in enumerate(prompts):
        if ids and not (min(ids) >= 0 and max(ids) < rows):
            raise UserError(f"prompt {index} holds a token id outside the model's {rows} rows")
