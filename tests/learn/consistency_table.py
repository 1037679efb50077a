"""Prints the table of docs/scale/consistency.md: `python tests/learn/consistency_table.py`, one thread, about a minute.

Each row takes one cause of a difference between sampler and learner away from the row above.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from test_consistency import TINY, in_float64
from transformers import AutoTokenizer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from r1zero.batch import Prompt, Question
from r1zero.config import ModelConfig
from r1zero.learn.collate import collate
from r1zero.learn.policy import Policy
from r1zero.rollout.engine import Sampling

RESPONSES = 16
"""Of a question; there are eight."""


@dataclass(frozen=True)
class Row:
    """One layout: who samples, and what of the learner is replaced."""

    sampler: str
    learner: str
    engine: str = "hf"
    plain: bool = False
    exact: bool = False
    last: bool = True
    """Whether tokens count that were drawn in a batch of fewer rows than :func:`alike` asks for."""


ROWS = (
    Row("transformers", "as it is"),
    Row("transformers", "log-softmax of whole rows instead of tiles", plain=True),
    Row("the same, attention in float64", "the same, attention in float64", plain=True, exact=True),
    Row("the same, tokens from batches of {alike} rows or more", "the same", plain=True, exact=True, last=False),
    Row("vLLM", "as it is", "vllm"),
    Row("vLLM", "log-softmax of whole rows", "vllm", plain=True),
    Row("vLLM", "the same, attention in float64", "vllm", plain=True, exact=True),
)


def engine_of(name: str) -> Any:
    """The engine on the embedded model in float32."""
    if name == "hf":
        from r1zero.rollout.hf.engine import HFEngine

        return HFEngine(str(TINY), dtype="float32", context=256)
    from r1zero.rollout.vllm.engine import VLLMEngine

    return VLLMEngine(str(TINY), dtype="float32", context=256)


def policy_of() -> Policy:
    """The learner on the embedded model in float32."""
    return Policy.from_folder(TINY, ModelConfig(name="tiny", path=str(TINY), dtype="float32"), trainable=False)


@torch.no_grad()
def alike(policy: Policy) -> int:
    """Least number of rows from which every linear layer gives each row the bits that it gives it among 640."""
    draw = torch.Generator().manual_seed(0)
    differ = [0]
    for layer in (one for one in policy.modules() if isinstance(one, torch.nn.Linear)):
        rows = torch.randn(640, layer.in_features, generator=draw)
        whole = layer(rows)
        differ += [n for n in range(1, 65) if not torch.equal(layer(rows[:n]), whole[:n])]
    return max(differ) + 1


@torch.no_grad()
def differences(row: Row, engine: Any) -> torch.Tensor:
    """|learner - sampler| of every token, float32."""
    tokenizer = AutoTokenizer.from_pretrained(TINY)
    prompts = [tokenizer.encode(f"Question: {a}+6-2-{b}=?\nAnswer:") for a in (2, 3, 7, 9) for b in (1, 14)]
    policy = policy_of()
    usual = ALL_ATTENTION_FUNCTIONS["sdpa"]
    if row.exact:
        ALL_ATTENTION_FUNCTIONS["sdpa"] = in_float64
    found = []
    try:
        groups = engine.generate(prompts, Sampling(n=RESPONSES, max_tokens=128, stop_ids=(0, 2)), seed=3)
        enough = sorted(len(one.ids) for group in groups for one in group)[-alike(policy)]
        for ids, group in zip(prompts, groups, strict=True):
            micro = collate([Prompt(Question("", ("",)), "", ids)] * RESPONSES, group)
            if row.plain:
                rows = policy.model(micro.input_ids).logits.log_softmax(-1).flatten(0, 1)[micro.source]
                learner = micro.scatter(rows.gather(1, micro.targets[:, None])[:, 0])
            else:
                learner = policy(micro)[0]
            for own, one in zip(learner, group, strict=True):
                apart = (own[: len(one.ids)] - torch.tensor(one.logprobs)).abs()
                found.append(apart if row.last else apart[:enough])
    finally:
        ALL_ATTENTION_FUNCTIONS["sdpa"] = usual
    return torch.cat(found)


def main() -> None:
    """Print the rows as Markdown."""
    torch.set_num_threads(1)
    engines = {name: engine_of(name) for name in dict.fromkeys(row.engine for row in ROWS)}
    print("| sampler | learner | mean difference, nats | largest | tokens that are equal to the last bit | tokens |")
    print("|---|---|---|---|---|---|")
    rows = alike(policy_of())
    for row in ROWS:
        apart = differences(row, engines[row.engine])
        equal = 100 * (apart == 0).double().mean()
        cells = [
            row.sampler.format(alike=rows),
            row.learner,
            f"{apart.mean():.1e}",
            f"{apart.max():.1e}",
            f"{equal:.3g} %",
            f"{len(apart)}",
        ]
        print(f"| {' | '.join(cells)} |", flush=True)
    for engine in engines.values():
        engine.close()


if __name__ == "__main__":
    main()
