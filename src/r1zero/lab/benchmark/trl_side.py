"""TRL's side: one GRPOTrainer that takes a step on request. Runs in TRL's own environment, by its path.

``python trl_side.py case.json``: imports nothing of r1zero. Says one JSON object a line, marked, on stdout.
"""

from __future__ import annotations

import json
import random
import re
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

MARK = "@@"


def say(**message: Any) -> None:
    """One message to the process that compares."""
    print(MARK + json.dumps(message), flush=True)


def peak_memory() -> int:
    """Largest resident sets so far of this process and those it started, summed, bytes."""
    import psutil

    me = psutil.Process()
    files = [Path(f"/proc/{process.pid}/status") for process in (me, *me.children(recursive=True))]
    found = [re.search(r"VmHWM:\s+(\d+)", file.read_text()) for file in files if file.exists()]
    return sum(int(match[1]) * 1024 for match in found if match)


class Clock:
    """Seconds by part of a step."""

    def __init__(self) -> None:
        self.parts: dict[str, float] = defaultdict(float)

    def wrap(self, owner: Any, name: str, part: str) -> None:
        """Count the time of a method."""
        plain = getattr(owner, name)

        def timed(*args: Any, **keywords: Any) -> Any:
            started = time.perf_counter()
            try:
                return plain(*args, **keywords)
            finally:
                self.parts[part] += time.perf_counter() - started

        setattr(owner, name, timed)


def main(case: dict[str, Any]) -> None:
    """Build the trainer and let it run; it waits before every step."""
    import torch
    from datasets import Dataset
    from transformers import AutoTokenizer, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    clock, tokens = Clock(), [0]
    total, group = case["questions"] * case["group_size"], case["group_size"]
    draws = iter(range(10**9))

    def reward(completions: list[str], completion_ids: list[list[int]], **columns: Any) -> list[float]:
        """Drawn rewards, or whether the boxed number is the answer: as cheap as a reward can be."""
        tokens[0] = sum(map(len, completion_ids))
        if case["active"] is not None:
            on = round(case["active"] * case["questions"])
            return [float(i % 2) if i // group < on else 0.0 for i in range(len(completions))]
        found = [re.findall(r"\\boxed\{([^{}]*)\}", text) for text in completions]
        return [float(bool(f) and f[-1].strip() == a) for f, a in zip(found, columns["answer"], strict=True)]

    def given(prompts: list[Any], trainer: Any) -> dict[str, Any]:
        """Drawn responses, those of the other side."""
        rng = random.Random(f"{case['seed']}/{next(draws)}")
        low, high = case["lengths"]
        responses = [[rng.randrange(4, 384) for _ in range(rng.randint(low, high))] for _ in range(total)]
        ids = tokenizer(prompts)["input_ids"]
        return {"prompt_ids": ids, "completion_ids": responses, "logprobs": None}

    class Turns(TrainerCallback):
        """Waits for its turn before a step, and says how the step went."""

        def on_step_begin(self, *args: Any, **keywords: Any) -> None:
            say(kind="ready")
            if sys.stdin.readline().strip() != "step":
                raise SystemExit(0)
            clock.parts.clear()
            self.started = time.perf_counter()

        def on_step_end(self, *args: Any, **keywords: Any) -> None:
            seconds = time.perf_counter() - self.started
            parts = dict(clock.parts)
            parts["rollout"] = parts.get("rollout", 0.0)
            say(kind="step", seconds=seconds, parts=parts, tokens=tokens[0], peak=peak_memory())

    tokenizer = AutoTokenizer.from_pretrained(case["model"])
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    fixed = {"min_new_tokens": case["max_tokens"]} if case["fixed"] else {}
    config = GRPOConfig(
        output_dir=case["folder"],
        use_cpu=True,
        bf16=case["dtype"] == "bfloat16",
        model_init_kwargs={"dtype": "float32"},
        gradient_checkpointing=False,
        torch_compile=case["compile"],
        per_device_train_batch_size=case["trl_batch"],
        gradient_accumulation_steps=total // case["trl_batch"],
        num_generations=group,
        max_completion_length=case["max_tokens"],
        generation_kwargs=fixed or None,
        temperature=1.0,
        loss_type="dr_grpo",
        scale_rewards="none",
        beta=0.0,
        learning_rate=case["lr"],
        lr_scheduler_type="constant",
        adam_beta1=0.9,
        adam_beta2=0.95,
        weight_decay=0.0,
        max_grad_norm=1.0,
        shuffle_dataset=False,
        max_steps=case["steps"],
        save_strategy="no",
        report_to="none",
        logging_steps=10**6,
        disable_tqdm=True,
        seed=case["seed"],
    )
    rows = [json.loads(line) for line in Path(case["data"]).read_text().splitlines()]
    trainer = GRPOTrainer(
        model=case["model"],
        reward_funcs=reward,
        args=config,
        train_dataset=Dataset.from_list([{"prompt": r["prompt"], "answer": r["answer"]} for r in rows]),
        processing_class=tokenizer,
        callbacks=[Turns()],
        rollout_func=given if case["lengths"] else None,
    )
    clock.wrap(trainer, "_generate", "rollout")
    clock.wrap(trainer, "_calculate_rewards", "reward")
    clock.wrap(trainer, "compute_loss", "forward")
    clock.wrap(trainer.accelerator, "backward", "backward")
    clock.wrap(trainer, "_prepare_inputs", "prepare")
    create = trainer.create_optimizer

    def create_and_time(*args: Any, **keywords: Any) -> Any:
        optimizer = create(*args, **keywords)
        clock.wrap(trainer.optimizer, "step", "optimizer")
        return optimizer

    trainer.create_optimizer = create_and_time
    say(kind="start", torch=torch.__version__, threads=torch.get_num_threads())
    trainer.train()


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()))
