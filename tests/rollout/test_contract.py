"""The contract of ``rollout.engine.Engine``, held against both engines on real tiny models."""

from __future__ import annotations

import pytest
import torch
from rollout_support import CONTEXT, Served, differences, learner_logprobs, rng_states

from r1zero.algo.loss import sampler_weight
from r1zero.errors import SyncError, UserError
from r1zero.rollout.engine import Sampling
from tiny_models import perturb

SAMPLE = Sampling(n=4, max_tokens=40, stop_ids=(0,))


def test_build_leaves_rng_states_alone(served: Served) -> None:
    """Trap 31: an in-process engine seeds the process's generators; they are put back."""
    before, after = served.states
    assert before == after


def test_generate_leaves_rng_states_alone(served: Served, texts: list[str]) -> None:
    before = rng_states()
    served.engine.generate(served.prompts(texts), SAMPLE, seed=3)
    assert rng_states() == before


def test_shape_of_the_answer(served: Served, texts: list[str]) -> None:
    prompts = served.prompts(texts)
    groups = served.engine.generate(prompts, SAMPLE, seed=3)
    assert [len(group) for group in groups] == [4, 4, 4]
    for completion in (c for group in groups for c in group):
        assert 1 <= len(completion.ids) <= 40
        assert completion.logprobs is not None
        assert len(completion.logprobs) == len(completion.ids)
        assert all(type(value) is float for value in completion.logprobs)
        assert all(type(value) is int for value in completion.ids)


def test_no_prompts(served: Served) -> None:
    assert served.engine.generate([], SAMPLE, seed=1) == []


def test_logprobs_only_when_asked(served: Served, texts: list[str]) -> None:
    sampling = Sampling(n=2, max_tokens=5, logprobs=False)
    groups = served.engine.generate(served.prompts(texts), sampling, seed=1)
    assert all(c.logprobs is None for group in groups for c in group)


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_logprobs_are_the_learners(served: Served, texts: list[str], temperature: float) -> None:
    """Traps 19 and 18: after temperature, and whatever stands beside the row in its batch; under 1e-5 in fp32."""
    sampling = Sampling(n=4, max_tokens=40, temperature=temperature, stop_ids=(0,))
    prompts = served.prompts(texts)
    groups = served.engine.generate(prompts, sampling, seed=5)
    assert differences(served.learner, prompts, groups, temperature).max() < 1e-5
    if temperature != 1.0:
        assert differences(served.learner, prompts, groups, 1.0).max() > 0.1


def test_whole_distributions_are_the_learners(served: Served, texts: list[str]) -> None:
    """``Sampling.whole``: the log-probability of every token at each position, what top-k cuts off with none."""
    prompts = served.prompts(texts)
    for top_k in (-1, 2):
        sampling = Sampling(n=2, max_tokens=3, temperature=0.5, top_k=top_k, whole=True)
        groups = served.engine.generate(prompts, sampling, seed=5)
        for prompt, completion in ((p, c) for p, group in zip(prompts, groups, strict=True) for c in group):
            whole = completion.whole
            with torch.no_grad():
                logits = served.learner(torch.tensor([prompt + completion.ids])).logits[0, len(prompt) - 1 : -1]
            expected = (logits / 0.5).log_softmax(-1)
            assert whole is not None
            assert whole.gather(1, torch.tensor(completion.ids)[:, None])[:, 0].tolist() == completion.logprobs
            if top_k == -1:
                assert (whole - expected).abs().max() < 1e-4
            else:
                kept = whole.isfinite()
                assert kept.sum(dim=1).tolist() == [2, 2, 2]
                assert kept.gather(1, expected.topk(2).indices).all()


def test_equal_arguments_draw_equal_responses(served: Served, texts: list[str]) -> None:
    """Semantics 14, trap 30: the seed governs the draws, and nothing that ran before does."""
    prompts = served.prompts(texts)
    first = served.engine.generate(prompts, SAMPLE, seed=11)
    served.engine.generate(prompts[:1], Sampling(n=3, max_tokens=7), seed=12)
    torch.randn(3)
    again = served.engine.generate(prompts, SAMPLE, seed=11)
    other = served.engine.generate(prompts, SAMPLE, seed=12)
    assert first == again
    assert first != other
    assert len({tuple(c.ids) for c in first[0]}) > 1, "responses of one group are drawn independently"


def test_eos_ids_end_a_response(served: Served, texts: list[str]) -> None:
    """Trap 16: any of several ids ends a response, the id is part of it, the text has no trace of it."""
    free = served.engine.generate(served.prompts(texts), Sampling(n=4, max_tokens=30), seed=2)
    assert all(c.finish_reason == "length" and len(c.ids) == 30 for group in free for c in group)
    stops = tuple({free[0][0].ids[3], free[1][1].ids[5], served.tokenizer.eos_token_id})
    cut = served.engine.generate(served.prompts(texts), Sampling(n=16, max_tokens=30, stop_ids=stops), seed=2)
    flat = [c for group in cut for c in group]
    stopped = [c for c in flat if c.finish_reason == "stop"]
    assert stopped
    for completion in flat:
        ended = completion.ids[-1] in stops
        assert completion.finish_reason == ("stop" if ended else "length")
        assert completion.truncated is not ended
        assert not set(completion.ids[:-1]) & set(stops)
    for completion in stopped:
        assert completion.text == served.decode(completion.ids[:-1])


def test_eos_of_the_tokenizer_ends_nothing_by_itself(served: Served, texts: list[str]) -> None:
    """Trap 21: an engine adds no stop of its own; all ids that end a response are the caller's."""
    groups = served.engine.generate(served.prompts(texts), Sampling(n=64, max_tokens=60), seed=4)
    assert any(served.tokenizer.eos_token_id in c.ids[:-1] for group in groups for c in group)


@pytest.mark.parametrize("keep", [True, False])
def test_stop_strings(served: Served, texts: list[str], keep: bool) -> None:
    """Trap 26: the response ends with the token that completes the string; ``keep_stop`` decides on its text."""
    sampling = Sampling(n=16, max_tokens=40, stop=("s", " 1"), keep_stop=keep, stop_ids=(0,))
    groups = served.engine.generate(served.prompts(texts), sampling, seed=6)
    flat = [c for group in groups for c in group]
    by_string = [c for c in flat if c.finish_reason == "stop" and c.ids[-1] != 0]
    assert by_string
    for completion in by_string:
        whole, before = served.decode(completion.ids), served.decode(completion.ids[:-1])
        assert any(stop in whole for stop in sampling.stop)
        assert not any(stop in before for stop in sampling.stop)
        assert completion.text.endswith(sampling.stop) is keep
        assert whole.startswith(completion.text)
        assert len(completion.logprobs or []) == len(completion.ids)
    for completion in (c for c in flat if c.finish_reason == "length"):
        assert not any(stop in completion.text for stop in sampling.stop)
        assert len(completion.ids) == 40


def test_stop_string_in_the_prompt_ends_nothing(served: Served) -> None:
    prompt = served.tokenizer.encode("What is 1")
    sampling = Sampling(n=4, max_tokens=6, stop=("is 1",))
    groups = served.engine.generate([prompt], sampling, seed=1)
    assert all(len(c.ids) == 6 for c in groups[0])


def test_prompt_ids_are_taken_as_they_are(served: Served) -> None:
    """Traps 24, 25: no BOS is added and nothing is re-encoded; log-probabilities fit exactly these ids."""
    merged = served.tokenizer.encode("What is 12?", add_special_tokens=False)
    spelled = [i for c in "What is 12?" for i in served.tokenizer.encode(c, add_special_tokens=False)]
    assert len(spelled) > len(merged)
    groups = served.engine.generate([merged, spelled], Sampling(n=2, max_tokens=8), seed=1)
    assert differences(served.learner, [merged, spelled], groups).max() < 1e-5


def test_greedy_is_the_learners_argmax(served: Served, texts: list[str]) -> None:
    prompts = served.prompts(texts)
    groups = served.engine.generate(prompts, Sampling(temperature=0.0, max_tokens=12), seed=1)
    for prompt, (completion,) in zip(prompts, groups, strict=True):
        with torch.no_grad():
            logits = served.learner(torch.tensor([prompt + completion.ids])).logits[0]
        assert logits[len(prompt) - 1 : -1].argmax(-1).tolist() == completion.ids
        assert torch.allclose(
            torch.tensor(completion.logprobs), learner_logprobs(served.learner, prompt, completion.ids), atol=1e-5
        )


@pytest.mark.parametrize(("top_p", "top_k"), [(0.5, -1), (1.0, 3), (0.7, 4)])
def test_filters_renormalise_and_the_correction_takes_it_back(
    served: Served, texts: list[str], top_p: float, top_k: int
) -> None:
    """Trap 20, B19: the sampler's log-probability is the learner's less log(mass kept); the weight is that mass."""
    prompts = served.prompts(texts)
    groups = served.engine.generate(prompts, Sampling(n=4, max_tokens=10, top_p=top_p, top_k=top_k), seed=9)
    weights = []
    for prompt, group in zip(prompts, groups, strict=True):
        for completion in group:
            with torch.no_grad():
                logits = served.learner(torch.tensor([prompt + completion.ids])).logits[0, len(prompt) - 1 : -1]
            probabilities, _ = logits.softmax(-1).sort(descending=True)
            if top_k > 0:
                probabilities = probabilities[:, :top_k]
            shares = probabilities / probabilities.sum(-1, keepdim=True)
            mass = (probabilities * ((shares.cumsum(-1) - shares) < top_p)).sum(-1)
            own = learner_logprobs(served.learner, prompt, completion.ids)
            weights.append(sampler_weight(own, torch.tensor(completion.logprobs), cap=2.0))
            torch.testing.assert_close(weights[-1], mass, atol=1e-4, rtol=1e-4)
    assert torch.cat(weights).mean() < 0.9


def test_top_k_keeps_k(served: Served, texts: list[str]) -> None:
    groups = served.engine.generate(served.prompts(texts), Sampling(n=2, max_tokens=10, top_k=1), seed=9)
    greedy = served.engine.generate(served.prompts(texts), Sampling(temperature=0.0, max_tokens=10), seed=9)
    for group, (best,) in zip(groups, greedy, strict=True):
        assert all(c.ids == best.ids for c in group)
        assert all(abs(value) < 1e-6 for c in group for value in c.logprobs or [])


def test_ids_beyond_the_tokenizer(served: Served, texts: list[str]) -> None:
    """Trap 28: rows of a padded vocabulary can be sampled; they decode to nothing and are trained on."""
    groups = served.engine.generate(served.prompts(texts), Sampling(n=16, max_tokens=40, stop=("zzzz",)), seed=1)
    beyond = [c for group in groups for c in group if max(c.ids) >= len(served.tokenizer)]
    assert bool(beyond) is (served.learner.config.vocab_size > len(served.tokenizer))
    for completion in beyond:
        assert len(completion.logprobs or []) == len(completion.ids) == 40


@pytest.mark.parametrize(
    ("prompt", "sampling", "words"),
    [
        ([5] * (CONTEXT + 1), Sampling(max_tokens=1), "context"),
        ([5] * (CONTEXT - 5), Sampling(max_tokens=6), "context"),
        ([], Sampling(max_tokens=1), "no tokens"),
        ([5], Sampling(n=2, temperature=0.0, max_tokens=1), "equal responses"),
        ([5], Sampling(temperature=-1.0, max_tokens=1), "negative"),
    ],
)
def test_impossible_requests(served: Served, prompt: list[int], sampling: Sampling, words: str) -> None:
    """Trap 27: a prompt over the context is the user's error in one line, not an empty answer."""
    with pytest.raises(UserError, match=words) as caught:
        served.engine.generate([[5, 6], prompt], sampling, seed=1)
    assert "\n" not in str(caught.value)


def test_longest_request_that_fits(served: Served) -> None:
    groups = served.engine.generate([[5] * (CONTEXT - 6)], Sampling(max_tokens=6), seed=1)
    assert len(groups[0][0].ids) == 6


class TestSync:
    """Versions, names and weights; ends with the engine serving the folder's weights again."""

    def test_several_syncs(self, served: Served, texts: list[str]) -> None:
        """Traps 37, 40: after each sync the sampler's log-probabilities are those of the new weights."""
        prompts = served.prompts(texts)
        served.engine.generate(prompts, SAMPLE, seed=1)  # fills the prefix cache with the old weights' keys
        model = served.fresh()
        for version in range(4):
            old = served.engine.generate(prompts, SAMPLE, seed=version)
            perturb(model, seed=version)
            served.engine.load_weights(model.named_parameters(), version)
            assert served.engine.version == version
            groups = served.engine.generate(prompts, SAMPLE, seed=version)
            assert differences(model, prompts, groups).max() < 1e-5
            assert differences(model, prompts, old).mean() > 0.05, "the update was large enough to be seen"

    def test_learner_keeps_its_weights(self, served: Served, texts: list[str]) -> None:
        """The engine holds copies: an update of the learner alone changes nothing that is sampled."""
        model = served.fresh()
        served.engine.load_weights(model.named_parameters(), 5)
        before = served.engine.generate(served.prompts(texts), SAMPLE, seed=1)
        perturb(model, seed=1, scale=1.0)
        assert served.engine.generate(served.prompts(texts), SAMPLE, seed=1) == before

    @pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "_fsdp_wrapped_module.", "base_model.model."])
    def test_wrapper_prefixes(self, served: Served, prefix: str) -> None:
        """Trap 42: names that would be skipped silently are an error that names them."""
        names = ((prefix + name, tensor) for name, tensor in served.fresh().named_parameters())
        with pytest.raises(SyncError, match=f"'{prefix}' must be stripped"):
            served.engine.load_weights(names, 6)

    def test_missing_name(self, served: Served, texts: list[str]) -> None:
        missing = "model.layers.1.mlp.up_proj.weight"
        names = [(name, tensor) for name, tensor in served.fresh().named_parameters() if name != missing]
        with pytest.raises(SyncError, match=f"missing {missing}"):
            served.engine.load_weights(names, 7)
        assert served.engine.version is None
        with pytest.raises(SyncError, match="version 7"):
            served.engine.generate(served.prompts(texts), SAMPLE, seed=1)

    def test_error_of_the_source(self, served: Served, texts: list[str]) -> None:
        """An interrupt while weights stream is raised, and the next whole sync cures the engine."""

        def broken():  # type: ignore[no-untyped-def]
            yield from list(served.fresh().named_parameters())[:3]
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            served.engine.load_weights(broken(), 8)
        assert served.engine.version is None
        model = perturb(served.fresh(), seed=3)
        served.engine.load_weights(model.named_parameters(), 9)
        prompts = served.prompts(texts)
        assert served.engine.version == 9
        assert differences(model, prompts, served.engine.generate(prompts, SAMPLE, seed=1)).max() < 1e-5

    def test_sleep_and_wake_keep_the_weights(self, served: Served, texts: list[str]) -> None:
        served.engine.load_weights(served.fresh().named_parameters(), 10)
        before = served.engine.generate(served.prompts(texts), SAMPLE, seed=1)
        served.engine.sleep()
        served.engine.sleep()
        served.engine.wake()
        assert served.engine.generate(served.prompts(texts), SAMPLE, seed=1) == before
