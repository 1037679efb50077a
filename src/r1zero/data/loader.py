"""The order in which questions are asked, and the loader that hands them out one rollout step at a time."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from r1zero.batch import Prompt, PromptBatch
from r1zero.errors import UserError

Order = Callable[[int, int, int], Sequence[int]]
"""``(number of questions, seed, pass) -> the indices of all questions`` in the order of that pass."""


def shuffled(count: int, seed: int, pass_index: int) -> list[int]:
    """A fresh permutation for each pass, the same on every rank and machine (trap 32)."""
    order = list(range(count))
    random.Random(f"{seed}/{pass_index}").shuffle(order)
    return order


class PromptLoader:
    """Hands out the questions of one rollout step as one Lightning batch; the whole run is one epoch.

    Passes over the questions are internal: a step that ends a pass continues into the next one, so every
    step has P questions, none of them twice unless there are fewer than P. The order follows from the
    seed alone; a rank takes its contiguous share of each step's questions, so the shares are disjoint
    and together the step (traps 32-34).

    The position is saved and restored (trap 35): ``state_dict`` counts the batches handed out, and
    iterating after ``load_state_dict`` continues there, while ``len()`` stays the steps of the whole run.
    The loader has a length, so Lightning fetches no batch ahead. An exhausted loader stays exhausted.
    """

    def __init__(
        self,
        prompts: Sequence[Prompt],
        questions_per_step: int,
        steps: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        order: Order = shuffled,
    ) -> None:
        """Start at step 0.

        Args:
            prompts: All prompts of the question set, the same on every rank.
            questions_per_step: P over all ranks.
            steps: Rollout steps of the run.
            seed: Governs the order.
            rank: Index of this process.
            world_size: Number of processes.
            order: Gives the order of a pass.

        Raises:
            UserError: P is not positive or can't be shared out evenly over the ranks.
        """
        if questions_per_step < 1 or questions_per_step % world_size:
            raise UserError(f"rollout.questions={questions_per_step} must be a multiple of the {world_size} processes")
        if not prompts:
            raise UserError("there is no prompt to ask")
        self.prompts = prompts
        self.questions_per_step = questions_per_step
        self.steps = steps
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.order = order
        self._step = 0
        self._pass = -1
        self._pass_order: list[int] = []

    def __len__(self) -> int:
        """Rollout steps of the whole run, wherever the loader stands."""
        return self.steps

    def __iter__(self) -> Iterator[PromptBatch]:
        """Go on from the current position; all iterators of one loader share it."""
        while self._step < self.steps:
            batch = self.batch(self._step)
            self._step += 1  # before the batch is used: a checkpoint made with it counts it as handed out
            yield batch

    def batch(self, step: int) -> PromptBatch:
        """This rank's share of a step's questions; ``epoch`` is the pass that the step begins in."""
        share = self.questions_per_step // self.world_size
        indices = self.indices(step)[self.rank * share : (self.rank + 1) * share]
        epoch = step * self.questions_per_step // len(self.prompts)
        return PromptBatch(step, epoch, [self.prompts[index] for index in indices])

    def indices(self, step: int) -> list[int]:
        """The P questions of a step over all ranks, as indices into ``prompts``."""
        count, size = len(self.prompts), self.questions_per_step
        first, taken = divmod(step * size, count)
        indices: list[int] = []
        while len(indices) < size:
            indices += self._order_of(first)[taken : taken + size - len(indices)]
            first, taken = first + 1, 0
        return indices

    def state_dict(self) -> dict[str, Any]:
        """Position (batches handed out) and what it is a position in. Plain values, the same on every rank."""
        return {"step": self._step, "each": self._digests(), **self._identity()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to a saved position. The number of ranks and of steps may differ from those of the saved run.

        Raises:
            UserError: Prompts, P or seed differ, so that the position would mean other questions.
        """
        names = {"questions_per_step": "rollout.questions", "seed": "seed"}
        for key, value in self._identity().items():
            if state.get(key) == value:
                continue
            if key in names:
                raise UserError(f"the run to resume was made with {names[key]}={state.get(key)}, this one has {value}; "
                                f"set {names[key]}={state.get(key)}, or start a new run")  # fmt: skip
            raise UserError(
                f"the run to resume was made with other prompts: {self._change(state)}; "
                "give it the same data and template, or start a new run"
            )
        self._step = int(state["step"])

    def _change(self, state: dict[str, Any]) -> str:
        """Which question is not what it was, in a few words."""
        counts = f"{state.get('count')} then, {len(self.prompts)} now"
        both = state.get("each", ""), self._digests()
        old, new = ([each[i : i + 8] for i in range(0, len(each), 8)] for each in both)
        changed = [index for index, (a, b) in enumerate(zip(old, new, strict=False)) if a != b]
        if not changed:
            return f"{counts}, the first {min(len(old), len(new))} are the same" if old else counts
        question = self.prompts[changed[0]].question
        return (
            f"{counts}, {len(changed)} of them differ, the first is question {changed[0] + 1} (row {question.row}), "
            f"now {question.text[:80]!r} with the answer {', '.join(question.gold)[:40]}"
        )

    def _digests(self) -> str:
        """Eight digits for each prompt, which tell a changed one from the others."""
        return "".join(hashlib.sha256(_spelled(prompt)).hexdigest()[:8] for prompt in self.prompts)

    def _identity(self) -> dict[str, Any]:
        digest = hashlib.sha256()
        for prompt in self.prompts:
            digest.update(_spelled(prompt))
        return {
            "questions_per_step": self.questions_per_step,
            "seed": self.seed,
            "count": len(self.prompts),
            "prompts": digest.hexdigest()[:16],
        }

    def _order_of(self, wanted: int) -> list[int]:
        """Order of a pass. Questions of a step that the pass before has begun come no sooner than after it."""
        if wanted < self._pass:
            self._pass, self._pass_order = -1, []
        count, size = len(self.prompts), self.questions_per_step
        while self._pass < wanted:
            following = list(self.order(count, self.seed, self._pass + 1))
            begun = (self._pass + 1) * count % size
            if begun and count >= size:
                asked = set(self._pass_order[-begun:])
                fresh = [index for index in following if index not in asked][: size - begun]
                head = set(fresh)
                following = fresh + [index for index in following if index not in head]
            self._pass, self._pass_order = self._pass + 1, following
        return self._pass_order


def _spelled(prompt: Prompt) -> bytes:
    """What a prompt asks and is paid for."""
    return repr((prompt.text, prompt.question.gold)).encode("utf-8", "surrogatepass")
