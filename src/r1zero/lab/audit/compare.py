"""Recomputed against recorded: one relative difference and its limit per item."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import torch

from r1zero.lab.audit.folder import RunFolder
from r1zero.lab.audit.model import Weights
from r1zero.lab.audit.replay import Replay, trained

FLOAT32 = 1e-5
"""Largest relative difference of a run in float32."""
AFTER_UPDATES = {"later norms": 1e-3, "weights": 1e-3, "update": 1e-3}
"""In float32 with several optimizer steps a rollout step: the gradients of the later ones rest on the updates of the
earlier ones, where AdamW takes steps of full length along gradients that are rounding alone."""
BFLOAT16 = {
    "loss": 1e-3,
    "KL": 0.1,
    "gradient norm": 0.2,
    "later norms": 0.2,
    "weights": 0.01,
    "update": 0.02,
    "direction": 0.1,
}
"""Where the run computed in bfloat16, whose numbers have 8 bits: measured, see docs/audit.md."""


@dataclass
class Item:
    """One comparison.

    Attributes:
        name: what is compared.
        recorded: what the run says, as shown.
        recomputed: what it should say, as shown.
        difference: relative; nan where nothing was compared.
        limit: largest difference that passes.
        note: why nothing was compared.
        where: what differs most.
    """

    name: str
    recorded: str = ""
    recomputed: str = ""
    difference: float = math.nan
    limit: float = FLOAT32
    note: str = ""
    where: str = ""

    @property
    def wrong(self) -> bool:
        """Whether it was compared and differs; a nan among compared numbers counts as differing."""
        return not self.note and not self.difference <= self.limit


def compare(folder: RunFolder, replay: Replay) -> list[Item]:
    """All items of one rollout step."""
    step, limits = replay.step, limits_of(folder)
    items = [minibatch_item(folder, replay), mask_item(folder, replay), reward_item(folder, replay, limits)]
    items += [advantage_item(folder, replay), sampler_item(folder, replay)]
    items.append(largest("learning rate", folder.each(step, "optim/lr"), replay.rates, {}))
    if not replay.losses:
        note = f"algo.loss={folder.algo['loss']} is not recomputed"
        return items + [Item(name, note=note) for name in ("loss", "gradient norm", "weights")]
    items.append(largest("loss", folder.each(step, "loss/policy"), replay.losses, limits, replay.sizes))
    if folder.algo["kl_coef"]:
        items.append(number("KL", folder.recorded(step, "loss/kl"), replay.kl, limits, scale=replay.kl_size))
    norms = folder.each(step, "policy/grad_norm")
    items.append(largest("gradient norm", norms[:1], replay.norms[:1], limits))
    if folder.updates > 1:
        items.append(largest("later norms", norms[1:], replay.norms[1:], limits))
    return items + weight_items(folder, replay, limits)


def limits_of(folder: RunFolder) -> dict[str, float]:
    """Limits of the items that have others than ``FLOAT32``."""
    model, with_reference = folder.config["model"], folder.algo["kl_coef"] or folder.algo.get("kl_in_reward")
    if "bfloat16" in (model["dtype"], model.get("reference_dtype") if with_reference else None):
        return BFLOAT16
    return AFTER_UPDATES if folder.updates > 1 else {}


def largest(
    name: str,
    recorded: list[float],
    recomputed: list[float],
    limits: dict[str, float],
    scales: list[float] | None = None,
) -> Item:
    """The optimizer step whose numbers differ most."""
    if len(recorded) != len(recomputed):
        return Item(name, f"{len(recorded)} steps", f"{len(recomputed)} steps", math.inf)
    scales = scales or [0.0] * len(recorded)
    items = [number(name, a, b, limits, s) for a, b, s in zip(recorded, recomputed, scales, strict=True)]
    item = max(items, key=lambda item: math.inf if math.isnan(item.difference) else item.difference)
    item.where = f"optimizer step {items.index(item)}" if len(items) > 1 else ""
    return item


def number(name: str, recorded: float, recomputed: float, limits: dict[str, float], scale: float = 0.0) -> Item:
    """Compare two numbers, relative to the larger one or to ``scale``, the size of the terms they are sums of."""
    largest = max(abs(recorded), abs(recomputed), scale)
    difference = abs(recorded - recomputed) / largest if largest else 0.0
    return Item(name, f"{recorded:.9g}", f"{recomputed:.9g}", difference, limits.get(name, FLOAT32))


def minibatch_item(folder: RunFolder, replay: Replay) -> Item:
    """Every response must take part ``inner_epochs`` times, and every optimizer step have B of them."""
    epochs, size = folder.algo["inner_epochs"], folder.algo["minibatch_size"]
    counts = Counter(i for members in replay.minibatches for i in members)
    uneven = sum(counts[i] != epochs for i in range(folder.responses))
    uneven += sum(len(members) != size for members in replay.minibatches)
    return Item("minibatches", f"{len(replay.minibatches)} of {size}", "", float(uneven), 0.0)


def mask_item(folder: RunFolder, replay: Replay) -> Item:
    """With ``truncated=exclude`` no token of a response that was cut is trained on."""
    excluded = folder.algo["truncated"] == "exclude"
    wrong = sum(excluded and row["finish_reason"] == "length" and any(trained(row)) for row in replay.rows)
    tokens = sum(sum(trained(row)) for row in replay.rows)
    return Item("mask", f"{tokens:,} tokens", "", float(wrong), 0.0)


def reward_item(folder: RunFolder, replay: Replay, limits: dict[str, float]) -> Item:
    """Recorded rewards against the graded ones, less the punishment of overlong responses and KL to the reference."""
    differences = [abs(row["reward"] - r) for row, r in zip(replay.rows, replay.rewards, strict=True)]
    mean = sum(row["reward"] for row in replay.rows) / len(differences)
    limit = limits.get("KL", FLOAT32) if folder.algo.get("kl_in_reward") else FLOAT32
    recomputed, most = sum(replay.rewards) / len(differences), max(map(abs, replay.rewards + replay.kl_sizes)) or 1.0
    return Item("rewards", f"mean {mean:.6g}", f"mean {recomputed:.6g}", max(differences) / most, limit)


def advantage_item(folder: RunFolder, replay: Replay) -> Item:
    """Recorded advantages against those that follow from the rewards."""
    recorded = [row["advantage"] for row in replay.rows]
    largest = max(map(abs, recorded))
    if replay.advantages is None:
        name = folder.algo["advantage"]
        return Item("advantages", f"|A| <= {largest:.6g}", note=f"taken as recorded: {name} is not recomputed")
    differences = [abs(a - b) for a, b in zip(recorded, replay.advantages, strict=True)]
    most = max(map(abs, replay.advantages))
    relative = max(differences) / max(largest, most) if max(largest, most) else 0.0
    return Item("advantages", f"|A| <= {largest:.6g}", f"|A| <= {most:.6g}", relative)


def sampler_item(folder: RunFolder, replay: Replay) -> Item:
    """The weights before the step must be those that sampled: the limit is the run's own, in nats."""
    rollout, name, given = folder.rollout, "sampler (nats)", replay.sampler_difference
    if replay.rows[0]["logprobs"] is None:
        return Item(name, note="the engine gave no log-probabilities")
    if math.isnan(given) and not any(any(trained(row)) for row in replay.rows):
        return Item(name, note="no token is trained on")
    if replay.rows[0]["policy_version"] != folder.recorded(replay.step, "progress/optimizer_step") - folder.updates:
        return Item(name, "", f"{given:.2g}", note="sampled by an earlier policy")
    limit = rollout["sync_tolerance"]
    if limit is None:
        model, engine = folder.config["model"]["dtype"], rollout["dtype"]
        formats = {model, model if engine in (None, "auto") else engine}
        limit = (1e-3 if formats == {"float32"} else 0.1) - math.log(rollout["top_p"])
        limit = math.inf if rollout["top_k"] > 0 else limit
    return Item(name, "", "", given, limit)


def weight_items(folder: RunFolder, replay: Replay, limits: dict[str, float]) -> list[Item]:
    """The weights after the step, how far they moved, and 1 - the cosine between both movements.

    Length and direction, not the norm of the difference: AdamW takes steps of full length where a gradient is
    rounding alone, and float32 weights round each update. Both are small angles to the rest of an update.
    """
    if replay.after is None:
        return [Item("weights", note="optimizer states in 8 bits are not recomputed")]
    if replay.step + 1 not in folder.checkpoints():
        return [Item("weights", note=f"no checkpoint of step {replay.step + 1}: checkpoint.every=1 writes it")]
    stored, _ = folder.weights(replay.step + 1)
    stored = {name: stored[name].double() for name in replay.after}
    worst = max(replay.after, key=lambda name: relative(stored, replay.after, name))  # type: ignore[arg-type]
    weights = Item("weights", difference=relative(stored, replay.after, worst), limit=limits.get("weights", FLOAT32))
    weights.where = worst
    before, after = replay.before, replay.after
    moved, should = (norm(w[name] - before[name] for name in after) for w in (stored, after))
    along = sum(float(((stored[name] - before[name]) * (after[name] - before[name])).sum()) for name in after)
    direction = Item("direction", "", "", 1 - along / (moved * should) if moved and should else abs(moved - should))
    direction.limit = limits.get("direction", FLOAT32)
    return [weights, number("update", moved, should, limits), direction]


def relative(recorded: Weights, recomputed: Weights, name: str) -> float:
    """Norm of a weight's difference, relative to the weight's."""
    size = norm([recomputed[name]])
    return norm([recorded[name] - recomputed[name]]) / size if size else 0.0


def norm(tensors: Iterable[torch.Tensor]) -> float:
    """Norm over several tensors."""
    return math.sqrt(sum(float((tensor**2).sum()) for tensor in tensors))
