"""Requests of several callers in one running batch of one engine."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from copy import copy
from dataclasses import dataclass, field
from typing import Any

import torch

from r1zero.batch import Completion
from r1zero.errors import SyncError
from r1zero.rollout.engine import Sampling
from r1zero.rollout.text import check_request
from r1zero.rollout.vllm.engine import VLLMEngine
from r1zero.rollout.vllm.request import sampling_params


@dataclass
class Call:
    """What one caller waits for."""

    prompts: list[list[int]]
    sampling: Sampling
    seeds: list[int]
    groups: dict[int, list[Completion]] = field(default_factory=dict)
    over: Future[None] = field(default_factory=Future)


class ContinuousEngine(VLLMEngine):
    """vLLM with continuous batching over callers: :meth:`generate` may be called from many threads at once.

    Each question has a seed and each of its samples the next number, so draws depend neither on who came first nor on
    how many engines share the work. Sums in matrix products may be taken in another order in another batch, so a
    log-probability may differ in its last bits, and a draw that lies on that edge with it.

    vLLM's own asynchronous engine keeps its core in one more process, to which weights would have to be copied again.
    """

    def __init__(self, model_path: str, **settings: Any) -> None:
        super().__init__(model_path, **settings)
        self._arriving: deque[Call] = deque()
        self._running: dict[str, tuple[Call, int]] = {}
        self._jobs: deque[tuple[Callable[[], None], Future[None]]] = deque()
        self._bell = threading.Event()
        threading.Thread(target=self._serve, daemon=True, name="batch").start()

    def generate(  # type: ignore[override]
        self, prompts: list[list[int]], sampling: Sampling, seeds: list[int]
    ) -> list[list[Completion]]:
        """Sample ``sampling.n`` responses a prompt, by a seed for each prompt."""
        if self._fault:
            raise SyncError(f"the sampler's weights are not to be trusted after a failed sync: {self._fault}")
        check_request(prompts, sampling, self._context)
        if not prompts:
            return []
        call = Call(prompts, sampling, seeds)
        self._arriving.append(call)
        self._bell.set()
        call.over.result()
        return [call.groups[index] for index in range(len(prompts))]

    def load_weights(self, weights: Iterable[tuple[str, torch.Tensor]], version: int) -> None:
        """See :meth:`r1zero.rollout.engine.Engine.load_weights`; waits until nothing is sampled."""
        self._alone(lambda: VLLMEngine.load_weights(self, weights, version))

    def transfer(self, step: str, request: dict[str, Any]) -> None:
        """See :meth:`VLLMEngine.transfer`; waits until nothing is sampled."""
        self._alone(lambda: VLLMEngine.transfer(self, step, request))

    def close(self) -> None:
        """See :meth:`VLLMEngine.close`."""
        if self._llm is not None:
            self._alone(lambda: VLLMEngine.close(self))

    def _alone(self, job: Callable[[], None]) -> None:
        """Do something in the engine's thread while no request is under way."""
        done: Future[None] = Future()
        self._jobs.append((job, done))
        self._bell.set()
        done.result()

    def _serve(self) -> None:
        """The thread that works with the engine; new requests join between two decoding steps."""
        while self._llm is not None:
            if not self._running:
                self._bell.wait()
                self._bell.clear()
            calls: list[Call] = []
            try:
                while self._arriving:
                    calls.append(self._arriving.popleft())
                    self._admit(calls[-1])
                if self._running:
                    self._decode()
            except BaseException as error:
                for call in {id(call): call for call in [*calls, *(c for c, _ in self._running.values())]}.values():
                    call.over.set_exception(error)
                self._running.clear()
                self._drawn.forget()
            while self._jobs and not self._running:
                job, done = self._jobs.popleft()
                try:
                    job()
                    done.set_result(None)
                except BaseException as error:
                    done.set_exception(error)

    def _admit(self, call: Call) -> None:
        params = sampling_params(call.sampling, drawn=self._drawn.takes(call.sampling))
        self._wake("weights", "kv_cache")
        for index, (ids, seed) in enumerate(zip(call.prompts, call.seeds, strict=True)):
            own = copy(params)
            own.seed = seed
            (name,) = self._llm.enqueue([{"prompt_token_ids": list(ids)}], own, use_tqdm=False)
            self._running[name.rpartition("-")[0]] = (call, index)
            self._prepare([name], own, call.sampling)

    def _decode(self) -> None:
        self._step()
        for output in self._llm.llm_engine.step():
            if output.finished:
                call, index = self._running.pop(output.request_id)
                call.groups[index] = self._completions(output, call.sampling)
                if len(call.groups) == len(call.prompts):
                    call.over.set_result(None)
