"""``scripts/plan.py``: reads the settings of a run, prints what it needs. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from rich.table import Table

from r1zero.config import TrainConfig
from r1zero.errors import UserError
from r1zero.lab.plan import samplers
from r1zero.lab.plan.cost import LAYOUTS, NETWORK, Learner, Work, concurrent, decode_step, sharding_traffic, step_times
from r1zero.lab.plan.fit import Fit, fit
from r1zero.lab.plan.hardware import GPUS, SUSTAINED, Shape, gpu_named, shape_of
from r1zero.lab.plan.published import RANGE, RUNS, compared
from r1zero.launch.console import console, titled
from r1zero.ranges import check_ranges
from r1zero.train.checks import check_lora, check_set, check_sizes, optimizer_steps

DEFAULT_RANK = 16
"""Rank of the adapters in the lora column where ``model.lora.rank`` is 0."""

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
  prompt=150     mean length of a prompt (150)
  samplers=64    also print how 8 to 4096 samplers of rollout=ray, and this many, would share a step (not printed)
  --published    published runs beside what is calculated for them, and nothing else

Everything else is an argument of train.py and means the same: rollout.questions=, optim.micro_batch_tokens=,
model.lora.rank=, algo.kl_coef=, algo.kl_in_reward=, rollout.sleep=false, model=<folder>, experiment=..."""


@dataclass
class Machine:
    """The calculator's own arguments."""

    gpus: int = 1
    nodes: int = 1
    gpu: str = "h100"
    tokens: int = 800
    prompt: int = 150
    samplers: int = 0


def plan(arguments: list[str], conf: Path) -> None:
    """Print the plan.

    Raises:
        UserError: an argument makes no sense.
    """
    if {"-h", "--help"} & set(arguments):
        console.print(HELP.format(gpus=", ".join(GPUS)))
        return
    if "--published" in arguments:
        console.print(published_table())
        return
    machine, overrides = split(arguments)
    cfg = settings(overrides, conf)
    shape = shape_of(cfg.model.path)
    work = work_of(cfg, machine)
    show(cfg, machine, shape, work)
    if machine.samplers:
        console.print(samplers_table(cfg, machine, shape, work))


def split(arguments: list[str]) -> tuple[Machine, list[str]]:
    """The calculator's own arguments, and those of ``train.py``.

    Raises:
        UserError: a number that is none, or below 1.
    """
    own, others = {}, []
    names = {field.name for field in fields(Machine)}
    for argument in arguments:
        key, _, value = argument.partition("=")
        if argument.startswith("-"):
            raise UserError(f"{argument}: the plan knows no such option; see --help")
        if key not in names:
            others.append(argument)
        elif key == "gpu":
            own[key] = gpu_named(value.lower()).name
        elif not value.isdecimal() or int(value) < 1:
            raise UserError(f"{argument}: {key} must be a whole number of at least 1")
        else:
            own[key] = int(value)  # type: ignore[assignment]
    return Machine(**own), others  # type: ignore[arg-type]


def settings(overrides: list[str], conf: Path) -> TrainConfig:
    """The config of the run that is planned."""
    with initialize_config_dir(str(conf.resolve()), version_base="1.3"):
        config = compose("train", overrides=overrides)
    config.callbacks, config.trainer, config.logger, config.benchmarks = {}, {}, {}, {}
    config.paths = {"outputs": "outputs"}  # the real one asks Hydra where it was started
    if config.model.served:
        raise UserError(
            f"model={config.model.name} is served elsewhere, by the server at server.url: nothing to plan here"
        )
    check_set(config)
    check_ranges(config)
    cfg: Any = OmegaConf.to_object(config)
    check_sizes(cfg)
    check_lora(cfg)
    if cfg.rollout.name == "ray":
        raise UserError("rollout=ray: the plan counts an engine on each learner's card; leave it out")
    return cfg


def work_of(cfg: TrainConfig, machine: Machine) -> Work:
    """What a rollout step has to do.

    Raises:
        UserError: the responses can't be dealt out evenly.
    """
    rollout, devices = cfg.rollout, machine.gpus * machine.nodes
    if rollout.questions % devices:
        raise UserError(
            f"rollout.questions={rollout.questions} can't be dealt out over {devices} devices: choose a multiple"
        )
    tokens = min(machine.tokens, rollout.max_tokens)
    return Work(
        responses=rollout.questions * rollout.group_size,
        tokens=tokens,
        longest=rollout.max_tokens,
        prompt=machine.prompt,
        context=machine.prompt + tokens,
        sequences=rollout.max_num_seqs or max(256, rollout.questions * rollout.group_size // devices),
        optimizer_steps=optimizer_steps(cfg),
        passes=cfg.algo.inner_epochs,
        micro_tokens=cfg.optim.micro_batch_tokens,
        reference=cfg.algo.needs_reference,
    )


def learner_of(cfg: TrainConfig, layout: str, shape: Shape, devices: int) -> Learner:
    """The learner in one of the layouts."""
    rank = (cfg.model.lora.rank or DEFAULT_RANK) if layout == "lora" else 0
    return Learner(
        layout,
        devices,
        bfloat16=cfg.model.dtype != "float32",
        checkpointing=cfg.model.gradient_checkpointing,
        adapters=shape.adapters(rank, list(cfg.model.lora.targets)) if rank else 0,
    )


def show(cfg: TrainConfig, machine: Machine, shape: Shape, work: Work) -> None:
    """Print memory, floors, commands, and what fits other cards."""
    devices, gpu, sleep = machine.gpus * machine.nodes, gpu_named(machine.gpu), cfg.rollout.sleep
    layouts = [layout for layout in LAYOUTS if devices > 1 or layout != "fsdp"]  # ddp on one device: no ranks at all
    learners = {layout: learner_of(cfg, layout, shape, devices) for layout in layouts}
    fits = {layout: fit(shape, gpu, learners[layout], work, sleep) for layout in layouts}
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
    for line in advice(cfg, machine, fits):
        console.print(line, soft_wrap=True)
    console.print(cards_table(shape, learners, work, sleep))


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
    gpu, devices = gpu_named(machine.gpu), machine.gpus * machine.nodes
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
    if "fsdp" in fits:
        hidden = sharding_traffic(shape, gpu, fits["fsdp"].learner, fits["fsdp"].work, machine.nodes)
        table.add_row("beside it: sharding", *(seconds(hidden if layout == "fsdp" else None) for layout in fits))
    table.add_section()
    low, high = RANGE
    least = {layout: sum(one.values()) for layout, one in times.items()}
    table.add_row("in practice", *(f"{low * one:.3g}-{high * one:.3g}" for one in least.values()))
    steps = [decode_step(shape, gpu, concurrent(one.work, devices), one.work.context) for one in fits.values()]
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


def advice(cfg: TrainConfig, machine: Machine, fits: dict[str, Fit]) -> list[str]:
    """The command line of each layout that fits."""
    lines = []
    for layout, one in fits.items():
        if not one.fits:
            continue
        single = machine.gpus * machine.nodes == 1
        words = [f"model={cfg.model.name}", f"trainer={'gpu' if single else 'fsdp' if layout == 'fsdp' else 'ddp'}"]
        if not single:
            words.append(f"trainer.devices={machine.gpus}")
        if machine.nodes > 1:
            words.append(f"trainer.num_nodes={machine.nodes}")
        if layout == "lora":
            words.append(f"model.lora.rank={cfg.model.lora.rank or DEFAULT_RANK} optim.lr=1e-5")
        words.append(f"rollout.gpu_memory={one.engine_share:.2f}")
        if one.work.micro_tokens != cfg.optim.micro_batch_tokens:
            words.append(f"optim.micro_batch_tokens={one.work.micro_tokens}")
        lines.append(f"{layout}: python train.py {' '.join(words)}")
    return lines or ["nothing fits: take more or larger cards, or a smaller model"]


def cards_table(shape: Shape, learners: dict[str, Learner], work: Work, sleep: bool) -> Table:
    """For each kind of card, which layouts fit it, and how full the learner makes it."""
    table = Table(title="other cards: learner's peak of usable, GB", title_justify="left")
    table.add_column("card")
    for layout in learners:
        table.add_column(layout, justify="right")
    for gpu in GPUS.values():
        row = []
        for learner in learners.values():
            one = fit(shape, gpu, learner, work, sleep)
            row.append(f"{gb(one.learning)} / {gb(one.usable)} {'yes' if one.fits else 'no '}")
        table.add_row(gpu.name, *row)
    return table


def samplers_table(cfg: TrainConfig, machine: Machine, shape: Shape, work: Work) -> Table:
    """Rows by number of samplers, one a card: seconds of sampling, idle share, seconds of taking weights."""
    gpu, group = gpu_named(machine.gpu), cfg.rollout.group_size
    drawn = samplers.lengths(work.responses, work.tokens, work.longest, cfg.seed)

    def step(sequences: int) -> float:
        return decode_step(shape, gpu, sequences, work.context)

    table = Table(title="samplers of rollout=ray, one a card, simulated", title_justify="left")
    for name in ("samplers", "exact, s", "idle", "continuous, s", "idle", "weights: object, s", "nccl, s"):
        table.add_column(name, justify="right")
    ranks = machine.gpus * machine.nodes
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
