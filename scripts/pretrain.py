"""Pretrain a causal language model: `python scripts/pretrain.py experiment=tiny_base`.

An experiment with several models (qa_leak) pretrains and evaluates them all.
"""

import os
import sys
from pathlib import Path

try:
    import hydra
    from omegaconf import DictConfig

    from r1zero.lab.study import config as study_config
    from r1zero.launch import cli
    from r1zero.pretrain import config
except ModuleNotFoundError as error:
    sys.exit(f"error: {error.name} is not installed; run `make setup`, or `pip install -e '.[cpu]'` ('.[gpu]' on GPUs)")

CONF = Path(__file__).resolve().parents[1] / "conf"
# conf/pretrain.yaml and conf/study.yaml add the folder of pretraining's own groups to the search path by this name.
os.environ["R1ZERO_CONF"] = str(CONF)
config.register()
study_config.register()


@hydra.main(config_path=str(CONF), config_name="pretrain", version_base="1.3")
def pretrain(cfg: DictConfig) -> None:
    """Run one pretraining run, or every point of a sweep."""
    cli.dispatch(cfg, job)


def job(cfg: DictConfig, run_dir: Path) -> int:
    """Import what is heavy, and run."""
    from r1zero.pretrain.run import pretrain as run

    return run(cfg, run_dir)


@hydra.main(config_path=str(CONF), config_name="study", version_base="1.3")
def study(cfg: DictConfig) -> None:
    """Run what is missing of one study."""
    cli.dispatch(cfg, study_job)


def study_job(cfg: DictConfig, run_dir: Path) -> int:
    """Run it."""
    from r1zero.lab.study.run import run

    return run(cfg, run_dir, CONF.parent)


def main() -> None:
    """One pretraining, or a study where ``experiment=`` names one."""
    (study if study_config.is_study(sys.argv[1:], CONF) else pretrain)()


if __name__ == "__main__":
    sys.exit(cli.main(main, Path(__file__).resolve()))
