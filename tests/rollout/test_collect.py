"""The rollout step: verdicts, masks, advantages, credit and figures, whatever weighs the rewards."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from objective_support import algo_config
from r1zero.algo_config import AlgoConfig, Truncated
from r1zero.batch import Completion, Prompt, PromptBatch, Question, RolloutBatch
from r1zero.config import RewardConfig, RewardFunctionConfig
from r1zero.data.samplers import SampledLoader, curriculum
from r1zero.errors import UserError
from r1zero.reward.grader import Grader
from r1zero.rollout.collect import Collector
from r1zero.rollout.engine import Sampling
from r1zero.rollout.live import LiveEngine

GOLD = "7"
ANSWERS = (("7", "8", "7", "9"), ("7", "7", "7", "7"), ("1", "2", "3", "4"))
"""What the four responses to each of three questions say."""
LONGEST = "1"
"""The response that the limit cuts."""


class Scripted:
    """An engine whose responses are written down: 4 + answer tokens, the first of which an environment put in."""

    def __init__(self) -> None:
        self.version: int | None = None
        self.asleep = 0

    def generate(self, prompts: list[list[int]], sampling: Sampling, seed: int) -> list[list[Completion]]:
        groups = []
        for answers in ANSWERS[: len(prompts)]:
            group = []
            for answer in answers:
                ids = list(range(4 + int(answer)))
                reason = "length" if answer == LONGEST else "stop"
                mask = [False, *[True] * (len(ids) - 1)]
                group.append(Completion(ids, f"\\boxed{{{answer}}}", reason, [-1.0] * len(ids), mask))
            groups.append(group)
        return groups

    def load_weights(self, weights: Any, version: int) -> None:
        self.version = version

    def wake(self) -> None: ...

    def sleep(self) -> None:
        self.asleep += 1

    def close(self) -> None: ...


def prompts() -> list[Prompt]:
    return [Prompt(Question(f"q{i}", (GOLD,), meta={"number": i}), f"q{i}", [i + 1]) for i in range(len(ANSWERS))]


def collected(
    reward: RewardConfig | None = None, algo: AlgoConfig | None = None, **more: Any
) -> tuple[RolloutBatch, Scripted]:
    """One rollout step of the scripted engine."""
    algo, engine = algo or algo_config("drgrpo"), Scripted()
    cfg: Any = SimpleNamespace(seed=0, algo=algo, rollout=SimpleNamespace(group_size=4, async_steps=0, max_tokens=12))
    cfg.data = SimpleNamespace(sources=more.pop("sources", {}))
    tokenizer = SimpleNamespace(decode=lambda ids, skip_special_tokens: " ".join(map(str, ids)))
    module: Any = SimpleNamespace(
        device=torch.device("cpu"),
        policy_version=5,
        make_room=lambda: None,
        policy=SimpleNamespace(named_weights=list),
        global_rank=0,
        trainer=SimpleNamespace(world_size=1),
        response_kl=more.pop("response_kl", None),
    )
    with Grader(reward or RewardConfig(name="math_verify", workers=1)) as grader:
        collector = Collector(cfg, LiveEngine(lambda: engine), grader, Sampling(), tokenizer)  # type: ignore[arg-type,return-value]
        batch = more.pop("batch", None) or PromptBatch(3, 0, prompts())
        found = collector.collect(module, batch, **more)
    assert batch.rollout is found
    return found, engine


RIGHT = [answer == GOLD for group in ANSWERS for answer in group]
FAIR = ("length/correct", "length/incorrect", "length/mean", "group/none_correct_frac", "group/all_correct_frac")


def test_a_rollout_step_by_hand() -> None:
    rollout, engine = collected()
    assert rollout.right.tolist() == RIGHT
    assert rollout.rewards.tolist() == [float(r) for r in RIGHT]
    assert rollout.advantages.tolist() == [0.5, -0.5, 0.5, -0.5] + [0.0] * 8
    assert rollout.credit is None
    assert rollout.lengths.tolist() == [3 + int(a) for group in ANSWERS for a in group]
    assert [row.tolist() for row in rollout.mask] == [c.mask for c in rollout.completions]
    assert rollout.groups.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert rollout.truncated.tolist() == [False] * 8 + [True] + [False] * 3
    assert [q.meta["number"] for q in rollout.questions] == rollout.groups.tolist()
    assert rollout.texts[1] == "\\boxed{8}"
    assert rollout.tokens[8] == [0, 1, 2, 3, 4]
    assert (rollout.version, engine.version, engine.asleep) == (5, 5, 1)
    figures = rollout.metrics
    assert figures["length/correct"] == 10.0
    assert figures["length/incorrect"] == pytest.approx((11 + 12 + 4 + 5 + 6 + 7) / 6)
    assert figures["length/mean"] == pytest.approx((60 + 45 + 0) / 12)
    assert figures["group/zero_advantage_frac"] == pytest.approx(2 / 3)
    assert figures["group/none_correct_frac"] == figures["group/all_correct_frac"] == pytest.approx(1 / 3)
    assert {"time/sync", "time/rollout", "time/reward", "throughput/rollout_tokens_per_s", "sync/lag"} <= figures.keys()


def test_shares_and_accuracy_of_a_mixtures_sources_by_hand() -> None:
    """Question 0 is of a, 1 and 2 of b; of c none is in the step: its accuracy is no number, and not 0."""
    asked = [replace(p, question=replace(p.question, source="abb"[i])) for i, p in enumerate(prompts())]
    figures = collected(batch=PromptBatch(3, 0, asked), sources={"a": None, "b": None, "c": None})[0].metrics
    assert [figures[f"source/{name}/share"] for name in "abc"] == pytest.approx([1 / 3, 2 / 3, 0.0])
    assert [figures[f"source/{name}/accuracy"] for name in "ab"] == pytest.approx([2 / 4, 4 / 8])
    assert math.isnan(figures["source/c/accuracy"])
    assert not [name for name in collected()[0].metrics if name.startswith("source/")]


PENALTY = {"short": RewardFunctionConfig("r1zero.reward.functions.length_penalty", 1.0, {"free": 5, "limit": 14})}


@pytest.mark.parametrize(
    "reward",
    [
        RewardConfig(name="x", workers=1, weight=0.4),
        RewardConfig(name="x", workers=1, weight=2.0),
        RewardConfig(name="x", workers=1, functions=PENALTY),
        RewardConfig(name="x", workers=1, weight=0.0, functions=PENALTY),
    ],
    ids=["weight_0.4", "weight_2", "length_penalty", "length_penalty_alone"],
)
def test_right_is_the_verifiers_verdict_whatever_it_weighs(reward: RewardConfig) -> None:
    plain, _ = collected()
    weighted, _ = collected(reward, algo_config("drgrpo", credit="length_aware"))
    assert not torch.equal(weighted.rewards, plain.rewards)
    assert torch.equal(weighted.right, plain.right)
    assert {n: weighted.metrics[n] for n in FAIR} == {n: plain.metrics[n] for n in FAIR}
    same, _ = collected(algo=algo_config("drgrpo", credit="length_aware"))
    assert weighted.credit is not None
    assert same.credit is not None
    assert all(torch.equal(a, b) for a, b in zip(weighted.credit, same.credit, strict=True))


def test_truncated_responses_left_out_are_masked_and_still_counted() -> None:
    rollout, _ = collected(algo=algo_config("drgrpo", truncated=Truncated.exclude))
    assert [bool(row.any()) for row in rollout.mask] == [not t for t in rollout.truncated]
    assert len(rollout.mask) == 12
    assert rollout.metrics["length/truncated_frac"] == pytest.approx(1 / 12)


def test_responses_near_the_limit_are_punished_where_that_is_asked_for() -> None:
    """Half of a limit of 12: 0 up to 6 tokens, -1 at 12. Lengths are 10 and 11 for the answers 7 and 8."""
    rollout, _ = collected(algo=algo_config("drgrpo", overlong=0.5))
    assert rollout.rewards[:2].tolist() == pytest.approx([1 - 4 / 6, -5 / 6])
    assert rollout.right.tolist() == RIGHT


def test_kl_to_the_reference_is_taken_off_rewards_before_the_groups_mean() -> None:
    """Question 0, rewards 1 0 1 0 less half of 0.4, 0, -0.4, 0.8: 0.8, 0, 1.2, -0.4 with mean 0.4. By hand."""
    kl = torch.tensor([0.4, 0.0, -0.4, 0.8, 1.0, 1.0, 1.0, 1.0, 0.0, 0.2, 0.0, 0.0], dtype=torch.float64)
    rollout, engine = collected(algo=algo_config("drgrpo", kl_in_reward=0.5), response_kl=lambda batch: kl)
    assert rollout.rewards.tolist() == pytest.approx([0.8, 0.0, 1.2, -0.4, *[0.5] * 4, 0.0, -0.1, 0.0, 0.0])
    assert rollout.advantages.tolist() == pytest.approx([0.4, -0.4, 0.8, -0.8, *[0.0] * 4, 0.025, -0.075, 0.025, 0.025])
    assert (rollout.right.tolist(), rollout.metrics["reward/kl"]) == (RIGHT, pytest.approx(5.0 / 12))
    assert engine.asleep == 2, "the engine leaves the device before the reference is asked, and again at the end"
    assert "reward/kl" not in collected()[0].metrics


def test_the_published_advantages_are_at_hand() -> None:
    rollout, _ = collected(algo=algo_config("drgrpo", advantage="leave_one_out"))
    assert rollout.advantages[:4].tolist() == pytest.approx([2 / 3, -2 / 3, 2 / 3, -2 / 3])
    grpo, _ = collected(algo=algo_config("grpo"))
    assert grpo.advantages[:4].tolist() == pytest.approx([3**0.5 / 2, -(3**0.5) / 2] * 2)


# -- functions of the user's own --------------------------------------------------------------------------------------


def of_the_batch(batch: RolloutBatch, scale: float = 1.0) -> torch.Tensor:
    """Sees what is known of the responses."""
    number = torch.tensor([float(q.meta["number"]) for q in batch.questions])
    return scale * (batch.right.float() + batch.lengths / 100 + number)


def of_two(rewards: torch.Tensor, group_size: int, power: float = 1.0) -> torch.Tensor:
    groups = rewards.view(-1, group_size)
    return ((groups - groups.mean(dim=1, keepdim=True)) / 2).flatten() ** power - 0.01


def credit_of_the_batch(batch: RolloutBatch, first: float = 2.0) -> list[torch.Tensor]:
    """Sees the advantages as well."""
    assert torch.isfinite(batch.advantages).all()
    return [torch.full((len(ids),), first) for ids in batch.tokens]


def credit_of_two(rollout: RolloutBatch, decode: Any) -> list[torch.Tensor]:
    return [torch.full((len(c.ids),), float(len(decode(c.ids).split()))) for c in rollout.completions]


def short(batch: RolloutBatch) -> torch.Tensor:
    return batch.rewards[:3]


def infinite(rewards: torch.Tensor, group_size: int) -> torch.Tensor:
    return torch.where(torch.arange(len(rewards)) == 2, torch.inf, rewards)


def short_credit(batch: RolloutBatch) -> list[torch.Tensor]:
    return [torch.ones(1) for _ in batch.completions]


def test_own_functions_see_the_batch_and_the_older_form_goes_on() -> None:
    rollout, _ = collected(
        algo=algo_config("drgrpo", advantage=f"{__name__}.of_the_batch", advantage_params={"scale": 2.0})
    )
    expected = [
        2 * (r + (3 + int(a)) / 100 + i // 4) for i, (r, a) in enumerate(zip(RIGHT, sum(ANSWERS, ()), strict=True))
    ]
    assert rollout.advantages.tolist() == pytest.approx(expected)
    assert rollout.metrics["group/zero_advantage_frac"] == 0.0, "taken of what the loss uses"
    older, _ = collected(algo=algo_config("drgrpo", advantage=f"{__name__}.of_two"))
    assert older.advantages.tolist() == pytest.approx([0.24, -0.26, 0.24, -0.26] + [-0.01] * 8)
    both, _ = collected(
        algo=algo_config("drgrpo", credit=f"{__name__}.credit_of_the_batch", credit_params={"first": 3.0})
    )
    assert both.credit is not None
    assert both.credit[0].tolist() == [3.0] * 11
    decoded, _ = collected(algo=algo_config("drgrpo", credit=f"{__name__}.credit_of_two"))
    assert decoded.credit is not None
    assert decoded.credit[0].tolist() == [11.0] * 11


@pytest.mark.parametrize(
    ("setting", "function", "message"),
    [
        ("advantage", "short", r"it gave shape \(3,\); \(12,\) is needed"),
        ("advantage", "infinite", "it gave inf for response 2; advantages must be finite"),
        ("credit", "short_credit", "response 0 weights of shape"),
    ],
)
def test_a_function_that_gives_something_else_is_one_line(setting: str, function: str, message: str) -> None:
    with pytest.raises(UserError, match=rf"algo.{setting}=.*{function}: .*{message}") as error:
        collected(algo=algo_config("drgrpo", **{setting: f"{__name__}.{function}"}))
    assert "\n" not in str(error.value)


def test_functions_are_looked_up_before_anything_is_sampled() -> None:
    cfg: Any = SimpleNamespace(algo=algo_config("drgrpo", credit="lenght_aware"))
    nothing: Any = None
    with pytest.raises(UserError, match=r"algo\.credit=lenght_aware is unknown"):
        Collector(cfg, nothing, nothing, nothing, nothing)


def test_the_question_sampler_is_told_the_verdicts() -> None:
    """Not the rewards, which a weight of 0.4 keeps below any threshold."""
    asked = [Prompt(Question(f"q{i}", (GOLD,), meta={"number": i}), f"q{i}", [i + 1]) for i in range(6)]
    loader = SampledLoader(asked, 3, 3, 0, rule=curriculum)
    batch: PromptBatch = next(iter(loader))
    rollout, _ = collected(RewardConfig(name="x", workers=1, weight=0.4), batch=batch, history=loader)
    rates = [loader.history.rate(prompt.ids[0] - 1) for prompt in batch.prompts]
    assert rates == [0.5, 1.0, 0.0]
    assert rollout.metrics["sampler/known"] == 3.0
