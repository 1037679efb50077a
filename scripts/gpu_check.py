"""What only a GPU can settle, in at most eight minutes: `python scripts/gpu_check.py`; `--cpu` runs it without one."""

import sys
from pathlib import Path

try:
    from r1zero.lab.gpu_check.command import main
    from r1zero.launch import cli
except ModuleNotFoundError as error:
    sys.exit(f"error: {error.name} is not installed; run `make setup`, or `pip install -e '.[cpu]'` ('.[gpu]' on GPUs)")


if __name__ == "__main__":
    sys.exit(cli.main(lambda: setattr(cli.job_result, "code", main(sys.argv[1:])), Path(__file__).resolve()))
