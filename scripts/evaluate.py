"""Evaluate a model: `python scripts/evaluate.py model=qwen1.5b template=none`. See --help."""

import sys
from pathlib import Path

try:
    import hydra
    from omegaconf import DictConfig

    from r1zero.evaluate import config
    from r1zero.launch import cli
except ModuleNotFoundError as error:
    sys.exit(f"error: {error.name} is not installed; run `make setup`, or `pip install -e '.[cpu]'` ('.[gpu]' on GPUs)")

CONF = Path(__file__).resolve().parents[1] / "conf"
config.register()


@hydra.main(config_path=str(CONF), config_name="evaluate", version_base="1.3")
def evaluate(cfg: DictConfig) -> None:
    """Run one evaluation, or every point of a sweep."""
    cli.dispatch(cfg, job)


def job(cfg: DictConfig, run_dir: Path) -> int:
    """Check the settings, then import what is heavy."""
    from r1zero.evaluate.checks import check

    check(cfg)
    from r1zero.evaluate.run import evaluate

    return evaluate(cfg, run_dir)


def main() -> None:
    """Bring a stored command line back where responses are to be graded again, then run."""
    if any(argument.startswith("rescore=") for argument in sys.argv[1:]):
        from r1zero.evaluate.rescore import expand_rescore

        sys.argv[1:] = expand_rescore(sys.argv[1:])
    evaluate()


if __name__ == "__main__":
    sys.exit(cli.main(main, Path(__file__).resolve()))
