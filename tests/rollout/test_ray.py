"""rollout=ray on a real Ray of this machine: whatever happens to samplers, what is sampled stays the same."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
from rollout_support import CONTEXT, Served, differences, on_ray, start

from r1zero.errors import SyncError, UserError
from r1zero.launch import cluster
from r1zero.rollout.calculator import Calculator
from r1zero.rollout.engine import Sampling
from r1zero.rollout.ray import build, engine
from r1zero.rollout.ray import sampler as actors
from r1zero.rollout_config import RayConfig
from tiny_models import perturb

pytestmark = pytest.mark.ray

SAMPLE = Sampling(n=4, max_tokens=40, stop_ids=(0,))
LONG = Sampling(n=8, max_tokens=200)


@pytest.fixture
def prompts(pair: Served, texts: list[str]) -> list[list[int]]:
    return pair.prompts([*texts, "7 - 5 ="])


def steps(remote: Any) -> int:
    return ray.get(remote.actor.state.remote())["steps"]


@contextlib.contextmanager
def meanwhile(remotes: list[Any], act: Callable[[], None]) -> Iterator[None]:
    """Do something to samplers as soon as they are at work."""
    failed: list[BaseException] = []
    before = [steps(remote) for remote in remotes]

    def wait_and_act() -> None:
        try:
            deadline = time.monotonic() + 180
            while any(steps(r) < b + 5 for r, b in zip(remotes, before, strict=True)):
                assert time.monotonic() < deadline, "the samplers are not at work"
            act()
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=wait_and_act)
    thread.start()
    yield
    thread.join()
    assert not failed, failed


def all_back(engine: Any) -> None:
    """Wait until every sampler answers again."""
    deadline = time.monotonic() + 120
    while not all(remote.up for remote in engine.remotes.all):
        assert time.monotonic() < deadline
        engine.remotes.look()


def test_the_responses_are_those_of_the_engine_in_this_process(
    pair: Served, folders: dict[str, Path], prompts: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Semantics 14: ids, texts, ends, log-probabilities, bit for bit, before and after syncs, in one part and two."""
    model = perturb(pair.fresh(), seed=1, scale=0.2)
    stops = Sampling(n=4, max_tokens=40, stop=("s", " 1"), keep_stop=True, stop_ids=(0, 5))
    silent = Sampling(n=2, max_tokens=10, temperature=0.7, top_p=0.9, logprobs=False)
    for version in (1, 2):
        perturb(model, seed=version)
        pair.engine.load_weights(model.named_parameters(), version)
    found = {}
    for parts in (1, 2):
        monkeypatch.setattr(pair.engine, "_parts", parts)
        found[parts] = [pair.engine.generate(prompts, sampling, seed=9) for sampling in (SAMPLE, stops, silent)]
    for parts in (1, 2):
        own = start("hf", folders["tied"], parts=parts)
        own.load_weights(model.named_parameters(), 2)
        assert [own.generate(prompts, sampling, seed=9) for sampling in (SAMPLE, stops, silent)] == found[parts]
        own.close()
    assert found[1] != found[2], "each part is drawn by a seed of its own"


def test_finished_parts_are_told_of_while_others_are_sampled(pair: Served, prompts: list[list[int]]) -> None:
    told: dict[int, Any] = {}
    pair.engine.on_group = told.__setitem__
    groups = pair.engine.generate(prompts, SAMPLE, seed=2)
    pair.engine.on_group = None
    assert [told[i] for i in range(len(prompts))] == groups


def test_samplers_that_break_down_in_a_rollout(
    pair: Served, prompts: list[list[int]], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """kill -9, then a stopped process: the responses stay those of an undisturbed call, from whoever gives them.

    The first sampler dies and the second does its share; then the second hangs. Each comes back with the newest
    weights, which it has taken by itself. The log has one line a fault.
    """
    engine = pair.engine
    model = perturb(pair.fresh(), seed=3)
    engine.load_weights(model.named_parameters(), 4)
    undisturbed = engine.generate(prompts, LONG, seed=5)
    first, second = engine.remotes.all
    pids = [first.pid, second.pid]
    with meanwhile([first, second], lambda: os.kill(pids[0], signal.SIGKILL)):
        assert engine.generate(prompts, LONG, seed=5) == undisturbed
    monkeypatch.setattr(engine.remotes, "_timeout_s", 6.0)  # a busy machine is no hang
    with meanwhile([second], lambda: os.kill(pids[1], signal.SIGSTOP)):
        assert engine.generate(prompts, LONG, seed=5) == undisturbed
    monkeypatch.undo()
    all_back(engine)
    assert not {first.pid, second.pid} & set(pids)
    for remote in (first, second):
        newest = remote.actor.generate.remote(prompts, SAMPLE, 1, 4, engine._push, "own")
        assert differences(model, prompts, ray.get(newest)).max() < 1e-5
    lines = [record.message for record in caplog.records if record.name == "r1zero"]
    assert len(lines) == 2
    assert lines[0].startswith("sampler 0 is lost (its process or its machine is gone)")
    assert "sampler 1 is lost (it made no step for 6 s (rollout.timeout_s))" in lines[1]


def test_an_environment_stands_around_samplers(
    pair: Served, folders: dict[str, Path], prompts: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each turn is a request of its own; the responses are those of the same environment in this process."""
    monkeypatch.setattr(pair.engine, "_parts", 2)
    turns: list[int] = []
    generate = pair.engine.generate
    monkeypatch.setattr(pair.engine, "generate", lambda *a: turns.append(len(a[0])) or generate(*a))
    model = perturb(pair.fresh(), seed=6)
    own = start("hf", folders["tied"], parts=2)
    found = []
    for inner in (pair.engine, own):
        inner.load_weights(model.named_parameters(), 3)
        found.append(Calculator(inner, pair.tokenizer, CONTEXT, calls=2).generate(prompts, SAMPLE, seed=4))
    own.close()
    assert found[0] == found[1]
    assert len(turns) > 1
    assert differences(model, prompts, found[0]).max() < 1e-5


def test_a_sampler_that_dies_over_the_weights(pair: Served, prompts: list[list[int]]) -> None:
    """It is passed over, takes them when it is back, and no version but the newest is ever sampled from."""
    engine = pair.engine
    model = perturb(pair.fresh(), seed=4)
    os.kill(engine.remotes.all[0].pid, signal.SIGKILL)
    engine.load_weights(model.named_parameters(), 5)
    assert differences(model, prompts, engine.generate(prompts, SAMPLE, seed=1)).max() < 1e-5
    all_back(engine)
    assert differences(model, prompts, engine.generate(prompts, SAMPLE, seed=1)).max() < 1e-5


def test_the_weights_actor_that_dies(pair: Served, prompts: list[list[int]]) -> None:
    """It comes back empty; the trainer tells it again as soon as a sampler that lost its weights misses it."""
    engine = pair.engine
    model = perturb(pair.fresh(), seed=5)
    engine.load_weights(model.named_parameters(), 6)
    expected = engine.generate(prompts, SAMPLE, seed=1)
    ray.kill(engine._weights, no_restart=False)
    os.kill(engine.remotes.all[1].pid, signal.SIGKILL)
    assert engine.generate(prompts, SAMPLE, seed=1) == expected
    all_back(engine)
    assert engine.generate(prompts, SAMPLE, seed=1) == expected


def test_other_weights_are_not_sampled_from(pair: Served, prompts: list[list[int]]) -> None:
    """Semantics 15: the sampler itself checks version and push; a number that happens to be equal is not enough."""
    pair.engine.load_weights(pair.fresh().named_parameters(), 7)
    actor = pair.engine.remotes.all[0].actor
    for version, push in ((8, pair.engine._push), (7, "another"), (None, None)):
        with pytest.raises(actors.NotSynced, match="version 7 is served here"):
            ray.get(actor.generate.remote(prompts, SAMPLE, 1, version, push, "own"))


def test_half_a_set_of_weights_is_not_served(pair: Served, prompts: list[list[int]]) -> None:
    """Traps 42 and 43, on the trainer's side and on the samplers': refused, and the next whole set cures it."""
    engine = pair.engine
    named = list(pair.fresh().named_parameters())
    with pytest.raises(SyncError, match=r"missing model\.embed_tokens\.weight"):
        engine.load_weights(named[1:], 8)
    with pytest.raises(SyncError, match="version 8"):
        engine.generate(prompts, SAMPLE, seed=1)
    half = [ray.put(actors.packed(dict(named[1:])))]
    ray.get(engine._weights.give.remote(9, "half", half))
    with pytest.raises(SyncError, match=r"missing model\.embed_tokens\.weight"):
        ray.get(engine.remotes.all[0].actor.load.remote("half"))
    engine.load_weights(named, 10)
    assert differences(pair.learner, prompts, engine.generate(prompts, SAMPLE, seed=1)).max() < 1e-5


def test_weights_do_not_pile_up(pair: Served) -> None:
    """Ray's memory holds the newest version alone."""
    model = pair.fresh()
    size = sum(p.numel() * p.element_size() for p in model.parameters())
    for version in range(20, 26):
        pair.engine.load_weights(model.named_parameters(), version)
    until = time.monotonic() + 120
    held = lambda: ray.cluster_resources()["object_store_memory"] - ray.available_resources()["object_store_memory"]  # noqa: E731
    while held() > 2 * size and time.monotonic() < until:
        time.sleep(0.1)
    assert held() <= 2 * size


def test_an_interrupted_call_leaves_the_samplers_free(pair: Served, prompts: list[list[int]]) -> None:
    """Ctrl-C while they sample: they give the work up at once."""
    engine = pair.engine
    before = engine.generate(prompts, SAMPLE, seed=1)
    main = threading.main_thread().ident
    assert main is not None
    interrupt = lambda: signal.pthread_kill(main, signal.SIGINT)  # noqa: E731
    with pytest.raises(KeyboardInterrupt), meanwhile(engine.remotes.all, interrupt):
        engine.generate(prompts, LONG, seed=5)
    counts = [steps(remote) for remote in engine.remotes.all]
    assert engine.generate(prompts, SAMPLE, seed=1) == before
    most = SAMPLE.max_tokens + 20
    assert all(steps(r) - c <= most for r, c in zip(engine.remotes.all, counts, strict=True))


def test_a_bad_request_harms_nobody(pair: Served, prompts: list[list[int]]) -> None:
    """A token id that the model has no row for would end a vLLM engine, for all ranks."""
    expected = pair.engine.generate(prompts, SAMPLE, seed=1)
    pids = [remote.pid for remote in pair.engine.remotes.all]
    for bad in ([[10**6]], [[]], [[1] * CONTEXT]):
        with pytest.raises(UserError):
            pair.engine.generate(bad, SAMPLE, seed=1)
    assert pair.engine.generate(prompts, SAMPLE, seed=1) == expected
    assert [remote.pid for remote in pair.engine.remotes.all] == pids


def test_two_runs_on_one_ray(pair: Served, folders: dict[str, Path], prompts: list[list[int]]) -> None:
    """Each has samplers and weights of its own; one that ends takes none of the other's along."""
    ours, theirs = perturb(pair.fresh(), seed=1), perturb(pair.fresh(), seed=2)
    pair.engine.load_weights(ours.named_parameters(), 30)
    before = pair.engine.generate(prompts, SAMPLE, seed=1)
    other = on_ray(folders["tied"], samplers=1)
    other.engine.load_weights(theirs.named_parameters(), 30)
    assert differences(theirs, prompts, other.engine.generate(prompts, SAMPLE, seed=1)).max() < 1e-5
    assert pair.engine.generate(prompts, SAMPLE, seed=1) == before
    other.engine.close()
    other.engine.close()
    with pytest.raises(RuntimeError, match="closed"):
        other.engine.generate(prompts, SAMPLE, seed=1)
    assert pair.engine.generate(prompts, SAMPLE, seed=1) == before


class TestRefusals:
    """One line each, and nothing of the attempt is left."""

    def refused(self, folder: Path, **settings: Any) -> str:
        before = names()
        with pytest.raises(UserError) as caught:
            on_ray(folder, samplers=1, **settings)
        assert "\n" not in str(caught.value)
        deadline = time.monotonic() + 120
        while names() != before:
            assert time.monotonic() < deadline, "an actor is left"
            time.sleep(0.1)
        return str(caught.value)

    def test_no_place(self, local_ray: None, folders: dict[str, Path]) -> None:
        line = self.refused(folders["tied"], cpus=64.0, wait_s=0.5)
        assert "64 CPU each find no place on the cluster within 0.5 s (rollout.ray.wait_s): it has 16 CPU" in line

    def test_gpus_that_are_not_there(self, local_ray: None, folders: dict[str, Path]) -> None:
        line = self.refused(folders["tied"], address="auto", gpus=2.0, wait_s=0.5)
        assert "and 2 GPU each find no place" in line
        assert "0 GPU (0 free)" in line

    @pytest.mark.parametrize(
        ("here", "line"),
        [
            ({"releases": {"vllm": "9.9"}}, "and this trainer 9.9: install the same release on every machine"),
            ({"tokenizer": "x", "vocabulary": 3}, "serves another vocabulary"),
            ({"parameters": "x"}, "serves another model"),
        ],
    )
    def test_another_sampler_than_this_trainers(self, pair: Served, here: dict[str, Any], line: str) -> None:
        actors = [remote.actor for remote in pair.engine.remotes.all]
        with pytest.raises(UserError, match=line) as caught:
            engine.Remotes(actors, pair.engine.remotes._own | here, 60.0).wait_for(60)
        assert "\n" not in str(caught.value)

    def test_weights_larger_than_the_object_store(
        self, local_ray: None, folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(build.math, "prod", lambda shape: 2**40)
        assert "`ray start --object-store-memory`" in self.refused(folders["tied"], address="auto")

    def test_a_start_that_fails(self, local_ray: None, tmp_path: Path, folders: dict[str, Path]) -> None:
        """What the engine said, not what Ray makes of it."""
        import shutil

        shutil.copytree(folders["tied"], tmp_path / "bare")
        for file in (tmp_path / "bare").glob("*.safetensors"):
            file.unlink()
        assert "can't be loaded" in self.refused(tmp_path / "bare")


def names() -> list[dict[str, str]]:
    """Actors by name in every run's namespace."""
    return sorted(ray.util.list_named_actors(all_namespaces=True), key=str)


@pytest.mark.vllm
def test_continuous_batching(local_ray: None, folders: dict[str, Path], texts: list[str]) -> None:
    """Real vLLM: callers share one running batch; draws depend neither on the company nor on the number of samplers.

    In float32 on a CPU the same tokens come out whatever the batch; log-probabilities agree to rounding.
    """
    one = Served("ray", folders["tied"], samplers=2, ray=RayConfig(batching="continuous"))
    engine = one.engine
    try:
        model = perturb(one.fresh(), seed=1)
        engine.load_weights(model.named_parameters(), 1)
        prompts = one.prompts([*texts, "7 - 5 =", "12 * 3 ="])
        alone = engine.generate(prompts, SAMPLE, seed=3)
        assert differences(model, prompts, alone).max() < 1e-5
        found: list[Any] = []
        company = [
            threading.Thread(target=lambda s=s: found.append((s, engine_of(engine, 1).generate(prompts, SAMPLE, s))))
            for s in (3, 4)
        ]
        for thread in company:
            thread.start()
        for thread in company:
            thread.join()
        ids = lambda groups: [[c.ids for c in group] for group in groups]  # noqa: E731
        assert ids(dict(found)[3]) == ids(alone), "one sampler in place of two, and other requests beside"
        assert ids(dict(found)[4]) != ids(alone)
        engine.load_weights(perturb(model, seed=2).named_parameters(), 2)
        assert differences(model, prompts, engine.generate(prompts, SAMPLE, seed=3)).max() < 1e-5
        stops = Sampling(n=2, max_tokens=30, stop=("s",), stop_ids=(0,))
        assert all(c.text.count("s") == 0 for g in engine.generate(prompts, stops, seed=1) for c in g)
    finally:
        engine.close()


def engine_of(other: Any, samplers: int) -> Any:
    """Another rank's engine over the first of the same samplers."""
    twin = object.__new__(engine.RayEngine)
    twin.__dict__.update(other.__dict__)
    twin.remotes = engine.Remotes([remote.actor for remote in other.remotes.all[:samplers]], other.remotes._own, 60.0)
    twin.remotes.wait_for(60)
    return twin


def test_a_signal_to_the_run_and_its_group_leaves_ray_alone(local_ray: None) -> None:
    """A terminal, ``timeout`` and torchrun signal the whole group; the run needs Ray to finish its step. What engines
    leave lies in Ray's folder and goes with it."""
    children = {child.name(): child for child in psutil.Process().children()}
    raylet = children["raylet"]
    groups = [os.getpgid(process.pid) for process in (raylet, children["gcs_server"], *raylet.children())]
    assert os.getpgid(0) not in groups
    assert cluster.PREFIX in raylet.environ()["TMPDIR"]


def test_what_ray_is_told_before_it_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    """No report to its makers; a Ray of our own asks for a token and listens on the loopback address."""
    for name in (*cluster.PRIVATE, *cluster.LOCAL):
        monkeypatch.delenv(name, raising=False)
    cluster.import_ray(local=True)
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"
    assert os.environ["RAY_AUTH_MODE"] == "token"
