"""The engine of a run: started at first use, kept at the learner's weights, started again where it fails."""

from __future__ import annotations

import gc
import logging
import time
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from r1zero.errors import SyncError, UserError
from r1zero.launch.run_folder import one_line
from r1zero.rollout.ahead import Ahead
from r1zero.rollout.engine import Engine

if TYPE_CHECKING:
    from r1zero.learn.module import PolicyGradientModule

log = logging.getLogger("r1zero")

T = TypeVar("T")

ENGINE_RESTARTS = 2
"""Times that a failed engine is started again for the same step before the run ends."""


class LiveEngine:
    """Hands out an engine that serves the learner's weights.

    Args:
        start: makes an engine.
        world_size: number of ranks; asked for when it is needed, since only ``fit`` settles it.
    """

    def __init__(self, start: Callable[[], Engine], world_size: Callable[[], int] = lambda: 1) -> None:
        self.start, self.world_size = start, world_size
        self.ahead = Ahead()
        """The rollout that is sampled while the learner works (rollout.async)."""
        self.start_seconds = 0.0
        """Time that starts of engines took so far, apart from what they were started for."""
        self._engine: Engine | None = None

    @property
    def now(self) -> Engine:
        """The engine, started at first use.

        Not before ``fit``: vLLM and Lightning share the process's default communication group, and the
        strategy must be the one that makes it (trap 44).
        """
        if self._engine is None:
            begun = time.perf_counter()
            self._engine = self.start()
            self.start_seconds += time.perf_counter() - begun
        return self._engine

    @property
    def started(self) -> bool:
        """Whether the engine is there, without starting it."""
        return self._engine is not None

    def close(self) -> None:
        """Free the engine; safe to call twice."""
        if hasattr(self._engine, "on_step"):
            self._engine.on_step = _give_up  # type: ignore[union-attr]
        self.ahead.settle()
        if self._engine is not None:
            self._engine.close()
            self._engine = None

    def sampled(self, module: PolicyGradientModule, work: Callable[[Engine], T]) -> T:
        """Sample with an engine that serves the learner's weights; where it fails, start another and sample again.

        The draws are seeded by what they are for, so the responses are those that the first engine would have
        given.

        Args:
            module: the learner.
            work: samples with the engine.

        Raises:
            Exception: whatever the engine raised, after ``ENGINE_RESTARTS`` further attempts.
        """

        def load_and_sample(engine: Engine) -> T:
            self._load(engine, module)
            return work(engine)

        module.make_room()
        return self._with_restarts(load_and_sample)

    def sync(self, module: PolicyGradientModule) -> float:
        """Load the learner's weights into the engine when it serves another version; seconds it took, without a start.

        An engine that fails over it is started again, as in :meth:`sampled`.
        """
        begun = time.perf_counter() - self.start_seconds
        module.make_room()
        self._with_restarts(lambda engine: self._load(engine, module))
        return time.perf_counter() - self.start_seconds - begun

    def _load(self, engine: Engine, module: PolicyGradientModule) -> None:
        """Bring an engine up to date.

        Lazy, and keyed by a counted version: after a resume, or with several optimizer steps a rollout,
        nothing special has to be remembered (traps 38, 43).
        """
        engine.wake()
        if engine.version != module.policy_version:
            engine.load_weights(module.policy.named_weights(), module.policy_version)

    def _with_restarts(self, work: Callable[[Engine], T]) -> T:
        """Do something with the engine; where it fails, with another one.

        With several ranks an error ends the run: loading weights may be a collective, and the other
        ranks would not take part.
        """
        self.ahead.settle()  # one user of the engine at a time
        for attempt in range(ENGINE_RESTARTS + 1):
            engine = self.now
            try:
                return work(engine)
            except (UserError, SyncError):
                raise
            except Exception as error:
                if attempt == ENGINE_RESTARTS or self.world_size() > 1:
                    raise
                log.warning("the engine failed (%s): it is started again and the step repeated", one_line(error))
                log.info("what the engine said:\n%s", traceback.format_exc())  # a record with the error would keep it
            # Not before the error is forgotten: the frames in its traceback hold the model, and on a GPU another engine
            # does not start beside the memory of the first.
            del engine
            try:
                self.close()
            except Exception:
                log.info("the failed engine could not be closed", exc_info=True)
                self._engine = None
            gc.collect()
        raise AssertionError("unreachable")


def _give_up() -> None:
    raise RuntimeError("the run ends: what was sampled ahead is not needed")
