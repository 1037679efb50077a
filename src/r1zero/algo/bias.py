r"""The two biases of GRPO as numbers: how strongly a token, and a question, pulls on the policy.

At ratio 1 the gradient of one optimizer step's objective is sum_i w_i sum_t grad logp_it / B with the
token weight

    w_i = A_i / T_i   (length_norm = response)      w_i = A_i / C   (constant)      w_i = A_i B / sum T   (token)

The weight of a question is what its G responses pull altogether, 1/G sum_i |w_i| T_i. Both follow from
rewards and lengths alone, so one rollout shows what each of the four algorithms would have done with it. Beside
them stands what the objective that runs does with it: the mean of |w_it| over a response's tokens, from ``meter.py``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from r1zero.algo.advantages import group_advantages

Variants = dict[str, tuple[str, bool]]
"""Algorithms by name: (length_norm, std_norm)."""

VARIANTS: Variants = {
    "grpo": ("response", True),
    "grpo_no_std_norm": ("response", False),
    "grpo_no_length_norm": ("constant", True),
    "drgrpo": ("constant", False),
}
"""The four algorithms of Fig. 8: name -> (length_norm, std_norm)."""


RUNNING = "running"
"""Name of what the objective that runs does, masks, credit and advantages as they are (``meter.py``)."""

EXTREME = 0.25
"""A question is very hard or very easy when its success rate is at most this, or at least 1 minus it."""

MIN_WRONG = 8
"""Wrong responses with an advantage below which no slope is measured."""
MIN_VARIANCE = 0.02
"""Variance of log length below which no slope is measured: a standard deviation of 14 %."""


def token_weights(
    rewards: torch.Tensor,
    lengths: torch.Tensor,
    group_size: int,
    *,
    length_norm: str,
    std_norm: bool,
    constant: float,
) -> torch.Tensor:
    """Signed weight w_i of every token of a response.

    Args:
        rewards: float [N].
        lengths: generated tokens T_i, float [N].
        group_size: G.
        length_norm: "response", "constant" or "token".
        std_norm: divide advantages by the group's standard deviation.
        constant: C, tokens.

    Returns:
        float64 [N], in 1/tokens; 0 in groups with equal rewards.
    """
    advantages = group_advantages(rewards, group_size, std_norm=std_norm).double()
    if length_norm == "response":
        return advantages / lengths.double()
    if length_norm == "constant":
        return advantages / constant
    if length_norm == "token":
        return advantages * len(lengths) / lengths.double().sum()
    raise ValueError(f"unknown length_norm {length_norm!r}; choose response, constant or token")


def question_weights(weights: torch.Tensor, lengths: torch.Tensor, group_size: int) -> torch.Tensor:
    """Pull of each question, 1/G sum_i |w_i| T_i: float64 [P] from token weights [N] and lengths [N]."""
    return (weights.abs() * lengths.double()).view(-1, group_size).mean(dim=1)


@dataclass(frozen=True)
class BiasBins:
    """The bins of one run: response length in equal parts of the limit, success rate in its G + 1 values.

    Attributes:
        group_size: G.
        constant: C of Dr. GRPO, tokens.
        limit: response-length limit, tokens.
        bins: parts of the limit.
    """

    group_size: int
    constant: float
    limit: int
    bins: int = 16

    def sums(
        self, rewards: torch.Tensor, right: torch.Tensor, lengths: torch.Tensor, running: torch.Tensor
    ) -> BiasSums:
        """Bin the rollout of one rank.

        Args:
            rewards: float [N].
            right: the verifier's verdict, bool [N].
            lengths: generated tokens, float [N].
            running: what the objective that runs does, sum_t |w_it| of each response, float64 [N].
        """
        solved = right.view(-1, self.group_size).sum(dim=1)
        slot = (lengths.double() / self.limit * self.bins).ceil().long().clamp(1, self.bins) - 1
        weights = {
            name: token_weights(
                rewards, lengths, self.group_size, length_norm=length_norm, std_norm=std_norm, constant=self.constant
            )
            for name, (length_norm, std_norm) in VARIANTS.items()
        } | {RUNNING: running.double() / lengths.double()}
        width = 1 + len(weights)
        tokens = torch.zeros(2, self.bins, width, dtype=torch.float64)
        questions = torch.zeros(self.group_size + 1, width, dtype=torch.float64)
        moments = torch.zeros(len(weights), 5, dtype=torch.float64)
        place = right.long() * self.bins + slot
        tokens.view(-1, width)[:, 0].index_add_(0, place, torch.ones(len(place), dtype=torch.float64))
        questions[:, 0].index_add_(0, solved, torch.ones(len(solved), dtype=torch.float64))
        for column, weight in enumerate(weights.values()):
            tokens.view(-1, width)[:, column + 1].index_add_(0, place, weight.abs())
            questions[:, column + 1].index_add_(0, solved, question_weights(weight, lengths, self.group_size))
            picked = ~right & (weight != 0)
            x, y = lengths[picked].double().log(), weight[picked].abs().log()
            moments[column] = torch.tensor(
                [float(len(x)), float(x.sum()), float(y.sum()), float((x * y).sum()), float((x * x).sum())],
                dtype=torch.float64,
            )
        return BiasSums(tokens, questions, moments)


@dataclass
class BiasSums:
    """Sums over responses and questions; sums of several ranks add up to those of all responses.

    Attributes:
        tokens: [2, bins, 1 + V]: (wrong, right) x length bin x (responses, sum of |w| of each of V algorithms).
        questions: [G + 1, 1 + V]: right answers in the group x (questions, sum of pulls per algorithm).
        moments: [V, 5]: n, sum x, sum y, sum xy, sum xx of x = log T, y = log |w| over wrong responses with w != 0.
        names: of the V algorithms.
    """

    tokens: torch.Tensor
    questions: torch.Tensor
    moments: torch.Tensor
    names: tuple[str, ...] = (*VARIANTS, RUNNING)

    def flat(self) -> torch.Tensor:
        """All sums in one row, to be added over ranks."""
        return torch.cat([self.tokens.flatten(), self.questions.flatten(), self.moments.flatten()])

    def like(self, flat: torch.Tensor) -> BiasSums:
        """The sums of a row in this one's shapes."""
        parts = flat.split([self.tokens.numel(), self.questions.numel(), self.moments.numel()])
        shapes = (self.tokens.shape, self.questions.shape, self.moments.shape)
        tokens, questions, moments = (part.view(shape) for part, shape in zip(parts, shapes, strict=True))
        return BiasSums(tokens, questions, moments)

    def metrics(self) -> dict[str, float]:
        """The biases of each algorithm as two figures.

        ``bias/length_slope/<algo>``: slope of log |w| against log T over wrong responses; -1: a wrong answer
        twice as long is punished half as much per token; 0: length plays no part. NaN below 8 such responses
        or where their lengths hardly differ.
        ``bias/extreme_share/<algo>``: share of all pull that very easy and very hard questions have.
        """
        group = len(self.questions) - 1
        rate = torch.arange(group + 1, dtype=torch.float64) / group
        extreme = (rate <= EXTREME) | (rate >= 1 - EXTREME)
        out: dict[str, float] = {}
        for column, name in enumerate(self.names):
            n, x, y, xy, xx = self.moments[column].tolist()
            spread = n * xx - x * x  # n^2 times the variance of log T
            clear = n >= MIN_WRONG and spread > n * n * MIN_VARIANCE
            out[f"bias/length_slope/{name}"] = (n * xy - x * y) / spread if clear else math.nan
            pull = self.questions[:, column + 1]
            total = float(pull.sum())
            out[f"bias/extreme_share/{name}"] = float(pull[extreme].sum()) / total if total > 0 else math.nan
        return out

    def rows(self, limit: int) -> list[dict[str, float | str]]:
        """The filled bins as table rows: kind, answer, low, high, count and the mean weight per algorithm.

        ``kind`` token: ``low`` < length <= ``high``, tokens; |w| is a mean over responses. ``kind`` question:
        ``low`` = ``high`` = success rate; the pull is a mean over questions.
        """
        out: list[dict[str, float | str]] = []
        bins, group = self.tokens.shape[1], len(self.questions) - 1
        for answer, part in zip(("wrong", "right"), self.tokens, strict=True):
            for slot, values in enumerate(part.tolist()):
                if values[0]:
                    edges = {"low": limit * slot / bins, "high": limit * (slot + 1) / bins}
                    out.append({"kind": "token", "answer": answer, **edges, **self._means(values)})
        for solved, values in enumerate(self.questions.tolist()):
            if values[0]:
                rate = solved / group
                out.append({"kind": "question", "answer": "", "low": rate, "high": rate, **self._means(values)})
        return out

    def _means(self, values: list[float]) -> dict[str, float | str]:
        """A count and sums -> a count and means."""
        return {"count": values[0], **{n: v / values[0] for n, v in zip(self.names, values[1:], strict=True)}}


def ramble_gradient(
    advantage: float, go_on: float, start: int, step: int, *, length_norm: str, constant: float
) -> float:
    """Exact gradient on the logit "go on rambling" in a state whose advantage is already decided.

    A text of ``start`` tokens is followed by k >= 1 rambles of ``step`` tokens, each followed by another
    one with probability ``go_on``. The length is then free, and the objective's gradient on that one logit
    is E[w ((k - 1)(1 - go_on) - go_on)]: 0 whatever the advantage when w
    does not depend on the length; upwards, to longer texts, when the answer is wrong and w is divided by
    the length. Where nothing shows whether the answer is right, the mean advantage is 0, and so is this.

    Returns:
        gradient in 1/tokens.
    """
    total, chance, rambles = 0.0, 1.0 - go_on, 1
    while chance > 1e-18:
        score = (rambles - 1) * (1 - go_on) - go_on
        length = start + step * rambles
        total += chance * score / (length if length_norm == "response" else constant)
        chance *= go_on
        rambles += 1
    return advantage * total
