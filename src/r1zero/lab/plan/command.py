"""``scripts/plan.py``: reads the settings of a run, prints what it needs. Imports no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from rich.table import Table

from r1zero.config import TrainConfig
from r1zero.errors import UserError
from r1zero.lab.plan import samplers
from r1zero.lab.plan.arguments import Machine, check_shape, laid_out, prompt_tokens, settings, split, taken
from r1zero.lab.plan.cost import (
    NETWORK,
    Learner,
    Work,
    concurrent,
    decode_step,
    engine_weights,
    sharding_traffic,
    step_times,
)
from r1zero.lab.plan.fit import Fit, fit
from r1zero.lab.plan.hardware import GPU, GPUS, SUSTAINED, Shape, gpu_named, shape_of
from r1zero.lab.plan.memory import STEP
from r1zero.lab.plan.published import MEMORY, RANGE, RUNS, compared
from r1zero.launch.console import console, titled
from r1zero.train.checks import optimizer_steps

MOMENTS = {32: 8.0, 8: 2 + 2 * 4 / 256}
"""Bytes of AdamW's two moments for a parameter; in 8 bits with a float32 scale for each block of 256."""

ASSUMED = (
    f"floors assume {SUSTAINED:.0%} of the card's peak in the learner, full memory bandwidth in the engine, and "
    f"responses of equal length but one; in practice a step takes {RANGE[0]:g} to {RANGE[1]:g} times its floor "
    "(--published)"
)
"""What the times rest on."""

HELP = """What a run needs, calculated: python scripts/plan.py model=qwen7b gpus=8

  gpus=8         cards in a machine (1)
  nodes=4        machines (1)
  gpu=h100       kind of card ({gpus})
  tokens=800     mean length of a response (800, at most rollout.max_tokens)
  prompt=150     mean length of a prompt (150, at most data.max_prompt_tokens)
  samplers=64    also print how 8 to 4096 samplers of rollout=ray, and this many, would share a step (not printed)
  --published    published runs beside what is calculated for them: memory, times; nothing else

Everything else is an argument of train.py and means the same: rollout.questions=, optim.micro_batch_tokens=,
model.lora.rank=, algo.kl_coef=, algo.kl_in_reward=, rollout.sleep=false, model=<folder>, experiment=..."""


def plan(arguments: list[str], conf: Path) -> None:
    """Print the plan.

    Raises:
        UserError: an argument makes no sense.
    """
    if {"-h", "--help"} & set(arguments):
        console.print(HELP.format(gpus=", ".join(GPUS)))
        return
    if "--published" in arguments:
        others = [argument for argument in arguments if argument != "--published"]
        if others:
            raise UserError(f"{others[0]}: --published prints published runs as they were; leave {others[0]} out")
        console.print(published_table())
        console.print(published_memory())
        return
    machine, overrides = split(arguments)
    configs = settings(overrides, machine, conf)
    cfgs, refused = {}, {}
    for layout, config in configs.items():
        try:
            cfgs[layout] = taken(config, gpu_named(machine.gpu))
        except UserError as error:
            refused[layout] = error
    if not cfgs:
        raise next(iter(refused.values()))
    cfg = next(iter(cfgs.values()))
    shape = shape_of(cfg.model.path)
    check_shape(cfg, shape)
    work = work_of(cfg, machine)
    show(cfgs, configs, machine, shape, work)
    for layout, why in refused.items():
        console.print(f"{layout} is left out: {why}", soft_wrap=True)
    if machine.samplers:
        console.print(samplers_table(cfg, machine, shape, work))


def work_of(cfg: TrainConfig, machine: Machine) -> Work:
    """What a rollout step has to do.

    Raises:
        UserError: the responses can't be dealt out evenly, or prompts are longer than a run admits.
    """
    rollout, devices = cfg.rollout, machine.devices
    if rollout.questions % devices:
        raise UserError(
            f"rollout.questions={rollout.questions} can't be dealt out over {devices} devices: choose a multiple"
        )
    tokens, prompt = min(machine.tokens, rollout.max_tokens), prompt_tokens(cfg, machine)
    wide = 4 if rollout.format(cfg.model.dtype) == "float32" else 2
    return Work(
        responses=rollout.questions * rollout.group_size,
        tokens=tokens,
        longest=rollout.max_tokens,
        prompt=prompt,
        context=prompt + tokens,
        sequences=rollout.max_num_seqs or max(256, rollout.questions * rollout.group_size // devices),
        optimizer_steps=optimizer_steps(cfg),
        passes=cfg.algo.inner_epochs,
        micro_tokens=cfg.optim.micro_batch_tokens,
        reference=reference_bytes(cfg) if cfg.algo.needs_reference else 0,
        pass_ranks=cfg.optim.context_parallel,
        engine_ranks=rollout.ranks_per_engine,
        kl_in_loss=bool(cfg.algo.kl_coef),
        kl_in_reward=bool(cfg.algo.kl_in_reward),
        entropy=bool(cfg.algo.entropy_coef),
        engine_bytes=1 if rollout.quantization else wide,
        engine_wide=wide,
    )


def reference_bytes(cfg: TrainConfig) -> int:
    """Of a weight of the reference model on a GPU, where ``auto`` follows the model."""
    stored = cfg.model.dtype if cfg.model.reference_dtype == "auto" else cfg.model.reference_dtype
    return 4 if stored == "float32" else 2


def learner_of(cfg: TrainConfig, layout: str, shape: Shape, devices: int) -> Learner:
    """The learner in one of the layouts."""
    rank = cfg.model.lora.rank
    return Learner(
        layout,
        devices,
        bfloat16=cfg.model.dtype != "float32",
        checkpointing=cfg.model.gradient_checkpointing,
        adapters=shape.adapters(rank, list(cfg.model.lora.targets)) if rank else 0,
        moments=MOMENTS[cfg.optim.state_bits],
        offload=cfg.optim.offload_states,
    )


def show(
    cfgs: dict[str, TrainConfig], configs: dict[str, DictConfig], machine: Machine, shape: Shape, work: Work
) -> None:
    """Print memory, floors, commands, and what fits other cards; settings by layout."""
    cfg, gpu = next(iter(cfgs.values())), gpu_named(machine.gpu)
    learners = {layout: learner_of(one, layout, shape, machine.devices) for layout, one in cfgs.items()}
    fits = {layout: fit(shape, gpu, learner, work, cfg.rollout.sleep) for layout, learner in learners.items()}
    console.print(
        titled(
            cfg.model.name,
            f": {shape.params / 1e9:.2f} B parameters, {shape.kv_bytes:,} bytes of keys and "
            f"values a token; {machine.nodes} machine(s) x {machine.gpus} {gpu.name}; a rollout step of "
            f"{cfg.rollout.questions} x {cfg.rollout.group_size} responses, {work.tokens:.0f} tokens each on average",
        )
    )
    console.print(memory_table(fits))
    console.print(time_table(cfg, machine, shape, fits))
    console.print(ASSUMED, soft_wrap=True)
    for line in advice(cfgs, machine, fits):
        console.print(line, soft_wrap=True)
    console.print(cards_table(shape, learners, work, configs))


def memory_table(fits: dict[str, Fit]) -> Table:
    """GB of one device by part."""
    table = Table(title="memory of a device, GB", title_justify="left")
    table.add_column("part")
    for layout in fits:
        table.add_column(layout, justify="right")
    names = list(dict.fromkeys(name for one in fits.values() for name in one.parts))
    for name in names:
        table.add_row(name, *(gb(one.parts.get(name)) for one in fits.values()))
    table.add_section()
    for phase in dict.fromkeys(name for one in fits.values() for name in one.phases):
        table.add_row(phase, *(gb(one.phases.get(phase)) for one in fits.values()))
    table.add_row("usable", *(gb(one.usable) for one in fits.values()))
    table.add_row("fits", *("yes" if one.fits else "no" for one in fits.values()))
    return table


def time_table(cfg: TrainConfig, machine: Machine, shape: Shape, fits: dict[str, Fit]) -> Table:
    """Seconds of a rollout step by part."""
    gpu, devices = gpu_named(machine.gpu), machine.devices
    times = {
        layout: step_times(shape, gpu, one.learner, one.work, machine.nodes, cfg.rollout.sleep)
        for layout, one in fits.items()
    }
    table = Table(title=f"least time of a rollout step, s, at {SUSTAINED:.0%} of peak", title_justify="left")
    table.add_column("part")
    for layout in fits:
        table.add_column(layout, justify="right")
    for name in dict.fromkeys(name for one in times.values() for name in one):
        table.add_row(name, *(seconds(one.get(name)) for one in times.values()))
    table.add_section()
    table.add_row("step", *(seconds(sum(one.values())) for one in times.values()))
    if any(one.learner.sharded for one in fits.values()):
        hidden = [
            sharding_traffic(shape, gpu, one.learner, one.work, machine.nodes) if one.learner.sharded else None
            for one in fits.values()
        ]
        table.add_row("beside it: sharding", *map(seconds, hidden))
    table.add_section()
    low, high = RANGE
    least = {layout: sum(one.values()) for layout, one in times.items()}
    table.add_row("in practice", *(f"{low * one:.3g}-{high * one:.3g}" for one in least.values()))
    steps = [
        decode_step(shape, gpu, concurrent(one.work, devices), one.work.context, engine_weights(shape, one.work))
        for one in fits.values()
    ]
    table.add_row("sequences at a time", *(str(concurrent(one.work, devices)) for one in fits.values()))
    table.add_row("a token of each, ms", *(seconds(1e3 * step) for step in steps))
    table.add_row("steps a day", *(f"{86400 / high / one:,.0f}-{86400 / low / one:,.0f}" for one in least.values()))
    return table


def published_table() -> Table:
    """Published runs beside what is calculated for them."""
    table = Table(title="published runs", title_justify="left")
    for name in ("run", "published", "floor of a step, s", "a step took", "that is", "assumed"):
        table.add_column(name, justify="right" if name.startswith(("floor", "a step", "that")) else "left")
    for run in RUNS:
        took, ratio = compared(run)
        table.add_row(run.name, run.source, seconds(run.floor), took, ratio, run.assumed)
    return table


def published_memory() -> Table:
    """Published runs that fitted their cards, or did not, beside what is calculated for them."""
    table = Table(title="published runs: did they fit?", title_justify="left")
    for name in ("run", "published", "peak of usable, GB", "fits", "did", "engine's share, at most", "theirs"):
        table.add_column(name, justify="left" if name in ("run", "published") else "right")
    for run in MEMORY:
        one = run.fit
        peak = f"{gb(max(one.learning, one.phases[STEP]))} / {gb(one.usable)}"
        said = ["yes" if fits else "no" for fits in (one.fits, run.fitted)]
        shares = ["" if share is None else f"{share:.2f}" for share in (one.engine_share, run.share)]
        table.add_row(run.name, run.source, peak, *said, *shares)
    return table


def advice(cfgs: dict[str, TrainConfig], machine: Machine, fits: dict[str, Fit]) -> list[str]:
    """The command line of each layout that fits."""
    lines = []
    for layout, one in fits.items():
        if not one.fits:
            continue
        cfg = cfgs[layout]
        words = [f"model={cfg.model.name}", *laid_out(layout, machine)]
        if one.learner.adapted:
            words.append(f"model.lora.rank={cfg.model.lora.rank} optim.lr=1e-5")
        words.append(f"rollout.gpu_memory={one.engine_share:.2f}")
        if one.learner.offload:
            words.append("optim.offload_states=true")
        words += [
            f"{key}={value}"
            for key, value, usual in (
                ("rollout.tensor_parallel", cfg.rollout.tensor_parallel, 1),
                ("rollout.quantization", cfg.rollout.quantization, None),
                ("optim.context_parallel", cfg.optim.context_parallel, 1),
                ("optim.state_bits", cfg.optim.state_bits, 32),
                ("model.reference_dtype", cfg.model.reference_dtype, "auto"),
            )
            if value != usual
        ]
        if one.work.micro_tokens != cfg.optim.micro_batch_tokens:
            words.append(f"optim.micro_batch_tokens={one.work.micro_tokens}")
        lines.append(f"{layout}: python train.py {' '.join(words)}")
    return lines or ["nothing fits: take more or larger cards, or a smaller model"]


def cards_table(shape: Shape, learners: dict[str, Learner], work: Work, configs: dict[str, DictConfig]) -> Table:
    """For each kind of card, which layouts fit it, and how full the learner makes it."""
    table = Table(title="other cards: learner's peak of usable, GB", title_justify="left")
    table.add_column("card")
    for layout in learners:
        table.add_column(layout, justify="right")
    for gpu in GPUS.values():
        row = []
        for layout, learner in learners.items():
            one = fit(shape, gpu, learner, work, configs[layout].rollout.sleep)
            works = "yes" if one.fits and takes(configs[layout], gpu) else "no "
            row.append(f"{gb(one.learning)} / {gb(one.usable)} {works}")
        table.add_row(gpu.name, *row)
    return table


def takes(config: DictConfig, gpu: GPU) -> bool:
    """Whether ``train.py`` takes the settings on such a card."""
    try:
        taken(config, gpu)
    except UserError:
        return False
    return True


def samplers_table(cfg: TrainConfig, machine: Machine, shape: Shape, work: Work) -> Table:
    """Rows by number of samplers, one a card: seconds of sampling, idle share, seconds of taking weights."""
    gpu, group = gpu_named(machine.gpu), cfg.rollout.group_size
    drawn = samplers.lengths(work.responses, work.tokens, work.longest, cfg.seed)

    def step(sequences: int) -> float:
        return decode_step(shape, gpu, sequences, work.context)

    table = Table(title="samplers of rollout=ray, one a card, simulated", title_justify="left")
    for name in ("samplers", "exact, s", "idle", "continuous, s", "idle", "weights: object, s", "nccl, s"):
        table.add_column(name, justify="right")
    ranks = machine.devices
    for count in sorted({*samplers.SIZES, machine.samplers}):
        parts = ranks * max(1, count // ranks)
        one = samplers.exact(drawn, group, count, parts, work.sequences, step)
        other = samplers.continuous(drawn, group, count, work.sequences, step)
        size, machines = 2.0 * shape.params, -(-count // machine.gpus)
        sent = [samplers.sync_seconds(size, machines, NETWORK, transfer) for transfer in ("object", "nccl")]
        table.add_row(
            str(count), seconds(one.seconds), f"{one.idle:.0%}", seconds(other.seconds), f"{other.idle:.0%}",
            *(seconds(value) for value in sent),
        )  # fmt: skip
    return table


def gb(value: Any) -> str:
    """Bytes as GB."""
    return "" if value is None else f"{value / 1e9:.1f}"


def seconds(value: float | None) -> str:
    """Seconds with three digits."""
    return "" if value is None else f"{value:.3g}"
