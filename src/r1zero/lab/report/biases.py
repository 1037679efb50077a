r"""Which objective has which bias: what theory says of every file of ``conf/algo``, beside what its gradient does.

Measured is the weight of a token, w_it = -B dL / dlogp_it, by automatic differentiation of the objective itself on
made responses; theory is a closed form of the settings. `scripts/report.py bias` writes both as a table.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf

from r1zero.algo.objective import OBJECTIVES, Scale, TokenValues
from r1zero.algo_config import AlgoConfig
from r1zero.batch import Completion, RolloutBatch
from r1zero.errors import UserError
from r1zero.lab.report.runs import Run, find_runs
from r1zero.lab.report.verdicts import Runs, interval, last, mean_of, paired
from r1zero.launch.files import write_whole
from r1zero.rollout.rules import Rules

GROUP = 8
LENGTH, LIMIT = 100, 200
"""Tokens of a made response, and the response limit; DAPO's overlong punishment begins at 160."""
UNEQUAL = (20, 30, 40, 50, 60, 80, 100, 140)
"""Lengths of a group that has four right and four wrong answers, alternating."""
RATIOS = {"right": (1.01, 1.5), "wrong": (0.99, 0.5)}
"""Where the policy has moved to as it should, a little and far."""


@dataclass(frozen=True)
class Biases:
    """What an objective does to a response.

    Attributes:
        slope: of log |w| on log T over the wrong answers of a group: -1, a token of a wrong answer twice as long is
            punished half as much; 0, length plays no part.
        hard: pull of a question with 1 of 8 right, relative to one with 4 of 8.
        easy: the same with 7 of 8 right.
        hopeless: the same with none right.
        rest: sum of the signed pulls of a group with 2 of 8 right, as a share of their absolute sum: 0 where pushes
            that do not know right from wrong cancel.
        moved: weight of a token relative to ratio 1 at each of :data:`RATIOS`.
    """

    slope: float
    hard: float
    easy: float
    hopeless: float
    rest: float
    moved: tuple[float, ...]


def algorithms(conf: Path) -> dict[str, AlgoConfig]:
    """Every option of ``conf/algo``, the paper's four first."""
    found = {}
    for file in sorted((conf / "algo").glob("*.yaml")):
        given: Any = OmegaConf.to_container(OmegaConf.load(file))
        given.pop("defaults", None)
        merged = OmegaConf.merge(OmegaConf.structured(AlgoConfig), given)
        found[file.stem] = OmegaConf.to_object(merged)
    four = ("grpo", "drgrpo", "grpo_no_std_norm", "grpo_no_length_norm")
    return {name: found[name] for name in (*four, *(n for n in found if n not in four))}  # type: ignore[misc]


# -- theory -------------------------------------------------------------------------------------------


def theory(algo: AlgoConfig) -> Biases:
    """The closed form, for rewards 0 and 1, equal shares of all success rates, and a policy that has not moved."""
    slope = -1.0 if algo.length_norm.value == "response" else 0.0
    pull = {
        "group": lambda p: math.sqrt(p * (1 - p)) if algo.std_norm else p * (1 - p),  # sum |r - p| = 2 G p (1 - p)
        "leave_one_out": lambda p: p * (1 - p),
        "group_then_batch_norm": lambda p: p * (1 - p),
        "group_mean_batch_std": lambda p: p * (1 - p),
        "mean_norm": lambda p: 1 - p if p > 0 else 0.0,
        "batch_norm": lambda p: 0.5,  # |r - 1/2| whatever the question: no baseline of its own
    }[algo.advantage]
    middle = pull(0.5)
    hard, easy, hopeless = (pull(p) / middle for p in (1 / GROUP, 1 - 1 / GROUP, 0.0))
    share = 2 / GROUP
    rest = 1 - 2 * share if algo.advantage == "batch_norm" else 0.0  # as many pushes down as wrong answers
    return Biases(slope, hard, easy, hopeless, rest, tuple(_moved(algo)))


def _moved(algo: AlgoConfig) -> list[float]:
    """PPO drops a token beyond the bound, a weight is bounded and stays, without a ratio nothing changes."""
    out = []
    for answer, ratios in RATIOS.items():
        for ratio in ratios:
            low, high = 1 - algo.clip_low, 1 + algo.clip_high
            if algo.ratio.value == "none":
                out.append(1.0)
            elif algo.clip.value == "ppo":
                out.append(0.0 if (ratio > high if answer == "right" else ratio < low) else ratio)
            elif algo.clip.value == "weight":
                out.append(min(max(ratio, low), high))
            else:
                out.append(ratio)
    return out


# -- measurement --------------------------------------------------------------------------------------


def measured(algo: AlgoConfig) -> Biases:
    """The same from the objective's own gradient on made responses."""
    solved = list(range(GROUP + 1))
    rollout = made(algo, solved, [LENGTH] * GROUP * len(solved))
    weights = token_weights(algo, rollout).view(len(solved), GROUP)
    pulls = weights.abs().sum(dim=1)
    half = made(algo, [GROUP // 2], [LENGTH] * GROUP)
    still = token_weights(algo, half)
    moved = []
    for answer, ratios in RATIOS.items():
        at = (half.right if answer == "right" else ~half.right).nonzero()[0]
        moved += [float(token_weights(algo, half, ratio)[at] / still[at]) for ratio in ratios]
    return Biases(
        slope=slope_of(algo),
        hard=float(pulls[1] / pulls[GROUP // 2]),
        easy=float(pulls[-2] / pulls[GROUP // 2]),
        hopeless=float(pulls[0] / pulls[GROUP // 2]),
        rest=float(weights[2].sum().abs() / pulls[2]),
        moved=tuple(moved),
    )


def slope_of(algo: AlgoConfig) -> float:
    """Slope of log |w| on log T over the wrong answers of one group."""
    group = made(algo, [GROUP // 2], list(UNEQUAL), alternating=True)
    lengths = torch.tensor(UNEQUAL, dtype=torch.float64)
    weights = token_weights(algo, group) / lengths
    x, y = lengths[~group.right].log(), weights[~group.right].abs().log()
    x, y = x - x.mean(), y - y.mean()
    return float((x * y).sum() / (x * x).sum())


def made(algo: AlgoConfig, solved: list[int], lengths: list[int], alternating: bool = False) -> RolloutBatch:
    """Groups of responses with so many right answers and such lengths, their advantages by the algorithm's rule."""
    rows = [[1.0] * count + [0.0] * (GROUP - count) for count in solved]
    if alternating:
        rows = [[1.0, 0.0] * (GROUP // 2)]
    rewards = torch.tensor(rows).flatten()
    completions = [Completion([7] * n, "", "stop", [-1.5] * n) for n in lengths]
    mask = [torch.ones(n, dtype=torch.bool) for n in lengths]
    batch = RolloutBatch(completions, GROUP, 0, rewards, rewards == 1, mask=mask)
    batch.advantages = Rules(algo, lambda ids: "").advantages(batch)
    return batch


def token_weights(algo: AlgoConfig, rollout: RolloutBatch, ratio: float = 1.0) -> torch.Tensor:
    """Signed sum of w_it over each response's tokens, float64 [N], the rollout being one optimizer step.

    Args:
        algo: the objective's settings.
        rollout: the responses.
        ratio: of new to old probability at every token.
    """
    lengths = rollout.lengths.long()
    mask = torch.arange(int(lengths.max()))[None] < lengths[:, None]
    new = torch.full(mask.shape, -1.5, dtype=torch.float64, requires_grad=True)
    old = new.detach() - math.log(ratio)
    values = TokenValues(
        new=new, old=old, sampler=old, reference=None, entropy=torch.zeros_like(old),
        advantages=rollout.advantages.double()[:, None].expand(mask.shape), mask=mask,
    )  # fmt: skip
    scale = Scale(len(lengths), int(lengths.sum()), float(algo.norm_constant or LIMIT))
    loss = OBJECTIVES[algo.loss](values, scale, algo)
    (slope,) = torch.autograd.grad(loss.value if loss.policy is None else loss.policy, new)
    return -scale.num_responses * slope.sum(dim=1)


# -- the table ----------------------------------------------------------------------------------------


def table(conf: Path) -> str:
    """Theory / measured of every algorithm as a Markdown table, and RLOO beside Dr. GRPO."""
    algos = algorithms(conf)
    lines = [
        "| `algo=` | length: slope on wrong answers | pull of a question, 1 of 8 right | 7 of 8 right | none right "
        "| blind pushes left over | weight left, right answers at ratio 1.01, 1.5 | wrong answers at 0.99, 0.5 |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, algo in algos.items():
        said, seen = theory(algo), measured(algo)
        pairs = [(getattr(said, key), getattr(seen, key)) for key in ("slope", "hard", "easy", "hopeless", "rest")]
        cells = [f"{_plain(a)} / {_plain(b)}" for a, b in pairs]
        for first in (0, 2):
            both = (", ".join(_plain(v) for v in b.moved[first : first + 2]) for b in (said, seen))
            cells.append(" / ".join(both))
        lines.append(f"| `{name}` | {' | '.join(cells)} |")
    factor, apart = rloo_beside_drgrpo(algos)
    lines += ["", f"Every token's weight under `rloo` is {factor:.6f} times that under `drgrpo`, G / (G - 1) at G = 8; "
              f"the largest relative deviation is below {apart:.0e}."]  # fmt: skip
    return "\n".join(lines) + "\n"


def rloo_beside_drgrpo(algos: dict[str, AlgoConfig]) -> tuple[float, float]:
    """Ratio of the weights, and a power of ten that bounds its relative deviation over all groups and lengths."""
    weights = []
    for name in ("rloo", "drgrpo"):
        solved = list(range(1, GROUP))
        weights.append(token_weights(algos[name], made(algos[name], solved, list(UNEQUAL) * len(solved))))
    ratios = weights[0] / weights[1]
    factor = float(ratios.mean())
    apart = float((ratios / (GROUP / (GROUP - 1)) - 1).abs().max())
    return factor, 10.0 ** math.ceil(math.log10(max(apart, 1e-16)))


def report(conf: Path, folders: Sequence[Path], into: Path | None) -> str:
    """Both tables, and where asked each written between its marks in a Markdown file that has them.

    Raises:
        UserError: the file has neither table's marks, or one of a pair alone or twice, or a folder holds no run.
    """
    parts = {"bias": table(conf)}
    if folders:
        parts["bias-runs"] = training_table([run for run in find_runs(folders) if run.state == "finished"])
    if into is not None:
        text = into.read_text()
        blocks = {mark: block for mark in parts if (block := _block(text, mark, into)) is not None}
        if not blocks:
            marks = " or ".join(f"<!-- {mark} --> and <!-- /{mark} -->" for mark in parts)
            raise UserError(f"--into {into}: the file must hold {marks}, once each")
        for mark, block in blocks.items():
            text = text.replace(block, f"<!-- {mark} -->\n{parts[mark]}<!-- /{mark} -->")
        write_whole(into, text)
    return "\n".join(parts.values())


def _block(text: str, mark: str, file: Path) -> str | None:
    """What stands between a table's marks, with them; None where the file has neither. Raises ``UserError``."""
    ends = (f"<!-- {mark} -->", f"<!-- /{mark} -->")
    counts = [text.count(end) for end in ends]
    if counts == [0, 0]:
        return None
    first, last = (text.find(end) for end in ends)
    if counts != [1, 1] or last < first:
        said = "in the other order" if counts == [1, 1] else f"{counts[0]} and {counts[1]} times"
        raise UserError(
            f"--into {file}: {ends[0]} and {ends[1]} stand there {said}: each must stand there once, the first before "
            "the second; nothing was written"
        )
    return text[first : last + len(ends[1])]


def training_table(runs: list[Run]) -> str:
    """What each objective did in training: wrong answers at the end beside Dr. GRPO's, by seed, as Markdown."""
    of = Runs(runs)
    lines = [
        "| `algo=` | accuracy at the end | - Dr. GRPO's | wrong answers, tokens | - Dr. GRPO's | lengthens them "
        "| `bias/length_slope/running` | seeds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    base = of.by_seed(last("length_incorrect"))
    for name in dict.fromkeys(run.algo for run in runs):
        wrong = of.by_seed(last("length_incorrect"), algo=name)
        more = paired(wrong, base)
        word = "-" if name == "drgrpo" else "one seed" if more.seeds < 2 else "yes" if more.low > 0 else "not seen"
        ends = of.by_seed(last("accuracy"), algo=name)
        accuracy, ahead = interval(list(ends.values())), paired(ends, of.by_seed(last("accuracy")))
        slope = interval(list(of.by_seed(mean_of("bias/length_slope/running"), algo=name).values()))
        cells = [
            f"`{name}`",
            _with(accuracy.within(0.0, 1.0), ".2f"),
            "-" if name == "drgrpo" else _with(ahead, "+.3f"),
            f"{interval(list(wrong.values())).mean:.1f}",
            "-" if name == "drgrpo" else _with(more, "+.1f"),
            word,
            f"{slope.mean:.2f}",
            str(accuracy.seeds),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _with(found: Any, pattern: str) -> str:
    return found.text(pattern).partition(" (")[0]


def _plain(value: float) -> str:
    """Three significant digits without trailing zeros; -0 is 0."""
    return f"{round(value, 6) + 0.0:.3g}"
