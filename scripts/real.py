"""A real model on real questions: `make real DATA=asdiv.jsonl`, or `python scripts/real.py --help`.

Splits ASDiv, teaches SmolLM2-135M the form of an answer on worked formulas, trains it with GRPO and Dr. GRPO,
evaluates every state on held-out questions, and serves the result with vLLM. What has finished is left alone, so
the same command continues where it was stopped. The table is outputs/real/results.md.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from functools import partial
from pathlib import Path

try:
    from r1zero.data.sources import READERS
    from r1zero.errors import Options, UserError, exit_code
    from r1zero.lab.real import questions
    from r1zero.launch import jobs, sweep
    from r1zero.launch.console import console
    from r1zero.launch.paths import quoted
except ModuleNotFoundError as error:
    sys.exit(f"error: {error.name} is not installed; run `make setup`, or `pip install -e '.[cpu]'` ('.[gpu]' on GPUs)")

ROOT = Path(__file__).resolve().parents[1]
ALGORITHMS = ("grpo", "drgrpo")
HUB = "HuggingFaceTB/SmolLM2-135M-Instruct"
TEMPLATE = "Question: {question}\nAnswer:"
ADVICE = "give another --out"


def evaluation(arguments: argparse.Namespace, heldout: Path, model: list[str], folder: Path) -> str:
    """Sample the held-out questions unless that is done."""
    settings = [
        *model, "template=question", "benchmarks=heldout", f"benchmarks.heldout.path={quoted(heldout)}",
        f"sampling.n={arguments.samples}", "sampling.temperature=1.0", "sampling.max_tokens=40",
        "rollout.kv_cache_gib=0.5", *arguments.evaluate,
    ]  # fmt: skip
    console.print(f"evaluating into {folder}", highlight=False)
    return jobs.process(ROOT / "scripts" / "evaluate.py", settings, folder, advice=ADVICE)


def pretraining(arguments: argparse.Namespace, form: Path, folder: Path) -> str:
    """Teach the form unless that is done."""
    given = [f"model.path={quoted(arguments.model)}", f"data.sources.qa.path={quoted(form)}"]
    given += ["data.sources.qa.split=train", "data.sources.qa.answer_key=answer", *arguments.pretrain]
    return jobs.pretraining(ROOT, "smollm_form", folder, given, ADVICE)


def training(arguments: argparse.Namespace, train: Path, form: Path, algo: str, seed: int, folder: Path) -> str:
    """One run of RL unless it has finished."""
    given = [
        f"algo={algo}", f"seed={seed}", "experiment=real", "model=folder", f"model.path={quoted(form / 'policy')}",
        "data=file", f"data.path={quoted(train)}", *arguments.train,
    ]  # fmt: skip
    return jobs.process(ROOT / "train.py", given, folder, sweep.Names(folder.name, "real"), ADVICE)


def plan_jobs(arguments: argparse.Namespace, files: dict[str, Path]) -> tuple[list[jobs.Job], dict[str, list[Path]]]:
    """Everything to do in its order, and the evaluations of each state."""
    out: Path = arguments.out
    form, heldout = out / "form", files["heldout"]
    base = ["model=smollm135m", f"model.path={quoted(arguments.model)}"]
    states: dict[str, list[Path]] = {"before": [out / "eval" / "before"], "form": [out / "eval" / "form"]}
    todo = [
        jobs.Job("form", partial(pretraining, arguments, files["form"], form)),
        jobs.Job("eval/before", partial(evaluation, arguments, heldout, base, states["before"][0])),
    ]
    taught = ["model=folder", f"model.path={quoted(form / 'policy')}"]
    todo += [jobs.Job("eval/form", partial(evaluation, arguments, heldout, taught, states["form"][0]), ("form",))]
    for seed in range(arguments.seeds):
        for algo in ALGORITHMS:
            folder = out / "rl" / f"{algo}_{seed}"
            place = out / "eval" / f"{algo}_{seed}"
            states.setdefault(algo, []).append(place)
            trained = ["model=folder", f"model.path={quoted(folder / 'policy')}"]
            run = partial(training, arguments, files["train"], form, algo, seed, folder)
            todo.append(jobs.Job(f"rl/{algo}_{seed}", run, ("form",)))
            judge = partial(evaluation, arguments, heldout, trained, place)
            todo.append(jobs.Job(f"eval/{algo}_{seed}", judge, (f"rl/{algo}_{seed}",)))
    return todo, states


def report(arguments: argparse.Namespace, states: dict[str, list[Path]], heldout: Path) -> None:
    """Write the table and the excerpts, and let vLLM's server answer three held-out questions with a trained model."""
    from r1zero.lab.real import results, serve

    there = {name: [f for f in folders if (f / "responses.parquet").is_file()] for name, folders in states.items()}
    there = {name: folders for name, folders in there.items() if folders}
    if not {"before", "form"} <= set(there):
        raise UserError(f"{arguments.out}/eval has no evaluation of the model before RL yet")
    last = there.get("drgrpo", there.get("grpo", there["form"]))[0]
    read_out = results.excerpts(results.read(there["form"]), results.read([last]))
    found = results.collect(there)
    short = {name: (len(there.get(name, [])), len(folders)) for name, folders in states.items()}
    found["unfinished"] = [f"{name} {done} of {planned}" for name, (done, planned) in short.items() if done < planned]
    path = results.write(found, read_out, arguments.out)
    console.print(path.read_text().partition("\n## ")[0], highlight=False, markup=False, soft_wrap=True)
    if set(ALGORITHMS) & set(there):
        from r1zero.lab.report.training import write_figures

        for picture in write_figures([str(arguments.out / "rl")], "fig5", arguments.out / "figures"):
            console.print(picture, highlight=False, soft_wrap=True)
    policy = arguments.out / "rl" / "drgrpo_0" / "policy"
    if policy.is_dir() and not arguments.no_serve:
        asked = [json.loads(line)["problem"] for line in heldout.read_text().splitlines()[:3]]
        prompts = [TEMPLATE.replace("{question}", question) for question in asked]
        for question, answer in zip(asked, serve.ask(policy, prompts, arguments.out / "served.log"), strict=True):
            console.print(f"served: {question} ->{answer.splitlines()[0] if answer.strip() else ''}", soft_wrap=True)
    console.print(f"report: {path}", soft_wrap=True)


def parse(given: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = Options(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data", type=Path, required=True, help="ASDiv as .jsonl with problem, answer, formula, kind, grade"
    )
    parser.add_argument("--model", default=HUB, help=f"folder or hub id (default: {HUB})")
    parser.add_argument("--out", type=Path, default=Path("outputs/real"), help="folder (default: outputs/real)")
    parser.add_argument("--kinds", nargs="+", default=list(questions.KINDS), help="kinds of operation")
    parser.add_argument(
        "--grades", nargs="+", type=int, default=list(questions.GRADES), help="grades (default: 1 to 4)"
    )
    parser.add_argument("--form", type=int, default=400, help="questions that teach the form (default: 400)")
    parser.add_argument("--heldout", type=int, default=300, help="questions of the evaluations (default: 300)")
    parser.add_argument("--samples", type=int, default=4, help="samples a question (default: 4)")
    parser.add_argument("--seeds", type=int, default=2, help="seeds of RL (default: 2)")
    parser.add_argument("--workers", type=int, default=1, help="jobs side by side (default: 1, all cores each)")
    parser.add_argument("--pretrain", nargs="*", default=[], metavar="KEY=VALUE", help="settings of the pretraining")
    parser.add_argument("--train", nargs="*", default=[], metavar="KEY=VALUE", help="settings of RL")
    parser.add_argument("--evaluate", nargs="*", default=[], metavar="KEY=VALUE", help="settings of the evaluations")
    parser.add_argument("--no-serve", action="store_true", help="leave vLLM's server out")
    parser.add_argument("--report-only", action="store_true", help="run nothing, report what is there")
    return parser.parse_args(given)


def main() -> int:
    """Run what is missing, then write the table; the exit code."""
    return exit_code(lambda: run(parse()), "stopped; the same command continues with what is missing")


def run(arguments: argparse.Namespace) -> int:
    """As :func:`main`; errors are raised."""
    os.environ.setdefault("WANDB_MODE", "offline")
    errors: dict[str, str] = {}
    if not arguments.data.is_file():
        raise UserError(f"--data {arguments.data} is not a file")
    rows = list(READERS[".jsonl"](arguments.data, ""))
    found = questions.usable(rows, tuple(arguments.kinds), tuple(arguments.grades))
    parts = questions.parted(found, arguments.form, arguments.heldout, seed=0)
    files = questions.write(parts, arguments.out / "questions")
    counts = ", ".join(f"{name} {len(part)}" for name, part in vars(parts).items())
    console.print(f"{len(found)} of {len(rows)} questions are usable: {counts}", highlight=False)
    todo, states = plan_jobs(arguments, files)
    if not arguments.report_only:
        errors = jobs.Jobs(todo, arguments.workers).run()
    for name, error_line in errors.items():
        print(f"failed: {name}: {error_line}", file=sys.stderr)
    report(arguments, states, files["heldout"])
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main())
