"""One rank of ``test_ranks``: an engine of its own beside a process group that the trainer made."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from rollout_support import differences, start
from transformers import AutoModelForCausalLM, AutoTokenizer

from r1zero.errors import UserError
from r1zero.rollout.engine import Sampling
from tiny_models import perturb


def all_reduced(rank: int) -> float:
    value = torch.tensor([float(rank + 1)])
    dist.all_reduce(value)
    return value.item()


def main(folder: str, out: str) -> None:
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    if rank == 1:  # as under Lightning's own launcher, which sets no RANK
        del os.environ["RANK"]
    report: dict[str, object] = {"sums": [all_reduced(rank)]}
    engine = start("vllm", Path(folder))
    model = perturb(AutoModelForCausalLM.from_pretrained(folder).eval(), seed=1)
    engine.load_weights(model.named_parameters(), 1)
    report["sums"].append(all_reduced(rank))  # type: ignore[attr-defined]
    prompts = [AutoTokenizer.from_pretrained(folder).encode("What is 12 + 30?")]
    sampling = Sampling(n=4, max_tokens=20)
    own = engine.generate(prompts, sampling, seed=100 + rank)
    common = engine.generate(prompts, sampling, seed=5)
    report["own"] = [c.ids for c in own[0]]
    report["common"] = [c.ids for c in common[0]]
    report["gap"] = differences(model, prompts, own).max().item()
    report["sums"].append(all_reduced(rank))  # type: ignore[attr-defined]
    report["rank"] = os.environ.get("RANK")
    asked = [prompts, [prompts[0][:3], prompts[0][2:]]]
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    engine.load_weights(perturb(model, seed=2).named_parameters(), 2)
    whole = engine.generate([ids for theirs in asked for ids in theirs], sampling, seed=100)
    report["whole"] = [[c.ids for c in group] for group in whole]
    engine.close()
    report["sums"].append(all_reduced(rank))  # type: ignore[attr-defined]
    joint = start("vllm", Path(folder), tensor_parallel=2)
    told: list[int] = []
    joint.on_group = lambda index, group: told.append(index)
    joint.load_weights(before.items(), 1)
    joint.load_weights(model.named_parameters(), 2)
    shares = joint.generate(asked[rank], sampling, seed=100 + rank)
    report["shares"], report["told"] = [[c.ids for c in group] for group in shares], sorted(told)
    report["joint_gap"] = differences(model, asked[rank], shares).max().item()
    report["rows"] = joint.engine._llm.apply_model(lambda cut: cut.model.embed_tokens.weight.shape[0])
    report["second"] = [[c.ids for c in group] for group in joint.generate([[], prompts][rank], sampling, seed=5)]
    try:
        joint.generate([prompts, [prompts[0] * 99]][rank], sampling, seed=1)
    except UserError as error:
        report["refused"] = str(error)
    joint.close()
    report["sums"].append(all_reduced(rank))  # type: ignore[attr-defined]
    Path(out, f"{rank}.json").write_text(json.dumps(report))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
