"""Responses on disk: what is there is not drawn again, and nothing depends on what was drawn before."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest

from r1zero.batch import Prompt, Question
from r1zero.config import RewardConfig
from r1zero.errors import UserError
from r1zero.evaluate.sampler import Failure, Response
from r1zero.evaluate.store import ResponseStore, check_draw, describe_draw, outcomes_of, record_draw
from r1zero.reward.grader import Grader
from r1zero.rollout.engine import Sampling

PROMPTS = [
    Prompt(Question(f"1+{i}=?", (str(i + 1),), "sums", i, {"level": i % 3, "type": "easy"}), f"Q{i}", [i])
    for i in range(11)
]
SAMPLING = Sampling(n=2, max_tokens=8)


@pytest.fixture(scope="module")
def grader() -> Iterator[Grader]:
    with Grader(RewardConfig(name="math_verify")) as made:
        yield made


class FakeSampler:
    """Draws by (seed, question, sample); ``whole`` draws every response of a chunk as an engine does."""

    def __init__(self, whole: bool = True, fail: set[str] = frozenset(), stop_after: int = 10**9) -> None:
        self.whole, self.fail, self.stop_after = whole, fail, stop_after
        self.calls: list[tuple[list[str], int]] = []

    def sample(self, prompts, sampling, seed, wanted):
        if len(self.calls) >= self.stop_after:
            raise KeyboardInterrupt
        self.calls.append(([p.text for p in prompts], len(wanted)))
        keys = [(q, s) for q in range(len(prompts)) for s in range(sampling.n)] if self.whole else sorted(wanted)
        made: dict = {}
        for q, s in keys:
            if f"{prompts[q].text}.{s}" in self.fail:
                made[q, s] = Failure("the server took too long")
            else:
                number = (seed + 7 * q + s) % 13
                made[q, s] = Response(f"\\boxed{{{number}}}", number + 1, "length" if number == 5 else "stop")
        return made

    def close(self) -> None:
        pass


def collected(folder: Path, grader: Grader, sampler: FakeSampler, seed: int = 0) -> ResponseStore:
    store = ResponseStore(folder, chunk=4, seed=seed)
    store.collect("sums", PROMPTS, sampler, grader, SAMPLING)
    return store


def responses(store: ResponseStore) -> pd.DataFrame:
    return store.read("sums").drop(columns="seconds")


def test_an_interrupted_collection_goes_on_and_equals_an_uninterrupted_one(tmp_path, grader):
    whole = collected(tmp_path / "a", grader, FakeSampler())
    with pytest.raises(KeyboardInterrupt):
        collected(tmp_path / "b", grader, FakeSampler(stop_after=2))
    second = FakeSampler()
    resumed = collected(tmp_path / "b", grader, second)
    assert second.calls == [(["Q8", "Q9", "Q10"], 6)]  # only the third chunk
    pd.testing.assert_frame_equal(responses(resumed), responses(whole))
    third = FakeSampler(stop_after=0)
    collected(tmp_path / "b", grader, third)  # asks for nothing
    assert resumed.missing("sums", 11, 2) == 0


def test_another_seed_draws_other_responses_and_chunks_differ(tmp_path, grader):
    one, other = (collected(tmp_path / str(seed), grader, FakeSampler(), seed) for seed in (0, 1))
    assert (responses(one)["response"] != responses(other)["response"]).any()
    first, second = responses(one)["response"][:8].tolist(), responses(one)["response"][8:16].tolist()
    assert first != second  # equal chunks would mean that they share a seed


def test_rows_say_what_was_asked_and_what_the_verifier_says(tmp_path, grader):
    table = collected(tmp_path, grader, FakeSampler()).read("sums")
    assert len(table) == 22
    assert table[["question", "sample"]].values.tolist() == [[q, s] for q in range(11) for s in range(2)]
    row = table.iloc[6]
    assert (row["text"], list(row["gold"]), row["level"], row["subject"]) == ("1+3=?", ["4"], "0", "easy")
    for _, row in table.iterrows():
        expected = row["finish_reason"] == "stop" and row["response"] == f"\\boxed{{{row['gold'][0]}}}"
        assert row["right"] == expected
    assert set(table[table["finish_reason"] == "length"]["status"]) <= {"truncated"}
    assert [o.right for o in outcomes_of(table)] == table["right"].tolist()


def test_failures_are_not_rows_and_only_they_are_asked_for_again(tmp_path, grader):
    """A missing response is never wrong."""
    whole = collected(tmp_path / "a", grader, FakeSampler(whole=False))
    store = collected(tmp_path / "b", grader, FakeSampler(whole=False, fail={"Q1.0", "Q9.1"}))
    assert store.missing("sums", 11, 2) == 2
    assert [(f["question"], f["sample"]) for f in store.failures] == [(1, 0), (9, 1)]
    again = FakeSampler(whole=False)
    store = collected(tmp_path / "b", grader, again)
    assert [count for _, count in again.calls] == [1, 1]
    pd.testing.assert_frame_equal(responses(store), responses(whole))


def test_a_chunk_of_which_nothing_came_leaves_no_file(tmp_path, grader):
    everything = {f"Q{q}.{s}" for q in range(4) for s in range(2)}
    store = collected(tmp_path, grader, FakeSampler(whole=False, fail=everything))
    assert not store.part("sums", 0).exists()
    assert store.part("sums", 1).exists()
    assert store.missing("sums", 11, 2) == 8


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (dict(sampling=Sampling(n=2, max_tokens=9)), "sampling.max_tokens=8, not 9"),
        (dict(seed=1), "seed=0, not 1"),
        (dict(model={"path": "other"}), "model.path=m, not other"),
        (dict(sets={"sums": PROMPTS[:3]}), "sets.sums.questions=11, not 3"),
        (dict(template=SimpleNamespace(name="t", text="{question}!", extractor="boxed")), "template.text="),
    ],
)
def test_responses_drawn_otherwise_are_not_mixed(tmp_path, change, named):
    template = SimpleNamespace(name="t", text="{question}", extractor="boxed")
    settings = dict(model={"path": "m"}, template=template, sampling=SAMPLING, seed=0, chunk=4, sets={"sums": PROMPTS})
    check_draw(tmp_path, describe_draw(**settings))
    assert not list(tmp_path.iterdir()), "looking at it stores nothing"
    record_draw(tmp_path, describe_draw(**settings))
    check_draw(tmp_path, describe_draw(**settings))
    with pytest.raises(UserError, match="were drawn with") as error:
        check_draw(tmp_path, describe_draw(**{**settings, **change}))
    assert named in str(error.value)
    assert "\n" not in str(error.value)


def test_changed_questions_are_noticed(tmp_path):
    template = SimpleNamespace(name="t", text="{question}", extractor="boxed")
    other = [*PROMPTS[:-1], Prompt(Question("1+10=?", ("12",)), "Q10", [10])]
    old, new = (describe_draw({}, template, SAMPLING, 0, 4, {"sums": p}) for p in (PROMPTS, other))
    assert old["sets"]["sums"]["digest"] != new["sets"]["sums"]["digest"]
