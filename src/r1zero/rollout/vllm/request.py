"""vLLM's request and answer: sampling parameters that are all ours, ends of responses, log-probabilities."""

from __future__ import annotations

from typing import Any

import torch

from r1zero.batch import Completion
from r1zero.rollout.engine import Sampling
from r1zero.rollout.text import response_texts


def sampling_params(sampling: Sampling, *, drawn: bool = False) -> Any:
    """The ``SamplingParams`` of vLLM with every field that shapes the distribution or the end set by us (trap 21).

    ``ignore_eos`` is on because vLLM adds the tokenizer's and the generation config's EOS ids on its own;
    all ids that end a response stand in ``stop_token_ids``. The per-request ``seed`` stays unset: it makes
    one generator a request, which is slow; the process-wide state is seeded instead. ``drawn`` leaves
    log-probabilities out, which are then taken where tokens are drawn.
    """
    from vllm import SamplingParams

    return SamplingParams(
        n=sampling.n,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=max(sampling.top_k, 0),
        min_p=0.0,
        presence_penalty=0.0,
        frequency_penalty=0.0,
        repetition_penalty=1.0,
        seed=None,
        max_tokens=sampling.max_tokens,
        min_tokens=0,
        stop=list(sampling.stop),
        stop_token_ids=list(sampling.stop_ids),
        ignore_eos=True,
        include_stop_str_in_output=sampling.keep_stop,
        logprobs=-1 if sampling.whole else 0 if sampling.logprobs and not drawn else None,
        prompt_logprobs=None,
        flat_logprobs=True,
        detokenize=bool(sampling.stop),
        skip_special_tokens=True,
        spaces_between_special_tokens=False,
        logit_bias=None,
        allowed_token_ids=None,
        bad_words=None,
    )


def completions(output: Any, tokenizer: Any, sampling: Sampling, drawn: list[list[float]] | None) -> list[Completion]:
    """The responses of one finished request, and their log-probabilities where vLLM was not asked for them."""
    samples = output.outputs
    ids = [list(sample.token_ids) for sample in samples]
    reasons = [finish_reason(sample) for sample in samples]
    texts = response_texts(tokenizer, ids, reasons, sampling)
    if drawn is not None and [len(row) for row in drawn] != [len(row) for row in ids]:
        raise RuntimeError(f"log-probabilities of {sum(map(len, drawn))} of {sum(map(len, ids))} tokens were seen")
    return [
        Completion(
            ids[i],
            texts[i],
            reasons[i],
            (sampled_logprobs(sample) if drawn is None else drawn[i]) if sampling.logprobs else None,
            whole=whole_logprobs(sample) if sampling.whole else None,
        )
        for i, sample in enumerate(samples)
    ]


def finish_reason(sample: Any) -> str:
    """Finish reason "stop" or "length" of one vLLM output; anything else (an abort, an error) raises (trap 16)."""
    if sample.finish_reason not in ("stop", "length"):
        raise RuntimeError(f"vLLM ended a response with finish_reason={sample.finish_reason!r}")
    return sample.finish_reason


def sampled_logprobs(sample: Any) -> list[float]:
    """Log-probability of each sampled id [T], nats; vLLM puts the sampled token first at every position."""
    flat = sample.logprobs
    return [flat.logprobs[start] for start in flat.start_indices]


def whole_logprobs(sample: Any) -> torch.Tensor:
    """Log-probabilities of all tokens at each position, float32 [T, V], nats; -inf for those that were cut off."""
    flat = sample.logprobs
    rows: list[torch.Tensor] = []
    for start, end in zip(flat.start_indices, flat.end_indices, strict=True):
        ids = torch.tensor(flat.token_ids[start:end])
        row = torch.full((int(ids.max()) + 1,), -torch.inf)
        row[ids] = torch.tensor(flat.logprobs[start:end])
        rows.append(row)
    return torch.stack(rows)
