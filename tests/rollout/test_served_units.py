"""Parts, protocol, folders and transfers of rollout servers, without a server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from r1zero.batch import Completion
from r1zero.errors import SyncError, UserError
from r1zero.rollout.engine import Sampling
from r1zero.rollout.parts import Part, split
from r1zero.rollout.served import build
from r1zero.rollout.served.board import ATTEMPTS, Board
from r1zero.rollout.served.client import TOKEN, Cancelled, Failed, Hangs, NotSynced, Remote, Unreachable
from r1zero.rollout.served.fleet import RESTARTS, Fleet
from r1zero.rollout.served.folder import WeightStore, read_weights, weights_root
from r1zero.rollout.served.server import EngineServer
from r1zero.rollout.served.transfer import Servers, Transfer, own_address
from r1zero.rollout.served.wire import decode_groups, decode_prompts, decode_sampling, encode_groups, encode_sampling
from r1zero.rollout.sync import check_metadata


class TestParts:
    @given(st.integers(1, 200), st.integers(1, 20))
    def test_every_prompt_is_in_one_part(self, count: int, parts: int) -> None:
        made = split(count, parts, 5)
        assert [i for p in made for i in range(p.start, p.stop)] == list(range(count))
        assert len(made) == min(parts, count)
        sizes = [p.stop - p.start for p in made]
        assert max(sizes) - min(sizes) <= 1
        assert len({p.seed for p in made}) == len(made)

    def test_one_part_keeps_the_seed(self) -> None:
        assert split(7, 1, 5) == split(7, 1, 5) == [Part(0, 7, 5)]
        assert split(1, 4, 5) == [Part(0, 1, 5)]
        assert {p.seed for p in split(8, 2, 5)}.isdisjoint(p.seed for p in split(8, 2, 6))


floats = st.floats(allow_nan=False, max_value=0.0)
completion = st.lists(st.tuples(st.integers(0, 2**31 - 1), floats), max_size=5).flatmap(
    lambda pairs: st.builds(
        Completion, st.just([i for i, _ in pairs]), st.text(max_size=9), st.sampled_from(["stop", "length"]),
        st.just([v for _, v in pairs]),
    )
)  # fmt: skip


class TestWire:
    @given(st.lists(st.lists(completion, min_size=2, max_size=2), min_size=1, max_size=4))
    def test_responses_survive_bit_for_bit(self, groups: list[list[Completion]]) -> None:
        assert decode_groups(encode_groups(groups), len(groups), Sampling(n=2)) == groups

    def test_answers_of_another_size(self) -> None:
        body = encode_groups([[Completion([1], "a", "stop", [-0.1])]])
        for prompts, sampling in ((2, Sampling()), (1, Sampling(n=2))):
            with pytest.raises(ValueError, match="size"):
                decode_groups(body, prompts, sampling)
        with pytest.raises((ValueError, KeyError)):
            decode_groups(encode_groups([[Completion([1], "a", "stop")]]), 1, Sampling())

    def test_settings(self) -> None:
        sampling = Sampling(n=2, stop=("a",), stop_ids=(1, 2), temperature=1)
        assert decode_sampling(json.loads(json.dumps(encode_sampling(sampling)))) == sampling
        content = json.loads(json.dumps(encode_sampling(Sampling())))
        assert decode_sampling(content) == Sampling()
        wrong = [{**content, "n": "2"}, {**content, "n": True}, {**content, "stop": [1]}, {**content, "x": 1}, {}, None]
        for one in [*wrong, {**content, "stop_ids": [None]}, {**content, "logprobs": 1}]:
            with pytest.raises(UserError):
                decode_sampling(one)

    @pytest.mark.parametrize("content", [None, [1], [["a"]], [[1.0]], [[True]], [[-1]], [[2**31]], {"a": 1}])
    def test_prompts_that_are_none(self, content: Any) -> None:
        with pytest.raises(UserError):
            decode_prompts(content)


class TestBoard:
    def test_a_part_that_is_given_back_is_taken_again(self) -> None:
        board = Board(split(4, 2, 0))
        first, second = board.take(), board.take()
        assert first is not None
        assert second is not None
        board.give_back(first, "it died")
        assert board.take() == first
        board.done(second, [[2], [3]])  # type: ignore[list-item]
        board.done(first, [[0], [1]])  # type: ignore[list-item]
        assert board.wait() == [[0], [1], [2], [3]]
        assert board.take() is None

    def test_a_part_that_breaks_every_server_is_the_cause(self) -> None:
        board = Board(split(4, 1, 0))
        for _ in range(ATTEMPTS):
            part = board.take()
            assert part
            board.give_back(part, "it ran out of memory")
        with pytest.raises(RuntimeError, match="prompts 0 to 3 failed, the last one because it ran out of memory"):
            board.wait()


class TestFolders:
    def test_tensors_come_back_as_they_went(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("r1zero.rollout.served.folder.SHARD", 64)
        store = WeightStore(tmp_path)
        tensors = {f"w{i}": torch.randn(3, 4 + i).to(torch.bfloat16) for i in range(5)}
        tensors["t"] = torch.randn(4, 6).T
        folder = store.write(tensors.items(), "version-1")
        assert len(list(folder.iterdir())) > 2
        back = dict(read_weights(folder))
        assert back.keys() == tensors.keys()
        assert all(torch.equal(back[name], tensors[name]) for name in tensors)
        store.keep(folder)
        newer = store.write(tensors.items(), "version-2")
        assert folder.exists()
        store.keep(newer)
        assert not folder.exists()
        store.close()
        store.close()
        assert list(tmp_path.iterdir()) == []

    def test_what_a_killed_trainer_left_is_removed_and_a_living_ones_is_not(self, tmp_path: Path) -> None:
        code = (
            "import os, sys; from pathlib import Path; from r1zero.rollout.served.folder import WeightStore;"
            "WeightStore(Path(sys.argv[1])); os._exit(9)"
        )
        subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
        assert len(list(tmp_path.iterdir())) == 1
        one, other = WeightStore(tmp_path), WeightStore(tmp_path)
        assert sorted(tmp_path.iterdir()) == sorted([one.path, other.path])
        one.close()
        other.close()

    def test_no_room(self, tmp_path: Path) -> None:
        """/dev/full answers every write with ENOSPC, as a full /dev/shm does."""
        store = WeightStore(tmp_path)
        with pytest.raises(UserError, match=r"no room for the weights in .* set rollout\.weights_dir"):
            store.write(self.full(), "version-1")
        assert list(store.path.glob("version-*")) == []
        store.close()

    def full(self) -> Iterator[tuple[str, torch.Tensor]]:
        with open("/dev/full", "wb", buffering=0) as file:
            file.write(b"x")
        yield "w", torch.zeros(1)

    def test_the_root_is_this_users_alone(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        root = weights_root(None)
        assert root.stat().st_mode & 0o777 == 0o700
        monkeypatch.setattr("os.getuid", lambda: 4711)
        monkeypatch.setattr("r1zero.rollout.served.folder.Path", lambda text: tmp_path)
        (tmp_path / "r1zero-4711").mkdir(mode=0o777)
        with pytest.raises(UserError, match=r"rollout\.weights_dir"):
            weights_root(None)


class FakeEngine:
    """Answers at once; ``work`` is what it does meanwhile."""

    def __init__(self) -> None:
        self.version: int | None = None
        self.on_step: Any = None
        self.work: Any = lambda: None
        self.loaded: list[Path] = []

    def generate(self, prompts: list[list[int]], sampling: Sampling, seed: int) -> list[list[Completion]]:
        self.work()
        return [[Completion([seed], "x", "stop", [-0.5])] for _ in prompts]

    def load_folder(self, folder: Path, version: int) -> None:
        self.loaded.append(folder)
        self.version = version


class Scripted(Remote):
    """Answers to polls from a list of (seconds that it took, steps of the server or None: no answer)."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, answers: list[tuple[float, int | None]]) -> None:
        super().__init__("http://127.0.0.1:9", None)
        self.answers, self.now = answers, 0.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now)

    def _call(self, method: str, path: str, body: bytes | None = None, *, timeout: float) -> tuple[int, bytes]:
        if method == "POST":
            return 202, b'{"job": "x"}'
        if not self.answers:
            return 200, b"done"
        seconds, steps = self.answers.pop(0)
        self.now += seconds
        if steps is None:
            raise TimeoutError
        return 202, json.dumps({"steps": steps}).encode()


class TestPatience:
    """What counts as a hang, on a clock of the test's own."""

    def test_progress_is_none_however_long_the_job_takes(self, monkeypatch: pytest.MonkeyPatch) -> None:
        remote = Scripted(monkeypatch, [(2.0, step // 4) for step in range(100)])
        assert remote.job("generate", {}, 10.0) == b"done"

    @pytest.mark.parametrize("steps", [7, None], ids=["no step", "no answer"])
    def test_no_progress_is_one(self, monkeypatch: pytest.MonkeyPatch, steps: int | None) -> None:
        remote = Scripted(monkeypatch, [(2.0, 7), *[(2.0, steps)] * 50])
        with pytest.raises(Hangs, match="no progress for 10 s"):
            remote.job("generate", {}, 10.0)
        assert 10 <= remote.now - 2 < 14

    def test_a_trainer_that_was_suspended_blames_nobody(self, monkeypatch: pytest.MonkeyPatch) -> None:
        remote = Scripted(monkeypatch, [(2.0, 7), (7200.0, None), (2.0, 8)])
        assert remote.job("generate", {}, 10.0) == b"done"


class TestServer:
    """The HTTP side over an engine that is none."""

    @pytest.fixture
    def served(self, tmp_path: Path) -> Any:
        engine = FakeEngine()
        server = EngineServer(engine, {"model": "m"}, token=None, root=tmp_path, address=("127.0.0.1", 0))
        thread = threading.Thread(target=server.run)
        thread.start()
        yield engine, server, Remote(f"http://127.0.0.1:{server.port}", None)
        server.stop()
        thread.join()

    def request(self, **changes: Any) -> dict[str, Any]:
        sampling = json.loads(json.dumps(encode_sampling(Sampling())))
        return {"prompts": [[1]], "sampling": sampling, "seed": 3, "version": None, "push": None, **changes}

    def test_other_weights_are_not_sampled_from(self, served: Any, tmp_path: Path) -> None:
        engine, _, remote = served
        assert decode_groups(remote.job("generate", self.request(), 60), 1, Sampling())[0][0].ids == [3]
        with pytest.raises(NotSynced, match="version None are served here, not those of version 4"):
            remote.job("generate", self.request(version=4, push="a"), 60)
        (tmp_path / "w").mkdir()
        load = {"folder": str(tmp_path / "w"), "version": 4, "push": "a"}
        for _ in range(2):  # another rank's push of the same weights is no work
            remote.job("load", load, 60)
        assert engine.loaded == [tmp_path / "w"]
        remote.job("generate", self.request(version=4, push="a"), 60)
        with pytest.raises(NotSynced):
            remote.job("generate", self.request(version=4, push="b"), 60)

    def test_errors_keep_their_kind(self, served: Any) -> None:
        engine, _, remote = served

        def fail(error: Exception) -> Any:
            def work() -> None:
                raise error

            return work

        for error, kind in ((UserError("u\nv"), UserError), (SyncError("s"), SyncError), (ValueError("v"), Failed)):
            engine.work = fail(error)
            with pytest.raises(kind, match=" ".join(str(error).split())):
                remote.job("generate", self.request(), 60)

    def test_an_engine_that_failed_is_given_up(self, served: Any) -> None:
        """The process ends, for the fleet to start another: after an unknown error nothing can be relied on."""
        engine, server, remote = served
        engine.work = lambda: 1 / 0
        with pytest.raises(Failed, match="division by zero"):
            remote.job("generate", self.request(), 60)
        deadline = time.monotonic() + 60
        while server._http.socket.fileno() >= 0:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        with pytest.raises(Unreachable):
            remote.health()

    def test_a_server_that_makes_no_step_is_given_up(self, served: Any) -> None:
        engine, _, remote = served
        gate = threading.Event()
        engine.work = lambda: gate.wait(60)
        with pytest.raises(Hangs, match=r"no progress for 0\.5 s"):
            remote.job("generate", self.request(), 0.5)
        gate.set()

    def test_unwanted_work_is_given_up(self, served: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        engine, server, remote = served
        begun, ended = threading.Event(), threading.Event()

        def work() -> None:
            try:
                while True:
                    begun.set()
                    time.sleep(0.01)
                    engine.on_step()
            finally:
                ended.set()

        engine.work = work
        with pytest.raises(Cancelled):
            remote.job("generate", self.request(), 60, begun.is_set)
        assert ended.wait(60)
        ended.clear()
        with monkeypatch.context() as patch:
            patch.setattr("r1zero.rollout.served.server.LEASE", 0.5)
            server.submit("generate", self.request())  # whoever asked for this is gone
            assert ended.wait(60)
        engine.work = lambda: None
        remote.job("generate", self.request(), 60)
        deadline = time.monotonic() + 60
        while server._jobs:
            assert time.monotonic() < deadline, "a job whose answer was taken is forgotten"
            time.sleep(0.01)

    def test_a_trainer_that_is_late_still_hears_what_failed(self, served: Any) -> None:
        """Polls come every other second, and later on a busy machine: the server waits with its end."""
        engine, server, remote = served
        engine.work = lambda: 1 / 0
        job = server.submit("generate", self.request())
        assert job.done.wait(60)
        time.sleep(1.5)
        assert json.loads(remote._call("GET", f"/jobs/{job.name}", timeout=60)[1]) == {"error": "division by zero"}

    def test_a_page_in_a_browser_gets_nothing(self, served: Any) -> None:
        """Without a token: no cross-site form (type of content), no rebound name (host)."""
        import http.client

        _, server, _ = served
        for headers in ({"Content-Type": "text/plain"}, {"Content-Type": "application/json", "Host": "evil.example"}):
            connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=5)
            connection.request("POST", "/generate", b"{}", headers)
            assert connection.getresponse().status == 403
            connection.close()

    def test_transfer_is_not_offered_where_it_was_not_asked_for(self, served: Any) -> None:
        _, _, remote = served
        with pytest.raises(UserError, match="there is no start_weight_update here"):
            remote.job("start_weight_update", {"version": 1}, 5)


def test_gpus_of_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    """GPUs behind the trainer's, shared where there are too few; on a CPU the cores are shared out."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(12)))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert build.devices(2, 1, 1) == [{"OMP_NUM_THREADS": "6"}] * 2
    assert build.devices(1, 2, 1) == [{"OMP_NUM_THREADS": "6", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}]
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert build.devices(2, 1, 1) == [{"OMP_NUM_THREADS": "1"}] * 2
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    assert build.devices(24, 1, 1)[0] == {"OMP_NUM_THREADS": "1"}
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    place = lambda *args: [d["CUDA_VISIBLE_DEVICES"] for d in build.devices(*args)]  # noqa: E731
    assert place(2, 2, 4) == ["4,5", "6,7"]
    assert place(8, 1, 8) == [str(i) for i in range(8)]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3,5")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    assert place(2, 1, 1) == ["3", "5"]
    assert place(1, 3, 1) == ["2,3,5"]
    with pytest.raises(UserError, match="has 3 GPU"):
        place(1, 4, 1)


class TestFleet:
    """Processes that never become servers: ``main.py`` is not reached."""

    def fleet(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> Fleet:
        (tmp_path / "python").write_text(f"#!/usr/bin/env bash\n{script}\n")
        (tmp_path / "python").chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
        monkeypatch.setattr("r1zero.rollout.served.fleet.PAUSE", 0.01)
        return Fleet([{"host": "127.0.0.1", "port": 0}], token="secret", logs=tmp_path / "logs")

    def test_a_start_without_a_word(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        fleet = self.fleet(tmp_path, monkeypatch, "echo no such thing; exit 3")
        with pytest.raises(
            RuntimeError, match=r"died while it started; its last words: no such thing \(.*server0\.log"
        ):
            fleet.wait()

    def test_a_start_is_over_when_it_is_reported(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Workers of a cut model are forked before: they hold the pipe open for as long as they live."""
        script = f"""exec {sys.executable} -c '
import json, os, sys, time
report = os.fdopen(json.loads(sys.stdin.readline())["report"], "w")
worker = os.fork()
if worker:
    print(json.dumps({{"port": 4242}}), file=report, flush=True)
    report.close()
    sys.stdin.read()
    os.kill(worker, 9)
else:
    time.sleep(60)'"""
        fleet = self.fleet(tmp_path, monkeypatch, script)
        begun = time.monotonic()
        assert fleet.wait() == ["http://127.0.0.1:4242"]
        assert time.monotonic() - begun < 50, "it was not waited for the worker's end"
        fleet.close()

    def test_deaths_in_a_row_come_to_an_end(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """The first start goes well; every later one is refused, and that is what the user reads."""
        script = f"""exec {sys.executable} -c '
import json, os, pathlib, sys, time
report = os.fdopen(json.loads(sys.stdin.readline())["report"], "w")
before = pathlib.Path("{tmp_path}/before")
json.dump({{"error": "no memory", "user": True}} if before.exists() else {{"port": 4242}}, report)
report.close()
if before.exists(): sys.exit(1)
before.touch()
time.sleep(0.3)
sys.exit(7)'"""
        fleet = self.fleet(tmp_path, monkeypatch, script)
        assert fleet.wait() == ["http://127.0.0.1:4242"]
        deadline = time.monotonic() + 120
        while fleet.failure is None:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert str(fleet.failure) == f"rollout server 0 ended {RESTARTS + 1} times in a row (exit code 1); no memory"
        assert fleet.restarts == RESTARTS
        fleet.close()

    def test_the_environment(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """The token is handed over there, never as an argument; ranks of the trainer are no ranks of the server."""
        for name in ("RANK", "WORLD_SIZE", "MASTER_PORT", "TORCHELASTIC_RUN_ID"):
            monkeypatch.setenv(name, "1")
        fleet = self.fleet(tmp_path, monkeypatch, f"env > {tmp_path}/env; echo $@ > {tmp_path}/args; exit 3")
        with pytest.raises(RuntimeError):
            fleet.wait()
        environment = (tmp_path / "env").read_text().splitlines()
        assert f"{TOKEN}=secret" in environment
        assert not [line for line in environment if line.startswith(("RANK", "WORLD_SIZE", "MASTER", "TORCHELASTIC"))]
        assert (tmp_path / "args").read_text() == "-m r1zero.rollout.served.main\n"


def test_own_servers_on_several_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build.ranks, "size", lambda: 16)
    for name, value, several in (("LOCAL_WORLD_SIZE", "8", True), ("LOCAL_WORLD_SIZE", "16", False)):
        monkeypatch.setenv(name, value)
        assert build.several_machines() is several
    monkeypatch.delenv("LOCAL_WORLD_SIZE")
    monkeypatch.setenv("SLURM_NNODES", "2")
    assert build.several_machines()


@pytest.mark.vllm
class TestTransfer:
    """vLLM's trainer side as installed, its NCCL endpoint and broadcast replaced: no GPU is needed for the rest."""

    def test_handshake_and_rounds(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from vllm.distributed.weight_transfer import nccl_engine

        asked: list[tuple[int, str, dict[str, Any]]] = []
        sent: list[tuple[str, torch.Size]] = []

        class Fake(Remote):
            def __init__(self, number: int) -> None:
                super().__init__(f"http://127.0.0.1:{8000 + number}", None)
                self.number = number

            def job(self, kind: str, request: dict[str, Any], *args: Any) -> bytes:
                asked.append((self.number, kind, request))
                return b"{}"

        opened = []
        monkeypatch.setattr(nccl_engine, "open_trainer_endpoint", lambda info: opened.append(info) or object())
        monkeypatch.setattr(
            nccl_engine,
            "packed_nccl_broadcast_producer",
            lambda iterator, **rest: sent.extend((name, tensor.shape) for name, tensor in iterator),
        )
        expected = {"a": (2, 3), "b": (4,)}
        transfer = Transfer(Servers([Fake(0), Fake(1)], 2, 5.0), expected, torch.bfloat16)
        weights = [(name, torch.zeros(shape, dtype=torch.bfloat16)) for name, shape in expected.items()]
        for version in (7, 8):
            transfer.send(iter(weights), version, f"push{version}")
        (info,) = opened
        assert (info.world_size, info.rank, info.master_address) == (5, 0, "127.0.0.1")
        starts = {n: r["init_info"] for n, kind, r in asked if kind == "init_weight_transfer_engine"}
        assert {n: (r["rank_offset"], r["world_size"], r["packed"]) for n, r in starts.items()} == {
            0: (1, 5, True), 1: (3, 5, True),
        }  # fmt: skip
        rounds = [(kind, r) for n, kind, r in asked if n == 1][1:]
        assert [kind for kind, _ in rounds] == ["start_weight_update", "update_weights", "finish_weight_update"] * 2
        assert rounds[2][1] == {"version": 7, "push": "push7"}
        check_metadata(rounds[1][1]["update_info"], expected)
        assert sent == [("a", torch.Size([2, 3])), ("b", torch.Size([4]))] * 2

    def test_announced_names_are_checked(self) -> None:
        """Trap 42: what the server is told must be its model."""
        for names, shapes in ((["a"], [[2]]), (["a", "b", "c"], [[2], [3], [4]]), (["a", "b"], [[2], [4]])):
            with pytest.raises(SyncError, match="do not fit"):
                check_metadata({"names": names, "shapes": shapes}, {"a": (2,), "b": (3,)})

    def test_order_of_the_steps(self) -> None:
        """Traps 37, 40, 43: the head is tied again and the cache dropped after the last tensor; then it counts."""
        from r1zero.rollout.vllm.engine import VLLMEngine

        calls: list[str] = []

        class LLM:
            def __getattr__(self, name: str) -> Any:
                return lambda *args, **kwargs: calls.append(name) or True

        engine = object.__new__(VLLMEngine)
        engine.__dict__.update(
            version=3, _llm=LLM(), _awake={"weights", "kv_cache"}, _fault=None, _expected={"a": (2,)}
        )
        engine.transfer("init_weight_transfer_engine", {"init_info": {}})
        assert engine.version == 3
        engine.transfer("start_weight_update", {"version": 4})
        assert engine.version is None
        engine.transfer("update_weights", {"update_info": {"names": ["a"], "dtype_names": ["f"], "shapes": [[2]]}})
        engine.transfer("finish_weight_update", {"version": 4})
        assert engine.version == 4
        assert calls == [
            "init_weight_transfer_engine", "start_weight_update", "update_weights", "finish_weight_update",
            "apply_model", "reset_prefix_cache",
        ]  # fmt: skip


def test_own_address() -> None:
    assert own_address("http://localhost:1") == own_address("http://[::1]:1") == "127.0.0.1"
