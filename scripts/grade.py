"""Grade answers, explain a verdict, audit a run: `python scripts/grade.py --help`."""

import sys
from pathlib import Path

from r1zero.lab.grade.command import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], Path(__file__).resolve().parents[1] / "conf" / "template"))
