"""Build a W&B workspace and a report for a project: `python scripts/wandb_dashboard.py --entity me`. See --help."""

import argparse
import json
import sys
from pathlib import Path

try:
    from r1zero.errors import Options, exit_code
    from r1zero.lab.report import dashboard
except ModuleNotFoundError as error:
    sys.exit(f"error: {error.name} is not installed; run `make setup`, or `pip install -e '.[dev]'`")

PAPER = ("aime24", "amc", "math500", "minerva", "olympiadbench")


def main() -> int:
    """Parse the command line."""
    parser = Options(description="Build a W&B workspace and a report for a project.")
    parser.add_argument("--entity", required=True, help="W&B user or team")
    parser.add_argument("--project", default="r1zero", help="W&B project (default: r1zero)")
    parser.add_argument("--benchmarks", default=",".join(PAPER), help="comma-separated names of the evaluated sets")
    parser.add_argument("--sources", default="", help="comma-separated names of a mixture's sources (data.sources)")
    parser.add_argument("--dry-run", action="store_true", help="send nothing; write workspace.json and report.json")
    parser.add_argument("--output", type=Path, default=Path("outputs/dashboard"), help="folder of --dry-run")
    arguments = parser.parse_args()
    return exit_code(lambda: build(arguments))


def build(arguments: argparse.Namespace) -> int:
    """Send both, or write them down."""
    benchmarks = [name.strip() for name in arguments.benchmarks.split(",") if name.strip()]
    sources = [name.strip() for name in arguments.sources.split(",") if name.strip()]
    about = (arguments.entity, arguments.project, benchmarks, sources)
    if not arguments.dry_run:
        for url in dashboard.send(*about):
            print(url)
        return 0
    arguments.output.mkdir(parents=True, exist_ok=True)
    for name, content in dashboard.serialised(*about).items():
        path = arguments.output / f"{name}.json"
        path.write_text(json.dumps(content, indent=1) + "\n")
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
