"""Weights from the trainer's GPU to the servers' GPUs by NCCL, through vLLM's own weight transfer.

Of vLLM's backends this is the one whose messages are plain numbers and strings; the one for a shared GPU sends
pickled device handles. One broadcast reaches all servers at once. Nothing is kept: a server that comes back
without weights can't be given them again before the next sync, so the engine is started anew instead.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterable, Iterator
from typing import Any
from urllib.parse import urlsplit

import torch

from r1zero.rollout.served.client import Remote

LOOPBACK = ("127.0.0.1", "localhost", "::1")


class Servers:
    """The inference side as vLLM's trainer side sees it: each call goes to all servers, at the same time.

    Args:
        remotes: the servers.
        tensor_parallel: workers of each; they follow the trainer, rank 0, in the transfer's group.
        timeout_s: seconds that a step may take without a sign of life.
    """

    def __init__(self, remotes: list[Remote], tensor_parallel: int, timeout_s: float) -> None:
        self.remotes, self.tensor_parallel, self.timeout_s = remotes, tensor_parallel, timeout_s
        self.version, self.push = 0, ""

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        """Each server's workers have ranks of their own."""
        requests = [
            {"init_info": {**init_info, "rank_offset": 1 + index * self.tensor_parallel}}
            for index in range(len(self.remotes))
        ]
        self._all("init_weight_transfer_engine", requests)

    def start_weight_update(self) -> None:
        """The old weights are no longer served."""
        self._all("start_weight_update", [{"version": self.version}] * len(self.remotes))

    def update_weights(self, update_info: Any) -> None:
        """Names, formats and shapes of what is broadcast meanwhile."""
        self._all("update_weights", [{"update_info": update_info}] * len(self.remotes))

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        """The new weights are served as this version."""
        self._all("finish_weight_update", [{"version": self.version, "push": self.push}] * len(self.remotes))

    def _all(self, step: str, requests: list[dict[str, Any]]) -> None:
        errors: list[BaseException] = []

        def one(remote: Remote, request: dict[str, Any]) -> None:
            try:
                remote.job(step, request, self.timeout_s)
            except BaseException as error:
                errors.append(error)

        threads = [
            threading.Thread(target=one, args=pair, daemon=True) for pair in zip(self.remotes, requests, strict=True)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if errors:
            raise errors[0]


class Transfer:
    """The trainer's end; opened at the first :meth:`send`.

    Args:
        servers: the inference side.
        expected: shapes by name, in the order in which the learner yields its tensors.
        dtype: number format sent.
    """

    def __init__(self, servers: Servers, expected: dict[str, tuple[int, ...]], dtype: torch.dtype) -> None:
        self.servers, self._expected, self._dtype = servers, expected, dtype
        self._engine: Any = None
        self._source: Any = None

    def send(self, weights: Iterable[tuple[str, torch.Tensor]], version: int, push: str) -> None:
        """Broadcast the tensors, one pass; afterwards the servers serve ``version``."""
        self.servers.version, self.servers.push = version, push
        if self._engine is None:
            self._open()
        self._source.weights = weights
        self._engine.send_weights()

    def close(self) -> None:
        """Leave the group."""
        if self._engine is not None:
            self._engine.shutdown()
            self._engine = None

    def _open(self) -> None:
        from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo, NCCLTrainerWeightTransferEngine

        host = own_address(self.servers.remotes[0].url)
        with socket.socket() as free:
            free.bind((host, 0))
            port = free.getsockname()[1]
        self._source = source(self._expected, self._dtype)
        self._engine = NCCLTrainerWeightTransferEngine.trainer_init(
            NCCLTrainerInitInfo(
                rank=0,
                master_address=host,
                master_port=port,
                world_size=1 + len(self.servers.remotes) * self.servers.tensor_parallel,
            ),
            client=self.servers,
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


def own_address(url: str) -> str:
    """The address under which a server can reach this machine."""
    host = str(urlsplit(url).hostname)
    if host in LOOPBACK:
        return "127.0.0.1"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((host, 9))  # nothing is sent
        return probe.getsockname()[0]
