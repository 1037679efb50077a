"""Rollouts with transformers' models: for machines without vLLM, for tiny models, and as an independent reference."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from r1zero.batch import Completion
from r1zero.errors import SyncError, UserError, first_line
from r1zero.launch.number_format import SMALL
from r1zero.rollout.engine import Sampling
from r1zero.rollout.hf.decode import decode
from r1zero.rollout.hf.ends import Ends
from r1zero.rollout.hf.slots import Slots
from r1zero.rollout.rng import preserved_rng
from r1zero.rollout.sync import CheckedWeights, expected_parameters, torch_dtype
from r1zero.rollout.text import check_request, response_texts

ROWS = 256
"""Rows that are sampled at a time where nothing else is asked for."""


@contextmanager
def one_thread(wanted: bool) -> Iterator[None]:
    """Compute on one thread: a tiny model's products are too small to share, and threads that wait cost more."""
    threads = torch.get_num_threads()
    if wanted:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        if wanted:
            torch.set_num_threads(threads)


class HFEngine:
    """The rollout engine on transformers; keeps the contract of :class:`r1zero.rollout.engine.Engine`.

    It owns a copy of the model. At most ``max_num_seqs`` responses are sampled at the same time; where one ends, the
    next takes its place.

    Args:
        model_path: Hub id or folder with config, weights and tokenizer; its weights are served until the first sync.
        dtype: Number format of weights and compute: float32, bfloat16 or float16.
        context: Longest prompt + response in tokens.
        revision: Branch, tag or commit of a hub repository.
        trust_remote_code: Run code that comes with the model.
        device: Where the model is kept.
        max_num_seqs: Most responses sampled at the same time; None: ``ROWS``.

    Raises:
        UserError: The model can't be read.
    """

    def __init__(
        self,
        model_path: str,
        *,
        dtype: str,
        context: int,
        revision: str | None = None,
        trust_remote_code: bool = False,
        device: str = "cpu",
        max_num_seqs: int | None = None,
    ) -> None:
        self.version: int | None = None
        self.on_step: Callable[[], None] | None = None
        """Called at every decoding step; what it raises ends the work."""
        self._context = context
        self._dtype = torch_dtype(dtype)
        self._device = torch.device(device)
        self._rows = max_num_seqs or ROWS
        self._fault: str | None = None
        source: dict[str, Any] = dict(revision=revision, trust_remote_code=trust_remote_code)
        self._expected = expected_parameters(str(model_path), **source)
        with preserved_rng():
            try:
                model: Any = AutoModelForCausalLM.from_pretrained(model_path, dtype=self._dtype, **source)
                self._tokenizer = AutoTokenizer.from_pretrained(model_path, **source)
            except (OSError, ValueError) as error:
                raise UserError(f"model.path={model_path} can't be loaded ({first_line(error)})") from error
        self._model = model.to(self._device).eval().requires_grad_(False)
        self._alone = self._device.type == "cpu" and model.num_parameters() < SMALL

    def generate(self, prompts: list[list[int]], sampling: Sampling, seed: int) -> list[list[Completion]]:
        """Sample ``sampling.n`` responses a prompt; see :meth:`r1zero.rollout.engine.Engine.generate`."""
        if self._model is None:
            raise RuntimeError("the engine is closed")
        if self._fault:
            raise SyncError(f"the sampler's weights are not to be trusted after a failed sync: {self._fault}")
        check_request(prompts, sampling, self._context)
        self.wake()
        if not prompts:
            return []
        n = sampling.n
        ends = Ends(sampling, self._tokenizer, len(prompts) * n)
        with torch.inference_mode(), one_thread(self._alone):
            rows = min(self._rows, len(prompts) * n)
            drawn = decode(Slots(self._model, rows, prompts, sampling.max_tokens), ends, sampling, seed, self.on_step)
        reasons = ["stop" if response.stopped else "length" for response in drawn]
        texts = response_texts(self._tokenizer, [response.ids for response in drawn], reasons, sampling)
        logprobs = sampling.logprobs or sampling.whole
        flat = [
            Completion(one.ids, text, reason, one.logprobs if logprobs else None, whole=one.whole)
            for one, text, reason in zip(drawn, texts, reasons, strict=True)
        ]
        return [flat[start : start + n] for start in range(0, len(flat), n)]

    def load_weights(self, weights: Iterable[tuple[str, torch.Tensor]], version: int) -> None:
        """Copy the learner's weights in place; see :meth:`r1zero.rollout.engine.Engine.load_weights`."""
        if self._model is None:
            raise RuntimeError("the engine is closed")
        self.version = None
        self._fault = f"version {version} did not arrive whole"
        checked = CheckedWeights(weights, self._expected, self._dtype)
        own = dict(self._model.named_parameters())
        with torch.no_grad():
            for name, tensor in checked:
                own[name].copy_(tensor)
        checked.verify(version)
        self._fault = None
        self.version = version

    def sleep(self) -> None:
        """Move the model to the host's memory (no effect on a CPU)."""
        if self._model is not None and self._device.type != "cpu":
            self._model.to("cpu")

    def wake(self) -> None:
        """Move the model back to its device."""
        if self._model is not None and self._device.type != "cpu":
            self._model.to(self._device)

    def close(self) -> None:
        """Free the model; safe to call twice."""
        self._model = None
        gc.collect()
