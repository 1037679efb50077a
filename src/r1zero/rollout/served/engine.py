"""The rollout engine ``vllm_server``: servers in processes of their own, their own machines if need be."""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from r1zero.batch import Completion
from r1zero.errors import SyncError, UserError
from r1zero.rollout import ranks
from r1zero.rollout.engine import Sampling
from r1zero.rollout.identity import difference
from r1zero.rollout.parts import Part, split
from r1zero.rollout.served.board import Board
from r1zero.rollout.served.client import Cancelled, Failed, Hangs, NotSynced, Remote, Unreachable
from r1zero.rollout.served.fleet import Fleet
from r1zero.rollout.served.folder import WeightStore
from r1zero.rollout.served.transfer import Servers, Transfer
from r1zero.rollout.served.wire import decode_groups, encode_sampling
from r1zero.rollout.sync import CheckedWeights, torch_dtype
from r1zero.rollout.text import check_request

log = logging.getLogger("r1zero")

PAUSE = 0.3
"""Seconds between two knocks at the door of a server that does not answer."""


@dataclass(frozen=True)
class Pushed:
    """One set of weights on its way to the servers.

    Threads hold on to the one that their call began with: read piece by piece while another is pushed, the old
    folder could go out under the new version.
    """

    version: int | None = None
    push: str | None = None
    folder: str | None = None


class ServerEngine:
    """Keeps the contract of :class:`r1zero.rollout.engine.Engine` over several servers.

    A call's prompts are cut into parts with seeds of their own, and each server takes the next part when it is
    free. A server that dies, hangs or comes back with other weights gives its part back; it is given the newest
    weights again before it takes another. What is sampled does not depend on any of that.

    Every rank has one; all ranks use the same servers. Weights are written and pushed by rank 0, in a collective
    call; every server's version is checked by whoever uses it.

    Args:
        remotes: clients of the servers.
        fleet: the processes, where they are our own; only on rank 0.
        own: identity of the learner's model, see ``identity.py``.
        expected: shapes of its parameters by name.
        dtype: number format in which weights are sent.
        context: longest prompt + response in tokens.
        parts: parts that a call's prompts are cut into.
        store: where weights are written; only on rank 0.
        timeout_s: seconds without progress after which a server counts as hung, and for which servers that do
            not answer are waited for when none does.
        transfer: how the weights travel: folder, or nccl.
        tensor_parallel: workers of each server.

    Raises:
        UserError: no server answers, or one serves another model.
    """

    def __init__(
        self,
        remotes: list[Remote],
        *,
        fleet: Fleet | None,
        own: dict[str, Any],
        expected: dict[str, tuple[int, ...]],
        dtype: str,
        context: int,
        parts: int,
        store: WeightStore | None,
        timeout_s: float,
        transfer: str = "folder",
        tensor_parallel: int = 1,
    ) -> None:
        self.version: int | None = None
        self.remotes, self.fleet = remotes, fleet
        self._own, self._expected = own, expected
        self._dtype, self._dtype_name, self._context = torch_dtype(dtype), dtype, context
        self._parts, self._store, self._timeout_s = parts, store, timeout_s
        self._kind, self._transfer = transfer, None
        if transfer == "nccl" and store is not None:
            self._transfer = Transfer(Servers(remotes, tensor_parallel, timeout_s), expected, self._dtype)
        self._current = Pushed()
        self._fault: str | None = None
        self._closed = False
        self._boots: dict[str, str] = {}
        self._silent: dict[str, float] = {}
        self._each(self._greet)

    def generate(self, prompts: list[list[int]], sampling: Sampling, seed: int) -> list[list[Completion]]:
        """Sample ``sampling.n`` responses a prompt; see :meth:`r1zero.rollout.engine.Engine.generate`."""
        if self._closed:
            raise RuntimeError("the engine is closed")
        if self._fault:
            raise SyncError(f"the servers' weights are not to be trusted after a failed sync: {self._fault}")
        check_request(prompts, sampling, self._context)
        if not prompts:
            return []
        board = Board(split(len(prompts), self._parts, seed))
        remotes = self.remotes[ranks.rank() % len(self.remotes) :] + self.remotes[: ranks.rank() % len(self.remotes)]
        for remote in remotes:
            work = (remote, board, self._current, prompts, sampling)
            threading.Thread(target=self._serve, args=work, daemon=True).start()
        return board.wait()

    def _serve(
        self, remote: Remote, board: Board, pushed: Pushed, prompts: list[list[int]], sampling: Sampling
    ) -> None:
        """Let one server take part after part until all are done."""
        try:
            while self._ready(remote, board, pushed) and (part := board.take()) is not None:
                try:
                    groups = self._sample(remote, board, pushed, part, prompts, sampling)
                except (Unreachable, Failed, NotSynced) as error:
                    log.warning("rollout server %s gave up its prompts (%s): they are sampled again", remote.url, error)
                    self._broken(remote, error)
                    board.give_back(part, f"{remote.url}: {error}")
                else:
                    board.done(part, groups)
        except Cancelled:
            return
        except BaseException as error:
            board.fail(error)

    def _sample(
        self, remote: Remote, board: Board, pushed: Pushed, part: Part, prompts: list[list[int]], sampling: Sampling
    ) -> list[list[Completion]]:
        share = prompts[part.start : part.stop]
        request = {
            "prompts": [list(map(int, ids)) for ids in share],
            "sampling": encode_sampling(sampling),
            "seed": part.seed,
            "version": pushed.version,
            "push": pushed.push,
        }
        body = remote.job("generate", request, self._timeout_s, lambda: board.error is not None)
        try:
            return decode_groups(body, len(share), sampling)
        except (ValueError, KeyError) as error:
            raise Failed(str(error)) from error

    def _ready(self, remote: Remote, board: Board, pushed: Pushed) -> bool:
        """Wait until a server answers and has the newest weights; False: all is over before."""
        waited = time.monotonic()
        while not board.over():
            try:
                self._catch_up(remote, pushed, board.over)
            except (Unreachable, Failed, TimeoutError) as error:
                self._broken(remote, error)
                board.down[remote.url] = str(error) or "no answer"
                # A fleet says itself when it gives up.
                patience = self._timeout_s if self.fleet is None else float("inf")
                if len(board.down) == len(self.remotes) and time.monotonic() - waited > patience:
                    raise self._nobody(board.down) from error
                time.sleep(PAUSE)
            else:
                board.down.pop(remote.url, None)
                return True
        return False

    def _catch_up(self, remote: Remote, pushed: Pushed, unwanted: Callable[[], bool] = lambda: False) -> None:
        """Look what a server serves, and give it the weights that are wanted where it lacks them."""
        state = remote.health(min(5.0, self._timeout_s))
        self._silent.pop(remote.url, None)
        if self._boots.get(remote.url) != state["boot"]:
            self._check(remote, state)
        if (state["version"], state["push"]) == (pushed.version, pushed.push):
            return
        if pushed.push is None:
            raise UserError(
                f"{remote.url} serves weights of version {state['version']} that a training run gave it: start it anew"
            )
        if pushed.folder is None:
            raise RuntimeError(f"{remote.url} has lost the weights that were transferred to it")
        log.info("rollout server %s is given version %s", remote.url, pushed.version)
        request = {"folder": pushed.folder, "version": pushed.version, "push": pushed.push}
        remote.job("load", request, self._timeout_s, unwanted)

    def _greet(self, remote: Remote) -> None:
        """First contact. Raises ``UserError`` when nobody answers for too long or another model is served."""
        begun = time.monotonic()
        while True:
            try:
                self._check(remote, remote.health(min(5.0, self._timeout_s)))
                return
            except (Unreachable, TimeoutError) as error:
                if time.monotonic() - begun > self._timeout_s:
                    raise self._nobody({remote.url: str(error)}) from error
                time.sleep(PAUSE)

    def _check(self, remote: Remote, state: dict[str, Any]) -> None:
        other = difference(state, self._own)
        if other is None and state["dtype"] != self._dtype_name:
            other = f"its model in {state['dtype']}, not in {self._dtype_name} (rollout.dtype)"
        if other is None and state["context"] < self._context:
            other = f"a context of {state['context']} tokens; {self._context} are needed (model.context)"
        if other is None and (state["transfer"] or "folder") != self._kind:
            other = f"its model with rollout.transfer={state['transfer'] or 'folder'}, not {self._kind}"
        if other is not None:
            raise UserError(f"{remote.url} serves {other}: start it with the model and settings of this run")
        self._boots[remote.url] = state["boot"]

    def _broken(self, remote: Remote, error: Exception) -> None:
        """Where the server is our own and hangs, or never answers, kill it: the fleet starts another."""
        if self.fleet is None:
            return
        if self.fleet.failure is not None:
            raise self.fleet.failure
        silent = isinstance(error, TimeoutError)
        since = self._silent.setdefault(remote.url, time.monotonic()) if silent else time.monotonic()
        if isinstance(error, Hangs) or time.monotonic() - since > self._timeout_s:
            self._silent.pop(remote.url, None)
            self.fleet.kill(self.remotes.index(remote))

    def _nobody(self, down: dict[str, str]) -> UserError:
        who = ", ".join(f"{url} ({reason or 'no answer'})" for url, reason in down.items())
        return UserError(
            f"no rollout server answered for {self._timeout_s:g} s (rollout.timeout_s): {who}; "
            "start them with scripts/serve.py"
        )

    def load_weights(self, weights: Iterable[tuple[str, torch.Tensor]], version: int) -> None:
        """Write the learner's weights once and let every server load them.

        A server that does not answer is passed over: it is given them before it serves again. A collective: every
        rank takes part in gathering the tensors, and waits until rank 0 has pushed them. Nothing is pushed before
        all ranks are here: one may still sample with the version before.
        """
        if self._closed:
            raise RuntimeError("the engine is closed")
        ranks.meet()
        self.version, self._current = None, Pushed()
        self._fault = f"version {version} did not arrive whole"
        checked = CheckedWeights(weights, self._expected, self._dtype)
        push = secrets.token_hex(8)
        folder: Path | None = None
        if self._transfer is not None:
            self._transfer.send(checked, version, push)
        elif self._store is not None:
            folder = self._store.write(checked, f"version-{version}-{push}")
        else:
            for _ in checked:
                pass
        checked.verify(version)
        pushed = Pushed(version, push, str(folder) if folder else None)
        with ranks.agreed(lambda: self._push_all(pushed)) as (theirs, path):
            self.version, self._current = version, Pushed(version, theirs, path)
        self._fault = None

    def _push_all(self, pushed: Pushed) -> tuple[str | None, str | None]:
        """Rank 0's share: every server that answers loads the folder; after a transfer they have the weights."""
        assert self._store is not None
        if pushed.folder is None:
            return pushed.push, None
        begun = time.monotonic()
        while True:
            missed = self._each(lambda remote: self._give(remote, pushed))
            if len(missed) < len(self.remotes):
                break
            if self.fleet is None and time.monotonic() - begun > self._timeout_s:
                raise self._nobody(missed)
            time.sleep(PAUSE)
        self._store.keep(Path(pushed.folder))
        return pushed.push, pushed.folder

    def _give(self, remote: Remote, pushed: Pushed) -> None:
        try:
            self._catch_up(remote, pushed)
        except (Unreachable, Failed, TimeoutError) as error:
            log.warning("rollout server %s does not take the weights yet (%s)", remote.url, error)
            self._broken(remote, error)
            raise Unreachable(str(error) or "no answer") from error

    def _each(self, work: Callable[[Remote], None]) -> dict[str, str]:
        """Do something with every server at the same time; who did not answer, and why. Raises any other error."""
        missed: dict[str, str] = {}
        errors: list[BaseException] = []

        def one(remote: Remote) -> None:
            try:
                work(remote)
            except Unreachable as error:
                missed[remote.url] = str(error)
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=one, args=(remote,), daemon=True) for remote in self.remotes]
        for thread in threads:
            thread.start()
        for thread in threads:
            while thread.is_alive():
                thread.join(0.2)  # in slices, so that a signal is heard
        if errors:
            raise errors[0]
        return missed

    def sleep(self) -> None:
        """Nothing: servers have their devices to themselves."""

    def wake(self) -> None:
        """Nothing, as :meth:`sleep`."""

    def close(self) -> None:
        """End our own servers and remove the weights that were written; safe to call twice."""
        if self._closed:
            return
        self._closed = True
        if self._transfer is not None:
            self._transfer.close()
        if self.fleet is not None:
            self.fleet.close()
        if self._store is not None:
            self._store.close()
