"""Recompute a step of a run from its folder: `python scripts/audit.py outputs/<name>/<time>`; see docs/audit.md."""

import sys

from r1zero.lab.audit.command import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
