"""What a question set would give a run: `python scripts/data.py questions.jsonl [answer_key=...] [template=r1]`.

PATH is a file, a folder, a hub id or an option of conf/data. Settings are those of train.py; fields of the data group
may be given by their own names. `benchmarks=math500` measures the overlap with another set than the paper's.
"""

import dataclasses
import sys
from pathlib import Path

try:
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    from r1zero.config import DataConfig
    from r1zero.errors import UserError
    from r1zero.launch import cli
    from r1zero.launch.arguments import expand
    from r1zero.ranges import check_ranges
except ModuleNotFoundError as error:
    sys.exit(f"error: {error.name} is not installed; run `make setup`, or `pip install -e '.[cpu]'` ('.[gpu]' on GPUs)")

CONF = Path(__file__).resolve().parents[1] / "conf"
FIELDS = {field.name for field in dataclasses.fields(DataConfig)}


def main() -> None:
    """Read the set and print the report."""
    arguments = sys.argv[1:]
    if not arguments or {"-h", "--help"} & set(arguments):
        print(__doc__)
        return
    path, *settings = arguments
    if "=" in path and not Path(path).exists():
        raise UserError(f"{path}: the first argument is the path of a question set, or an option of conf/data")
    settings = [f"data.{s}" if s.partition("=")[0].split(".")[0].lstrip("+") in FIELDS else s for s in settings]
    base = ["experiment=demo", "benchmarks=paper", "data.max_prompt_tokens=1024", "paths.run=run"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("train", overrides=[*base, *expand([f"data={path}", *settings], CONF)])
    check_ranges(config)
    cfg = OmegaConf.to_object(config)

    import transformers

    from r1zero.data.show import report
    from r1zero.data.templates import template_of
    from r1zero.learn.policy import load_tokenizer, resolve_model

    transformers.utils.logging.set_verbosity_error()  # its remark about long texts: they are left out, and told
    tokenizer = load_tokenizer(resolve_model(cfg.model), cfg.model.trust_remote_code)
    for line in report(cfg.data, cfg.benchmarks, template_of(cfg.template), tokenizer, cfg.seed):
        print(line)


def run() -> int:
    """The command line without Hydra's own: settings are composed here."""
    given, sys.argv[1:] = sys.argv[1:], []

    def entry() -> None:
        sys.argv[1:] = given
        main()

    return cli.main(entry, Path(__file__).resolve())


if __name__ == "__main__":
    sys.exit(run())
