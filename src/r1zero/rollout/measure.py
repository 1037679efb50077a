"""Milliseconds a decoding step of both engines: ``python -m r1zero.rollout.measure <job as JSON> <our process>``."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from r1zero.errors import first_line
from r1zero.launch.files import read_json
from r1zero.rollout.build import build_engine
from r1zero.rollout.engine import Engine, Sampling
from r1zero.rollout.figures import ENGINES
from r1zero.rollout_config import RolloutConfig

ROUNDS = 4
"""Turns of each engine after one to warm up; the best of them counts, as other load only adds."""
NEVER = "\U000ffffd"
"""Behind a stop string it keeps it from being found, at the same cost of looking for it."""


def measured(job: dict[str, Any]) -> dict[str, Any]:
    """Both engines by turns, on prompts of other tokens each turn; no response ends before the limit.

    Stop strings are looked for and none is found; stop ids are left out, as both engines do no more than look a token
    up. Where a run syncs, each engine is sent its weights once more. An engine that can't do its part is in ``failed``
    with the reason, and then the other one is there to be taken, with no figure to compare.
    """
    vocabulary = int(read_json(Path(job["folder"]) / "config.json").get("vocab_size") or 2)
    sampling = Sampling(**job["sampling"], stop=tuple(stop + NEVER for stop in job["stop"]))
    engines: dict[str, Engine] = {}
    failed: dict[str, str] = {}
    best = dict.fromkeys(ENGINES, float("inf"))

    @contextlib.contextmanager
    def noted(name: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            failed[name] = first_line(error)[:200]

    for name in ENGINES:
        with noted(name):
            engines[name] = started(name, job)
    for turn in range(ROUNDS + 1):
        first = turn * job["questions"] * job["prompt"]
        prompts = [
            [(first + i * job["prompt"] + k) % vocabulary for k in range(job["prompt"])]
            for i in range(job["questions"])
        ]
        for name in [name for name in ENGINES if name not in failed]:
            with noted(name):
                begun = time.perf_counter()
                engines[name].generate(prompts, sampling, turn)
                if turn:
                    best[name] = min(best[name], time.perf_counter() - begun)
        if failed and turn:  # nothing to compare, and the other one has been tried
            break
    for engine in engines.values():
        engine.close()
    found = {name: round(1000 * best[name] / sampling.max_tokens, 3) for name in ENGINES if name not in failed}
    return found | ({"failed": failed} if failed else {})


def started(name: str, job: dict[str, Any]) -> Engine:
    """An engine that has taken the folder's weights in the way that it takes a learner's."""
    engine = build_engine(
        RolloutConfig(name=name, **job["rollout"]),
        job["folder"],
        dtype=job["dtype"],
        context=job["prompt"] + job["sampling"]["max_tokens"],
        trust_remote_code=job["trust_remote_code"],
        responses=job["questions"] * job["sampling"]["n"],
    )
    if job["synced"]:
        from transformers import AutoModelForCausalLM

        model: Any = AutoModelForCausalLM.from_pretrained(job["folder"], trust_remote_code=job["trust_remote_code"])
        engine.load_weights(model.named_parameters(), 1)
    return engine


def end_with(parent: int) -> None:
    """End this process and what it has started when the process that asked is gone, however that ended."""
    while os.getppid() == parent:
        time.sleep(0.2)
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    threading.Thread(target=end_with, args=(int(sys.argv[2]),), daemon=True).start()
    print(json.dumps(measured(json.loads(sys.argv[1]))), flush=True)
    os._exit(0)  # nothing that libraries say at their end comes after it
