"""The report of `make miniature`: verdicts, Table 1 and Fig. 4 to 8 from the runs of experiment=mini."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from markupsafe import Markup

from r1zero.errors import UserError
from r1zero.lab.report import figures, interactive, page
from r1zero.lab.report.claims import verdicts
from r1zero.lab.report.runs import Run, find_runs
from r1zero.lab.report.transfer import COVERAGE_BASE, KNOWLEDGE
from r1zero.lab.report.tried import HEADER, TRIED
from r1zero.lab.report.verdicts import EXPLORATORY, Verdict
from r1zero.launch.files import read_json, write_json, write_whole

LEAD = (
    "Every claim of the paper that a 0.37 M-parameter model can show, from the runs in this folder: the embedded base "
    "model RL-tuned on arithmetic questions with the same code and configs as at full size. Bases were made so that "
    "the effects can be seen (some answers get lost and ramble before they guess); the control is a base where they "
    "can not. Fig. 7 compares three states of one small Llama. A verdict speaks of these runs, not of large models."
)

OWN = {
    "coverage": (figures.fig6, "Claim (f): questions that cover the benchmark and simpler ones, a panel per template."),
    "control": (figures.fig5, "Claim (g): GRPO against Dr. GRPO on the base whose hesitations tell nothing."),
}
"""Figures of the miniature alone, drawn as one of the paper's from other runs, with their captions."""


def parts_of(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """{figure: its runs}. Points that two figures share were run once."""
    main = [r for r in runs if (r.model, r.template, r.data) == ("tiny", "question", "arithmetic")]
    return {
        "fig4": main,
        "fig5": [r for r in main if r.algo in ("grpo", "drgrpo")],
        "fig6": [r for r in runs if r.model == "tiny" and r.algo == "drgrpo"],
        "fig7": [r for model in KNOWLEDGE.values() for r in _of(runs, model) if r.template == "r1"],
        "fig8": main,
        "fig9": [r for r in main if r.algo in ("grpo", "drgrpo")],
        "extras": main,
        "coverage": _of(runs, COVERAGE_BASE),
        "control": _of(runs, "tiny_control"),
    }


def _of(runs: Sequence[Run], model: str) -> list[Run]:
    return [r for r in runs if r.model == model]


def write_miniature(folders: Sequence[Path], out: Path, exploratory: Sequence[Path] = ()) -> tuple[Path, list[Verdict]]:
    """Draw all figures; write ``report.html``, ``verdicts.json`` and ``.md``, and the numbers behind each figure.

    Args:
        folders: of the runs; those that are not there yet are left out. Whatever else was run with experiment=mini,
            with other steps perhaps, is none of them.
        out: folder of the report.
        exploratory: folders to look for runs in that sizes were chosen on: they are listed, and no verdict counts them.

    Returns:
        the report, and the verdicts in it.

    Raises:
        UserError: no run has finished.
    """
    there = [folder for folder in folders if folder.is_dir()]
    runs = [run for run in find_runs(there) if run.state == "finished"] if there else []
    if not runs:
        raise UserError("no run of the miniature has finished")
    pictures: dict[str, Path] = {}
    for name, members in parts_of(runs).items():
        if name in OWN and members:
            pictures[name] = interactive.save(*OWN[name][0](members), out / "figures", name)
        elif members:
            pictures |= figures.draw([name], members, out / "figures")
    found = verdicts(runs)
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "verdicts.json", [as_json(v) for v in found])
    write_whole(out / "verdicts.md", markdown(found))
    sections = [
        page.Section("Verdicts", page.verdict_table(found)),
        page.Section("Table 1 in miniature: base models and templates, greedy, before RL", _table1(out)),
        page.Section(
            "Figures", page.figures_section(pictures, captions={name: text for name, (_, text) in OWN.items()})
        ),
        page.Section("Before and after", page.results_table(runs)),
        page.Section("Exploratory runs", _explored(exploratory)),
        page.Section("Tried and dropped", page.table(HEADER, TRIED)),
        page.Section("Settings", page.settings_section(runs)),
        page.Section("Environment", page.environment_section(runs)),
    ]
    return page.write(out / "report.html", page.document("The paper in miniature", LEAD, sections)), found


def _explored(folders: Sequence[Path]) -> Markup:
    """Before and after in the runs that sizes were chosen on."""
    there = [folder for folder in folders if folder.is_dir()]
    found = find_runs(there) if there else []
    runs = [run for run in found if run.state == "finished" and run.seed >= EXPLORATORY]
    if not runs:
        return Markup("")
    note = f"Seeds from {EXPLORATORY} on: sizes were chosen on these, so no verdict counts them."
    return page.paragraph(note) + page.results_table(runs)


def _table1(out: Path) -> Markup:
    """Accuracy of the base models in percent, from the evaluations beside the report."""
    results = []
    for file in sorted((out / "table1").glob("*/results.json")):
        content = read_json(file)
        if content.get("sets"):
            results.append(content)
    if not results:
        return Markup("")
    sets = list(dict.fromkeys(name for content in results for name in content["sets"]))
    rows = []
    for content in results:
        cells = []
        for name in sets:
            estimate = content["sets"][name]["accuracy"]
            low, high = 100 * estimate["low"], 100 * estimate["high"]
            cells.append(f"{100 * estimate['value']:.1f} [{low:.1f}, {high:.1f}]")
        rows.append([content["model"]["name"], content["template"], *cells])
    return page.table(["base model", "template", *sets], rows, range(2, 2 + len(sets)))


def markdown(found: Sequence[Verdict]) -> str:
    """The verdicts as a Markdown table."""
    rows = []
    for v in found:
        cells = ["; ".join(filter(None, (v.measured, v.note))), f"{v.word} ({v.why})" if v.why else v.word, v.turns]
        rows.append(f"| {' | '.join((v.key, v.claim, *cells))} |")
    header = "| | claim | measured: mean [95 % interval] | verdict | what would change it |"
    return "\n".join([header, "|---|---|---|---|---|", *rows]) + "\n"


def as_json(verdict: Verdict) -> dict[str, object]:
    """A verdict with what follows from it, for ``verdicts.json``."""
    found = asdict(verdict) | {"word": verdict.word, "why": verdict.why, "exploratory": verdict.exploratory}
    found["needs"] = [{"what": need.what, "met": need.met, "text": need.text} for need in verdict.needs]
    return found


def summary_lines(found: Sequence[Verdict]) -> list[str]:
    """The verdicts for the console."""
    return [f"({v.key}) {v.word}: {v.claim}: {v.measured}{f' ({v.why})' if v.why else ''}" for v in found]
