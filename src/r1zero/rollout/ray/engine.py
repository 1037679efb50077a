"""The rollout engine ``ray``: samplers in Ray's actors, on this machine or on others."""

from __future__ import annotations

import logging
import secrets
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

import ray
import torch
from ray.exceptions import ObjectStoreFullError, OutOfDiskError

from r1zero.batch import Completion
from r1zero.errors import SyncError, UserError
from r1zero.launch.seeding import derive_seed
from r1zero.rollout import ranks
from r1zero.rollout.engine import Sampling
from r1zero.rollout.parts import Part, split
from r1zero.rollout.ray.remotes import START_SECONDS, Remote, Remotes, reason
from r1zero.rollout.ray.sampler import NotSynced, check_prompts, packed
from r1zero.rollout.ray.transfer import Transfer
from r1zero.rollout.sync import CheckedWeights, torch_dtype
from r1zero.rollout.text import check_request

log = logging.getLogger("r1zero")

ATTEMPTS = 3
"""Samplers that may break down over one part before it is taken for the cause."""
SHARD = 2**30
"""Bytes of weights that are put into Ray's memory at a time."""


class RayEngine:
    """Keeps the contract of :class:`r1zero.rollout.engine.Engine` over several samplers.

    A call's prompts are cut into parts with seeds of their own. A sampler that dies, hangs or lacks the weights
    gives its part back and another takes it; Ray starts the actor again, on another machine if need be, and the
    actor takes the newest weights by itself. What is sampled does not depend on any of that.

    Every rank has one; all ranks use the same samplers. Weights are put into Ray's memory by rank 0, in a
    collective call; each sampler's version is checked by the sampler whenever it is used.

    Args:
        actors: the samplers.
        weights: the run's ``Weights`` actor.
        own: identity of the learner's model and releases of what samples.
        expected: shapes of its parameters by name.
        dtype: number format in which weights are sent.
        context: longest prompt + response in tokens.
        parts: parts that a call's prompts are cut into.
        continuous: requests of all ranks share a sampler's running batch; a question has a seed of its own.
        timeout_s: seconds without a decoding step after which a sampler counts as hung.
        transfer: vLLM's weight transfer between GPUs, where it is used instead of Ray's memory; only on rank 0.
        by_transfer: whether it is used.
        on_close: what rank 0 does when all is over.

    Raises:
        UserError: a sampler can't start, or serves another model or by another release of vLLM.
    """

    def __init__(
        self,
        actors: list[Any],
        weights: Any,
        *,
        own: dict[str, Any],
        expected: dict[str, tuple[int, ...]],
        dtype: str,
        context: int,
        parts: int,
        continuous: bool,
        timeout_s: float,
        transfer: Transfer | None,
        by_transfer: bool,
        on_close: Callable[[], None],
    ) -> None:
        self.version: int | None = None
        self.on_step: Callable[[], None] | None = None
        """Called at every look at the samplers; what it raises ends the work."""
        self.on_group: Callable[[int, list[Completion]], None] | None = None
        """Told of a prompt's index and its responses once its part is finished, while others are sampled."""
        self.remotes = Remotes(actors, own, timeout_s)
        self._weights, self._expected = weights, expected
        self._dtype, self._context, self._parts, self._continuous = torch_dtype(dtype), context, parts, continuous
        self._transfer, self._by_transfer, self._on_close = transfer, by_transfer, on_close
        self._rows = next((shape[0] for name, shape in expected.items() if "embed" in name), 2**31)
        self._push: str | None = None
        self._shards: list[Any] = []
        self._fault: str | None = None
        self._call = ""
        self._closed = False
        self.remotes.wait_for(START_SECONDS)

    # -- sampling ---------------------------------------------------------------------------------------

    def generate(self, prompts: list[list[int]], sampling: Sampling, seed: int) -> list[list[Completion]]:
        """Sample ``sampling.n`` responses a prompt; see :meth:`r1zero.rollout.engine.Engine.generate`."""
        if self._closed:
            raise RuntimeError("the engine is closed")
        if self._fault:
            raise SyncError(f"the samplers' weights are not to be trusted after a failed sync: {self._fault}")
        check_request(prompts, sampling, self._context)
        check_prompts(prompts, self._rows)
        if not prompts:
            return []
        waiting = deque(split(len(prompts), self._parts, seed))
        done: dict[int, list[list[Completion]]] = {}
        attempts: dict[int, int] = {}
        slots = -(-len(waiting) // len(self.remotes.all)) if self._continuous else 1
        wanted = len(waiting)
        self._call = secrets.token_hex(8)
        try:
            while len(done) < wanted:
                if self.on_step is not None:
                    self.on_step()
                self._hand_out(waiting, slots, prompts, sampling, seed)
                for remote, part, answer in self.remotes.look():
                    if isinstance(answer, Exception):
                        self._give_back(remote, part, answer, waiting, attempts)
                        continue
                    done[part.start] = answer
                    if self.on_group is not None:
                        for index, group in enumerate(answer):
                            self.on_group(part.start + index, group)
        finally:
            for remote in self.remotes.all:  # after an error or Ctrl-C
                if remote.work:
                    remote.actor.drop.remote(self._call)
                remote.work.clear()
        return [group for start in sorted(done) for group in done[start]]

    def _hand_out(
        self, waiting: deque[Part], slots: int, prompts: list[list[int]], sampling: Sampling, seed: int
    ) -> None:
        """Give parts to samplers that have room; ranks begin with different ones."""
        first = ranks.rank() % len(self.remotes.all)
        for remote in [*self.remotes.all[first:], *self.remotes.all[:first]]:
            while waiting and remote.up and len(remote.work) < slots:
                part = waiting.popleft()
                share = [list(map(int, ids)) for ids in prompts[part.start : part.stop]]
                seeds = [derive_seed(seed, "question", i) for i in range(part.start, part.stop)]
                given = seeds if self._continuous else part.seed
                reference = remote.actor.generate.remote(share, sampling, given, self.version, self._push, self._call)
                remote.idle = remote.idle if remote.work else 0.0
                remote.work[reference] = part

    def _give_back(
        self, remote: Remote, part: Part, error: Exception, waiting: deque[Part], attempts: dict[int, int]
    ) -> None:
        """A sampler failed over a part: another takes it, unless it breaks them all."""
        if isinstance(error, (UserError, SyncError)):
            raise error
        why = reason(error)
        if isinstance(error, NotSynced):
            if self._by_transfer:
                raise RuntimeError(f"sampler {remote.number} was started anew, and a transfer keeps no weights: {why}")
            self._publish()
        else:
            self.remotes.lost(remote, error)
        attempts[part.start] = attempts.get(part.start, 0) + 1
        if attempts[part.start] >= ATTEMPTS:
            prompts = f"prompts {part.start} to {part.stop - 1}"
            raise RuntimeError(f"{ATTEMPTS} attempts at {prompts} failed, the last one because {why}")
        waiting.appendleft(part)

    # -- weights ----------------------------------------------------------------------------------------

    def load_weights(self, weights: Iterable[tuple[str, torch.Tensor]], version: int) -> None:
        """Put the learner's weights into Ray's memory once; every sampler takes them from there.

        A sampler that does not answer is passed over: it takes them before it serves again. A collective: every
        rank takes part in gathering the tensors, and waits until rank 0 has published them. Nothing is published
        before all ranks are here: one may still sample with the version before.
        """
        if self._closed:
            raise RuntimeError("the engine is closed")
        ranks.meet()
        self.version, self._push = None, None
        self._fault = f"version {version} did not arrive whole"
        checked = CheckedWeights(weights, self._expected, self._dtype)
        push = secrets.token_hex(8)
        if ranks.rank() == 0:
            self._shards = []  # Ray's memory need not hold them twice
            ray.get(self._weights.give.remote(None, None, []))
            if self._transfer is not None:
                self.remotes.wait_for(START_SECONDS)
                self._transfer.send(checked, version, push, [remote.boot for remote in self.remotes.all])
            else:
                self._shards = put(checked)
        else:
            for _ in checked:
                pass
        checked.verify(version)
        with ranks.agreed(lambda: self._push_all(version, push)) as agreed:
            self.version, self._push = version, agreed
        self._fault = None

    def _push_all(self, version: int, push: str) -> str:
        """Rank 0's share: every sampler that answers takes the weights; after a transfer they have them."""
        self.version, self._push = version, push
        self._publish()
        for remote in self.remotes.all:
            if remote.up and not self._by_transfer:
                remote.idle = 0.0
                remote.work[remote.actor.load.remote(push)] = Part(0, 0, 0)
        try:
            while any(remote.work for remote in self.remotes.all):
                for remote, _, answer in self.remotes.look():
                    if isinstance(answer, (UserError, SyncError)):
                        raise answer
                    if isinstance(answer, Exception):
                        self.remotes.lost(remote, answer)
                    elif answer != version:
                        raise SyncError(f"sampler {remote.number} serves version {answer}, not version {version}")
        finally:
            for remote in self.remotes.all:
                remote.work.clear()
        return push

    def _publish(self) -> None:
        """Tell the ``Weights`` actor, which may have been started again, where the newest weights lie."""
        if ranks.rank() == 0 and self.version is not None:
            ray.get(self._weights.give.remote(self.version, self._push, self._shards))

    def sleep(self) -> None:
        """Nothing: samplers have their devices to themselves."""

    def wake(self) -> None:
        """Nothing, as :meth:`sleep`."""

    def close(self) -> None:
        """End the samplers, and Ray where it is our own; safe to call twice."""
        if self._closed:
            return
        self._closed = True
        if self._transfer is not None:
            self._transfer.close()
        self._shards = []
        self._on_close()


def put(weights: Iterable[tuple[str, torch.Tensor]]) -> list[Any]:
    """Put named tensors into Ray's memory, about a GiB at a time; references to the shards.

    Raises:
        UserError: Ray's memory is full.
    """
    shards: list[Any] = []
    shard: dict[str, torch.Tensor] = {}
    size = 0
    try:
        for name, tensor in weights:
            shard[name] = tensor
            size += tensor.numel() * tensor.element_size()
            if size >= SHARD:
                shards.append(ray.put(packed(shard)))
                shard, size = {}, 0
        if shard:
            shards.append(ray.put(packed(shard)))
    except (ObjectStoreFullError, OutOfDiskError) as error:
        raise UserError(
            "Ray's object store is full and the weights do not fit: raise rollout.ray.object_store_gib, or on a "
            "cluster `ray start --object-store-memory`"
        ) from error
    return shards
