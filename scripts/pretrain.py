"""Pretrain a causal language model: `python scripts/pretrain.py experiment=tiny_base`."""

import os
import sys
from pathlib import Path

try:
    import hydra
    from omegaconf import DictConfig

    from r1zero import cli
    from r1zero.pretrain import config
except ModuleNotFoundError as error:
    sys.exit(f"error: {error.name} is not installed; run `make setup`, or `pip install -e '.[cpu]'` ('.[gpu]' on GPUs)")

CONF = Path(__file__).resolve().parents[1] / "conf"
# conf/pretrain.yaml adds the folder of pretraining's own groups to the search path by this name.
os.environ["R1ZERO_CONF"] = str(CONF)
config.register()


@hydra.main(config_path=str(CONF), config_name="pretrain", version_base="1.3")
def main(cfg: DictConfig) -> None:
    """Run one pretraining run, or every point of a sweep."""
    cli.dispatch(cfg, job)


def job(cfg: DictConfig, run_dir: Path) -> int:
    """Import what is heavy, and run."""
    from r1zero.pretrain.run import pretrain

    return pretrain(cfg, run_dir)


if __name__ == "__main__":
    sys.exit(cli.main(main, Path(__file__).resolve()))
