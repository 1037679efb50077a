"""Speed and errors of the verifier against plain math-verify on the same pairs, in the same run.

    python scripts/benchmark_verifier.py questions.jsonl [--limit 12000] [--plain 1500]

Every gold answer of the file (field "answer") is graded against right answers in other forms and against
typical mistakes made from it. Prints grades a second of both, their ratio, the share decided without
math-verify, the 99th percentile of the deciding time, and every disagreement with the expected verdict.
"""

from __future__ import annotations

import random
import sys
import time
from itertools import islice
from pathlib import Path

from r1zero.config import RewardConfig
from r1zero.data.sources import READERS
from r1zero.errors import Options, UserError, exit_code
from r1zero.lab.grade.variants import mistakes, rewrites
from r1zero.reward.gold import prepare_gold
from r1zero.reward.grader import GradeItem, Grader


def pairs(golds: list[str], seed: int) -> list[tuple[str, str, bool, str]]:
    """One right and one wrong answer for each gold: (answer, gold, expected, what was done)."""
    chance = random.Random(seed)
    out: list[tuple[str, str, bool, str]] = []
    for gold in golds:
        for forms, expected in ((rewrites(gold), True), (mistakes(gold, chance), False)):
            if forms:
                name = chance.choice(sorted(forms))
                out.append((forms[name], gold, expected, name))
    return out


def plain(answer: str, gold: str) -> bool:
    """math-verify as its own documentation has it, gold in dollars."""
    from math_verify import parse, verify

    return bool(verify(parse(f"${gold}$"), parse(answer)))


def main() -> int:
    """Run the benchmark and print its figures; 0. Raises ``UserError`` for a file without gold answers."""
    parser = Options(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--limit", type=int, default=12000, help="gold answers used")
    parser.add_argument("--plain", type=int, default=1500, help="pairs that plain math-verify is timed on")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rows = islice(READERS[".jsonl"](options.file, ""), max(options.limit, 0))
    golds = [forms[0] for row in rows if (forms := prepare_gold(row.get("answer")))]
    if not golds or options.plain < 1:
        raise UserError(f"{options.file} holds no gold answers (field answer) within --limit, or --plain is below 1")
    made = pairs(golds, options.seed)
    items = [GradeItem(f"so the answer is $\\boxed{{{answer}}}$.", (gold,)) for answer, gold, _, _ in made]
    with Grader(RewardConfig(name="benchmark", workers=options.workers)) as grader:
        grader.grade("\\boxed{\\sin x}", ("\\min x",))  # start the workers
        begin = time.perf_counter()
        outcomes = grader.grade_batch(items)
        ours = len(items) / (time.perf_counter() - begin)
        figures = grader.stats(outcomes)
    sample = random.Random(options.seed).sample(made, min(options.plain, len(made)))
    plain("1", "2")
    begin = time.perf_counter()
    verdicts = [plain(f"so the answer is $\\boxed{{{answer}}}$.", gold) for answer, gold, _, _ in sample]
    theirs = len(sample) / (time.perf_counter() - begin)
    print(f"pairs {len(items)} from {len(golds)} gold answers, half right")
    print(f"r1zero {ours:.0f} a second with {options.workers} workers; math-verify {theirs:.0f} a second, 1 process")
    print(f"ratio {ours / theirs:.1f}")
    print(f"decided without math-verify {figures['fast_path_frac']:.2%}; p99 {1000 * figures['seconds_p99']:.1f} ms")
    wrong = [(pair, outcome) for pair, outcome in zip(made, outcomes, strict=True) if outcome.right != pair[2]]
    errors = sum(verdict != expected for verdict, (_, _, expected, _) in zip(verdicts, sample, strict=True))
    print(f"disagreements: r1zero {len(wrong)} of {len(made)}, plain math-verify {errors} of {len(sample)}")
    for (answer, gold, expected, name), outcome in wrong:
        wanted = "right" if expected else "wrong"
        print(f"  {name}: {answer!r} for {gold!r} is {wanted}, graded {outcome.status.value} by {outcome.rule}")
    return 0


if __name__ == "__main__":
    sys.exit(exit_code(main))
