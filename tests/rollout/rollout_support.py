"""Tiny model folders and engines; an engine start costs seconds, so tests of one module share theirs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from r1zero.rollout.build import build_engine
from r1zero.rollout_config import RayConfig, RolloutConfig
from tiny_models import make_tiny

CONTEXT = 256
MODELS = {
    "tied": dict(arch="qwen2", tied=True),
    "untied": dict(arch="qwen2", tied=False, seed=1),
    "llama": dict(arch="llama", tied=True, seed=2, padded_vocab=384),
}


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One folder per model of ``MODELS``; the Llama has more rows than its tokenizer has entries."""
    root = tmp_path_factory.mktemp("models")
    return {name: make_tiny(root / name, **settings) for name, settings in MODELS.items()}


@pytest.fixture(scope="session")
def texts() -> list[str]:
    return ["What is 12 + 30?", "Question: Tom has 3 apples and buys 14 more.\nAnswer:", "A"]


def start(name: str, folder: Path, dtype: str = "float32", **settings: Any) -> Any:
    config = RolloutConfig(name=name, **{"kv_cache_gib": 0.05, "max_num_seqs": 32, **settings})
    return build_engine(config, str(folder), dtype=dtype, context=CONTEXT, seed=7)


class Served:
    """An engine with its tokenizer and a learner's copy of the weights that it serves."""

    def __init__(self, name: str, folder: Path, dtype: str = "float32", **settings: Any) -> None:
        self.name, self.folder = name, folder
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.states = [rng_states()]
        self.engine = start(name, folder, dtype, **settings)
        self.states.append(rng_states())
        self.learner = self.fresh()

    def fresh(self) -> Any:
        return AutoModelForCausalLM.from_pretrained(self.folder).eval()

    def prompts(self, texts: list[str]) -> list[list[int]]:
        return [self.tokenizer.encode(text) for text in texts]

    def decode(self, ids: list[int]) -> str:
        known = [i for i in ids if i < len(self.tokenizer)]
        return self.tokenizer.decode(known, skip_special_tokens=True)


def rng_states() -> list[Any]:
    import random

    import numpy as np

    return [random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()]


@pytest.fixture(scope="session")
def local_ray() -> Iterator[None]:
    """A Ray of this machine that engines find and leave as it is; a start costs seconds."""
    from r1zero.launch import cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_ADDRESS", "127.0.0.1:1")  # a user's cluster is not joined
        started = cluster.start(cpus=16, gpus=0, store=200 * 2**20)  # or the one of this fixture in another folder
    yield
    started.close()


def on_ray(folder: Path, samplers: int = 2, timeout_s: float = 60.0, **settings: Any) -> Served:
    """Samplers with transformers' engine, the cheaper one to start."""
    return Served("ray", folder, samplers=samplers, timeout_s=timeout_s, ray=RayConfig(**{"engine": "hf", **settings}))


@pytest.fixture(scope="session")
def pair(local_ray: None, folders: dict[str, Path]) -> Iterator[Served]:
    """Two samplers of the tied model."""
    one = on_ray(folders["tied"])
    yield one
    one.engine.close()


@pytest.fixture(
    scope="module",
    params=[
        pytest.param((engine, model), id=f"{engine}-{model}", marks=[pytest.mark.vllm] if engine == "vllm" else [])
        for engine in ("vllm", "hf")
        for model in ("tied", "untied", "llama")
    ]
    + [pytest.param(("ray", "tied"), id="ray-tied", marks=[pytest.mark.ray])],
)
def served(request: pytest.FixtureRequest, folders: dict[str, Path]) -> Iterator[Served]:
    name, model = request.param
    if name == "ray":  # processes of their own cost most: the whole session shares two
        yield request.getfixturevalue("pair")
        return
    one = Served(name, folders[model])
    yield one
    one.engine.close()


@torch.no_grad()
def learner_logprobs(model: Any, prompt: list[int], response: list[int], temperature: float = 1.0) -> torch.Tensor:
    """Log-probabilities [T] of the response by one unpadded fp32 forward pass."""
    logits = model(torch.tensor([prompt + response])).logits[0].float() / temperature
    rows = logits.log_softmax(-1)[len(prompt) - 1 : -1]
    return rows.gather(1, torch.tensor(response)[:, None])[:, 0]


def differences(
    model: Any, prompts: list[list[int]], groups: list[list[Any]], temperature: float = 1.0
) -> torch.Tensor:
    """|sampler - learner| log-probability of every sampled token, in one row."""
    return torch.cat(
        [
            (torch.tensor(c.logprobs) - learner_logprobs(model, prompt, c.ids, temperature)).abs()
            for prompt, group in zip(prompts, groups, strict=True)
            for c in group
        ]
    )
