"""Reports from finished runs: `python scripts/report.py tables outputs/`. See --help."""

import argparse
import sys
from pathlib import Path

try:
    from r1zero.errors import Options, exit_code
    from r1zero.lab.report import tables
except ModuleNotFoundError as error:
    sys.exit(f"error: {error.name} is not installed; run `make setup`, or `pip install -e '.[cpu]'` ('.[gpu]' on GPUs)")

CONF = Path(__file__).resolve().parents[1] / "conf"


def main() -> int:
    """Parse the command line and write one report."""
    parser = Options(description="Reports from finished runs.")
    commands = parser.add_subparsers(dest="command", required=True)
    table = commands.add_parser("tables", help="evaluations beside the paper's Tables 1 and 4")
    table.add_argument("folders", nargs="+", type=Path, help="folders of evaluations, or folders above them")
    table.add_argument("--format", choices=sorted(tables.FORMATS), default="text")
    table.add_argument("--output", type=Path, help="file to write; otherwise it is printed")
    table.add_argument("--bars", type=Path, help="picture of the systems as bars (Fig. 2), such as fig2.png")
    models = commands.add_parser("models", help="Fig. 3, 10, 12 to 15 and Table 5 from analyses of base models")
    models.add_argument("folders", nargs="+", type=Path, help="folders of analyses, or folders above them")
    models.add_argument("--figures", help="comma-separated, such as fig3,fig14; default: those that can be filled")
    models.add_argument("--output", type=Path, help="folder to write; default: figures/ in the first folder")
    figure = commands.add_parser("figures", help="the paper's figures from training runs, and an HTML report")
    figure.add_argument("runs", nargs="+", help="run folders, folders above them, or wandb:entity/project")
    figure.add_argument("--figures", help="comma-separated, such as fig4,fig8; default: those that the runs can fill")
    figure.add_argument("--output", type=Path, help="folder to write; default: figures/ in the first folder")
    bias = commands.add_parser("bias", help="which objective has which bias: theory, gradient, and training runs")
    bias.add_argument("runs", nargs="*", type=Path, help="run folders of sweep=objectives, or folders above them")
    bias.add_argument("--into", type=Path, help="Markdown file with <!-- bias --> and <!-- bias-runs --> to write into")
    near = commands.add_parser("near-zero", help="where probability goes on questions that are almost never solved")
    near.add_argument("runs", nargs="+", type=Path, help="run folders of sweep=near_zero, or folders above them")
    near.add_argument("--output", type=Path, help="folder to write; default: figures/ in the first folder")
    browse = commands.add_parser("completions", help="a page to browse the responses of a run, or of two side by side")
    browse.add_argument("runs", nargs="+", type=Path, help="one run folder, or two")
    browse.add_argument("--output", type=Path, help="file to write; default: completions.html in the first folder")
    arguments = parser.parse_args()
    return exit_code(lambda: write(arguments))


def write(arguments: argparse.Namespace) -> int:
    """Write the report that is asked for."""
    if arguments.command == "models":
        from r1zero.lab.analysis.figures import write_models

        for path in write_models(arguments.folders, arguments.figures, arguments.output):
            print(path)
        return 0
    if arguments.command == "completions":
        from r1zero.lab.report.completions import completions_page

        print(completions_page(arguments.runs, arguments.output))
        return 0
    if arguments.command == "bias":
        from r1zero.lab.report.biases import report

        print(report(CONF, arguments.runs, arguments.into), end="")
        return 0
    if arguments.command == "near-zero":
        from r1zero.lab.study.near_zero import report as near_zero

        for path in near_zero(arguments.runs, arguments.output or arguments.runs[0] / "figures"):
            print(path)
        return 0
    if arguments.command == "figures":
        from r1zero.lab.report.training import write_figures

        for path in write_figures(arguments.runs, arguments.figures, arguments.output):
            print(path)
        return 0
    text = tables.report(arguments.folders, CONF, arguments.format)
    if arguments.bars is not None:
        from r1zero.lab.report.bars import draw_systems

        print(draw_systems(tables.lines_of(arguments.folders, CONF), arguments.bars))
    if arguments.output is None:
        print(text, end="")
    else:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(text)
        print(arguments.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
