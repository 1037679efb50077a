"""Pretraining, RL and evaluations of one model: `python scripts/pipeline.py experiment=smollm_pipeline`. See --help."""

import os
import sys
from pathlib import Path

try:
    import hydra
    from omegaconf import DictConfig

    from r1zero.lab.pipeline import config
    from r1zero.launch import cli
except ModuleNotFoundError as error:
    sys.exit(f"error: {error.name} is not installed; run `make setup`, or `pip install -e '.[cpu]'` ('.[gpu]' on GPUs)")

CONF = Path(__file__).resolve().parents[1] / "conf"
# conf/pipeline.yaml adds the folder of the pipelines' own experiments to the search path by this name.
os.environ["R1ZERO_CONF"] = str(CONF)
config.register()


@hydra.main(config_path=str(CONF), config_name="pipeline", version_base="1.3")
def main(cfg: DictConfig) -> None:
    """Run what is missing of one pipeline, or of every point of a sweep."""
    cli.dispatch(cfg, job)


def job(cfg: DictConfig, run_dir: Path) -> int:
    """Run the stages."""
    from r1zero.lab.pipeline.run import run

    return run(cfg, run_dir, CONF.parent)


if __name__ == "__main__":
    sys.exit(cli.main(main, Path(__file__).resolve()))
