"""A run of a few steps in a process of its own, and what its folder says afterwards."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from r1zero.lab.doctor import folder
from r1zero.lab.doctor.environment import GIB, Check

SMALL = ["experiment=demo", "logger=none", "callbacks.progress=null", "eval.every=0", "eval.at_start=false",
         "checkpoint.keep=9", "+callbacks.memory._target_=r1zero.lab.doctor.probe.MemoryProbe"]  # fmt: skip
"""What every trial has: the embedded model and its questions unless more is said, memory noted in each phase."""

LARGE = {"hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28, "num_attention_heads": 12,
         "num_key_value_heads": 2, "vocab_size": 151936, "tie_word_embeddings": True}  # fmt: skip
"""The shape of Qwen2.5-Math-1.5B."""

Start = Callable[[Sequence[str], float], tuple[int, str]]
"""Starts ``train.py`` with arguments and a limit in seconds; exit code and what it said on stderr."""


@dataclass(frozen=True)
class Trial:
    """A finished trial.

    Attributes:
        folder: its run folder.
        code: exit code; 124 where it ran past its limit.
        said: the last line on stderr.
        seconds: from start to end, imports included.
    """

    folder: Path
    code: int
    said: str
    seconds: float

    @property
    def rows(self) -> list[dict[str, str]]:
        """metrics.csv."""
        file = self.folder / "metrics.csv"
        return list(csv.DictReader(file.open())) if file.is_file() else []

    @property
    def steps(self) -> list[int]:
        """Rollout steps that were taken: rows without a learner's figures are evaluations."""
        return [int(row["step"]) for row in self.rows if row.get("policy/grad_norm")]

    @property
    def memory(self) -> list[dict[str, int]]:
        """memory.jsonl, a row a rollout step."""
        file = self.folder / "memory.jsonl"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []

    @property
    def log(self) -> str:
        """train.log."""
        file = self.folder / "train.log"
        return file.read_text(errors="replace") if file.is_file() else ""

    def responses(self, step: int) -> list[list[int]]:
        """Token ids of a rollout step's responses, in order; none where they were not kept."""
        import pyarrow.parquet as pq

        found = sorted((self.folder / "completions").glob(f"step_{step:06d}*.parquet"))
        return [list(map(int, ids)) for file in found for ids in pq.read_table(file)["ids"].to_pylist()]

    def differences(self) -> list[float]:
        """Mean difference of sampler and learner in nats, a rollout step each."""
        return [float(row["sync/logprob_diff_mean"]) for row in self.rows if row.get("sync/logprob_diff_mean")]


def start(arguments: Sequence[str], limit: float) -> tuple[int, str]:
    """``train.py`` in a process of its own."""
    command = [sys.executable, "-m", "r1zero", "train", *arguments]
    try:
        done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, timeout=limit)
    except subprocess.TimeoutExpired:
        return 124, f"not finished after {limit:.0f} s"
    return done.returncode, done.stderr


def run(folder: Path, settings: Sequence[str], limit: float = 300.0, begin: Start = start) -> Trial:
    """Run a trial in ``folder``, or continue the one that is there where the first setting is ``resume=``."""
    resumed = settings[0].startswith("resume=")
    arguments = list(settings) if resumed else [*SMALL, *settings, f"hydra.run.dir={folder}"]
    begun = time.perf_counter()
    code, said = begin(arguments, limit)
    lines = [line for line in said.splitlines() if line.strip()] or [""]
    return Trial(folder, code, lines[-1], time.perf_counter() - begun)


def random_model(shape: dict[str, Any], out: Path, context: int = 4096) -> Path:
    """A Qwen2 of random weights in bfloat16, made on the card where there is one, with the embedded tokenizer."""
    if (out / "config.json").is_file():
        return out
    import torch
    from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM
    from transformers import logging as quiet

    from r1zero.config import ASSETS

    quiet.disable_progress_bar()
    tokenizer = AutoTokenizer.from_pretrained(ASSETS / "tiny")
    torch.manual_seed(0)
    ids = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id, "bos_token_id": None}
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model: Any = Qwen2ForCausalLM(Qwen2Config(**shape, **ids, max_position_embeddings=context))
    model.bfloat16().cpu().save_pretrained(out)
    tokenizer.save_pretrained(out)
    return out


def settings_for(gpu: bool, engine: str, model: Path | None) -> list[str]:
    """A trial of 3 steps: a model of the 1.5B shape on a card, the embedded one on a CPU."""
    settings = [f"rollout={engine}", "steps=3", "rollout.questions=4", "algo.minibatch_size=32", "checkpoint.every=1"]
    if gpu:
        return [*settings, f"model={model}", "trainer=gpu", "rollout.max_tokens=256", "rollout.enforce_eager=false"]
    return [*settings, "rollout.max_tokens=64", "rollout.kv_cache_gib=0.2"]


def checks(trial: Trial, gpu: bool, log: Path) -> Iterator[Check]:
    """What a trial of :func:`settings_for` shows, one line each; ``log`` is where its log was kept if it failed."""
    if trial.code:
        yield Check("run", "fail", f"3 steps ended with code {trial.code}: {trial.said}", f"see {log}")
        return
    yield Check(
        "run", "ok", f"3 steps of {'a random 1.5B model' if gpu else 'the embedded model'} in {trial.seconds:.0f} s"
    )
    differences = trial.differences()
    if differences:
        yield Check("sync", "ok", f"sampler and learner differ by {max(differences):.1e} nats a token at most",
                    "the engine serves the learner's weights after each update")  # fmt: skip
    else:
        yield Check("sync", "fail", "no log-probabilities to compare", "a stale engine would not be noticed")
    yield sleep_check(trial, gpu)
    lines = folder.findings(trial.folder)
    if lines:
        yield Check("checkpoint", "fail", lines[0], "resume= would refuse or go on from an earlier one")
    else:
        yield Check(
            "checkpoint", "ok", folder.summary(trial.folder), "every file is what was written: resume= continues"
        )


def sleep_check(trial: Trial, gpu: bool) -> Check:
    """Whether an engine that sleeps gives its memory to the learner."""
    if not gpu:
        return Check("sleep", "skip", "an engine on a CPU does not sleep")
    rows = [row for row in trial.memory if "asleep" in row]
    if not rows:
        return Check("sleep", "fail", "the engine was never put to sleep", "learner and engine share the memory")
    freed = min(row["awake"] - row["asleep"] for row in rows) / GIB
    found = f"awake {rows[-1]['awake'] / GIB:.1f} GiB of the card are in use, asleep {rows[-1]['asleep'] / GIB:.1f}"
    if freed < 1:
        return Check("sleep", "fail", found, "nothing is freed for the learner: rollout.sleep=false plans for that")
    return Check("sleep", "ok", found, f"{freed:.1f} GiB go to the learner between rollouts")
