"""Rollouts by transformers' own generate, for machines without vLLM and as an independent reference."""

from __future__ import annotations

import gc
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from r1zero.batch import Completion
from r1zero.errors import SyncError, UserError, first_line
from r1zero.rollout.engine import Sampling
from r1zero.rollout.rng import preserved_rng
from r1zero.rollout.sync import CheckedWeights, expected_parameters, torch_dtype
from r1zero.rollout.text import NOT_FINITE, check_request, response_texts

ROWS = 256
"""Rows that are sampled at a time where nothing else is asked for."""


class HFEngine:
    """The rollout engine on transformers; keeps the contract of :class:`r1zero.rollout.engine.Engine`.

    It owns a copy of the model. Rows are sampled ``max_num_seqs`` at a time, padded on the left.

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
        # generate() fills unset fields from the model's own generation config; an empty one adds nothing (trap 21).
        model.generation_config = GenerationConfig()
        self._model = model.to(self._device).eval().requires_grad_(False)

    def generate(self, prompts: list[list[int]], sampling: Sampling, seed: int) -> list[list[Completion]]:
        """Sample ``sampling.n`` responses a prompt; see :meth:`r1zero.rollout.engine.Engine.generate`."""
        if self._model is None:
            raise RuntimeError("the engine is closed")
        if self._fault:
            raise SyncError(f"the sampler's weights are not to be trusted after a failed sync: {self._fault}")
        check_request(prompts, sampling, self._context)
        self.wake()
        rows = [ids for ids in prompts for _ in range(sampling.n)]
        flat: list[Completion] = []
        with preserved_rng(seed), torch.no_grad():
            for start in range(0, len(rows), self._rows):
                flat += self._sample(rows[start : start + self._rows], sampling)
        n = sampling.n
        return [flat[start : start + n] for start in range(0, len(flat), n)]

    def _sample(self, rows: list[list[int]], sampling: Sampling) -> list[Completion]:
        width = max(map(len, rows))
        ids = torch.zeros(len(rows), width, dtype=torch.long)  # id 0 pads; the mask hides it
        mask = torch.zeros_like(ids)
        for row, prompt in enumerate(rows):
            ids[row, width - len(prompt) :] = torch.tensor(prompt)
            mask[row, width - len(prompt) :] = 1
        shaper = _Shaper(sampling)
        ends = _RowEnds(sampling, self._tokenizer, len(rows), self.on_step)
        config = GenerationConfig(max_new_tokens=sampling.max_tokens, pad_token_id=0, use_cache=True)
        if sampling.temperature > 0:
            # Neutral here: the shaper applies temperature, top-k and top-p.
            config.update(do_sample=True, temperature=1.0, top_k=0, top_p=1.0)
        sequences = self._model.generate(
            ids.to(self._device),
            attention_mask=mask.to(self._device),
            generation_config=config,
            logits_processor=LogitsProcessorList([shaper]),
            stopping_criteria=StoppingCriteriaList([ends]),
        )
        tokens = sequences[:, width:].cpu()
        logprobs, whole = shaper.sampled(sequences[:, width:]), shaper.whole()
        lengths = ends.lengths(tokens.shape[1])
        reasons = ends.reasons()
        responses = [tokens[row, :length].tolist() for row, length in enumerate(lengths)]
        texts = response_texts(self._tokenizer, responses, reasons, sampling)
        return [
            Completion(
                i,
                text,
                reason,
                logprobs[row, : len(i)].tolist() if logprobs is not None else None,
                whole=whole[row, : len(i)] if whole is not None else None,
            )
            for row, (i, text, reason) in enumerate(zip(responses, texts, reasons, strict=True))
        ]

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


class _Shaper(LogitsProcessor):
    """Applies temperature, top-k and top-p, in vLLM's order, and keeps the log-probabilities of what was drawn.

    Only the last step's log-softmax is held, [rows, V] in fp32: the token drawn from it is known one call later. With
    ``Sampling.whole`` all of them are.
    """

    def __init__(self, sampling: Sampling) -> None:
        self._wanted = sampling.logprobs or sampling.whole
        self._whole: list[torch.Tensor] | None = [] if sampling.whole else None
        self._last: torch.Tensor | None = None
        self._columns: list[torch.Tensor] = []
        self._warpers: list[Any] = []
        if sampling.temperature > 0:
            if sampling.temperature != 1:
                self._warpers.append(TemperatureLogitsWarper(float(sampling.temperature)))
            if sampling.top_k > 0:
                self._warpers.append(TopKLogitsWarper(sampling.top_k))
            if sampling.top_p < 1:
                self._warpers.append(TopPLogitsWarper(sampling.top_p))

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        if self._wanted and self._last is not None:
            self._gather(input_ids[:, -1])
        if not scores.amax().isfinite():  # NaN wins over any number
            raise UserError(NOT_FINITE)
        for warper in self._warpers:
            scores = warper(input_ids, scores)
        if self._wanted:
            self._last = scores.float().log_softmax(dim=-1)
            if self._whole is not None:
                self._whole.append(self._last)
        return scores

    def _gather(self, drawn: torch.Tensor) -> None:
        assert self._last is not None
        self._columns.append(self._last.gather(1, drawn[:, None])[:, 0])
        self._last = None

    def sampled(self, tokens: torch.Tensor) -> torch.Tensor | None:
        """Log-probabilities [rows, T] of the tokens [rows, T], or None where they were not asked for."""
        if not self._wanted:
            return None
        if len(self._columns) < tokens.shape[1]:
            self._gather(tokens[:, len(self._columns)])
        return torch.stack(self._columns, dim=1)[:, : tokens.shape[1]].cpu()

    def whole(self) -> torch.Tensor | None:
        """Log-probabilities of all tokens, float32 [rows, T, V], or None where they were not asked for."""
        return None if self._whole is None else torch.stack(self._whole, dim=1).cpu()


class _RowEnds(StoppingCriteria):
    """Ends each row at its first stop id or stop string, and remembers where (trap 16).

    Stop strings are looked for in the text of the response without special tokens, as vLLM does; the
    criterion that transformers ships also finds them in the prompt and in the names of special tokens.
    """

    def __init__(
        self, sampling: Sampling, tokenizer: Any, rows: int, on_step: Callable[[], None] | None = None
    ) -> None:
        self._on_step = on_step
        self._stop_ids = set(sampling.stop_ids)
        self._stops = sampling.stop
        self._tokenizer = tokenizer
        self._silent = set(tokenizer.all_special_ids)
        # A token that has text has at least one byte of it, so this many reach back over any stop string.
        reach = max((len(stop.encode()) for stop in sampling.stop), default=0) + 2
        self._tails: list[deque[int]] = [deque(maxlen=reach) for _ in range(rows)]
        self._step = 0
        self._end = [0] * rows  # tokens up to and with the stop; 0: still going

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        self._step += 1
        if self._on_step is not None:
            self._on_step()
        going = [row for row, end in enumerate(self._end) if not end]
        last = input_ids[:, -1].tolist()
        for row in going:
            if last[row] in self._stop_ids:
                self._end[row] = self._step
        if self._stops:
            self._match([row for row in going if not self._end[row]], last)
        return torch.tensor([end > 0 for end in self._end], device=input_ids.device)

    def _match(self, rows: list[int], last: list[int]) -> None:
        rows = [row for row in rows if last[row] not in self._silent and last[row] < len(self._tokenizer)]
        if not rows:
            return  # decoding an empty batch gives one empty text
        for row in rows:
            self._tails[row].append(last[row])
        tails = self._tokenizer.batch_decode([list(self._tails[row]) for row in rows])
        for row, tail in zip(rows, tails, strict=True):
            if any(stop in tail for stop in self._stops):
                self._end[row] = self._step

    def lengths(self, steps: int) -> list[int]:
        """Tokens of each row, the stop included; ``steps`` for those that were cut."""
        return [end or steps for end in self._end]

    def reasons(self) -> list[str]:
        """Finish reason of each row."""
        return ["stop" if end else "length" for end in self._end]
