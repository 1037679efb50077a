"""This project against TRL, step by step: `python scripts/benchmark.py benchmark=tiny`. See --help."""

import sys
from pathlib import Path

try:
    import hydra
    from omegaconf import DictConfig

    from r1zero.lab.benchmark import config
    from r1zero.launch import cli
except ModuleNotFoundError as error:
    sys.exit(f"error: {error.name} is not installed; run `make setup`, or `pip install -e '.[cpu]'` ('.[gpu]' on GPUs)")

CONF = Path(__file__).resolve().parents[1] / "conf"
config.register()


@hydra.main(config_path=str(CONF), config_name="benchmark", version_base="1.3")
def benchmark(cfg: DictConfig) -> None:
    """Measure one case, or every case of a sweep."""
    cli.dispatch(cfg, job)


def job(cfg: DictConfig, run_dir: Path) -> int:
    """Import what is heavy, then measure."""
    from r1zero.lab.benchmark.run import benchmark

    return benchmark(cfg, run_dir, CONF)


if __name__ == "__main__":
    sys.exit(cli.main(benchmark, Path(__file__).resolve()))
