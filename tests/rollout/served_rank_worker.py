"""One rank of ``test_served_ranks``: an engine over servers that all ranks share."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist
from rollout_support import CONTEXT, differences
from transformers import AutoModelForCausalLM, AutoTokenizer

from r1zero.config import RolloutConfig
from r1zero.errors import SyncError
from r1zero.rollout.build import build_engine
from r1zero.rollout.engine import Sampling
from tiny_models import perturb


def main(folder: str, out: str, urls: str) -> None:
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    config = RolloutConfig(name="vllm_server", urls=urls.split(","), timeout_s=30)
    engine = build_engine(config, folder, dtype="float32", context=CONTEXT)
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    prompts = [AutoTokenizer.from_pretrained(folder).encode(text) for text in ("What is 12 + 30?", "7 - 5 =")]
    sampling = Sampling(n=4, max_tokens=20)
    report: dict[str, object] = {"gaps": []}
    for version in (1, 2):
        perturb(model, seed=version)
        engine.load_weights(model.named_parameters(), version)
        if rank == 1:
            time.sleep(1.0)  # rank 0 is at its next push while this one has yet to sample
        own = engine.generate(prompts, sampling, seed=100 + rank)
        report["gaps"].append(differences(model, prompts, own).max().item())  # type: ignore[attr-defined]
    report["own"] = [c.ids for c in own[0]]
    report["common"] = [c.ids for c in engine.generate(prompts, sampling, seed=5)[0]]
    report["writes"] = engine._store is not None  # type: ignore[attr-defined]
    try:
        engine.load_weights(list(model.named_parameters())[1:], 3)
    except SyncError as error:
        report["error"] = str(error)
    engine.load_weights(model.named_parameters(), 4)
    report["version"] = engine.version
    total = torch.ones(1)
    dist.all_reduce(total)  # the trainer's group still works, and nobody closes a server that is in use
    report["sum"] = total.item()
    engine.close()
    Path(out, f"{rank}.json").write_text(json.dumps(report))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
