"""Makes the virtual environment of TRL, the baseline of `scripts/benchmark.py`. Standard library only.

`python scripts/set_up_trl.py .venv-trl` installs the newest TRL beside the same torch and transformers that this
project runs on, so that what differs between the two sides is the trainer. CPU builds of torch only.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import venv
from pathlib import Path

OURS = (
    "import torch, transformers, accelerate, datasets;"
    "print(f'torch=={torch.__version__.split(chr(43))[0]}', f'transformers=={transformers.__version__}',"
    " f'accelerate=={accelerate.__version__}', f'datasets=={datasets.__version__}')"
)
CHECK = "import torch; from trl import GRPOTrainer; assert torch.version.cuda is None, 'torch is a CUDA build'"


def main(folder: Path) -> int:
    """Create, install, check; the exit code."""
    python = folder / "bin" / "python"
    if not python.exists():
        print(f"creating {folder}")
        venv.create(folder, with_pip=True)
    found = subprocess.run([sys.executable, "-c", OURS], capture_output=True, text=True)
    if found.returncode:
        print(f"error: run this with the project's own Python ({found.stderr.strip().splitlines()[-1]})")
        return 1
    packages = found.stdout.split()
    pip = [python, "-m", "pip", "install", "--disable-pip-version-check", "-q"]
    # torch first and alone: a resolver that meets TRL first may choose a build for GPUs.
    for what in (packages[:1], [*packages, "trl", "psutil"]):
        print(f"installing {' '.join(what)}", flush=True)
        if subprocess.run([*pip, *what]).returncode:
            print(f"error: pip could not install {' '.join(what)}")
            return 1
    done = subprocess.run([python, "-c", CHECK], capture_output=True, text=True)
    if done.returncode:
        print(f"error: {done.stderr.strip().splitlines()[-1]}")
        return 1
    print(f"ready: {folder}")
    return 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?", default=".venv-trl", help="of the environment (%(default)s)")
    sys.exit(main(parser.parse_args().folder.absolute()))
