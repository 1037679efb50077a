"""The console command: `r1zero train algo=drgrpo` is `python train.py algo=drgrpo`, wherever it is typed."""

from __future__ import annotations

import difflib
import runpy
import sys
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
COMMANDS = {
    "train": "RL-tune a language model",
    "pretrain": "pretrain a causal language model",
    "evaluate": "score a model on question sets",
    "analyze": "what a base model can do before training",
    "grade": "grade answers, explain a verdict, audit a run's verdicts",
    "audit": "recompute a rollout step of a run from its folder",
    "data": "what a question set would give a run",
    "doctor": "whether a run folder is whole, or what the machine offers",
    "gpu_check": "what only a GPU can settle",
    "report": "tables and figures from finished runs",
    "plan": "memory and time that a run needs, settings that fit",
    "benchmark": "step times beside TRL's",
    "miniature": "the paper in miniature: every figure and claim",
    "real": "a small real model on real questions, GRPO beside Dr. GRPO",
}
"""What each command does; the file of a command is train.py or scripts/<command>.py."""


def home() -> Path:
    """The folder that holds train.py, scripts/ and conf/: the repository, or its copy in an installed package."""
    inside = PACKAGE / "repository"
    return inside if inside.is_dir() else PACKAGE.parents[1]


def main() -> None:
    """Run the script of a command as if it had been started by its path."""
    command = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if command in ("-h", "--help", "help"):
        print("r1zero <command> [settings]; r1zero <command> --help says more\n")
        print("\n".join(f"  {name:<10} {what}" for name, what in COMMANDS.items()))
        return
    if command not in COMMANDS:
        close = difflib.get_close_matches(command, COMMANDS, n=1)
        hint = f"did you mean {close[0]}?" if close else f"choose {', '.join(COMMANDS)}"
        sys.exit(f"error: there is no command '{command}'; {hint}")
    script = home() / ("train.py" if command == "train" else f"scripts/{command}.py")
    sys.argv = [str(script), *sys.argv[2:]]
    sys.path.insert(0, str(script.parent))
    runpy.run_path(str(script), run_name="__main__")


if __name__ == "__main__":
    main()
