"""Start rollout servers for `train.py rollout=vllm_server`: `python scripts/serve.py model=tiny`. See --help."""

import sys
from pathlib import Path

try:
    import hydra
    from omegaconf import DictConfig

    from r1zero.lab.serve import config
    from r1zero.launch import cli
except ModuleNotFoundError as error:
    sys.exit(f"error: {error.name} is not installed; run `make setup`, or `pip install -e '.[cpu]'` ('.[gpu]' on GPUs)")

CONF = Path(__file__).resolve().parents[1] / "conf"
config.register()


@hydra.main(config_path=str(CONF), config_name="serve", version_base="1.3")
def main(cfg: DictConfig) -> None:
    """Serve until asked to stop."""
    cli.dispatch(cfg, job)


def job(cfg: DictConfig, run_dir: Path) -> int:
    """Check the settings, then import what is heavy."""
    from r1zero.lab.serve.checks import check
    from r1zero.train.checks import limit_threads

    check(cfg)
    limit_threads(cfg.model.params)
    from r1zero.lab.serve.run import serve

    return serve(cfg, run_dir)


if __name__ == "__main__":
    sys.exit(cli.main(main, Path(__file__).resolve()))
