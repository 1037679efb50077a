"""RL-tune a language model: `python train.py algo=drgrpo model=llama3b`. See README.md, or --help."""

import sys
from pathlib import Path

try:
    import hydra
    from omegaconf import DictConfig

    from r1zero.launch import cli
except ModuleNotFoundError as error:
    sys.exit(f"error: {error.name} is not installed; run `make setup`, or `pip install -e '.[cpu]'` ('.[gpu]' on GPUs)")


@hydra.main(config_path="conf", config_name="train", version_base="1.3")
def main(cfg: DictConfig) -> float | None:
    """Run one training run, or every point of a sweep; what a search seeks is returned to it."""
    return cli.dispatch(cfg, job)


def job(cfg: DictConfig, run_dir: Path) -> int:
    """Check the settings, then import what is heavy."""
    from r1zero.launch.resume import finished
    from r1zero.launch.torch_start import start_torch
    from r1zero.train.checks import check

    check(cfg)
    if cfg.resume and (line := finished(run_dir, cfg.steps)):
        print(line)
        return 0
    start_torch(cfg.model.params)
    from r1zero.train.trial import try_functions

    try_functions(cfg)  # a fault in a function of the user's is told before Lightning is imported
    from r1zero.train.run import train

    return train(cfg, run_dir)


if __name__ == "__main__":
    sys.exit(cli.main(main, Path(__file__).resolve()))
