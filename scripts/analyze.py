"""Study a base model: `python scripts/analyze.py model=llama3b template=r1`. See --help."""

import sys
from pathlib import Path

try:
    import hydra
    from omegaconf import DictConfig

    from r1zero.lab.analysis import config
    from r1zero.launch import cli
except ModuleNotFoundError as error:
    sys.exit(f"error: {error.name} is not installed; run `make setup`, or `pip install -e '.[cpu]'` ('.[gpu]' on GPUs)")

CONF = Path(__file__).resolve().parents[1] / "conf"
config.register()


@hydra.main(config_path=str(CONF), config_name="analyze", version_base="1.3")
def analyze(cfg: DictConfig) -> None:
    """Run one analysis, or every point of a sweep."""
    cli.dispatch(cfg, job)


def job(cfg: DictConfig, run_dir: Path) -> int:
    """Check the settings, then import what is heavy."""
    from r1zero.lab.analysis.checks import check

    check(cfg)
    from r1zero.lab.analysis.run import analyze

    return analyze(cfg, run_dir)


if __name__ == "__main__":
    sys.exit(cli.main(analyze, Path(__file__).resolve()))
