"""What ``scripts/grade.py`` does: grade a file of answers, explain one verdict, audit the completions of a run."""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterator
from io import TextIOWrapper
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

import yaml

from r1zero.config import RewardConfig
from r1zero.errors import Options, UserError, exit_code
from r1zero.launch.files import parse_json
from r1zero.reward.extract import EXTRACTORS
from r1zero.reward.gold import prepare_gold
from r1zero.reward.grader import GradeItem, Grader
from r1zero.reward.outcome import Outcome

CHUNK = 1000


def main(arguments: list[str], templates: Path) -> int:
    """Run the command line.

    Args:
        arguments: Without the program's name.
        templates: Folder whose YAML files say which extractor a template has.

    Returns:
        Exit code: 0, or 1 after an error in one line.
    """
    options = _parser().parse_args(arguments)
    return exit_code(lambda: _run(options, templates))


def _run(options: argparse.Namespace, templates: Path) -> int:
    if options.limit < 0:
        raise UserError(f"--limit {options.limit} must be at least 0")
    config = RewardConfig(
        name="grade", timeout=options.timeout, workers=options.workers, strict_tags=options.strict_tags
    )
    extractor = extractor_of(options.template, templates)
    with Grader(config, extractor) as grader:
        if options.explain:
            _explain(grader, *options.explain)
        elif options.audit:
            from r1zero.lab.grade.audit import audit

            audit(Path(options.audit), options.limit)
        elif options.ablate:
            from r1zero.lab.grade.ablation import ablation, pooled

            for line in ablation(pooled([Path(path) for path in options.ablate])):
                print(line)
        elif options.types:
            from r1zero.lab.grade.types import table

            print(table())
        elif options.attack:
            _attack(grader, options)
        elif options.file == "-":
            if isinstance(sys.stdin, TextIOWrapper):
                sys.stdin.reconfigure(encoding="utf-8-sig")
            grade_lines(grader, sys.stdin, sys.stdout, "standard input", templates)
        elif options.file:
            with open(options.file, encoding="utf-8-sig") as lines:
                grade_lines(grader, lines, sys.stdout, options.file, templates)
        else:
            raise UserError("give a file of JSON lines, - for standard input, or one of the options that --help names")
    return 0


def _parser() -> Options:
    parser = Options(
        prog="grade.py",
        description="Grade answers as training does. A line of the file: "
        '{"response": ..., "gold": ..., "template": "boxed" or a template\'s name}; '
        "it comes back with reward, extracted, status, rule and seconds.",
    )
    parser.add_argument("file", nargs="?", help="file of JSON lines, or - for standard input")
    parser.add_argument("--explain", nargs=2, metavar=("RESPONSE", "GOLD"), help="say how one verdict comes about")
    parser.add_argument("--audit", metavar="FOLDER", help="table of likely false verdicts in a run's completions")
    parser.add_argument(
        "--attack", metavar="QUESTIONS", help="what a policy earns on a question set without solving it"
    )
    parser.add_argument(
        "--ablate", metavar="CASES", nargs="+", help="errors on cases or gold answers without each rule"
    )
    parser.add_argument("--types", action="store_true", help="what each type of answer is paid for, as a table")
    parser.add_argument("--drop-file", metavar="FILE", help="where --attack writes rows that data.drop=FILE leaves out")
    parser.add_argument("--template", default="boxed", help="template or extractor of lines that name none (boxed)")
    parser.add_argument("--timeout", type=float, default=3.0, help="seconds an answer may take (3)")
    parser.add_argument("--workers", type=int, default=None, help="worker processes (cores - 1)")
    parser.add_argument("--strict-tags", action="store_true", help='demand exactly "</think> <answer>"')
    parser.add_argument("--limit", type=int, default=40, help="rows of the audit's table (40)")
    return parser


def _attack(grader: Grader, options: argparse.Namespace) -> None:
    """Attack a question set, print the rates, and write the rows that copying solves."""
    from r1zero.lab.grade.attack import attack, read_questions, show

    questions = read_questions(Path(options.attack))
    tallies, gamed = attack(grader, questions, min(options.limit, 5))
    for line in show(tallies, gamed, len(questions)):
        print(line)
    if options.drop_file:
        Path(options.drop_file).write_text("".join(f"{name}\n" for name in gamed), encoding="utf-8")
        print(f"rows written to {options.drop_file}; data.drop={options.drop_file} leaves them out of training")


def extractor_of(name: str, templates: Path) -> str:
    """Extractor that a template has; an extractor's own name stands for itself.

    Raises:
        UserError: There is no such template.
    """
    if name in EXTRACTORS:
        return name
    path = templates / f"{name}.yaml"
    if not name.isidentifier() or not path.is_file():
        known = sorted({*EXTRACTORS, *(file.stem for file in templates.glob("*.yaml"))})
        raise UserError(f"template '{name}' is unknown; choose one of {', '.join(known)}")
    return str(yaml.safe_load(path.read_text(encoding="utf-8")).get("extractor", "boxed"))


def grade_lines(grader: Grader, lines: TextIO, out: TextIO, source: str, templates: Path) -> None:
    """Grade JSON lines and write them back with their outcome, in order; a count by status goes to stderr.

    Raises:
        UserError: A line is not JSON, lacks a field or names an unknown template; the message has its number.
    """
    counts: Counter[str] = Counter()
    numbered = _numbered(lines, source)
    while chunk := list(islice(numbered, CHUNK)):
        records = [_record(line, where) for line, where in chunk if line.strip()]
        items = [_item(record, templates) for record in records]
        for record, outcome in zip(records, grader.grade_batch(items), strict=True):
            record.pop("_where")
            out.write(json.dumps({**record, **_fields(outcome)}) + "\n")
            counts[outcome.status.value] += 1
        out.flush()
    summary = ", ".join(f"{count} {status}" for status, count in counts.most_common())
    print(f"graded {sum(counts.values())}: {summary or 'nothing'}", file=sys.stderr)


def _numbered(lines: TextIO, source: str) -> Iterator[tuple[str, str]]:
    """Each line with its place."""
    number = 0
    try:
        for number, line in enumerate(lines, 1):
            yield line, f"{source}, line {number}"
    except UnicodeDecodeError as error:
        raise UserError(f"{source}: no UTF-8 text after line {number}") from error


def _record(line: str, where: str) -> dict[str, Any]:
    try:
        record = parse_json(line)
    except ValueError as error:
        raise UserError(f"{where}: not JSON ({getattr(error, 'msg', error)})") from error
    if not isinstance(record, dict) or "response" not in record or "gold" not in record:
        raise UserError(f'{where}: a line needs "response" and "gold"')
    if not isinstance(record["response"], str | None):
        raise UserError(f'{where}: "response" must be a string')
    return {**record, "_where": where}


def _item(record: dict[str, Any], templates: Path) -> GradeItem:
    extractor = None
    if record.get("template"):
        try:
            extractor = extractor_of(str(record["template"]), templates)
        except UserError as error:
            raise UserError(f"{record['_where']}: {error}") from error
    return GradeItem(
        record["response"],
        prepare_gold(record["gold"]),
        truncated=bool(record.get("truncated", False)),
        question=str(record.get("question", "")),
        extractor=extractor,
    )


def _fields(outcome: Outcome) -> dict[str, Any]:
    return {
        "reward": outcome.reward,
        "extracted": outcome.extracted,
        "status": outcome.status.value,
        "rule": outcome.rule,
        "seconds": round(outcome.seconds, 6),
    }


def _explain(grader: Grader, response: str, gold: str) -> None:
    """Print how one verdict comes about."""
    for label, text in explanation(grader, response, gold):
        print(f"{label:<12}{text}")


def explanation(grader: Grader, response: str, gold: str) -> Iterator[tuple[str, str]]:
    """Pairs of a label and what there is to say under it."""
    forms = prepare_gold(gold)
    result = grader.explain(GradeItem(response, forms))
    outcome: Outcome = result["outcome"]
    yield "extractor", grader.extractor
    yield "extracted", "nothing" if outcome.extracted is None else repr(outcome.extracted)
    for number, form in enumerate(result["forms"]):
        name = "answer" if outcome.extracted and number == len(result["forms"]) - 1 else "gold"
        yield name, repr(form["text"])
        yield "  spelled", form["canonical"]
        yield "  parsed", form["parsed"]
    if not forms:
        yield "gold", "no answer in it"
    yield "rule", outcome.rule or "none"
    yield "status", outcome.status.value + (f" ({outcome.detail})" if outcome.detail else "")
    yield "reward", f"{outcome.reward:g}"
    yield "seconds", f"{outcome.seconds:.6f}"
