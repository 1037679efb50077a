"""The samplers as the trainer sees them: who works on what, who gives signs of life, who is lost."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import ActorDiedError, RayActorError, RayTaskError

from r1zero.errors import SyncError, UserError
from r1zero.launch.run_folder import one_line
from r1zero.rollout.identity import difference
from r1zero.rollout.parts import Part

log = logging.getLogger("r1zero")

POLL = 0.5
"""Seconds between two looks at the samplers."""
LONGEST_LOOK = 5.0
"""Seconds that count at most for one look, so that a trainer that was suspended takes no sampler for a hung one."""
DEATHS = 10
"""Looks in a row at which Ray calls an actor dead for good before it is believed: it may be about to start it again."""
START_SECONDS = 1800.0
"""Time for a start: reading a large model and compiling for a GPU take minutes."""


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


class Remotes:
    """All samplers of a run, watched.

    Args:
        actors: the samplers.
        own: identity of the learner's model and releases of what samples.
        timeout_s: seconds without a decoding step after which a sampler counts as hung.
    """

    def __init__(self, actors: list[Any], own: dict[str, Any], timeout_s: float) -> None:
        self.all = [Remote(number, actor) for number, actor in enumerate(actors)]
        self._own, self._timeout_s = own, timeout_s

    def look(self) -> list[tuple[Remote, Part, Any]]:
        """Wait a little; the work that is over, with its result or what went wrong."""
        begun = time.monotonic()
        for remote in self.all:
            if remote.asked is None and begun >= remote.ask_at and (remote.work or not remote.up):
                remote.asked, remote.ask_at = remote.actor.state.remote(), begun + POLL
        working = {reference: remote for remote in self.all for reference in remote.work}
        asked = {remote.asked: remote for remote in self.all if remote.asked is not None}
        if not (working or asked):
            time.sleep(POLL / 5)
        ready = ray.wait([*working, *asked], num_returns=1, timeout=POLL)[0] if working or asked else []
        passed = min(time.monotonic() - begun, LONGEST_LOOK)
        over: list[tuple[Remote, Part, Any]] = []
        for reference, remote in asked.items():
            if reference in ready:
                remote.asked = None
                self._heard(remote, outcome(reference))
        for remote in self.all:
            if remote.work or not remote.up:
                remote.idle += passed
            if remote.up and remote.idle >= self._timeout_s:
                self._restart(remote, f"it made no step for {self._timeout_s:g} s (rollout.timeout_s)")
        for reference, remote in working.items():
            if reference in ready:
                over.append((remote, remote.work.pop(reference), outcome(reference)))
            elif not remote.up:
                over.append((remote, remote.work.pop(reference), Lost(remote.reason)))
        if all(not remote.up and remote.idle >= START_SECONDS for remote in self.all):
            reasons = "; ".join(f"sampler {remote.number}: {remote.reason}" for remote in self.all)
            raise UserError(f"no sampler has answered for {START_SECONDS:g} s: {reasons}")
        return over

    def _heard(self, remote: Remote, state: Any) -> None:
        """The answer to ``state``: a sign of life, news of another start, or what went wrong."""
        if isinstance(state, (UserError, SyncError)) and not remote.boot:
            raise state  # one that has run before may lack memory that its former self still holds
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

    def lost(self, remote: Remote, error: Exception) -> None:
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
        if set(state.get("cards", ())) & set(self._own.get("cards", ())):
            raise UserError(
                f"sampler {remote.number} has the learner's own card, and rollout.ray.transfer=nccl sends from card to "
                "card: leave the learner's cards out of `ray start --num-gpus`, or use transfer=object"
            )
        if (other := difference(state, self._own)) is not None:
            raise UserError(f"sampler {remote.number} serves {other}: model.path must name the same model everywhere")

    def wait_for(self, seconds: float) -> None:
        """Wait until samplers have started; their errors are raised."""
        waited = time.monotonic()
        while not all(remote.up for remote in self.all):
            self.look()
            if time.monotonic() - waited > seconds:
                raise UserError(f"the samplers did not start within {seconds:g} s; rollout=ray: see Ray's logs")


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
        return "its process or its machine is gone"
    return one_line(error)[:200]
