"""Measures one case: both sides take their steps by turns, so that whatever disturbs one disturbs the other."""

from __future__ import annotations

import dataclasses
import json
import logging
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from rich.progress import Progress

from r1zero.data.arithmetic import generate
from r1zero.errors import UserError
from r1zero.lab.benchmark import growth, results
from r1zero.lab.benchmark.config import BenchmarkConfig
from r1zero.lab.benchmark.side import Side
from r1zero.lab.plan.hardware import shape_of
from r1zero.launch.console import console
from r1zero.launch.files import write_json
from r1zero.launch.gpu import has_gpu
from r1zero.launch.number_format import AUTO, chosen_format
from r1zero.launch.resume import record_settings
from r1zero.launch.run_folder import shown

log = logging.getLogger("r1zero")
HERE = Path(__file__).resolve().parent
PROMPT = "Question: {}\nAnswer:"


def benchmark(config: DictConfig, run_dir: Path, conf: Path) -> int:
    """Measure a case, write ``results.json`` and ``steps.png``, print the table; the exit code.

    Raises:
        UserError: TRL's environment is missing, the folder is another measurement's, or a side failed.
    """
    cfg: BenchmarkConfig = OmegaConf.to_object(config)  # type: ignore[assignment]
    if cfg.table is not None:
        return results.write_table(Path(cfg.table), None if cfg.into is None else Path(cfg.into))
    if cfg.benchmark.gpu and not has_gpu():
        raise UserError(f"benchmark={cfg.benchmark.name} is measured on a GPU, and no NVIDIA GPU was found")
    if any(run_dir.rglob("ours/case.json")):
        raise UserError(
            f"{shown(run_dir)} holds an earlier measurement: remove it, or choose another folder (hydra.run.dir=...)"
        )
    python = (
        None
        if cfg.trl is None or cfg.growth or cfg.benchmark.gpu or cfg.benchmark.engine_threads
        else find_trl(cfg.trl, conf.parent)
    )
    if cfg.benchmark.dtype == AUTO:
        cfg.benchmark.dtype = config.benchmark.dtype = chosen_format(cfg.benchmark.gpu)[0]
    run_dir.mkdir(parents=True, exist_ok=True)
    record_settings(run_dir, config)
    if cfg.growth:
        return grow(cfg, run_dir, conf)
    case = prepare(cfg, run_dir, conf)
    machine = measure_machine(cfg.benchmark.dtype, "cuda" if cfg.benchmark.gpu else "cpu")
    measured = take_turns(cfg, case, run_dir, python)
    record = results.summarise(case, machine, measured, shape_of(case["model"]))
    write_json(run_dir / "results.json", record)
    results.draw(record, run_dir / "steps.png")
    console.print(results.table(record))
    for name in ("results.json", "steps.png"):
        console.print(f"  {shown(run_dir / name)}", soft_wrap=True)
    return 0


def grow(cfg: BenchmarkConfig, run_dir: Path, conf: Path) -> int:
    """Measure this project's learner at every length of ``growth``; the exit code.

    Raises:
        UserError: fewer than 3 lengths, or one that does not fit the context.
    """
    lengths = sorted(set(cfg.growth))
    if len(lengths) < 3 or lengths[0] < 1:
        raise UserError(f"growth={cfg.growth}: name at least 3 different lengths, e.g. growth=[1024,2048,4096,8192]")
    if (longest := lengths[-1] + 64) > cfg.benchmark.context:
        raise UserError(f"growth={cfg.growth}: with the prompt that needs benchmark.context={longest} or more")
    points = []
    for length in lengths:
        folder = run_dir / f"tokens_{length}"
        folder.mkdir(exist_ok=True)
        work = dataclasses.replace(cfg.benchmark, lengths=[length, length], max_tokens=length, active=1.0)
        case = prepare(dataclasses.replace(cfg, benchmark=work), folder, conf)
        steps = take_turns(dataclasses.replace(cfg, benchmark=work, bare=0), case, folder, None)["steps"]["ours"]
        ours = results.side(steps, alone=True)
        seconds = ours["parts"]["forward_backward"]
        points.append({"length": length, "tokens": ours["tokens"], "seconds": seconds, "peak": ours["peak"]})
    growth.report(points, run_dir, cfg.benchmark.name)
    return 0


def find_trl(folder: str, root: Path) -> Path:
    """Python of TRL's environment. Raises ``UserError`` where there is none."""
    for base in (Path(folder).expanduser(), root / folder):
        python = base / "bin" / "python"
        if python.exists():
            return python.absolute()
    raise UserError(f"trl={folder}: there is no such environment; python scripts/set_up_trl.py {folder} makes it")


def prepare(cfg: BenchmarkConfig, run_dir: Path, conf: Path) -> dict[str, Any]:
    """Write the questions, and the model where it is a random one; what both sides get."""
    case: dict[str, Any] = vars(cfg.benchmark) | {
        "seed": cfg.seed,
        "overrides": list({one.partition("=")[0]: one for one in (*cfg.benchmark.overrides, *cfg.overrides)}.values()),
    }
    if cfg.benchmark.model is None:
        case["model"] = str(random_model(cfg.benchmark.shape, cfg.benchmark.context, run_dir / "model"))
    else:
        from r1zero.config import ModelConfig
        from r1zero.learn.policy import resolve_model

        case["model"] = str(resolve_model(ModelConfig(path=cfg.benchmark.model)).absolute())
    if (cfg.benchmark.questions * cfg.benchmark.group_size) % cfg.benchmark.trl_batch:
        raise UserError(
            f"benchmark.trl_batch={cfg.benchmark.trl_batch} must divide benchmark.questions * benchmark.group_size"
        )
    if case["warmup"] < 1 or case["steps"] < 1:
        counts = f"benchmark.warmup={case['warmup']} benchmark.steps={case['steps']}"
        raise UserError(f"{counts}: at least 1 of each")
    case["steps"] += case["warmup"]
    questions = generate("train", max(case["steps"] * cfg.benchmark.questions, 64), cfg.seed, terms=4, digits=1)
    file = run_dir / "questions.jsonl"
    rows = [{"question": q.text, "answer": q.gold[0], "prompt": PROMPT.format(q.text)} for q in questions]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    case |= {"data": str(file.absolute()), "conf": str(conf), "params": shape_of(case["model"]).params / 1e9}
    return case


def random_model(shape: dict[str, Any], context: int, folder: Path) -> Path:
    """A Qwen2 with random weights, and the tokenizer of the embedded model."""
    import torch
    from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM
    from transformers import logging as quiet

    from r1zero.config import ASSETS

    quiet.disable_progress_bar()
    tokenizer = AutoTokenizer.from_pretrained(ASSETS / "tiny")
    torch.manual_seed(0)
    ids = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id, "bos_token_id": None}
    Qwen2ForCausalLM(Qwen2Config(**shape, **ids, max_position_embeddings=context)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def measure_machine(dtype: str, device: str) -> dict[str, Any]:
    """What the machine can do, measured in a process of its own."""
    command = [sys.executable, "-m", "r1zero.lab.benchmark.machine", dtype, device]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        words = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise UserError(f"the machine could not be measured: {words[-1]}")
    return json.loads(done.stdout)


def take_turns(cfg: BenchmarkConfig, case: dict[str, Any], run_dir: Path, trl: Path | None) -> dict[str, Any]:
    """Start the sides one after the other, then let them step by turns: A B A B ..."""
    sides: dict[str, Side] = {}
    measured: dict[str, Any] = {"steps": {}, "versions": {}, "first_step": {}}
    try:
        for name in ("ours", *(["trl"] if trl else [])):
            sides[name], measured["versions"][name] = start(name, cfg, case, run_dir, trl)
            measured["steps"][name] = []
            begun = time.perf_counter()
            sides[name].tell("step", "step")  # before the other side starts: it shows how long a user waits
            measured["first_step"][name] = time.perf_counter() - begun + measured["versions"][name]["seconds"]
            sides[name].wait_for("ready")
        with Progress(console=console, transient=True) as bar:
            task = bar.add_task(case["name"], total=(case["steps"] - 1) * len(sides))
            for number in range(1, case["steps"]):
                if number == case["warmup"] and cfg.bare and not case["lengths"]:
                    words = map(str, ["bare", cfg.bare, *case["engine_threads"]])
                    measured["bare"] = sides["ours"].tell(" ".join(words), "bare")["rounds"]
                    sides["ours"].wait_for("ready")
                for name, side in sides.items():
                    step = side.tell("step", "step")
                    if number + 1 < case["steps"]:
                        side.wait_for("ready")
                    if number >= case["warmup"]:
                        measured["steps"][name].append(step)
                    bar.advance(task)
    finally:
        for side in sides.values():
            side.close()
    return measured


def start(
    name: str, cfg: BenchmarkConfig, case: dict[str, Any], run_dir: Path, trl: Path | None
) -> tuple[Side, dict[str, Any]]:
    """Start a side and wait until it could take its first step."""
    folder = run_dir / name
    folder.mkdir(exist_ok=True)
    told = folder / "case.json"
    told.write_text(json.dumps(case | {"folder": str(folder.absolute())}))
    command = [sys.executable, "-m", "r1zero.lab.benchmark.ours", str(told)]
    environment = {"OMP_NUM_THREADS": str(case["threads"])} if case["threads"] else {}
    if name == "trl":
        assert trl is not None
        command = [str(trl), str(HERE / "trl_side.py"), str(told)]
    side = Side(name, command, folder / "side.log", cfg.timeout, environment)
    versions = side.wait_for("start")
    side.wait_for("ready")
    return side, versions | {"seconds": time.perf_counter() - side.started}
