"""The learner alone at the 1.5B shape, through the benchmark's own case; a small shape where there is no card."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

from r1zero.lab.plan.cost import Learner, Work
from r1zero.lab.plan.hardware import Shape
from r1zero.lab.plan.memory import learner_memory

if TYPE_CHECKING:
    from r1zero.lab.gpu_check.checks import Place

SHORT = ["benchmark.gpu=false", "benchmark.context=256", "benchmark.max_tokens=64", "benchmark.lengths=[64,64]",
         "benchmark.steps=1", "benchmark.warmup=1", "benchmark.dtype=float32", "benchmark.micro_batch_tokens=256",
         "benchmark.shape={hidden_size:128,intermediate_size:384,num_hidden_layers:2,num_attention_heads:2,"
         "num_key_value_heads:1,vocab_size:1024,tie_word_embeddings:true}"]  # fmt: skip


def learner_speed(place: Place, compiled: bool) -> str:
    """Tokens a second, share of the card's measured product rate, and peak memory beside the plan's."""
    from r1zero.lab.gpu_check.checks import Wrong, within

    folder = place.folder / ("learner_compiled" if compiled else "learner")
    command = [sys.executable, "-m", "r1zero", "benchmark", "benchmark=qwen1.5b_learner", "trl=null", "bare=0",
               f"benchmark.compile={str(compiled).lower()}", f"hydra.run.dir={folder}"]  # fmt: skip
    done = subprocess.run(
        command + ([] if place.gpu else SHORT), capture_output=True, text=True, timeout=place.limit, check=False
    )
    if done.returncode:
        raise Wrong((done.stderr.strip().splitlines() or [f"code {done.returncode}"])[-1])
    record = json.loads((folder / "results.json").read_text())
    ours, case = record["sides"]["ours"], record["case"]
    words = f"{ours['tokens_per_s']:,.0f} tokens/s, {record['limit']['learn']:.0%} of the measured product rate"
    if not place.gpu:
        return words
    model = case["shape"]
    shape = Shape(
        model["num_hidden_layers"], model["hidden_size"], model["num_attention_heads"], model["num_key_value_heads"],
        model["hidden_size"] // model["num_attention_heads"], model["intermediate_size"], model["vocab_size"],
        tied=True, bias=True,
    )  # fmt: skip
    work = Work(16, 3000, 3000, 64, 3064, 16, 1, 1, case["micro_batch_tokens"])
    planned = sum(learner_memory(shape, Learner("ddp", 1), work).values())
    return f"{words}, {within(ours['peak'], planned, 0.1, 'at the peak')}"
