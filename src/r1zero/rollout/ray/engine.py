"""The rollout engine ``ray``: samplers in Ray's actors, on this machine or on others."""

from __future__ import annotations

import logging
import secrets
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import ray
import torch
from ray.exceptions import ActorDiedError, ObjectStoreFullError, OutOfDiskError, RayActorError, RayTaskError

from r1zero.batch import Completion
from r1zero.errors import SyncError, UserError
from r1zero.launch.run_folder import one_line
from r1zero.rollout import ranks
from r1zero.rollout.engine import Sampling
from r1zero.rollout.identity import difference
from r1zero.rollout.parts import Part, split
from r1zero.rollout.ray.sampler import NotSynced, check_prompts, packed
from r1zero.rollout.ray.transfer import Transfer
from r1zero.rollout.sync import CheckedWeights, torch_dtype
from r1zero.rollout.text import check_request
from r1zero.seeding import derive_seed

log = logging.getLogger("r1zero")

POLL = 0.5
"""Seconds between two looks at the samplers."""
LONGEST_LOOK = 5.0
"""Seconds that count at most for one look, so that a trainer that was suspended takes no sampler for a hung one."""
ATTEMPTS = 3
"""Samplers that may break down over one part before it is taken for the cause."""
DEATHS = 10
"""Looks in a row at which Ray calls an actor dead for good before it is believed: it may be about to start it again."""
START_SECONDS = 1800.0
"""Time for a start: reading a large model and compiling for a GPU take minutes."""
SHARD = 2**30
"""Bytes of weights that are put into Ray's memory at a time."""


class Lost(Exception):
    """The sampler that worked on it is gone."""


@dataclass
class Remote:
    """One sampler as the trainer sees it."""

    number: int
    actor: Any
    up: bool = False
    boot: str = ""
    pid: int = 0
    steps: int = -1
    idle: float = 0.0
    """Seconds without a sign of life."""
    died: int = 0
    """Times in a row that Ray took it for dead for good."""
    ask_at: float = 0.0
    asked: Any = None
    """Ray's reference to the answer of ``state`` that is waited for."""
    work: dict[Any, Part] = field(default_factory=dict)
    """Parts that it samples for this rank, or weights that it takes, by Ray's references to the results."""
    reason: str = "it does not answer"


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
        self.remotes = [Remote(number, actor) for number, actor in enumerate(actors)]
        self._weights, self._own, self._expected = weights, own, expected
        self._dtype, self._context, self._parts, self._continuous = torch_dtype(dtype), context, parts, continuous
        self._timeout_s, self._transfer, self._by_transfer, self._on_close = timeout_s, transfer, by_transfer, on_close
        self._rows = next((shape[0] for name, shape in expected.items() if "embed" in name), 2**31)
        self._push: str | None = None
        self._shards: list[Any] = []
        self._fault: str | None = None
        self._closed = False
        self._wait_for(self.remotes, START_SECONDS)

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
        slots = -(-len(waiting) // len(self.remotes)) if self._continuous else 1
        wanted = len(waiting)
        try:
            while len(done) < wanted:
                if self.on_step is not None:
                    self.on_step()
                self._hand_out(waiting, slots, prompts, sampling, seed)
                for remote, part, answer in self._look():
                    if isinstance(answer, Exception):
                        self._give_back(remote, part, answer, waiting, attempts)
                        continue
                    done[part.start] = answer
                    if self.on_group is not None:
                        for index, group in enumerate(answer):
                            self.on_group(part.start + index, group)
        finally:
            for remote in self.remotes:  # what is still sampled after an error is not waited for
                remote.work.clear()
        return [group for start in sorted(done) for group in done[start]]

    def _hand_out(
        self, waiting: deque[Part], slots: int, prompts: list[list[int]], sampling: Sampling, seed: int
    ) -> None:
        """Give parts to samplers that have room; ranks begin with different ones."""
        first = ranks.rank() % len(self.remotes)
        for remote in [*self.remotes[first:], *self.remotes[:first]]:
            while waiting and remote.up and len(remote.work) < slots:
                part = waiting.popleft()
                share = [list(map(int, ids)) for ids in prompts[part.start : part.stop]]
                seeds = [derive_seed(seed, "question", i) for i in range(part.start, part.stop)]
                given = seeds if self._continuous else part.seed
                reference = remote.actor.generate.remote(share, sampling, given, self.version, self._push)
                remote.idle = remote.idle if remote.work else 0.0
                remote.work[reference] = part

    def _look(self) -> list[tuple[Remote, Part, Any]]:
        """Wait a little; the work that is over, with its result or what went wrong."""
        begun = time.monotonic()
        for remote in self.remotes:
            if remote.asked is None and begun >= remote.ask_at and (remote.work or not remote.up):
                remote.asked, remote.ask_at = remote.actor.state.remote(), begun + POLL
        working = {reference: remote for remote in self.remotes for reference in remote.work}
        asked = {remote.asked: remote for remote in self.remotes if remote.asked is not None}
        if not (working or asked):
            time.sleep(POLL / 5)
        ready = ray.wait([*working, *asked], num_returns=1, timeout=POLL)[0] if working or asked else []
        passed = min(time.monotonic() - begun, LONGEST_LOOK)
        over: list[tuple[Remote, Part, Any]] = []
        for reference, remote in asked.items():
            if reference in ready:
                remote.asked = None
                self._heard(remote, outcome(reference))
        for remote in self.remotes:
            if remote.work or not remote.up:
                remote.idle += passed
            if remote.up and remote.idle >= self._timeout_s:
                self._restart(remote, f"it made no step for {self._timeout_s:g} s (rollout.timeout_s)")
        for reference, remote in working.items():
            if reference in ready:
                over.append((remote, remote.work.pop(reference), outcome(reference)))
            elif not remote.up:
                over.append((remote, remote.work.pop(reference), Lost(remote.reason)))
        if all(not remote.up and remote.idle >= START_SECONDS for remote in self.remotes):
            reasons = "; ".join(f"sampler {remote.number}: {remote.reason}" for remote in self.remotes)
            raise UserError(f"no sampler has answered for {START_SECONDS:g} s: {reasons}")
        return over

    def _heard(self, remote: Remote, state: Any) -> None:
        """The answer to ``state``: a sign of life, news of another start, or what went wrong."""
        if isinstance(state, (UserError, SyncError)):
            raise state
        if isinstance(state, RayActorError):
            remote.died = remote.died + 1 if isinstance(state, ActorDiedError) else 0
            if remote.died >= DEATHS:
                raise RuntimeError(f"sampler {remote.number} is gone and Ray does not start it again: {reason(state)}")
            self._down(remote, reason(state))
        elif isinstance(state, Exception):
            self._restart(remote, one_line(state))
        else:
            if remote.boot != state["boot"]:
                self._check(remote, state)
            if (remote.boot, remote.steps) != (state["boot"], state["steps"]):
                remote.idle = 0.0
            remote.up, remote.died, remote.pid = True, 0, state["pid"]
            remote.boot, remote.steps = state["boot"], state["steps"]

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
            self._lost(remote, error)
        attempts[part.start] = attempts.get(part.start, 0) + 1
        if attempts[part.start] >= ATTEMPTS:
            prompts = f"prompts {part.start} to {part.stop - 1}"
            raise RuntimeError(f"{ATTEMPTS} attempts at {prompts} failed, the last one because {why}")
        waiting.appendleft(part)

    def _lost(self, remote: Remote, error: Exception) -> None:
        """A sampler failed: its process is gone, or it is not to be trusted any more."""
        if isinstance(error, RayActorError):
            self._down(remote, reason(error))
        elif not isinstance(error, Lost):
            self._restart(remote, reason(error))

    def _down(self, remote: Remote, why: str) -> None:
        """A sampler is gone for now; said once."""
        if remote.up:
            log.warning("sampler %d is lost (%s): others take over until it is back", remote.number, why)
            remote.idle = 0.0
        remote.up, remote.reason = False, why

    def _restart(self, remote: Remote, why: str) -> None:
        self._down(remote, why)
        remote.asked = None
        ray.kill(remote.actor, no_restart=False)

    def _check(self, remote: Remote, state: dict[str, Any]) -> None:
        """The same model and the same releases as here. Raises ``UserError``."""
        theirs, ours = state["releases"], self._own["releases"]
        for name in ours:
            if theirs.get(name) != ours[name]:
                raise UserError(
                    f"sampler {remote.number} runs {name} {theirs.get(name, '(none)')} and this trainer {ours[name]}: "
                    "install the same release on every machine of the cluster"
                )
        if (other := difference(state, self._own)) is not None:
            raise UserError(f"sampler {remote.number} serves {other}: model.path must name the same model everywhere")

    def _wait_for(self, remotes: list[Remote], seconds: float) -> None:
        """Wait until samplers have started; their errors are raised."""
        waited = time.monotonic()
        while not all(remote.up for remote in remotes):
            self._look()
            if time.monotonic() - waited > seconds:
                raise UserError(f"the samplers did not start within {seconds:g} s; rollout=ray: see Ray's logs")

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
                self._wait_for(self.remotes, START_SECONDS)
                self._transfer.send(checked, version, push, [remote.boot for remote in self.remotes])
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
        for remote in self.remotes:
            if remote.up and not self._by_transfer:
                remote.idle = 0.0
                remote.work[remote.actor.load.remote(push)] = Part(0, 0, 0)
        try:
            while any(remote.work for remote in self.remotes):
                for remote, _, answer in self._look():
                    if isinstance(answer, (UserError, SyncError)):
                        raise answer
                    if isinstance(answer, Exception):
                        self._lost(remote, answer)
                    elif answer != version:
                        raise SyncError(f"sampler {remote.number} serves version {answer}, not version {version}")
        finally:
            for remote in self.remotes:
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


def outcome(reference: Any) -> Any:
    """What a call gave, or the exception that it raised, as it was there."""
    try:
        return ray.get(reference)
    except RayTaskError as error:
        return error.cause
    except Exception as error:
        return error


def reason(error: Exception) -> str:
    """Why a sampler is gone, in a few words; Ray's own messages are paragraphs."""
    if isinstance(error, RayActorError):
        text = " ".join(str(error).split())
        for words, short in (("node", "its machine is gone"), ("unavailable", "its process ended")):
            if words in text.lower():
                return short
        return "its process ended"
    return one_line(error)[:200]
