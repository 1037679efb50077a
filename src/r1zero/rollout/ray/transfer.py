"""Weights from the trainer's GPU to the samplers' GPUs by NCCL, through vLLM's own weight transfer.

One broadcast reaches all samplers at once. Nothing is kept: a sampler that comes back without weights can't be given
them again before the next sync, so the engine is started anew instead.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable, Iterator
from typing import Any

import torch


class Samplers:
    """The inference side as vLLM's trainer side sees it: each call goes to all samplers, at the same time.

    Args:
        actors: the samplers.
        tensor_parallel: workers of each; they follow the trainer, rank 0, in the transfer's group.
        timeout_s: seconds that a step may take.
    """

    def __init__(self, actors: list[Any], tensor_parallel: int, timeout_s: float) -> None:
        self.actors, self.tensor_parallel, self.timeout_s = actors, tensor_parallel, timeout_s
        self.version, self.push = 0, ""

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        """Each sampler's workers have ranks of their own."""
        places = [1 + index * self.tensor_parallel for index in range(len(self.actors))]
        self._all("init_weight_transfer_engine", [{"init_info": {**init_info, "rank_offset": at}} for at in places])

    def start_weight_update(self) -> None:
        """The old weights are no longer served."""
        self._all("start_weight_update", [{"version": self.version}] * len(self.actors))

    def update_weights(self, update_info: Any) -> None:
        """Names, formats and shapes of what is broadcast meanwhile."""
        self._all("update_weights", [{"update_info": update_info}] * len(self.actors))

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        """The new weights are served as this version."""
        self._all("finish_weight_update", [{"version": self.version, "push": self.push}] * len(self.actors))

    def _all(self, step: str, requests: list[dict[str, Any]]) -> None:
        import ray

        calls = [actor.transfer.remote(step, request) for actor, request in zip(self.actors, requests, strict=True)]
        ray.get(calls, timeout=self.timeout_s)


class Transfer:
    """The trainer's end; opened at the first :meth:`send`, and again when a sampler was started anew.

    Args:
        samplers: the inference side.
        expected: shapes by name, in the order in which the learner yields its tensors.
        dtype: number format sent.
    """

    def __init__(self, samplers: Samplers, expected: dict[str, tuple[int, ...]], dtype: torch.dtype) -> None:
        self.samplers, self._expected, self._dtype = samplers, expected, dtype
        self._engine: Any = None
        self._source: Any = None
        self._boots: list[str] = []

    def send(self, weights: Iterable[tuple[str, torch.Tensor]], version: int, push: str, boots: list[str]) -> None:
        """Broadcast the tensors, one pass; afterwards the samplers serve ``version``.

        Args:
            weights: the learner's tensors.
            version: the policy's.
            push: name of this transfer.
            boots: which life each sampler is in; the group holds the processes of one.
        """
        self.samplers.version, self.samplers.push = version, push
        if boots != self._boots:
            self.close()
            self._open()
            self._boots = boots
        self._source.weights = weights
        if torch.cuda.is_available():
            # vLLM reads the tensors on streams of its own, which know nothing of the optimizer's step on ours.
            torch.cuda.synchronize()
        self._engine.send_weights()

    def close(self) -> None:
        """Leave the group."""
        if self._engine is not None:
            self._engine.shutdown()
            self._engine = None

    def _open(self) -> None:
        import ray
        from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo, NCCLTrainerWeightTransferEngine

        host = ray.util.get_node_ip_address()
        with socket.socket() as free:
            free.bind((host, 0))
            port = free.getsockname()[1]
        self._source = source(self._expected, self._dtype)
        self._engine = NCCLTrainerWeightTransferEngine.trainer_init(
            NCCLTrainerInitInfo(
                rank=0,
                master_address=host,
                master_port=port,
                world_size=1 + len(self.samplers.actors) * self.samplers.tensor_parallel,
            ),
            client=self.samplers,
            source=self._source,
        )


def source(expected: dict[str, tuple[int, ...]], dtype: torch.dtype) -> Any:
    """Show vLLM the learner's tensors: what will come, and then one pass over ``weights``."""
    from vllm.distributed.weight_transfer.base import ParamMeta, WeightSource

    class Learner(WeightSource):
        weights: Iterable[tuple[str, torch.Tensor]] = ()

        def metadata(self) -> list[Any]:
            return [ParamMeta(name, dtype, shape) for name, shape in expected.items()]

        def __iter__(self) -> Iterator[tuple[str, torch.Tensor]]:
            return iter(self.weights)

    return Learner()
