"""The calculator's environment: what it answers, whose tokens are trained, limits and seeds, with real engines."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from objective_support import algo_config, furthest, gradients, plain_loss, sequence_logprobs
from r1zero.algo.advantages import group_advantages
from r1zero.algo.stats import Tally
from r1zero.batch import Completion, Prompt, Question, RolloutBatch
from r1zero.config import ASSETS
from r1zero.errors import UserError
from r1zero.learn.collate import collate
from r1zero.learn.measure import declare
from r1zero.learn.policy import Policy
from r1zero.learn.step import Learner
from r1zero.rollout.build import build_engine
from r1zero.rollout.calculator import SPARE, Calculator, answer
from r1zero.rollout.engine import Engine, EngineAround, Sampling
from r1zero.rollout_config import RolloutConfig

TINY = str(ASSETS / "tiny")
TOKENIZER = AutoTokenizer.from_pretrained(TINY)
CONTEXT = 160
QUESTIONS = [f"Question: {sum_}=?\nAnswer:" for sum_ in ("3+6-2-5", "7+6-2+5", "9-4+8+2", "5+5+5-9")]
PROMPTS = [TOKENIZER.encode(text) for text in QUESTIONS]
SAMPLING = Sampling(n=4, max_tokens=60, stop_ids=(0, 2))


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("3+6=", "9"), ("So 3+6=9. 9-12=", "-3"), ("12*3 =", "36"), ("1/4=", "0.25"), ("1/3=", "0.333333"),
        ("(1+2)*3=", "9"), ("-3+5=", "2"), ("1.5+1.5=", "3"), ("2*-3=", None), ("x 10/4/5=", "0.5"),
        ("3+6", None), ("3+6=9", None), ("9=", None), ("x=", None), ("x-3+5=", None), ("1/0=", None),
        ("(1+2=", None), ("1+2)=", None), ("2**9=", None), ("007+1=", None), ("a3+4=", None), ("3+4=?", None),
        ("9" * 200 + "+1=", None), ("1+" * 5000 + "1=", None), ("__import__('os').system('x')+1=", None),
    ],
)  # fmt: skip
def test_what_the_calculator_answers(text, wanted):
    assert answer(text) == wanted


@pytest.fixture(scope="module", params=[pytest.param("hf"), pytest.param("vllm", marks=[pytest.mark.vllm])])
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    config = RolloutConfig(name=request.param, kv_cache_gib=0.05, max_num_seqs=32, environment="calculator",
                           environment_params={"calls": 3})  # fmt: skip
    engine = build_engine(config, TINY, dtype="float32", context=CONTEXT)
    yield engine
    engine.close()


def flat(groups: list[list[Completion]]) -> list[Completion]:
    return [completion for group in groups for completion in group]


def runs(completion: Completion) -> list[tuple[str, str]]:
    """(text in front, text inserted) of every answer."""
    found, at = [], 0
    mask = completion.mask or []
    while False in mask[at:]:
        start = mask.index(False, at)
        at = start
        while at < len(mask) and not mask[at]:
            at += 1
        found.append((TOKENIZER.decode(completion.ids[:start]), TOKENIZER.decode(completion.ids[start:at])))
    return found


def test_answers_stand_behind_calls_and_are_no_tokens_of_the_policy(engine):
    groups = engine.generate(PROMPTS, SAMPLING, seed=5)
    inserted = [pair for completion in flat(groups) for pair in runs(completion)]
    assert len(inserted) > 20
    for before, put in inserted:
        assert put == answer(before)
    for completion in flat(groups):
        assert len(runs(completion)) <= 3
        assert completion.logprobs is not None
        assert len(completion.ids) == len(completion.logprobs) == len(completion.mask or completion.ids)
        assert completion.text == TOKENIZER.decode(completion.ids, skip_special_tokens=True)
        assert completion.length == len(completion.ids) - sum(len(TOKENIZER.encode(p)) for _, p in runs(completion))
    assert len(flat(groups)) == 16
    assert [len(group) for group in groups] == [4, 4, 4, 4]


def test_sampled_tokens_have_the_learners_log_probabilities(engine):
    """In every turn, behind inserted tokens too: the policy reads what it will be trained on."""
    model = AutoModelForCausalLM.from_pretrained(TINY).eval()
    groups = engine.generate(PROMPTS, SAMPLING, seed=6)
    with torch.no_grad():
        for prompt, group in zip(PROMPTS, groups, strict=True):
            for completion in group:
                learner, _ = sequence_logprobs(model, prompt, completion.ids, 1.0)
                difference = (learner - torch.tensor(completion.logprobs)).abs()
                assert float(difference[completion.sampled()].max()) < 1e-4


def test_equal_seeds_give_equal_responses_and_others_others(engine):
    first, second, third = (engine.generate(PROMPTS, SAMPLING, seed) for seed in (7, 7, 8))
    assert first == second
    assert first != third
    assert engine.generate([], SAMPLING, 7) == []


@pytest.mark.parametrize("limit", [1, 4, 5, 6, 7, 12])
def test_the_limit_holds_for_all_tokens_together(engine, limit):
    groups = flat(engine.generate(PROMPTS, replace(SAMPLING, max_tokens=limit), seed=9))
    for completion in groups:
        assert 1 <= len(completion.ids) <= limit
        assert completion.ids[-1] in SAMPLING.stop_ids or completion.finish_reason == "length"
        assert (completion.mask or [True])[-1]  # an answer is put in only where the policy can go on
    assert any(completion.truncated for completion in groups)


def test_a_full_context_leaves_room_for_every_turn(engine):
    """Prompt and limit fill the context, and the prompts have different lengths."""
    long = TOKENIZER.encode("Question: 4+4-1=?\nAnswer: " + "Hmm, wait. " * 20)
    prompts = [(long * 9)[-100:], PROMPTS[0], (long * 9)[-90:]]
    groups = engine.generate(prompts, replace(SAMPLING, n=8), seed=3)
    assert all(len(completion.ids) <= 60 for completion in flat(groups))


def test_greedy_answers_and_no_log_probabilities(engine):
    greedy = Sampling(n=1, max_tokens=60, temperature=0.0, stop_ids=(0, 2), logprobs=False)
    groups = flat(engine.generate(PROMPTS, greedy, seed=1))
    assert all(completion.logprobs is None for completion in groups)
    assert sum(len(runs(completion)) for completion in groups) >= 8


def test_a_stop_string_of_the_template_ends_the_response(engine):
    groups = flat(engine.generate(PROMPTS, replace(SAMPLING, stop=(" So",), keep_stop=True), seed=2))
    ended = [completion for completion in groups if completion.finish_reason == "stop"]
    assert all(completion.text.endswith(" So") or completion.ids[-1] in SAMPLING.stop_ids for completion in ended)
    assert sum(completion.text.endswith(" So") for completion in ended) > 8


class Script(EngineAround):
    """An engine that says what it is told, one text a request, and remembers what it was asked."""

    def __init__(self, *texts: str) -> None:
        self.texts, self.asked = list(texts), []

    def generate(self, prompts: list[list[int]], sampling: Sampling, seed: int) -> list[list[Completion]]:
        self.asked.append((prompts, sampling, seed))
        groups = []
        for _ in prompts:
            ids = TOKENIZER.encode(self.texts.pop(0))[: sampling.max_tokens]
            reason = "length" if len(ids) == sampling.max_tokens else "stop"
            groups.append([Completion(ids, "", reason, [-1.0] * len(ids))])
        return groups


def play(*texts: str, calls: int = 1, **settings: Any) -> tuple[Completion, Script]:
    script = Script(*texts)
    sampling = replace(Sampling(n=1, max_tokens=30, stop_ids=(0,)), **settings)
    return Calculator(script, TOKENIZER, 64, calls).generate([[50, 51]], sampling, 4)[0][0], script


def test_turns_by_hand():
    done, script = play(" 3+6=", " so", "unused")
    assert done.ids == TOKENIZER.encode(" 3+6=") + TOKENIZER.encode("9") + TOKENIZER.encode(" so")
    assert done.mask == [True] * len(TOKENIZER.encode(" 3+6=")) + [False] + [True] * len(TOKENIZER.encode(" so"))
    assert done.logprobs == [-1.0 if sampled else 0.0 for sampled in done.mask]
    assert [(asked[1].stop, asked[1].max_tokens) for asked in script.asked] == [(("=",), 30), ((), 24)]
    assert script.asked[1][0] == [[50, 51, *done.ids[:6]]]
    assert len({asked[2] for asked in script.asked}) == 2


def test_what_is_no_call_goes_on_without_an_answer():
    done, script = play(" x=", "5=", "3+6=", " so")
    assert TOKENIZER.decode(done.ids) == " x=5=3+6=9 so"
    assert runs(done) == [(" x=5=3+6=", "9")]
    done, script = play(*[" x="] * (SPARE + 1), max_tokens=60)
    assert done.mask is None
    assert [asked[1].stop for asked in script.asked] == [("=",)] * SPARE + [()]


def test_an_answer_without_room_ends_the_response():
    full = len(TOKENIZER.encode(" 3+6="))
    for room, put in ((1, 0), (2, 1)):
        done, _ = play(" 3+6=", " so", max_tokens=full + room)
        assert (done.finish_reason, len(done.ids), runs(done) != []) == ("length", full + put * 2, bool(put))


@pytest.mark.parametrize("calls", [0, -1, 1.5, "many", None, 10**9])
def test_calls_that_make_no_sense_are_told(calls):
    with pytest.raises(UserError, match=r"rollout\.environment_params\.calls="):
        Calculator(Script(), TOKENIZER, 64, calls)


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"environment": "abacus"}, "rollout.environment=abacus is unknown; choose calculator"),
        ({"environment": "os.system"}, "rollout.environment=os.system is not allowed"),
        ({"environment": "calculator", "environment_params": {"turns": 2}}, "rollout.environment_params do not fit"),
    ],
)
def test_environments_that_do_not_fit_are_told_before_an_engine_starts(settings, line):
    with pytest.raises(UserError, match=line):
        build_engine(RolloutConfig(name="vllm", **settings), "nowhere", dtype="float32", context=8)


def test_inserted_tokens_have_no_gradient():
    """The learner's gradient is that of a plain loop over the sampled tokens, whatever stands at the inserted ones."""
    inner = build_engine(RolloutConfig(name="hf"), TINY, dtype="float32", context=CONTEXT)
    groups = Calculator(inner, TOKENIZER, CONTEXT, calls=2).generate(PROMPTS[:2], SAMPLING, seed=11)
    completions = flat(groups)
    assert sum(completion.mask is not None for completion in completions) > 4
    for completion in completions:  # what no sampler said must be looked at by nobody
        completion.logprobs = [
            value if sampled else math.nan
            for value, sampled in zip(completion.logprobs or [], completion.sampled().tolist(), strict=True)
        ]
    draw = random.Random(0)
    rewards = torch.tensor([float(draw.random() < 0.5) for _ in completions])
    advantages = group_advantages(rewards, 4, std_norm=False)
    batch = RolloutBatch(completions, 4, 0, rewards, rewards > 0.5, [c.sampled() for c in completions], advantages)
    prompts = [Prompt(Question("q", ("1",)), "q", ids) for ids in PROMPTS[:2]]
    policy = Policy(AutoModelForCausalLM.from_pretrained(TINY).double()).train()
    rows, found = list(range(len(completions))), {}
    for name in ("drgrpo", "token"):
        algo = algo_config(name, minibatch_size=8)
        learner = Learner(policy, None, algo, temperature=1.0, constant=60.0, max_tokens=10**6)
        micro = collate([prompts[row // 4] for row in rows], completions)
        tally = Tally()
        declare(tally)
        tokens = sum(int(mask.sum()) for mask in batch.mask)
        loss = learner.loss(batch, rows, micro, old=None, num_tokens=tokens, tally=tally)
        loss.backward()
        found[name] = gradients(policy)
        expected = plain_loss(policy.model, prompts, batch, rows, algo, temperature=1.0, constant=60.0)
        expected.backward()
        assert loss.item() == pytest.approx(expected.item(), abs=1e-10)
        assert furthest(found[name], gradients(policy)) < 1e-10
        everywhere = replace(batch, mask=[torch.ones_like(mask) for mask in batch.mask])
        plain_loss(policy.model, prompts, everywhere, rows, algo, temperature=1.0, constant=60.0).backward()
        assert furthest(found[name], gradients(policy)) > 1e-6  # the loop would tell
