"""From responses to the tensors of one forward pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from r1zero.batch import Completion, Prompt


@dataclass
class MicroBatch:
    """Tensors of one forward pass over n responses; see the legend in ``r1zero.batch``.

    Two layouts of the same tokens: *padded*, one sequence a row, padding on the right where causal
    attention never sees it; *packed*, all sequences in one row with positions that start again at 0,
    which attention reads as a boundary.

    Attributes:
        input_ids: int64 [n, S] padded, or [1, sum of lengths] packed.
        position_ids: int64, same shape.
        source: int64 [M], flat index into ``input_ids`` of the token that predicts each sampled token.
        targets: int64 [M], the sampled tokens themselves.
        mask: bool [n, T], True on tokens that the policy sampled; M = mask.sum(), in row order.
        used: int64 [R], the ids that occur in ``input_ids``, sorted; None: not known.
    """

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    source: torch.Tensor
    targets: torch.Tensor
    mask: torch.Tensor
    used: torch.Tensor | None = None

    def to(self, device: torch.device) -> MicroBatch:
        """The same on another device."""
        there: dict[str, Any] = {name: value.to(device) for name, value in vars(self).items() if value is not None}
        return MicroBatch(**there)

    def scatter(self, values: torch.Tensor) -> torch.Tensor:
        """Put per-token values [M] back into response rows [n, T], zeros elsewhere; differentiable."""
        out = torch.zeros(self.mask.shape, dtype=values.dtype, device=values.device)
        return out.masked_scatter(self.mask, values)


def collate(
    prompts: Sequence[Prompt], completions: Sequence[Completion], *, packed: bool = False, pad_id: int = 0
) -> MicroBatch:
    """Concatenate each prompt's ids with its sampled ids; nothing is decoded or tokenised again (trap 24).

    The mask comes from lengths and from ``Completion.mask``, not from comparing with the padding id, so an EOS
    that is also the padding token is trained on (trap 15).

    Args:
        prompts: n prompts.
        completions: their n responses, each with at least one token.
        packed: one row for all sequences instead of padded rows.
        pad_id: any valid token id; what stands there is never looked at.

    Raises:
        ValueError: a prompt or a response without a token: nothing would predict its neighbour.
    """
    if not all(p.ids for p in prompts) or not all(c.ids for c in completions):
        raise ValueError("a prompt and a response need at least one token each")
    sequences = [p.ids + c.ids for p, c in zip(prompts, completions, strict=True)]
    lengths = [len(c.ids) for c in completions]
    rows, width = len(sequences), max(map(len, sequences))
    mask = torch.zeros(rows, max(lengths), dtype=torch.bool)
    source: list[torch.Tensor] = []
    start = 0
    for row, (prompt, completion, sequence) in enumerate(zip(prompts, completions, sequences, strict=True)):
        sampled = completion.sampled()
        mask[row, : lengths[row]] = sampled
        offset = start if packed else row * width
        source.append(torch.arange(offset + len(prompt.ids) - 1, offset + len(sequence) - 1)[sampled])
        start += len(sequence)
    if packed:
        input_ids = torch.tensor([token for sequence in sequences for token in sequence]).unsqueeze(0)
        position_ids = torch.cat([torch.arange(len(sequence)) for sequence in sequences]).unsqueeze(0)
    else:
        input_ids = torch.tensor([sequence + [pad_id] * (width - len(sequence)) for sequence in sequences])
        position_ids = torch.arange(width).expand(rows, -1)
    targets = torch.cat([torch.tensor(c.ids)[c.sampled()] for c in completions])
    return MicroBatch(input_ids, position_ids, torch.cat(source), targets, mask, input_ids.unique())
