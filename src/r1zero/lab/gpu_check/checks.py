"""The checks: each runs something real, and says what was expected beside what was seen."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from statistics import mean
from typing import Any

from r1zero.lab.doctor import trial
from r1zero.lab.doctor.environment import GIB
from r1zero.lab.doctor.trial import Start, Trial

MEDIUM = {"hidden_size": 1024, "intermediate_size": 2816, "num_hidden_layers": 8, "num_attention_heads": 16,
          "num_key_value_heads": 4, "vocab_size": 32768, "tie_word_embeddings": True}  # fmt: skip
"""About 0.13 B parameters: large enough that kernels and number formats are those of real models, starts at once."""


class NotHere(Exception):
    """The check needs what this machine has not; the text says what."""


class Wrong(Exception):
    """What was seen is not what was expected; the text says both."""


@dataclass
class Place:
    """Where the checks run.

    Attributes:
        folder: for run folders and models.
        gpu: whether on a card; else everything on the CPU with the embedded model.
        engine: vllm or hf.
        begin: starts ``train.py``.
        limit: seconds that one run may take.
        done: trials so far, by name: later checks compare with them.
    """

    folder: Path
    gpu: bool
    engine: str
    begin: Start = trial.start
    limit: float = 240.0
    done: dict[str, Trial] = field(default_factory=dict)

    def train(self, name: str, *settings: str, large: bool = False) -> Trial:
        """Run three steps under a name; raises ``Wrong`` where the run fails."""
        if self.gpu:
            shape, called = (trial.LARGE, "large") if large else (MEDIUM, "medium")
            model = trial.random_model(shape, self.folder / called)
            # Random weights answer nothing: a reward that half of all texts earn, so that there is a gradient.
            own = [f"model={model}", "trainer=gpu", "rollout.max_tokens=256", "optim.lr=1e-6", *REWARD]
        else:
            own = ["rollout.max_tokens=48", "rollout.kv_cache_gib=0.1"]
        base = [
            f"rollout={self.engine}", "steps=3", "rollout.questions=4", "algo.minibatch_size=16", "rollout.save=full",
            "checkpoint.every=1", "callbacks.samples.every=1",
        ]  # fmt: skip
        found = trial.run(self.folder / name, [*base, *own, *settings], self.limit, self.begin)
        return self._whole(name, found)

    def go_on(self, name: str, *settings: str) -> Trial:
        """Resume the run of a name."""
        found = trial.run(self.folder / name, [f"resume={self.folder / name}", *settings], self.limit, self.begin)
        return self._whole(name, found)

    def _whole(self, name: str, found: Trial) -> Trial:
        if found.code:
            raise Wrong(f"the run ended with code {found.code}: {found.said}")
        self.done[name] = found
        return found


REWARD = ["+reward.functions.length.path=r1zero.lab.gpu_check.reward.even_length"]


@dataclass(frozen=True)
class Item:
    """A check: what it is called, what should be seen, how to see it, and cards it needs."""

    name: str
    expected: str
    look: Callable[[Place], str]
    cards: int = 1


def colocated(place: Place) -> str:
    """Engine and learner on one card, CUDA graphs and all defaults."""
    found = place.train("colocated", f"rollout.enforce_eager={str(not place.gpu).lower()}", large=True)
    differences = found.differences()
    if len(differences) != 3:
        raise Wrong(f"the difference of sampler and learner was measured in {len(differences)} of 3 steps")
    high = 0.1 if place.gpu else 1e-3
    if max(differences) > high or (place.gpu and max(differences) > 3 * min(differences)):
        raise Wrong(f"sampler and learner differ by {spelled(differences)} nats: at most {high:g}, and flat")
    words = [f"differences {spelled(differences)} nats"]
    if place.gpu:
        words.append(f"model runner {runner(found.log)}")
        words.append(slept(found))
    return ", ".join(words)


def eager(place: Place) -> str:
    """The same run without CUDA graphs: the very same responses in the first step, before weights can differ."""
    if not place.gpu:
        raise NotHere("a GPU: a CPU has no CUDA graphs")
    first = place.done.get("colocated")
    if first is None:
        raise NotHere("the run before it")
    same, total = equal(first.responses(0), place.train("eager", "rollout.enforce_eager=true", large=True).responses(0))
    if same < 0.9 * total:
        raise Wrong(f"{same} of {total} responses are equal; in bfloat16 nearly all should be")
    return f"{same} of {total} responses equal"


def cycle(place: Place) -> str:
    """An engine that samples, sleeps, wakes, takes the same weights again and samples gives the same responses."""
    from r1zero.lab.gpu_check.engine import cycled

    if place.gpu:
        model = trial.random_model(MEDIUM, place.folder / "medium")
    else:
        from r1zero.config import ASSETS

        model = ASSETS / "tiny"
    told = cycled(model, place.folder / "cycle.json", place.engine, place.limit)
    if told["same"] != told["total"]:
        raise Wrong(f"{told['same']} of {told['total']} responses equal after {told['rounds']} rounds")
    return f"{told['total']} responses equal in {told['rounds']} rounds" + (
        f", {told['freed'] / GIB:.1f} GiB freed each" if place.gpu else ""
    )


def asynchronous(place: Place) -> str:
    """Sampling beside the learner, twice: a race would give other responses the second time."""
    first, second = (place.train(f"async_{n}", "rollout.async=1").responses(2) for n in (1, 2))
    same, total = equal(first, second)
    if same < (0.9 if place.gpu else 1) * total:
        raise Wrong(f"{same} of {total} responses of the last step are equal in two runs of one seed")
    return f"{same} of {total} responses of the last step equal in two runs"


def flash_attention(place: Place) -> str:
    """Packed sequences through flash attention: the figures of the padded ones."""
    if not place.gpu or find_spec("flash_attn") is None:
        raise NotHere("a GPU and the package flash-attn")
    plain = place.train("sdpa", "rollout.enforce_eager=true")
    found = place.train("flash", "rollout.enforce_eager=true", "model.attention=flash_attention_2")
    (a,), (b,) = ([float(run.rows[0]["policy/grad_norm"])] for run in (plain, found))
    if abs(a - b) > 0.05 * abs(a):
        raise Wrong(f"the first gradient's norm is {b:.4g}, with sdpa {a:.4g}")
    return f"gradient norm {b:.4g}, with sdpa {a:.4g}"


def low_memory(place: Place) -> str:
    """8-bit moments, and a resume from their checkpoint."""
    if find_spec("bitsandbytes") is None:
        raise NotHere("the package bitsandbytes")
    place.train("low_memory", "optim.state_bits=8", "steps=2")
    steps = place.go_on("low_memory", "steps=3").steps
    if steps != [0, 1, 2]:
        raise Wrong(f"steps {steps} after the resume")
    return "3 steps, resumed after 2"


def buckets(place: Place) -> str:
    """What DDP leaves on the card between steps: 16 bytes a parameter, as the plan counts."""
    if not place.gpu:
        raise NotHere("a GPU: on a CPU the tests count the bytes")
    from r1zero.lab.plan.cost import Learner, Work
    from r1zero.lab.plan.hardware import shape_of
    from r1zero.lab.plan.memory import at_rest, learner_memory

    found = place.train("ddp", "trainer=ddp", "trainer.devices=1", "rollout.enforce_eager=true").memory[-1]["learner"]
    work = Work(16, 256, 256, 32, 160, 16, 1, 1, 16384)
    learner = Learner("ddp", 2)
    planned = at_rest(learner_memory(shape_of(str(place.folder / "medium")), learner, work), learner)
    return within(found, planned, 0.1, "at rest")


def nccl_refused(place: Place) -> str:
    """Weights by NCCL to a sampler on the learner's own card can't work: refused before anything is loaded."""
    settings = ["rollout=ray", "rollout.ray.transfer=nccl", "rollout.samplers=1"]
    found = trial.run(place.folder / "nccl", [*settings, "steps=1"], 120, place.begin)
    if found.code != 1 or not found.said.startswith("error: "):
        raise Wrong(f"code {found.code}: {found.said}")
    return f"refused in {found.seconds:.0f} s: {found.said.removeprefix('error: ')[:90]}"


def restart(place: Place) -> str:
    """An engine that fails once is started again on the same card, and the step is repeated."""
    found = place.train("restart", "+callbacks.fail._target_=r1zero.lab.gpu_check.reward.FailOnce")
    if "it is started again and the step repeated" not in found.log:
        raise Wrong("the log names no second start")
    if found.steps != [0, 1, 2]:
        raise Wrong(f"steps {found.steps} of 0, 1, 2")
    return "started again, 3 steps"


def offload(place: Place) -> str:
    """Moments that leave the card while the engine samples: the run in which they stay, response by response."""
    first = place.done.get("colocated")
    if first is None:
        raise NotHere("the run before it")
    eager = f"rollout.enforce_eager={str(not place.gpu).lower()}"
    found = place.train("offload", "optim.offload_states=true", eager, large=True)
    same, total = equal(first.responses(2), found.responses(2))
    if same < (0.9 if place.gpu else 1) * total:
        raise Wrong(f"{same} of {total} responses of the last step are those of the run in which the moments stay")
    return f"{same} of {total} responses of the last step equal"


def eight_bits(place: Place) -> str:
    """Weights that are rounded to 8 bits at every sync."""
    from r1zero.train.build import EIGHT_BITS

    if place.engine != "vllm":
        raise NotHere("vLLM")
    try:
        found = place.train("eight_bits", "rollout.quantization=fp8", "rollout.enforce_eager=true")
    except Wrong as error:
        if "compute capability" in str(error):
            raise NotHere("a card with products of 8 bits") from error
        raise
    if max(found.differences()) > EIGHT_BITS:
        raise Wrong(f"sampler and learner differ by {spelled(found.differences())} nats: at most {EIGHT_BITS}")
    return f"differences {spelled(found.differences())} nats"


def learner(place: Place) -> str:
    """The learner alone at the 1.5B shape: tokens a second, MFU, peak memory against the plan."""
    from r1zero.lab.gpu_check.speed import learner_speed

    return learner_speed(place, compiled=False)


def compiled(place: Place) -> str:
    """The same with model.compile=true."""
    from r1zero.lab.gpu_check.speed import learner_speed

    if not place.gpu:
        raise NotHere("a GPU: compiling takes a CPU minutes")
    return learner_speed(place, compiled=True)


def ranks(place: Place, trainer: str, shared: str = "") -> str:
    """Two ranks; each has an engine of its own and makes its own passes where they are not shared (a setting)."""
    where = [] if place.gpu else ["trainer.accelerator=cpu"]
    name = f"{trainer}_2_{shared.rpartition('.')[2]}".rstrip("_")
    found = place.train(name, f"trainer={trainer}", "trainer.devices=2", *where, *([f"{shared}=2"] if shared else []))
    return f"differences {spelled(found.differences())} nats"


def other_card(place: Place) -> str:
    """Engine and learner both on the second card."""
    if not place.gpu:
        raise NotHere("two GPUs")
    return f"differences {spelled(place.train('second_card', 'trainer.devices=[1]').differences())} nats"


def nccl_weights(place: Place) -> str:
    """A sampler on the second card takes its weights by NCCL."""
    if not place.gpu:
        raise NotHere("two GPUs")
    found = place.train("nccl_2", "rollout=ray", "rollout.ray.transfer=nccl", "rollout.samplers=1")
    return f"differences {spelled(found.differences())} nats"


ONE_CARD = [
    Item("colocated", "3 steps; sleep frees memory; differences 0.005-0.05 nats, flat (1e-6 on a CPU)", colocated),
    Item("eager", "the responses of CUDA graphs", eager),
    Item("cycle", "sample, sleep, wake, load, sample: equal responses", cycle),
    Item("async", "two runs of rollout.async=1: equal responses", asynchronous),
    Item("flash attention", "the gradient of sdpa within 5 %", flash_attention),
    Item("8-bit moments", "3 steps over a resume", low_memory),
    Item("ddp at rest", "the plan's bytes within 10 %", buckets),
    Item("nccl on one card", "refused in one line", nccl_refused),
    Item("engine restart", "the step is repeated", restart),
    Item("offload", "optim.offload_states: the responses of the run without", offload),
    Item("8-bit rollouts", "rollout.quantization=fp8: differences up to 0.5 nats", eight_bits),
    Item("learner", "tokens/s, MFU, peak within 10 % of the plan", learner),
    Item("learner compiled", "faster than without", compiled),
]
SEVERAL_CARDS = [
    Item("ddp", "2 ranks; differences as on one card", lambda place: ranks(place, "ddp"), cards=2),
    Item("fsdp", "2 ranks; differences as on one card", lambda place: ranks(place, "fsdp"), cards=2),
    Item(
        "shared engine",
        "rollout.tensor_parallel=2; differences as on one card",
        lambda place: ranks(place, "ddp", "rollout.tensor_parallel"),
        cards=2,
    ),
    Item(
        "shared passes",
        "optim.context_parallel=2; differences as on one card",
        lambda place: ranks(place, "fsdp", "optim.context_parallel"),
        cards=2,
    ),
    Item("second card", "trainer.devices=[1]: engine and learner on it", other_card, cards=2),
    Item("nccl to a sampler", "differences as on one card", nccl_weights, cards=2),
]


def spelled(values: Sequence[float]) -> str:
    """A few figures in a row."""
    return " ".join(f"{value:.1e}" for value in values)


def equal(a: list[Any], b: list[Any]) -> tuple[int, int]:
    """How many of two rows of responses are equal, of how many."""
    if not a or len(a) != len(b):
        raise Wrong(f"{len(a)} and {len(b)} responses to compare")
    return sum(x == y for x, y in zip(a, b, strict=True)), len(a)


def within(found: float, planned: float, share: float, when: str) -> str:
    """Measured bytes beside planned ones; raises ``Wrong`` where they are further apart than ``share``."""
    words = f"{found / 1e9:.2f} GB {when}, planned {planned / 1e9:.2f} ({found / planned - 1:+.1%})"
    if abs(found / planned - 1) > share:
        raise Wrong(words)
    return words


def runner(log: str) -> str:
    """The model runner that vLLM names in its log."""
    found = re.search(r"(V[12]) [Mm]odel [Rr]unner|GPUModelRunner(V2)?", log)
    return found[0] if found else "not named in the log"


def slept(found: Trial) -> str:
    """What sleep frees, on average over steps; raises ``Wrong`` where that is nothing."""
    rows = [row for row in found.memory if "asleep" in row]
    freed = mean(row["awake"] - row["asleep"] for row in rows) / GIB if rows else 0.0
    if freed < 1:
        raise Wrong(f"sleep frees {freed:.1f} GiB")
    return f"sleep frees {freed:.1f} GiB and leaves {rows[-1]['asleep'] / GIB:.1f} in use"
