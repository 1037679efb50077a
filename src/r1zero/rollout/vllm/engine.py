"""vLLM inside this process: weights are handed over without copies between processes.

vLLM is imported when an engine is built, not before.
"""

from __future__ import annotations

import gc
import logging
import math
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from time import perf_counter as clock
from typing import Any
from unittest.mock import patch

import torch

from r1zero.batch import Completion
from r1zero.errors import SyncError
from r1zero.launch import compat
from r1zero.rollout import ranks
from r1zero.rollout.engine import Sampling
from r1zero.rollout.rng import preserved_rng
from r1zero.rollout.sync import CheckedWeights, check_metadata, expected_parameters, torch_dtype
from r1zero.rollout.text import check_request
from r1zero.rollout.vllm import cache
from r1zero.rollout.vllm.drawn import DrawnLogprobs
from r1zero.rollout.vllm.groups import LIVE, before_a_start, release_process_groups, shut_down
from r1zero.rollout.vllm.process import (
    import_vllm,
    launcher_environment,
    quiet,
    spare_token_strings,
    start_error,
)
from r1zero.rollout.vllm.request import completions, sampling_params
from r1zero.rollout.vllm.worker import (
    check_taken,
    note_loads,
    refresh_tied_head,
    reload_worker,
    seed_worker,
    shared_files,
)
from r1zero.rollout.watchdog import Watchdog

log = logging.getLogger("r1zero")

BESIDE_A_LEARNER = 0.45
"""Share of a card's memory for an engine that hands it over to a learner."""
LARGE = 3e9
"""Parameters from which a copy in the host's memory costs more than loading weights again: for 8 billion vLLM measured
12.8 s and 22 GiB a cycle at sleep level 1, 6.8 s and none at level 2."""
ONLINE = {"fp8": "fp8_per_channel"}
"""vLLM's name of each ``rollout.quantization``. One scale for an output channel of the weights and one for a token of
the inputs: of vLLM's fp8 schemes the one that its CPU build has without AMX, so that tests run what GPUs run."""


class VLLMEngine:
    """The rollout engine on vLLM; keeps the contract of :class:`r1zero.rollout.engine.Engine`.

    Several ranks build one engine each, at the same time (vLLM makes its process groups collectively),
    and after ``torch.distributed`` was initialised: otherwise vLLM would initialise it for one rank
    and Lightning could not any more (trap 44).

    Args:
        model_path: Hub id or folder with config, weights and tokenizer; its weights are served until the first sync.
        dtype: Number format of weights and compute: float32, bfloat16 or float16.
        context: Longest prompt + response in tokens.
        seed: Seed of the engine itself; draws are governed by the seed given to :meth:`generate`.
        revision: Branch, tag or commit of a hub repository.
        trust_remote_code: Run code that comes with the model.
        gpu_memory: Share of the GPU's memory for weights and key-value cache; None: ``BESIDE_A_LEARNER``.
        kv_cache_gib: GiB of key-value cache on a CPU; None: what a rollout step and an evaluation can need.
        enforce_eager: Skip torch.compile and CUDA graphs; None: on a CPU yes (compiling takes minutes), on a GPU no.
        sleep: Allow :meth:`sleep` on a GPU.
        sleep_level: 1 keeps weights in the host's memory, 2 gives them up; None: 2 from ``LARGE`` parameters.
        max_num_seqs: Most responses sampled at the same time; None: ``responses``, vLLM's own default at least.
        responses: Responses of a rollout step that this engine samples; 0: not known.
        response_tokens: Most tokens that each of them holds in the cache.
        evaluated: The same two numbers of an evaluation.
        batch_invariant: Kernels whose sums do not depend on the responses beside a response (GPU only).
        quantization: "fp8" rounds the weights of linear layers at start and at every sync (``ONLINE``).
        tensor_parallel: Devices, or CPU processes, that the model is cut over: those of as many ranks, which ask for
            the same (:mod:`r1zero.rollout.vllm.joint`); processes of the engine's own where there are no ranks.
        transfer: "nccl" opens vLLM's weight transfer between trainer and engine (GPU only).
        card: Index of the learner's card among those visible, which the engine takes too.
        timeout_s: Seconds without a decoding step after which the engine counts as hung.
        on_hang: Is told in one line before a process that can't be interrupted is ended.

    Raises:
        UserError: vLLM is not installed or lacks such kernels, the model can't be read, or memory does not suffice.
    """

    def __init__(
        self,
        model_path: str,
        *,
        dtype: str,
        context: int,
        seed: int = 0,
        revision: str | None = None,
        trust_remote_code: bool = False,
        gpu_memory: float | None = None,
        kv_cache_gib: float | None = None,
        enforce_eager: bool | None = None,
        sleep: bool = True,
        sleep_level: int | None = None,
        max_num_seqs: int | None = None,
        responses: int = 0,
        response_tokens: int = 0,
        evaluated: tuple[int, int] = (0, 0),
        batch_invariant: bool = False,
        quantization: str | None = None,
        tensor_parallel: int = 1,
        transfer: str | None = None,
        card: int = 0,
        timeout_s: float | None = None,
        on_hang: Callable[[str], None] | None = None,
    ) -> None:
        self.version: int | None = None
        self.on_step: Callable[[], None] | None = None
        """Called before every decoding step and every tensor that is read; what it raises ends the work."""
        self.on_group: Callable[[int, list[Completion]], None] | None = None
        """Told of a prompt's index and its responses once all of them are finished, while others are sampled."""
        self.preemptions = 0
        """Times that a response gave its place in the cache to another one and was computed again."""
        self._watchdog = Watchdog(timeout_s, on_hang)
        self._workers_apart = tensor_parallel > 1 and not ranks.several()
        self._context = context
        self._dtype = torch_dtype(dtype)
        self._llm: Any = None
        self._awake = {"weights", "kv_cache"}
        self._fault: str | None = None
        self._expected = expected_parameters(model_path, revision=revision, trust_remote_code=trust_remote_code)
        if not torch.distributed.is_initialized() and int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise RuntimeError(
                "build the engine after torch.distributed is initialised: WORLD_SIZE is above 1 (trap 44)"
            )
        import_vllm(batch_invariant)
        with quiet():
            from vllm.platforms import current_platform

        self._cpu = current_platform.is_cpu()
        gpu_memory = gpu_memory or BESIDE_A_LEARNER
        parameters = sum(map(math.prod, self._expected.values()))
        self._sleep_level = sleep_level or (2 if parameters >= LARGE else 1)
        settings: dict[str, Any] = dict(
            model=str(model_path),
            revision=revision,
            tokenizer_revision=revision,
            trust_remote_code=trust_remote_code,
            dtype=dtype,
            max_model_len=context,
            max_num_seqs=max_num_seqs or compat.sequences_at_a_time(responses, tensor_parallel),
            seed=seed % 2**31,
            enforce_eager=self._cpu if enforce_eager is None else enforce_eager,
            enable_prefix_caching=True,
            logprobs_mode="processed_logprobs",
            max_logprobs=-1,
            generation_config="vllm",
            disable_log_stats=True,
            use_tqdm_on_load=False,
        )
        settings.update(tensor_parallel_size=tensor_parallel)
        if self._workers_apart:
            settings.update(distributed_executor_backend="mp")
        if quantization:
            settings.update(quantization=ONLINE[quantization])
        if transfer:
            settings.update(weight_transfer_config={"backend": transfer})
        if self._cpu:
            asked = ((responses, response_tokens), evaluated)
            held = max(min(count, settings["max_num_seqs"]) * tokens for count, tokens in asked)
            held = max(held, context) if held else 0
            source: Any = dict(revision=revision, trust_remote_code=trust_remote_code)
            kv_cache_gib = kv_cache_gib or cache.cache_gib(model_path, dtype, held, **source)
            settings.update(kv_cache_memory_bytes=int(kv_cache_gib * 2**30), block_size=cache.BLOCK)
        else:
            settings.update(gpu_memory_utilization=gpu_memory, enable_sleep_mode=sleep)
        self._can_sleep = sleep and not self._cpu
        memory = f"rollout.kv_cache_gib={kv_cache_gib}" if self._cpu else f"rollout.gpu_memory={gpu_memory}"
        self._start(settings, memory, card)

    def _start(self, settings: dict[str, Any], memory: str, card: int) -> None:
        from vllm import LLM

        self._memory = memory
        before_a_start()
        set_num_threads, threads, begun = torch.set_num_threads, torch.get_num_threads(), clock()
        try:
            with preserved_rng(), quiet(), compat.classes_left_alone(), launcher_environment(card) as launcher:
                self._llm = LLM(**settings, **launcher)
        except Exception as error:
            release_process_groups()
            raise start_error(error, settings, memory) from error
        else:
            self._llm.apply_model(note_loads)
            self._tokenizer = self._llm.get_tokenizer()
            self._drawn = DrawnLogprobs(self._llm)
            compat.watch_preemptions(self._llm, self._preempted)
            LIVE.add(id(self))
            log.info("vLLM serves %s in %s, started in %.1f s", settings["model"], settings["dtype"], clock() - begun)
        finally:
            # The CPU worker puts a function in its place that does nothing; the GPU's lowers the number to 1.
            torch.set_num_threads = set_num_threads
            torch.set_num_threads(threads)

    def generate(self, prompts: list[list[int]], sampling: Sampling, seed: int) -> list[list[Completion]]:
        """Sample ``sampling.n`` responses a prompt; see :meth:`r1zero.rollout.engine.Engine.generate`.

        All responses to a prompt are one request, so it is prefilled once. The prefix cache is empty at the
        start of every call: what an earlier call left there would change how requests are batched, and with
        it the draws, so that a resumed run would sample other responses than the uninterrupted one.
        """
        if self._llm is None:
            raise RuntimeError("the engine is closed")
        if self._fault:
            raise SyncError(f"the sampler's weights are not to be trusted before another sync: {self._fault}")
        check_request(prompts, sampling, self._context)
        if not prompts:
            return []
        self._wake("weights", "kv_cache")
        self._drop_prefix_cache()
        params = sampling_params(sampling, drawn=self._drawn.takes(sampling))
        if self._workers_apart:
            self._llm.collective_rpc(seed_worker, args=(seed,))
        groups: dict[int, list[Completion]] = {}
        with preserved_rng(seed):
            self._run([{"prompt_token_ids": list(ids)} for ids in prompts], params, sampling, groups)
        return [groups[index] for index in range(len(prompts))]

    def _run(
        self,
        requests: list[dict[str, list[int]]],
        params: Any,
        sampling: Sampling,
        groups: dict[int, list[Completion]],
    ) -> None:
        """Sample; ``groups`` is filled as requests finish."""
        ids = self._llm.enqueue(requests, params, use_tqdm=False)
        number = {name.rpartition("-")[0]: index for index, name in enumerate(ids)}  # as outputs name them
        try:
            self._prepare(ids, params, sampling)
            with self._watchdog.watching(), self._steps_counted(sampling, number, groups):
                self._llm.wait_for_completion(use_tqdm=False)
        except BaseException:  # also Ctrl-C: no request may be left to run in a later call
            self._llm.llm_engine.abort_request(ids, internal=True)
            self._drawn.forget()
            raise

    def _prepare(self, names: list[str], params: Any, sampling: Sampling) -> None:
        """See that the log-probabilities of enqueued requests cost little."""
        if self._drawn.takes(sampling):
            for name in names:
                self._drawn.expect(name, sampling.n)
        elif params.detokenize and params.logprobs is not None:
            spare_token_strings(self._llm)

    def _completions(self, output: Any, sampling: Sampling) -> list[Completion]:
        return completions(output, self._tokenizer, sampling, self._drawn.take(output.request_id))

    @contextmanager
    def _steps_counted(
        self, sampling: Sampling, number: dict[str, int], groups: dict[int, list[Completion]]
    ) -> Iterator[None]:
        """Every decoding step is a sign of life, an occasion to end, and may finish requests."""
        engine = self._llm.llm_engine
        step = engine.step

        def counted() -> Any:
            self._step()
            outputs = step()
            for output in outputs:
                if output.finished:
                    index = number[output.request_id]
                    groups[index] = self._completions(output, sampling)
                    if self.on_group is not None:
                        self.on_group(index, groups[index])
            return outputs

        with patch.object(engine, "step", counted):
            yield

    def _preempted(self) -> None:
        self.preemptions += 1
        if self.preemptions == 1:
            log.warning(
                "%s is too little for the responses that are sampled at a time: some lost their keys and values, which "
                "are computed again, at a cost in time alone; raise it, or lower rollout.max_num_seqs", self._memory,
            )  # fmt: skip

    def _step(self) -> None:
        self._watchdog.beat()
        if self.on_step is not None:
            self.on_step()

    def load_weights(self, weights: Iterable[tuple[str, torch.Tensor]], version: int) -> None:
        """Take the learner's weights; see :meth:`r1zero.rollout.engine.Engine.load_weights`."""
        self._expect(version)
        checked = CheckedWeights(self._counted(weights), self._expected, self._dtype)
        if self._workers_apart:
            with shared_files(checked) as files:
                self._llm.collective_rpc(reload_worker, args=(files,))
        else:
            self._llm.collective_rpc("reload_weights", kwargs={"weights_iterator": iter(checked)})
        checked.verify(version)
        self._arrived(version)

    def transfer(self, step: str, request: dict[str, Any]) -> None:
        """One step of vLLM's own weight transfer, as its trainer side asks for it.

        Args:
            step: init_weight_transfer_engine, start_weight_update, update_weights or finish_weight_update.
            request: ``init_info``, ``update_info``, or ``version``, plain numbers and strings.
        """
        if step == "start_weight_update":
            self._expect(request["version"])
            self._llm.start_weight_update()
        elif step == "finish_weight_update":
            self._llm.finish_weight_update()
            self._arrived(request["version"])
        else:
            if step == "update_weights":
                check_metadata(request["update_info"], self._expected)
            getattr(self._llm, step)(request)

    def _counted(self, weights: Iterable[tuple[str, torch.Tensor]]) -> Iterator[tuple[str, torch.Tensor]]:
        for named in weights:
            self._step()
            yield named
            del named  # before the next one is gathered

    def _expect(self, version: int) -> None:
        if self._llm is None:
            raise RuntimeError("the engine is closed")
        self._wake("weights")
        self.version = None
        self._fault = f"version {version} did not arrive whole"

    def _arrived(self, version: int) -> None:
        self._llm.apply_model(refresh_tied_head)
        self._llm.apply_model(check_taken)
        # The cache of keys and values comes back only now: old weights, new weights and cache together may
        # not fit (trap 39). Its entries belong to the old weights and go after the last tensor (trap 37).
        self._wake("kv_cache")
        self._drop_prefix_cache()
        self._fault = None
        self.version = version

    def sleep(self) -> None:
        """Drop the key-value cache, and move the weights to the host's memory (level 1, trap 38) or give them up (2).

        GPU only. What is given up comes back from the learner: until then no version is served.
        """
        if self._llm is not None and self._can_sleep and self._awake:
            self._wake("weights", "kv_cache")  # vLLM goes to sleep from fully awake only
            self._llm.sleep(level=self._sleep_level)
            self._awake = set()
            if self._sleep_level == 2:
                self.version, self._fault = None, "they were given up while it slept (rollout.sleep_level=2)"

    def wake(self) -> None:
        """Bring the weights back. The key-value cache follows with the next weights or the next generate."""
        if self._llm is not None:
            self._wake("weights")

    def _wake(self, *parts: str) -> None:
        for part in parts:
            if part not in self._awake:
                self._llm.wake_up(tags=[part])
                self._awake.add(part)

    def _drop_prefix_cache(self) -> None:
        if not self._llm.reset_prefix_cache():
            raise RuntimeError("vLLM kept its prefix cache: requests are still running")

    def close(self) -> None:
        """Free the model, the cache and the process groups that vLLM made; safe to call twice."""
        if self._llm is None:
            return
        llm, self._llm = self._llm, None
        LIVE.discard(id(self))
        shut_down(llm)
        del llm
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
