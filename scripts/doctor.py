"""Look at a run folder, or without one at the machine: `python scripts/doctor.py outputs/<name>/<time>`."""

import sys

from r1zero.lab.doctor.command import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
