"""Credit over tokens: hand-worked weights, and that they reach the gradient of the loss that trains."""

from __future__ import annotations

import pytest
import torch

from r1zero.algo.credit import CREDITS, allocate, answer_span, length_aware, uniform
from r1zero.batch import Completion, RolloutBatch
from r1zero.errors import UserError
from r1zero.launch.plugins import find_function


def decode(ids: list[int]) -> str:
    """One character a token."""
    return "".join(map(chr, ids))


def rollout(texts: list[str], rewards: list[float]) -> RolloutBatch:
    completions = [Completion([ord(c) for c in text], text, "stop") for text in texts]
    r = torch.tensor(rewards, dtype=torch.float32)
    return RolloutBatch(completions, len(texts), 0, r, r > 0.5, [c.sampled() for c in completions], r - r.mean())


def test_uniform_is_ones() -> None:
    assert [w.tolist() for w in uniform(rollout(["abc", "d"], [1, 0]), decode)] == [[1, 1, 1], [1]]


def test_length_aware_by_hand() -> None:
    """Mean length 5: a right answer of 2 weighs 5/2, cut to 2; a wrong one of 8 weighs 8/5."""
    found = length_aware(rollout(["ab", "abcdefgh"], [1, 0]), decode, power=1.0, most=2.0)
    assert found[0].tolist() == [2.0, 2.0]
    assert found[1].tolist() == pytest.approx([1.6] * 8)
    wrong_short, right_long = length_aware(rollout(["ab", "abcdefgh"], [0, 1]), decode, power=1.0, most=2.0)
    assert wrong_short[0] == pytest.approx(0.5)  # 2/5, not below 1/2
    assert right_long[0] == pytest.approx(5 / 8)


@pytest.mark.parametrize("opening", ["\\boxed{", "<answer>"])
def test_answer_span_gives_the_answer_its_share(opening: str) -> None:
    text = f"work {opening}1}} then {opening}42}}"
    (found,) = answer_span(rollout([text], [1]), decode, share=0.25)
    start = text.rindex(opening)
    assert found[start:].sum() == pytest.approx(0.25 * len(text))
    assert found[:start].sum() == pytest.approx(0.75 * len(text))
    assert found.unique().numel() == 2


def test_answer_span_without_answer_or_working_is_uniform() -> None:
    found = answer_span(rollout(["no answer", "\\boxed{1}"], [1, 0]), decode)
    assert all((w == 1).all() for w in found)


def test_answer_span_counts_tokens_of_several_characters() -> None:
    pieces = [" 3+4=7.", " So", " \\", "boxed", "{", "7", "}"]
    completion = Completion(list(range(7)), "".join(pieces), "stop")
    batch = RolloutBatch([completion], 1, 0, torch.ones(1), torch.ones(1).bool(), [completion.sampled()])
    (found,) = answer_span(batch, lambda ids: "".join(pieces[i] for i in ids), share=0.5)
    assert found.tolist() == pytest.approx([1.75, 1.75, 0.7, 0.7, 0.7, 0.7, 0.7])


def test_a_rule_that_gives_wrong_shapes_or_nan_is_refused() -> None:
    batch = rollout(["abc", "d"], [1, 0])
    with pytest.raises(ValueError, match="1 rows for 2 responses"):
        allocate(lambda r, d: [torch.ones(3)], batch, decode, {})
    with pytest.raises(ValueError, match="response 1 weights of shape"):
        allocate(lambda r, d: [torch.ones(3), torch.ones(2)], batch, decode, {})
    with pytest.raises(ValueError, match="finite"):
        allocate(lambda r, d: [torch.full((3,), float("nan")), torch.ones(1)], batch, decode, {})


def test_user_functions_are_found_by_import_path(tmp_path, monkeypatch) -> None:
    (tmp_path / "my_credit_ideas.py").write_text("def tail(rollout, decode, keep=1):\n    return keep\nnumber = 3\n")
    (tmp_path / "my_broken_ideas.py").write_text("import no_such_module_anywhere\n")
    monkeypatch.chdir(tmp_path)
    assert find_function("my_credit_ideas.tail", CREDITS, "algo.credit", {"keep": 2})(None, None, keep=2) == 2
    assert find_function("length_aware", CREDITS, "algo.credit", {"power": 1}) is length_aware
    for name, given, message in [
        ("lengthaware", {}, "is unknown; choose uniform, length_aware, answer_span, or the import path"),
        ("my_credit_ideas.head", {}, "has no function head"),
        ("my_credit_ideas.number", {}, "number is not a function"),
        ("no_such_ideas.f", {}, "there is no module"),
        ("my_broken_ideas.f", {}, "no_such_module_anywhere"),
        ("my_credit_ideas.tail", {"kept": 1}, "algo.credit_params do not fit"),
    ]:
        with pytest.raises(UserError, match=message) as caught:
            find_function(name, CREDITS, "algo.credit", given)
        assert "\n" not in str(caught.value)


def test_weights_multiply_each_tokens_gradient() -> None:
    """Through the learner: dL/dlogp_it = -A_i weight_it / C / B, with rows of unequal length."""
    from r1zero.algo.stats import Tally
    from r1zero.algo_config import AlgoConfig
    from r1zero.batch import Prompt, Question
    from r1zero.learn.collate import collate
    from r1zero.learn.step import Learner

    batch = rollout(["abc", "de"], [1, 0])
    batch.credit = [torch.tensor([1.0, 2.0, 0.5]), torch.tensor([0.0, 3.0])]
    logp = torch.full((2, 3), -1.0, requires_grad=True)

    def policy(micro, temperature, with_entropy=True):
        return logp, torch.zeros(2, 3)

    algo = AlgoConfig(name="drgrpo", minibatch_size=2)
    learner = Learner(policy, None, algo, temperature=1.0, constant=10.0, max_tokens=100)  # type: ignore[arg-type]
    prompt = Prompt(Question("q", ("1",)), "q", [1])
    micro = collate([prompt, prompt], batch.completions)
    learner.loss(batch, [0, 1], micro, None, 5, Tally()).backward()
    expected = [[-0.5 * w / 20 for w in (1.0, 2.0, 0.5)], [0.5 * w / 20 for w in (0.0, 3.0, 0.0)]]
    assert logp.grad is not None
    assert torch.allclose(logp.grad, torch.tensor(expected))
