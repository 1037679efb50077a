"""Our side as a process: ``python -m r1zero.lab.benchmark.ours case.json`` is a run that waits for its turns."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from r1zero import config
from r1zero.launch.arguments import expand
from r1zero.launch.paths import quoted
from r1zero.launch.torch_start import start_torch
from r1zero.train.checks import check


def settings(case: dict[str, Any], conf: Path) -> DictConfig:
    """The run's config: what ``train.py`` would be given, and a callback at either end of the list."""
    total = case["questions"] * case["group_size"]
    device = ["trainer=gpu", "trainer.devices=1"] if case["gpu"] else []
    overrides = [
        "experiment=demo",
        "model=folder",
        f"model.path={quoted(case['model'])}",
        f"model.context={case['context']}",
        f"model.dtype={case['dtype']}",
        f"model.gradient_checkpointing={str(case['gradient_checkpointing']).lower()}",
        f"model.compile={str(case['compile']).lower()}",
        "data=file",
        f"data.path={quoted(case['data'])}",
        "data.question_key=question",
        "data.answer_key=answer",
        "benchmarks=none",
        f"data.max_prompt_tokens={case['context'] - case['max_tokens']}",
        f"rollout.questions={case['questions']}",
        f"rollout.group_size={case['group_size']}",
        f"rollout.max_tokens={case['max_tokens']}",
        f"algo.minibatch_size={total}",
        f"optim.lr={case['lr']}",
        f"optim.micro_batch_tokens={case['micro_batch_tokens']}",
        f"steps={case['steps']}",
        f"seed={case['seed']}",
        "eval.every=0",
        "eval.at_start=false",
        "checkpoint.every=0",
        f"paths.run={quoted(case['folder'])}",
        f"paths.outputs={quoted(case['folder'])}",
        *device,
        *case["overrides"],
    ]
    with initialize_config_dir(str(conf), version_base="1.3"):
        cfg = compose("train", overrides=expand(overrides, conf))
    start = {
        "_target_": "r1zero.lab.benchmark.turns.TurnStart",
        **{name: case[name] for name in ("fixed", "active", "lengths")},
    }
    ends = {"turn_start": start}, {"turn_end": {"_target_": "r1zero.lab.benchmark.turns.TurnEnd"}}
    cfg.callbacks = {**ends[0], **OmegaConf.to_container(cfg.callbacks), **ends[1]}  # type: ignore[dict-item]
    check(cfg)
    return cfg


def main(case: dict[str, Any]) -> int:
    """Run."""
    config.register()
    cfg = settings(case, Path(case["conf"]))
    start_torch(case["params"])
    from r1zero.train.run import train

    return train(cfg, Path(case["folder"]))


if __name__ == "__main__":
    sys.exit(main(json.loads(Path(sys.argv[1]).read_text())))
