"""Real servers in processes of their own: the same responses, weights that arrive, deaths, hangs, refusals."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from rollout_support import CONTEXT, Served, differences, start

from r1zero.config import ModelConfig, RolloutConfig
from r1zero.errors import SyncError, UserError
from r1zero.rollout.build import build_engine
from r1zero.rollout.engine import Sampling
from r1zero.rollout.served.check import check_servers
from r1zero.rollout.served.client import TOKEN, Remote, Unreachable
from r1zero.rollout.served.engine import ServerEngine
from tiny_models import perturb

pytestmark = pytest.mark.vllm
SAMPLE = Sampling(n=4, max_tokens=40, stop_ids=(0,))
LONG = Sampling(n=8, max_tokens=200)
"""Seconds of work for a tiny model."""


@pytest.fixture
def prompts(pair: Served, texts: list[str]) -> list[list[int]]:
    return pair.prompts([*texts, "7 - 5 ="])


@pytest.fixture
def urls(pair: Served, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Addresses of the two servers, their token in the environment."""
    monkeypatch.setenv(TOKEN, pair.engine.fleet.token)
    return [remote.url for remote in pair.engine.remotes]


def connect(urls: list[str], folder: Path, dtype: str = "float32", context: int = CONTEXT, **settings: Any) -> Any:
    config = RolloutConfig(name="vllm_server", urls=urls, **{"timeout_s": 60, **settings})
    return build_engine(config, str(folder), dtype=dtype, context=context)


@contextlib.contextmanager
def meanwhile(remotes: list[Remote], act: Callable[[], None]) -> Iterator[None]:
    """Do something to the servers as soon as they are at work."""
    failed: list[BaseException] = []

    def wait_and_act() -> None:
        try:
            deadline = time.monotonic() + 60
            before = [remote.health()["steps"] for remote in remotes]
            while any(r.health()["steps"] < b + 5 for r, b in zip(remotes, before, strict=True)):
                assert time.monotonic() < deadline, "the servers are not at work"
                time.sleep(0.01)
            act()
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=wait_and_act)
    thread.start()
    yield
    thread.join()
    assert not failed, failed


def versions(engine: ServerEngine) -> list[int | None]:
    """Versions that the servers serve; none where one does not answer."""
    try:
        return [remote.health()["version"] for remote in engine.remotes]
    except (Unreachable, TimeoutError):
        return []


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
        own = start("vllm", folders["tied"], parts=parts)
        try:
            own.load_weights(model.named_parameters(), 2)
            assert [own.generate(prompts, sampling, seed=9) for sampling in (SAMPLE, stops, silent)] == found[parts]
        finally:
            own.close()
    assert found[1] != found[2], "each part is drawn by a seed of its own"
    assert differences(model, prompts, found[2][0]).max() < 5e-5, "trap 40: the tied head followed both syncs"


def test_servers_that_break_down_in_a_rollout(
    pair: Served, prompts: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """kill -9, then a stopped process: the responses stay those of an undisturbed call, from whoever gives them.

    The first server dies and the second does its share; then the second hangs while the first is still starting,
    so nobody is left and the call waits for servers that start anew and are given the newest weights first.
    """
    engine = pair.engine
    model = perturb(pair.fresh(), seed=3)
    engine.load_weights(model.named_parameters(), 4)
    undisturbed = engine.generate(prompts, LONG, seed=5)
    restarts, pids = engine.fleet.restarts, [engine.fleet.pid(i) for i in (0, 1)]
    with meanwhile(engine.remotes, lambda: os.kill(pids[0], signal.SIGKILL)):
        assert engine.generate(prompts, LONG, seed=5) == undisturbed
    monkeypatch.setattr(engine, "_timeout_s", 8.0)  # a busy machine is no hang
    with meanwhile(engine.remotes[1:], lambda: os.kill(pids[1], signal.SIGSTOP)):
        assert engine.generate(prompts, LONG, seed=5) == undisturbed
    deadline = time.monotonic() + 600  # two starts on a busy machine
    while versions(engine) != [4, 4]:  # a server that was back too late for that call takes part in the next
        assert time.monotonic() < deadline
        assert engine.generate(prompts, LONG, seed=5) == undisturbed
    assert engine.fleet.restarts >= restarts + 2
    assert not {engine.fleet.pid(i) for i in (0, 1)} & set(pids)
    assert differences(model, prompts, undisturbed).max() < 1e-5


def test_another_run_with_the_same_servers(pair: Served, prompts: list[list[int]], urls: list[str]) -> None:
    """Trap 43: weights of another run that carry the same version number are noticed, and put right."""
    ours, theirs = perturb(pair.fresh(), seed=1), perturb(pair.fresh(), seed=2)
    pair.engine.load_weights(ours.named_parameters(), 6)
    before = pair.engine.generate(prompts, SAMPLE, seed=1)
    with contextlib.closing(connect(urls, pair.folder)) as other:
        with pytest.raises(UserError, match="version 6 that a training run gave it"):
            other.generate(prompts, SAMPLE, seed=1)
        other.load_weights(theirs.named_parameters(), 6)
        assert differences(theirs, prompts, other.generate(prompts, SAMPLE, seed=1)).max() < 1e-5
    assert pair.engine.generate(prompts, SAMPLE, seed=1) == before


def test_a_server_that_is_not_there(pair: Served, urls: list[str], prompts: list[list[int]]) -> None:
    """With one of two alive work goes on; with none there is one clear line after rollout.timeout_s."""
    with contextlib.closing(connect(urls, pair.folder, timeout_s=60)) as engine:
        engine.load_weights(pair.fresh().named_parameters(), 1)
        expected = engine.generate(prompts, SAMPLE, seed=1)
        port = engine.remotes[0]._parts.port
        engine.remotes[0]._parts = engine.remotes[0]._parts._replace(netloc="127.0.0.1:9")
        assert engine.generate(prompts, SAMPLE, seed=1) == expected
        engine.remotes[1]._parts = engine.remotes[0]._parts
        engine._timeout_s = 1.0
        with pytest.raises(UserError, match=r"no rollout server answered for 1 s \(rollout.timeout_s\)") as caught:
            engine.generate(prompts, SAMPLE, seed=1)
        assert "\n" not in str(caught.value)
        assert f":{port} (" in str(caught.value)
        assert "scripts/serve.py" in str(caught.value)


class TestRefusals:
    """One clear line each, before anything is sampled."""

    def refused(self, act: Callable[[], Any]) -> str:
        with pytest.raises(UserError) as caught:
            act()
        assert "\n" not in str(caught.value)
        return str(caught.value)

    def test_tokens(self, pair: Served, urls: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
        for token in ("", "wrong", "wr\u00f6ng"):
            monkeypatch.setenv(TOKEN, token)
            for act in (self.check(urls, pair.folder), lambda: connect(urls, pair.folder)):
                message = self.refused(act)
                assert f"wants a token and got a wrong one or none: set {TOKEN}" in message
                assert pair.engine.fleet.token not in message

    def check(self, urls: list[str], folder: Path, **model: Any) -> Callable[[], None]:
        settings = ModelConfig(**{"name": "x", "path": str(folder), "dtype": "float32", "context": CONTEXT, **model})
        return lambda: check_servers(RolloutConfig(name="vllm_server", urls=urls), settings)

    def test_another_model(self, urls: list[str], folders: dict[str, Path]) -> None:
        self.check(urls, folders["tied"])()
        assert "serves another model" in self.refused(self.check(urls, folders["untied"]))
        assert "serves another model" in self.refused(self.check(urls, folders["llama"]))
        assert "in float32, not in bfloat16" in self.refused(self.check(urls, folders["tied"], dtype="bfloat16"))
        assert "512 are needed" in self.refused(self.check(urls, folders["tied"], context=512))
        assert "serves another model" in self.refused(lambda: connect(urls, folders["untied"]))
        assert "another vocabulary" in self.refused(lambda: connect(urls, folders["llama"]))
        assert "in float32, not in bfloat16" in self.refused(lambda: connect(urls, folders["tied"], dtype="bfloat16"))
        assert "512 are needed" in self.refused(lambda: connect(urls, folders["tied"], context=512))

    def test_nobody_there(self, folders: dict[str, Path]) -> None:
        assert "no rollout server answers at http://127.0.0.1:9" in self.refused(
            self.check(["http://127.0.0.1:9"], folders["tied"])
        )
        assert "no rollout server answered for 0.5 s" in self.refused(
            lambda: connect(["http://127.0.0.1:9"], folders["tied"], timeout_s=0.5)
        )

    @pytest.mark.parametrize("url", ["127.0.0.1:80", "ftp://x", "http://", "http://x/v1"])
    def test_no_address(self, folders: dict[str, Path], url: str) -> None:
        assert "write http://host:port" in self.refused(self.check([url], folders["tied"]))

    def test_a_start_that_fails(self, folders: dict[str, Path]) -> None:
        """What is wrong with the settings is said in the trainer, in the words of the engine."""
        message = self.refused(lambda: start("vllm_server", folders["tied"], kv_cache_gib=100000.0, timeout_s=5))
        assert "rollout.kv_cache_gib=100000" in message


class TestWire:
    """What a stranger can do with the port: nothing."""

    def ask(self, pair: Served, path: str, body: bytes | None = None, **headers: str) -> tuple[int, dict[str, Any]]:
        given = {"Content-Type": "application/json", "Authorization": f"Bearer {pair.engine.fleet.token}", **headers}
        request = urllib.request.Request(pair.engine.remotes[0].url + path, body, given)
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return answer.status, json.loads(answer.read())
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read())

    def outcome(self, pair: Served, path: str, content: Any) -> tuple[int, str]:
        """Answer to a job, waited for."""
        status, answer = self.ask(pair, path, json.dumps(content).encode())
        if status == 202:
            status, answer = self.ask(pair, f"/jobs/{answer['job']}?wait=10")
        return status, str(answer.get("error"))

    def test_without_the_token_nothing_is_told(self, pair: Served) -> None:
        for path, body in (("/health", None), ("/jobs/x", None), ("/generate", b"{}"), ("/load", b"{}")):
            for given in ("", "Bearer ", "Bearer wrong", pair.engine.fleet.token):
                assert self.ask(pair, path, body, Authorization=given) == (401, {"error": "wrong or missing token"})

    def test_weights_come_from_the_agreed_folder_alone(self, pair: Served, tmp_path: Path) -> None:
        root = Path(pair.engine.remotes[0].health()["weights_dir"])
        before = pair.engine.remotes[0].health()["push"]
        (root / "link").unlink(missing_ok=True)
        (root / "link").symlink_to(tmp_path)
        try:
            for folder in (str(pair.folder), f"{root}/../..{pair.folder}", str(root), f"{root}/link"):
                request = {"folder": folder, "version": 1, "push": "x"}
                status, error = self.outcome(pair, "/load", request)
                assert (status, "folders below" in error) == (400, True), folder
        finally:
            (root / "link").unlink()
        assert self.outcome(pair, "/load", {"folder": f"{root}/none", "version": 1, "push": "x"})[0] == 400
        assert pair.engine.remotes[0].health()["push"] == before

    @pytest.mark.parametrize("path", ["/collective_rpc", "/load_folder", "/close", "/__class__", "/", "/init_weight"])
    def test_there_are_no_other_calls(self, pair: Served, path: str) -> None:
        assert self.outcome(pair, path, {"method": "shutdown"}) == (400, f"there is no {path.strip('/')} here")

    @pytest.mark.parametrize(
        "body",
        [b"", b"\x80\x04N.", b"[]", b"{", b"[" * 100000, b'{"prompts": [["a"]]}', b'{"prompts": [[1]], "seed": 1}'],
    )
    def test_bodies_that_are_none(self, pair: Served, body: bytes) -> None:
        assert self.ask(pair, "/generate", body)[0] == 400
        assert self.ask(pair, "/load", body)[0] in (400, 202)
        assert self.ask(pair, "/health")[0] == 200

    def test_bodies_that_are_too_long(self, pair: Served) -> None:
        assert self.ask(pair, "/generate", b"{}", **{"Content-Length": str(2**40)})[0] == 400


def test_half_a_set_of_weights_is_not_served(pair: Served, prompts: list[list[int]], tmp_path: Path) -> None:
    """Trap 42 on the server's side too: a folder that lacks a tensor is refused, and the next whole one cures it."""
    engine = pair.engine
    engine.load_weights(pair.fresh().named_parameters(), 1)
    (file,) = Path(engine._current.folder).glob("*.safetensors")
    from safetensors.torch import load_file, save_file

    tensors = load_file(file)
    del tensors["model.norm.weight"]
    save_file(tensors, file)
    engine._current = dataclasses.replace(engine._current, push="another")
    with pytest.raises(SyncError, match=r"missing model\.norm\.weight"):
        engine.generate(prompts, SAMPLE, seed=1)
    engine.load_weights(pair.fresh().named_parameters(), 2)
    assert differences(pair.learner, prompts, engine.generate(prompts, SAMPLE, seed=1)).max() < 1e-5


def test_weights_do_not_pile_up(pair: Served) -> None:
    """Shared memory holds the newest version alone."""
    model = pair.fresh()
    for version in range(4):
        pair.engine.load_weights(model.named_parameters(), version)
    assert list(pair.engine._store.path.glob("version-*")) == [Path(pair.engine._current.folder)]


def test_an_interrupted_call_leaves_the_servers_free(pair: Served, prompts: list[list[int]]) -> None:
    """Ctrl-C while servers sample: they give the work up at once."""
    engine = pair.engine
    before = engine.generate(prompts, SAMPLE, seed=1)
    main = threading.main_thread().ident
    assert main is not None
    with pytest.raises(KeyboardInterrupt), meanwhile(engine.remotes, lambda: signal.pthread_kill(main, signal.SIGINT)):
        engine.generate(prompts, LONG, seed=5)
    assert engine.generate(prompts, SAMPLE, seed=1) == before
