"""One engine of several ranks: the model is cut over their cards (rollout.tensor_parallel)."""

from __future__ import annotations

from typing import Any

import torch.distributed as dist

from r1zero.batch import Completion
from r1zero.rollout.engine import Engine, EngineAround, Sampling


class JointEngine(EngineAround):
    """Puts the prompts of a group of ranks into one call that all of them make, and gives each rank its own responses.

    vLLM runs the same program on every rank of the group (its external launcher): each schedules the same requests and
    draws from the same seed, and they meet in the products of the model. So they must ask for the same, in the same
    order. The responses are those of one engine with the whole model that is asked for the prompts of all these ranks
    by the seed of the first, up to rounding. Every rank hands over whole weights, of which its engine keeps a share.

    Every call is a collective of the group, also one without prompts.

    Args:
        engine: on every rank of the group; what lies around vLLM's own takes part with it.
    """

    def __init__(self, engine: Engine) -> None:
        from vllm.distributed import get_tp_group

        super().__init__(engine)
        self._group: Any = get_tp_group()
        self.on_group: Any = None
        """See :class:`r1zero.rollout.vllm.engine.VLLMEngine`; told of this rank's prompts alone."""

    def generate(self, prompts: list[list[int]], sampling: Sampling, seed: int) -> list[list[Completion]]:
        """See :meth:`r1zero.rollout.engine.Engine.generate`; a prompt that is refused is refused on every rank."""
        asked: list[Any] = [None] * self._group.world_size
        dist.all_gather_object(asked, (prompts, seed), group=self._group.cpu_group)
        first = sum(len(theirs) for theirs, _ in asked[: self._group.rank_in_group])
        mine = range(first, first + len(prompts))
        if hasattr(self.engine, "on_group"):
            self.engine.on_group = lambda index, group: self._tell(mine, index, group)
        groups = self.engine.generate([ids for theirs, _ in asked for ids in theirs], sampling, asked[0][1])
        return [groups[index] for index in mine]

    def _tell(self, mine: range, index: int, group: list[Completion]) -> None:
        if self.on_group is not None and index in mine:
            self.on_group(index - mine.start, group)
