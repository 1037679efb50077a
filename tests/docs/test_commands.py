"""Every command that README and docs show runs, on small settings: what a reader types is never out of date.

A command that needs a GPU, a hub or hours is composed, with its settings resolved; every other one runs to its end
on the embedded model. Examples in Python are written to the files that their first line names, and used.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest

from run_support import ROOT, Finished, Server, documented_metrics

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
SMALL = ["rollout=hf", "steps=1", "rollout.questions=2", "algo.minibatch_size=16", "rollout.max_tokens=32",
         "eval.limit=2", "logger=none"]  # fmt: skip
TINY = ["model=tiny", "data=arithmetic", "benchmarks=arithmetic", "optim.micro_batch_tokens=4096",
        "data.max_prompt_tokens=256"]  # fmt: skip
COMPOSED = ("analyze", "benchmark", "pretrain")
"""Scripts whose own tests run them; here their settings are composed."""
NOT_RUN = {
    "set_up_trl": "makes an environment of gigabytes",
    "wandb_dashboard": "needs a W&B server",
    "gpu_check": "needs a GPU; tests/lab/gpu_check runs it with --cpu",
    "miniature": "an hour",
    "real": "hours",
}


def commands() -> list[str]:
    """All commands of fenced bash blocks, comments and continued lines taken out, each once."""
    found: dict[str, None] = {}
    for page in PAGES:
        for language, text in BLOCK.findall(page.read_text()):
            if language in ("bash", "sh"):
                for line in text.replace("\\\n", " ").splitlines():
                    line = re.sub(r"\s+#.*$", "", line).strip()
                    if line.startswith("python "):
                        found[line] = None
    return list(found)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, server: Server) -> Path:
    """A working directory with what the documents speak of: a run, an evaluation, files, examples in Python."""
    folder = tmp_path_factory.mktemp("reader")
    for page in PAGES:
        for language, text in BLOCK.findall(page.read_text()):
            name = re.match(r"# (\w+\.py|conf/[\w/]+\.yaml)\b", text)
            if language in ("python", "yaml") and name:
                (folder / name[1]).parent.mkdir(parents=True, exist_ok=True)
                with (folder / name[1]).open("a") as file:
                    file.write(text)
    rows = [{"problem": f"{i}+{i}=?", "answer": str(2 * i), "tests": [], "extra": {"level": 1}} for i in range(1, 9)]
    (folder / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    answers = [{"response": r"so \boxed{4}", "gold": "4", "template": "boxed"}]
    (folder / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in answers))
    (folder / "path" / "to").mkdir(parents=True)
    (folder / "path" / "to" / "model").symlink_to(ROOT / "src/r1zero/data/assets/tiny")
    run = server.run(["experiment=demo", *SMALL, "hydra.run.dir=outputs/RUN"], folder)
    assert run.code == 0, run.err
    assert run.out.splitlines()[-1].startswith("next: make compare"), "the demo ends with what to try next"
    (folder / "demo.out").write_text(run.out)
    (folder / "outputs" / "demo").mkdir()
    (folder / "outputs" / "demo" / "2026-11-28_12-00-00").symlink_to(folder / "outputs" / "RUN")
    small = ["model=tiny", "template=question", "benchmarks=arithmetic", "limit=2", "rollout=hf"]
    small += ["sampling.max_tokens=32", "hydra.run.dir=outputs/EVALUATION"]
    evaluation = server.run(small, folder, script="scripts/evaluate.py")
    assert evaluation.code == 0, evaluation.err
    small = ["model=tiny", "template=question", "data=arithmetic", "questions=2", "judge=none", "sampling.n=2"]
    small += ["rollout=hf", "sampling.max_tokens=32", "hydra.run.dir=outputs/ANALYSIS"]
    analysis = server.run(small, folder, script="scripts/analyze.py")
    assert analysis.code == 0, analysis.err
    (folder / "outputs" / "mini").mkdir()
    for name in {name for command in commands() for name in re.findall(r"outputs/mini/(\w+)", command)}:
        (folder / "outputs" / "mini" / name).symlink_to(folder / "outputs" / "RUN")
    shutil.copytree(ROOT / "docs", folder / "docs", ignore=shutil.ignore_patterns("*.png", "*.svg", "*.html"))
    return folder


def adapted(command: str) -> tuple[str, list[str]]:
    """The script, and the arguments with which it runs here."""
    _, script, *args = shlex.split(command)
    name = Path(script).stem
    again = any(a.startswith(("resume=", "rescore=")) for a in args)
    if {"--help", "--cfg", "-h"} & set(args) or (again and name in ("train", "evaluate")):
        return script, args
    args = [a for a in args if not again]
    heavy = any(a.startswith(("sweep=", "hydra/launcher=", "trainer=", "rollout=ray")) for a in args) or "-m" in args
    if name in COMPOSED or heavy or any(a.startswith(("experiment=table", "server.")) for a in args):
        first = [re.sub(r"=([^\[{'\"(]*?),.*", r"=\1", a) for a in args if a not in ("-m", "--multirun")]
        return script, [*first, "--cfg", "job"]
    if name == "train":
        if any(a.startswith("experiment=") and a != "experiment=demo" for a in args):
            return script, [*args, "--cfg", "job"]
        given = {a.partition("=")[0].lstrip("+") for a in [*SMALL]}
        kept = [a for a in args if a.partition("=")[0] not in given]
        if "experiment=demo" in args:
            return script, [*kept, *SMALL]
        own = [a for a in kept if not a.startswith(("model=", "data=", "benchmarks=", "template=", "model.", "optim."))]
        local = [a for a in kept if a.startswith(("model=path", "data=questions"))]
        stand_ins = [t for t in TINY if t.partition("=")[0] not in {a.partition("=")[0] for a in local}]
        return script, [*own, *local, *stand_ins, "template=question", *SMALL]
    if name == "evaluate":
        local = [a for a in args if not a.startswith(("model=qwen", "model=llama"))]
        stand_in = [] if any(a.startswith("model=") for a in local) else ["model=tiny", "benchmarks=arithmetic"]
        kept = [a for a in local if not a.startswith("sampling.max_tokens=")]
        return script, [*kept, *stand_in, "limit=2", "rollout=hf", "sampling.max_tokens=32"]
    return script, args


@pytest.mark.parametrize("command", commands())
def test_command(command: str, place: Path, server: Server) -> None:
    script, args = adapted(command)
    if any(a.endswith("=mine") for a in args):
        args += [f"hydra.searchpath=[file://{place / 'conf'}]"]
    name = Path(script).stem
    if name in NOT_RUN or any(a.startswith("wandb:") for a in args):
        pytest.skip(NOT_RUN.get(name, "needs a W&B server"))
    if "<" in command or "..." in command:
        pytest.fail("a command with a gap can't be typed: name a folder or a file")
    done: Finished = server.run(args, place, script=script)
    assert done.code == 0, f"{script} {shlex.join(args)}\n{done.err[-1500:]}\n{done.out[-500:]}"


def test_the_page_of_metrics_names_what_a_run_logs(place: Path) -> None:
    columns = (place / "outputs" / "RUN" / "metrics.csv").read_text().splitlines()[0].split(",")
    assert set(columns) - {"step"} <= documented_metrics()


def test_there_are_commands_and_examples(place: Path) -> None:
    assert len(commands()) > 40
    assert (place / "my_ideas.py").is_file()


def test_a_run_prints_what_the_readme_shows(place: Path) -> None:
    """Words, order and punctuation of each line; numbers differ with the size of a run, and ... is anything."""
    blocks = [text for language, text in BLOCK.findall((ROOT / "README.md").read_text()) if language == "text"]
    shown = next(text for text in blocks if text.startswith("demo:"))
    printed = " ".join((place / "demo.out").read_text().split())
    for line in shown.splitlines():
        pattern = re.escape(" ".join(line.split())).replace(r"\.\.\.", ".*")
        pattern = re.sub(r"\d[\d,]*(\\\.\d+)?(e\\-\d+)?", lambda _: r"[\d.,e-]+", pattern)
        assert re.search(pattern, printed), line
