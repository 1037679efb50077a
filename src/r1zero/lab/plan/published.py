"""Published runs, as the plan calculates them: whether they fit, and how far real steps are from its floors."""

from __future__ import annotations

from dataclasses import dataclass, replace

from r1zero.lab.plan.cost import Learner, Work, step_times
from r1zero.lab.plan.fit import Fit, fit
from r1zero.lab.plan.hardware import (
    QWEN_0_5B,
    QWEN_1_5B,
    QWEN_1_5B_UNTIED,
    QWEN_3B,
    QWEN_7B,
    QWEN_14B,
    QWEN_32B,
    Shape,
    gpu_named,
)

RANGE = (1.5, 5.0)
"""Real time of a step over its floor: from a well-tuned run (assumed) to the slowest of the published ones."""

LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


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
    return Work(responses, tokens, longest, 150, 150 + tokens / 2, 256, 4, 1, 16384, reference=2)


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


@dataclass(frozen=True)
class Memory:
    """A run of others that is known to have fitted its cards, or not to have.

    Attributes:
        name: the model.
        source: where that is said.
        shape: of the model.
        gpu: kind of card.
        learner: the plan's layout that is nearest; optimizer states that they cut alone are cut with the weights here.
        work: its rollout step, with passes as long as they say.
        fitted: whether it did.
        share: of a card, that its engine was given; None where they don't say. The plan's is the most that is left.
    """

    name: str
    source: str
    shape: Shape
    gpu: str
    learner: Learner
    work: Work
    fitted: bool = True
    share: float | None = None

    @property
    def fit(self) -> Fit:
        """As the plan has it."""
        return fit(self.shape, gpu_named(self.gpu), self.learner, self.work)


def _oat(tokens: int = 4024) -> Work:
    """128 prompts x 8 by one sequence a pass, no KL term."""
    return Work(1024, 800, 3000, 1024, 1424, 128, 8, 1, tokens)


def _other(prompts: int, group: int, prompt: int, longest: int, sequences: int, *, kl: bool = False) -> Work:
    """Responses of half their limit on average, in passes of so many sequences at their longest.

    ``kl``: a reference lies on the card; verl's lies in the host's memory, or is the model without its adapters.
    """
    long, tokens = prompt + longest, longest / 2
    return Work(prompts * group, tokens, longest, prompt, prompt + tokens, 512, 4, 1, sequences * long, 2 * kl)


MEMORY = (
    Memory("Qwen2.5-Math-7B, oat", "sail-sg/understand-r1-zero, examples/qwen2.5-math-7b.sh on 8 A100-40G",
           QWEN_7B, "a100-40", Learner("fsdp", 8), _oat(), share=0.35),
    Memory("Qwen2.5-Math-1.5B, oat", "README of sail-sg/understand-r1-zero: tested on 8 A100-40G",
           QWEN_1_5B, "a100-40", Learner("fsdp", 8), _oat(), share=0.35),
    Memory("Qwen2.5-7B, SimpleRL-Zoo", "README of hkust-nlp/simpleRL-reason: 2 x 8 H100-80G",
           QWEN_7B, "h100", Learner("fsdp", 16), replace(_zoo(8192, 800, 8192), engine_ranks=2), share=0.75),
    Memory("Qwen2.5-32B, SimpleRL-Zoo", "the same: 8 x 8 H100-80G",
           QWEN_32B, "h100", Learner("fsdp", 64), replace(_zoo(8192, 800, 8192), engine_ranks=8), share=0.75),
    Memory("Qwen2.5-0.5B, SimpleRL-Zoo", "the same: one 80 GB card is the least",
           QWEN_0_5B, "a100-80", Learner("ddp", 1), _zoo(8192, 800, 8192)),
    Memory("R1-Distill-Qwen-1.5B, DeepScaleR", "card of agentica-org/DeepScaleR-1.5B-Preview: 8 A100-80G, 8K, 128 x 8",
           QWEN_1_5B_UNTIED, "a100-80", Learner("fsdp", 8), _other(128, 8, 1024, 8192, 1, kl=True)),
    Memory("Qwen2.5-Math-1.5B, verl", "verl, examples/tuning/1.5b/qwen2.5math-1.5b_grpo_1_h100_fsdp_vllm.sh",
           QWEN_1_5B, "h100", Learner("ddp", 1), _other(256, 8, 1024, 3000, 4), share=0.4),
    Memory("Qwen2.5-Coder-14B, verl", "verl, examples/tuning/14b/qwen2_14b_grpo_4_h800_fsdp_vllm.sh (their least)",
           QWEN_14B, "h100", Learner("fsdp", 4, offload=True),
           replace(_other(1024, 5, 1024, 1024, 16), engine_ranks=4), share=0.5),
    Memory("Qwen2.5-7B, adapters, verl", "verl, examples/tuning/7b/qwen2-7b_grpo-lora_1_h100_fsdp_vllm.sh",
           QWEN_7B, "h100", Learner("lora", 1, adapters=QWEN_7B.adapters(32, LINEAR)),
           _other(16, 5, 512, 1024, 16), share=0.2),
    Memory("Qwen2.5-3B, TRL", "huggingface/trl issue 2927: one 80 GB card is enough",
           QWEN_3B, "h100", Learner("ddp", 1), _other(8, 8, 256, 512, 8, kl=True)),
    Memory("Qwen2.5-7B, TRL", "the same: replicas on four of these run out of memory",
           QWEN_7B, "h100", Learner("ddp", 4), _other(8, 8, 256, 512, 8, kl=True), fitted=False),
)  # fmt: skip


def compared(run: Published) -> tuple[str, str]:
    """What a run took a step, and how that compares with the floor; where its steps aren't known, how many fit."""
    if run.steps is None:
        most, least = (3600 * run.hours / (factor * run.floor) for factor in RANGE)
        return f"{run.hours:g} h", f"{least:.0f} to {most:.0f} steps fit"
    each = 3600 * run.hours / run.steps
    return f"{each:.0f} s", f"{each / run.floor:.1f} of the floor"
