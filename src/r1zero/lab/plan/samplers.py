"""How samplers of rollout=ray share a rollout step, from a few to thousands: a simulation, no cluster.

Symbols: N = P * G responses with lengths T_i, S samplers on M machines, W bytes of weights, b sequences that a sampler
decodes at a time, t(b) seconds of a decoding step (:func:`r1zero.lab.plan.cost.decode_step`).

    busy_s = sum over the steps k of sampler s of t(b_k)
    step   = max_s busy_s
    idle   = 1 - mean_s(busy_s) / max_s(busy_s)

Exact batching: a part is decoded until its longest response ends, then the sampler takes the next part. Continuous
batching: a response that ends makes room for the next one at once. Taking weights:

    object: W / MEMORY + ceil(log2(M + 1)) * W / network     every machine that has them passes them on
    nccl:   W / network                                      one pipelined broadcast

A training step of which ``sampling`` seconds are the samplers' and ``rest`` the learner's (weights included):

    in turns            sampling + rest           idle = rest / (sampling + rest)
    rollout.async=1     max(sampling, rest)       idle = 1 - sampling / max(sampling, rest)

The second where samplers and learner have devices of their own; where they share saturated ones it is the first.
"""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

SIZES = (8, 64, 512, 4096)
MEMORY = 10e9
"""Bytes per second of a copy in shared memory by one process."""
SPREAD = 0.8
"""Standard deviation of the logarithm of lengths where none were measured."""

StepTime = Callable[[int], float]


@dataclass(frozen=True)
class Outcome:
    """One simulated rollout step.

    Attributes:
        seconds: until the last response ends.
        idle: share of the samplers' time without work.
        steps: decoding steps of the busiest sampler.
    """

    seconds: float
    idle: float
    steps: int


def lengths(count: int, mean: float, limit: int, seed: int = 0) -> list[int]:
    """``count`` lengths in tokens: log-normal with this mean before those over the limit are cut."""
    draw = random.Random(seed)
    centre = math.log(mean) - SPREAD**2 / 2
    return [max(1, min(limit, round(draw.lognormvariate(centre, SPREAD)))) for _ in range(count)]


def decode(share: Sequence[int], slots: int, step: StepTime) -> tuple[float, int]:
    """Seconds and steps of one batch: ``slots`` responses at a time, the next one joins when one has ended."""
    waiting = list(reversed(share))
    running: list[int] = []  # the steps at which those under way end
    now, seconds = 0, 0.0
    while waiting or running:
        while waiting and len(running) < slots:
            heapq.heappush(running, now + waiting.pop())
        end = running[0]
        seconds += (end - now) * step(len(running))
        now = end
        while running and running[0] == now:
            heapq.heappop(running)
    return seconds, now


def exact(tokens: Sequence[int], group: int, samplers: int, parts: int, slots: int, step: StepTime) -> Outcome:
    """Questions cut into ``parts`` runs; a free sampler takes the next one."""
    questions = len(tokens) // group
    parts = max(1, min(parts, questions))
    bounds = [questions * i // parts * group for i in range(parts + 1)]
    free = [(0.0, 0, s) for s in range(samplers)]  # seconds and steps worked so far
    heapq.heapify(free)
    for start, stop in pairwise(bounds):
        busy, steps, number = heapq.heappop(free)
        seconds, more = decode(tokens[start:stop], slots, step)
        heapq.heappush(free, (busy + seconds, steps + more, number))
    return _outcome([(busy, steps) for busy, steps, _ in free])


def continuous(tokens: Sequence[int], group: int, samplers: int, slots: int, step: StepTime) -> Outcome:
    """Questions dealt out in turn, 4 runs a sampler as ``RayEngine`` does; one running batch a sampler."""
    questions = len(tokens) // group
    parts = max(1, min(4 * samplers, questions))
    bounds = [questions * i // parts * group for i in range(parts + 1)]
    shares: list[list[int]] = [[] for _ in range(samplers)]
    each = -(-parts // samplers)
    for part in range(parts):
        shares[part // each] += tokens[bounds[part] : bounds[part + 1]]
    return _outcome([decode(share, slots, step) for share in shares])


def sync_seconds(size: float, machines: int, network: float, transfer: str) -> float:
    """Seconds until the samplers of ``machines`` have ``size`` bytes of weights, by the formulas above."""
    if transfer == "nccl":
        return size / network
    return size / MEMORY + math.ceil(math.log2(machines + 1)) * size / network


def training_step(sampling: float, rest: float, *, ahead: bool) -> tuple[float, float]:
    """Seconds of a training step and the samplers' idle share of it, in turns or sampled ahead (rollout.async)."""
    total = max(sampling, rest) if ahead else sampling + rest
    return total, 1 - sampling / total


def _outcome(worked: list[tuple[float, int]]) -> Outcome:
    longest = max(busy for busy, _ in worked)
    mean = sum(busy for busy, _ in worked) / len(worked)
    return Outcome(longest, 1 - mean / longest if longest else 0.0, max(steps for _, steps in worked))
