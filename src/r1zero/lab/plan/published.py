"""Published runs, as the plan calculates them: how far real steps are from its floors."""

from __future__ import annotations

from dataclasses import dataclass

from r1zero.lab.plan.cost import Learner, Work, step_times
from r1zero.lab.plan.hardware import QWEN_7B, QWEN_32B, Shape, gpu_named

RANGE = (1.5, 5.0)
"""Real time of a step over its floor: from a well-tuned run (assumed) to the slowest of the published ones."""


@dataclass(frozen=True)
class Published:
    """A run of others, with as much as they say.

    Attributes:
        name: what it made.
        source: where that is said.
        shape: of the model.
        gpu: kind of card.
        gpus: in a machine.
        nodes: machines.
        work: its rollout step.
        hours: of the whole run.
        steps: rollout steps in them; None where they don't say.
        assumed: what is not in the source.
    """

    name: str
    source: str
    shape: Shape
    gpu: str
    gpus: int
    nodes: int
    work: Work
    hours: float
    steps: int | None
    assumed: str

    @property
    def floor(self) -> float:
        """Least seconds of its rollout step, weights sharded over all cards."""
        learner = Learner("fsdp", self.gpus * self.nodes)
        return sum(step_times(self.shape, gpu_named(self.gpu), learner, self.work, self.nodes).values())


def _zoo(responses: int, tokens: float, longest: int) -> Work:
    """1,024 prompts x 8 in minibatches of 256 prompts, with a KL term."""
    return Work(responses, tokens, longest, 150, 150 + tokens / 2, 256, 4, 1, 16384, reference=True)


RUNS = (
    Published(
        "Oat-Zero-7B, the paper's recipe", "arXiv 2503.20783, Fig. 2: 27 h on 8 A100-40G",
        QWEN_7B, "a100-40", 8, 1, Work(1024, 800, 3000, 150, 550, 128, 8, 1, 16384),
        27, None, "800 tokens a response; the number of steps is not printed",
    ),
    Published(
        "Qwen-2.5-7B-SimpleRL-Zoo", "README of hkust-nlp/simpleRL-reason: about 100 steps in 15 h on 2 x 8 H100-80G",
        QWEN_7B, "h100", 8, 2, _zoo(8192, 800, 8192),
        15, 100, "800 tokens a response, minibatches of 256 prompts",
    ),
    Published(
        "Qwen-2.5-32B-SimpleRL-Zoo", "README of hkust-nlp/simpleRL-reason: 1.5 days on 8 x 8 H100-80G, same questions",
        QWEN_32B, "h100", 8, 8, _zoo(8192, 800, 8192),
        36, 100, "as above, and 100 steps",
    ),
)  # fmt: skip


def compared(run: Published) -> tuple[str, str]:
    """What a run took a step, and how that compares with the floor; where its steps aren't known, how many fit."""
    if run.steps is None:
        most, least = (3600 * run.hours / (factor * run.floor) for factor in RANGE)
        return f"{run.hours:g} h", f"{least:.0f} to {most:.0f} steps fit"
    each = 3600 * run.hours / run.steps
    return f"{each:.0f} s", f"{each / run.floor:.1f} of the floor"
