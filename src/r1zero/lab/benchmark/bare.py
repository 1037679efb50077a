"""This project's vLLM engine beside vLLM's own ``LLM.generate`` on the same prompts, by turns in one process."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch

from r1zero.rollout.engine import Sampling
from r1zero.rollout.rng import preserved_rng
from r1zero.rollout.vllm.engine import VLLMEngine
from r1zero.rollout.vllm.groups import shut_down
from r1zero.rollout.vllm.process import quiet
from r1zero.rollout.vllm.request import sampling_params

Run = Callable[[int], list[list[int]]]
"""From a seed to the tokens of all responses."""


def compare(
    engine: Any, prompts: list[list[int]], sampling: Sampling, rounds: int, threads: Sequence[int] = ()
) -> list[dict[str, Any]]:
    """Seconds and tokens of the engine and of bare vLLM, by turns in changing order; one round more to warm up.

    "engine's LLM" is the ``LLM`` inside this project's engine under the same state of the sampler, so both make the
    same tokens. With ``threads`` there is also "own LLM", one with vLLM's defaults and a user's ``SamplingParams``.

    Args:
        engine: this project's; nothing is compared where it is not vLLM in this process.
        prompts: token ids.
        sampling: of the engine.
        rounds: comparisons of each number of threads.
        threads: numbers of threads; none: as the process has it.

    Returns:
        one entry a round and variant: ``variant``, ``threads``, seconds of either (``ours``, ``bare``), tokens of
        either (``tokens``, ``bare_tokens``), and whether these are the ``same``.
    """
    if not isinstance(engine, VLLMEngine):
        return []
    found = []
    before = torch.get_num_threads()
    with _own(engine) if threads else nullcontext() as own:
        sides = {"ours": lambda seed: [c.ids for group in engine.generate(prompts, sampling, seed) for c in group]}
        sides |= variants(engine, own, prompts, sampling)
        try:
            for number in threads or [before]:
                torch.set_num_threads(number)
                for seed in range(rounds + 1):
                    turns = {name: _timed(sides[name], seed) for name in list(sides)[:: 1 if seed % 2 else -1]}
                    ours, seconds = turns.pop("ours")
                    for name, (bare, took) in turns.items() if seed else ():
                        row = {"variant": name, "threads": number, "ours": seconds, "bare": took}
                        row |= {"tokens": sum(map(len, ours)), "bare_tokens": sum(map(len, bare))}
                        found.append(row | {"same": float(ours == bare)})
        finally:
            torch.set_num_threads(before)
    return found


def variants(engine: VLLMEngine, own: Any, prompts: list[list[int]], sampling: Sampling) -> dict[str, Run]:
    """What the engine is compared with, by name."""
    from vllm import SamplingParams

    user: dict[str, Any] = dict(n=sampling.n, temperature=sampling.temperature, max_tokens=sampling.max_tokens)
    user |= dict(stop=list(sampling.stop), stop_token_ids=list(sampling.stop_ids))
    requests = [{"prompt_token_ids": ids} for ids in prompts]

    def run(llm: Any, params: Any) -> Run:
        def generate(seed: int) -> list[list[int]]:
            with preserved_rng(seed):
                outputs = llm.generate(requests, params, use_tqdm=False)
            return [list(sample.token_ids) for output in outputs for sample in output.outputs]

        generate.before = llm.reset_prefix_cache  # type: ignore[attr-defined]
        return generate

    made = {
        "engine's LLM, log-probabilities": run(engine._llm, sampling_params(sampling)),
        "engine's LLM": run(engine._llm, sampling_params(sampling, drawn=True)),
    }
    if own is not None:
        made |= {
            "own LLM": run(own, SamplingParams(**user)),
            "own LLM, log-probabilities": run(own, SamplingParams(**user, logprobs=0)),
            "own LLM, log-probabilities, seeds": run(own, SamplingParams(**user, logprobs=0, seed=0)),
        }
    return made


def _timed(run: Run, seed: int) -> tuple[list[list[int]], float]:
    """What bare vLLM keeps of earlier prompts is dropped outside of its time; the engine does so in its own."""
    getattr(run, "before", lambda: None)()
    started = time.perf_counter()
    return run(seed), time.perf_counter() - started


@contextmanager
def _own(engine: VLLMEngine) -> Iterator[Any]:
    """An LLM with vLLM's defaults beside the engine, of the same model, format, context and eagerness."""
    from vllm import LLM

    theirs: Any = engine._llm.llm_engine.vllm_config.model_config
    dtype: Any = str(theirs.dtype).removeprefix("torch.")
    set_num_threads = torch.set_num_threads
    try:
        with preserved_rng(), quiet():
            llm = LLM(
                model=theirs.model,
                dtype=dtype,
                max_model_len=theirs.max_model_len,
                enforce_eager=theirs.enforce_eager,
                kv_cache_memory_bytes=2**30,
                use_tqdm_on_load=False,
            )
    finally:
        torch.set_num_threads = set_num_threads  # the CPU worker puts a function in its place that does nothing
    try:
        yield llm
    finally:
        shut_down(llm)
