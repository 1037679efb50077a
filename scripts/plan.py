"""What a run needs: memory, least time, settings that fit. `python scripts/plan.py model=qwen7b gpus=8`; see --help."""

import sys
from pathlib import Path

try:
    from r1zero.lab.plan.command import plan
    from r1zero.launch import cli
except ModuleNotFoundError as error:
    sys.exit(f"error: {error.name} is not installed; run `make setup`, or `pip install -e '.[cpu]'` ('.[gpu]' on GPUs)")

CONF = Path(__file__).resolve().parents[1] / "conf"


if __name__ == "__main__":
    sys.exit(cli.main(lambda: plan(sys.argv[1:], CONF), Path(__file__).resolve()))
