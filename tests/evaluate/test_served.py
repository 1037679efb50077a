"""A model behind a server: faults are tried again or reported, never graded."""

from __future__ import annotations

import asyncio
import time

import openai
import pytest

from openai_stub import Stub
from r1zero.batch import Prompt, Question
from r1zero.data.templates import Template
from r1zero.errors import UserError
from r1zero.evaluate.config import ServerConfig
from r1zero.evaluate.retry import Caller, RequestFailed
from r1zero.evaluate.sampler import Failure, Response
from r1zero.evaluate.served import ServedModel
from r1zero.rollout.engine import Sampling

QWEN = Template("qwen", "<q>{question}", stop_tokens=("<|im_end|>", "absent"))
R1 = Template("r1", "R1 {question} <think>", stop=("</answer>",), extractor="answer_tag")


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch):
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.01)


PROMPTS = [Prompt(Question(f"q{i}", ("1",)), f"<q>q{i}", []) for i in range(6)]
WANTED = {(q, s) for q in range(6) for s in range(2)}


def model(stub: Stub, template: Template = QWEN, **settings) -> ServedModel:
    return ServedModel(ServerConfig(url=stub.url, **({"retries": 3} | settings)), template)


def sampling(template: Template = QWEN) -> Sampling:
    return Sampling(n=2, max_tokens=32, temperature=0.7, stop=template.stop, keep_stop=template.keep_stop)


def drawn(served: ServedModel, seed: int = 5, wanted=WANTED):
    return served.sample(PROMPTS, sampling(), seed, wanted)


def test_every_response_has_a_request_and_a_seed_of_its_own():
    with Stub(lambda body: f"{body['prompt']} {body['seed']}") as stub:
        stub.fault = lambda number, body: 0.05
        results = drawn(model(stub, concurrency=3))
        assert set(results) == WANTED
        assert len({body["seed"] for body in stub.bodies}) == 12
        assert {r.text.split()[0] for r in results.values()} == {p.text for p in PROMPTS}
        assert all(results[q, s].text.startswith(PROMPTS[q].text + " ") for q, s in results)
        assert 1 < stub.most_under_way <= 3
        one = drawn(model(stub), wanted={(4, 1)})
        assert one == {(4, 1): results[4, 1]}  # the same response, drawn alone
        assert len(stub.bodies) == 13
        assert results[0, 0].tokens == 3  # what the server counts


def test_a_vllm_server_is_told_every_sampling_field():
    """Trap 21: gaps would be filled from the model's generation config. Trap 16: the template's stop tokens."""
    with Stub() as stub:
        drawn(model(stub), wanted={(0, 0)})
        body = stub.bodies[0]
    told = dict(n=1, max_tokens=32, temperature=0.7, top_p=1.0, presence_penalty=0.0, frequency_penalty=0.0)
    told |= dict(top_k=-1, min_p=0.0, repetition_penalty=1.0, stop_token_ids=[7], include_stop_str_in_output=True)
    assert {k: body[k] for k in told} == told


def test_another_server_is_sent_the_openai_fields_alone():
    with Stub() as stub:
        drawn(model(stub, kind="openai"), wanted={(0, 0)})
        assert not {"top_k", "min_p", "repetition_penalty", "stop_token_ids", "extra_body"} & set(stub.bodies[0])


def test_a_kept_stop_string_is_cut_here_where_the_server_would_drop_it():
    """Trap 26: the answer_tag extractor needs </answer>."""
    texts = {"q0": "x </think> <answer> 1 </answer> and more", "q1": ("never ends", "length")}
    with Stub(lambda body: texts[body["prompt"].split()[1]]) as stub:
        served = model(stub, R1, kind="openai")
        prompts = [Prompt(Question(q, ("1",)), R1.render(q), []) for q in ("q0", "q1")]
        results = served.sample(prompts, Sampling(stop=R1.stop, keep_stop=True), 0, {(0, 0), (1, 0)})
        assert "stop" not in stub.bodies[0]
    assert results[0, 0].text == "x </think> <answer> 1 </answer>"
    assert not results[0, 0].truncated
    assert results[1, 0].truncated


def test_a_chat_template_goes_through_the_chat_end_point():
    chat = Template("chat", "{question} box it", chat=True, system="Be brief.")
    with Stub(lambda body: body["messages"][-1]["content"]) as stub:
        served = model(stub, chat)
        results = served.sample([Prompt(Question("q", ("1",)), chat.render("q"), [])], Sampling(), 0, {(0, 0)})
        assert results[0, 0].text == "q box it"
        assert [m["role"] for m in stub.bodies[0]["messages"]] == ["system", "user"]


@pytest.mark.parametrize("status", [408, 409, 429, 500, 503])
def test_passing_faults_are_tried_again(status):
    with Stub() as stub:
        served = model(stub)
        stub.fault = lambda number, body: status if number < 3 else None
        assert all(isinstance(r, Response) for r in drawn(served).values())
        assert len(stub.bodies) == 12 + 3


def test_the_wait_that_the_server_asks_for_is_kept():
    with Stub() as stub:
        served = model(stub)
        stub.headers = {"retry-after": "0.4"}
        stub.fault = lambda number, body: 429 if number == 0 else None
        started = time.monotonic()
        drawn(served, wanted={(0, 0)})
        assert time.monotonic() - started >= 0.4


def test_a_fault_that_stays_is_a_failure():
    with Stub() as stub:
        served = model(stub, retries=1)
        stub.fault = lambda number, body: 500
        result = drawn(served, wanted={(0, 0)})[0, 0]
        assert len(stub.bodies) == 2
    assert isinstance(result, Failure)
    assert result.reason.startswith("status 500")


def test_a_slow_answer_is_a_time_out_and_the_others_come():
    with Stub() as stub:
        served = model(stub, timeout=1.5, retries=1)
        stub.fault = lambda number, body: 30.0 if body["prompt"] == "<q>q2" else None
        results = drawn(served)
    late = {key for key, r in results.items() if isinstance(r, Failure)}
    assert late == {(2, 0), (2, 1)}
    assert "too long" in results[2, 0].reason


def test_a_refused_request_is_not_repeated():
    with Stub() as stub:
        served = model(stub)
        stub.fault = lambda number, body: 400 if body["prompt"] == "<q>q1" else None
        results = drawn(served)
        assert [k for k, r in sorted(results.items()) if isinstance(r, Failure)] == [(1, 0), (1, 1)]
        assert len(stub.bodies) == 12


def test_a_server_that_dies_midway_is_noticed_at_once():
    """What came before stays; the rest fails without every request waiting through its attempts."""
    with Stub() as stub:
        served = model(stub, concurrency=2)
        stub.die_after = 5
        results = drawn(served)
    failed = [r for r in results.values() if isinstance(r, Failure)]
    assert 0 < len(failed) <= 7
    assert len(results) - len(failed) >= 5
    assert "can't be reached" in failed[0].reason
    calls = []

    async def lost():
        calls.append(1)
        await asyncio.sleep(0.01)
        raise openai.APIConnectionError(request=None)

    async def seven():
        caller = Caller(2, None)
        return await asyncio.gather(*(caller.call(lost) for _ in range(7)), return_exceptions=True)

    assert [type(error) for error in asyncio.run(seven())] == [RequestFailed] * 7
    assert len(calls) == 2, "the two requests under way, not all seven"


@pytest.mark.parametrize("reply", [("x", "abort"), ("x", None)])
def test_an_unknown_end_is_no_response(reply):
    with Stub(lambda body: reply) as stub:
        result = drawn(model(stub, retries=0), wanted={(0, 0)})[0, 0]
        assert isinstance(result, Failure)
        assert "finish_reason" in result.reason


def test_a_server_that_is_not_there_is_one_line():
    stub = Stub()
    stub.close()
    with pytest.raises(UserError, match=r"can't be reached.*is it running") as error:
        model(stub)
    assert "\n" not in str(error.value)
    assert stub.url in str(error.value)


def test_a_wrong_model_name_is_one_line():
    with Stub(name="real") as stub, pytest.raises(UserError, match=r"server\.model=wrong: .* serves real"):
        model(stub, model="wrong")


def test_the_key_is_sent_and_never_shown(monkeypatch):
    monkeypatch.setenv("MY_KEY", "sk-secret-123")
    with Stub() as stub:
        served = model(stub, key_env="MY_KEY")
        stub.fault = lambda number, body: 401 if number % 2 else 400
        results = drawn(served)
        assert "Bearer sk-secret-123" in stub.keys
    reasons = {r.reason for r in results.values()}
    assert all("sk-secret" not in reason for reason in reasons)
    assert any("refused the key of $MY_KEY" in reason for reason in reasons)


def test_a_key_in_a_servers_message_is_cut_out(monkeypatch):
    monkeypatch.setenv("MY_KEY", "sk-secret-123")
    assert Caller(1, "MY_KEY")._clean(ValueError("bad key sk-secret-123")) == "bad key ***"
