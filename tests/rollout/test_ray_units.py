"""rollout=ray without Ray's processes: settings, places, weights on their way, patience, NCCL's handshake."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
import torch

from r1zero.errors import SyncError, UserError
from r1zero.launch import cluster
from r1zero.rollout.parts import Part
from r1zero.rollout.ray import build, remotes
from r1zero.rollout.ray import engine as ray_engine
from r1zero.rollout.ray.check import check_ray
from r1zero.rollout.ray.remotes import Remotes
from r1zero.rollout.ray.sampler import check_prompts, packed, unpacked
from r1zero.rollout.ray.transfer import Samplers, Transfer
from r1zero.rollout.sync import check_metadata
from r1zero.rollout_config import RayConfig, RolloutConfig


def rollout(samplers: int = 2, tensor_parallel: int = 1, **settings: Any) -> RolloutConfig:
    return RolloutConfig(name="ray", samplers=samplers, tensor_parallel=tensor_parallel, ray=RayConfig(**settings))


class TestSettings:
    """One line each, from :func:`check_ray`, before anything heavy is imported."""

    @pytest.mark.parametrize(
        ("config", "line"),
        [
            (RolloutConfig(name="vllm", samplers=2), "rollout.samplers has no use with rollout=vllm"),
            (RolloutConfig(name="hf", ray=RayConfig(address="auto")), "rollout.ray has no use with rollout=hf"),
            (RolloutConfig(name="hf", tensor_parallel=2), "rollout.tensor_parallel has no use with rollout=hf"),
            (rollout(engine="hf", batching="continuous"), "rollout.ray.batching=continuous needs vLLM"),
            (rollout(engine="hf", tensor_parallel=2), "leave the setting out"),
            (rollout(transfer="nccl"), "no GPU was found: use transfer=object"),
            (rollout(tensor_parallel=2, gpus=1.0), "needs as many GPUs"),
            (rollout(address="10.0.0.1"), "write auto, host:port or ray://host:port"),
            (rollout(address="http://10.0.0.1:6379"), "write auto, host:port or ray://host:port"),
            (rollout(address="host:port"), "write auto, host:port or ray://host:port"),
            (rollout(address="127.0.0.1:1"), "nobody answers there (Connection refused)"),
            (rollout(300), "samplers=300 x rollout.tensor_parallel=1 are more engines than this machine has cores"),
            (rollout(1, 64), "samplers=1 x rollout.tensor_parallel=64 are more engines than this machine has cores"),
            (rollout(gpus=1.0), "rollout.ray.gpus=1: this machine has no GPU"),
        ],
    )
    def test_one_line(self, config: RolloutConfig, line: str) -> None:
        with pytest.raises(UserError) as caught:
            check_ray(config)
        assert line in str(caught.value)
        assert "\n" not in str(caught.value)

    def test_ray_is_not_installed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("r1zero.rollout.ray.check.find_spec", lambda name: None)
        with pytest.raises(UserError, match=r"pip install '\.\[ray\]'"):
            check_ray(rollout())

    def test_a_ray_that_auto_finds(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """One that ``ray start`` began, not what other runs have for themselves; its file may outlive it."""
        monkeypatch.delenv("RAY_ADDRESS", raising=False)
        for there, line in (
            (None, "reward.address=auto: no Ray was started on this machine"),
            ("127.0.0.1:1", r"reward.address=auto \(127.0.0.1:1\): nobody answers there"),
        ):
            monkeypatch.setattr(cluster.compat, "address_of_ray", lambda there=there: there)
            with pytest.raises(UserError, match=line):
                cluster.knock("auto", 1.0, "reward.address")

    def test_what_works(self) -> None:
        check_ray(rollout(batching="continuous"))
        check_ray(RolloutConfig(name="vllm"))


class TestPlaces:
    """Which GPUs a Ray of the run's own may give to samplers, and how many threads a sampler has on a CPU."""

    @pytest.fixture
    def started(self, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
        """(CPUs, GPUs, what is visible) of each start."""
        found: list[Any] = []
        visible = lambda: os.environ.get("CUDA_VISIBLE_DEVICES")  # noqa: E731
        monkeypatch.setattr(cluster, "start", lambda cpus, gpus, store: found.append((cpus, gpus, visible())))
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        return found

    def start(self, monkeypatch: pytest.MonkeyPatch, count: int, ranks: int, config: RolloutConfig) -> None:
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.setattr(build.ranks, "size", lambda: ranks)
        monkeypatch.setattr(build, "several_machines", lambda: False)
        fleet = build.Fleet(config, {}, 1000)
        fleet._start_local(fleet._gpus())

    def test_gpus_behind_those_of_the_ranks(self, monkeypatch: pytest.MonkeyPatch, started: list[Any]) -> None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        self.start(monkeypatch, 8, 4, rollout(2, 2))
        self.start(monkeypatch, 0, 1, rollout(2))
        self.start(monkeypatch, 2, 2, rollout(2))
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3,5")
        self.start(monkeypatch, 3, 1, rollout(2))
        assert started == [(3, 4, "4,5,6,7"), (3, 0, None), (3, 2, "0,1"), (3, 2, "3,5")]
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "2,3,5"

    def test_gpus_that_are_not_there(self, monkeypatch: pytest.MonkeyPatch, started: list[Any]) -> None:
        with pytest.raises(UserError, match=r"want 4, and this machine has 2.*rollout\.ray\.gpus=0\.5"):
            self.start(monkeypatch, 2, 1, rollout(4))

    def test_weights_that_do_not_fit(self, monkeypatch: pytest.MonkeyPatch, started: list[Any]) -> None:
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
        with pytest.raises(UserError, match=r"object_store_gib=1 does not hold the weights, 14 GiB"):
            build.Fleet(rollout(object_store_gib=1.0), {}, 14 * 2**30)._start_local(0)

    def test_shared_memory_that_is_too_small(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setattr(cluster, "SHARED", tmp_path)
        cluster.check_shared_memory(1000)
        with pytest.raises(UserError, match="docker run --shm-size"):
            cluster.check_shared_memory(2**60)

    def test_threads(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
        monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(12)))
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
        threads = lambda *args: build.Fleet(rollout(*args), {}, 0)._environment()  # noqa: E731
        assert threads(2) == {"OMP_NUM_THREADS": "6"}
        assert threads(1, 2) == {"OMP_NUM_THREADS": "6", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
        monkeypatch.setenv("OMP_NUM_THREADS", "8")
        assert threads(24) == {"OMP_NUM_THREADS": "1"}
        assert threads(1) == {"OMP_NUM_THREADS": "8"}

    def test_several_machines_need_a_cluster(self, monkeypatch: pytest.MonkeyPatch, started: list[Any]) -> None:
        monkeypatch.setattr(build.ranks, "size", lambda: 16)
        for name, value, several in (("LOCAL_WORLD_SIZE", "8", True), ("LOCAL_WORLD_SIZE", "16", False)):
            monkeypatch.setenv(name, value)
            assert build.several_machines() is several
        monkeypatch.delenv("LOCAL_WORLD_SIZE")
        monkeypatch.setenv("SLURM_NNODES", "2")
        with pytest.raises(UserError, match=r"set rollout\.ray\.address=auto"):
            build.Fleet(rollout(), {}, 1000)._start_local(0)


class TestFolder:
    def test_what_a_killed_run_left_is_removed_and_a_living_ones_is_not(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(cluster.tempfile, "gettempdir", lambda: "/tmp")
        old = Path("/tmp") / f"{cluster.PREFIX}{os.getpid()}old"
        old.mkdir()
        (old / "lock").touch()
        living, lock = cluster.own_folder()
        assert not old.exists()
        other, other_lock = cluster.own_folder()
        assert living.is_dir()
        lock.close()
        other_lock.close()
        third, third_lock = cluster.own_folder()
        assert not living.exists()
        assert not other.exists()
        third_lock.close()
        third.rmdir() if not any(third.iterdir()) else cluster.shutil.rmtree(third)

    def test_names_of_sockets_stay_short(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(cluster.tempfile, "gettempdir", lambda: "/var/folders/zz/" + "x" * 60)
        folder, lock = cluster.own_folder()
        assert len(str(folder)) <= cluster.LONGEST_FOLDER
        lock.close()
        cluster.shutil.rmtree(folder)


class TestWeights:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
    def test_tensors_come_back_bit_for_bit(self, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype) -> None:
        sent = {
            "a": torch.randn(3, 4, dtype=dtype).T,
            "b": torch.randn(5, dtype=dtype),
            "c": torch.tensor(2.0, dtype=dtype),
        }
        monkeypatch.setattr(ray, "get", lambda shard: shard)
        back = dict(unpacked([packed({"a": sent["a"]}), packed({n: sent[n] for n in "bc"})]))
        assert back.keys() == sent.keys()
        assert all(torch.equal(back[name], sent[name]) and back[name].dtype == dtype for name in sent)

    def test_shards(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(ray, "put", lambda shard: sorted(shard))
        monkeypatch.setattr(ray_engine, "SHARD", 100)
        named = [(str(i), torch.zeros(10)) for i in range(7)]
        assert ray_engine.put(named) == [["0", "1", "2"], ["3", "4", "5"], ["6"]]

    @pytest.mark.parametrize("error", [ray.exceptions.ObjectStoreFullError, ray.exceptions.OutOfDiskError])
    def test_a_full_object_store(self, monkeypatch: pytest.MonkeyPatch, error: type[Exception]) -> None:
        def full(shard: Any) -> None:
            raise error

        monkeypatch.setattr(ray, "put", full)
        with pytest.raises(UserError, match=r"object store is full.*rollout\.ray\.object_store_gib"):
            ray_engine.put([("a", torch.zeros(1))])

    def test_files_for_the_workers_of_a_cut_model(self) -> None:
        """They have no name, so nothing of them is left wherever the process ends."""
        from r1zero.rollout.vllm import worker

        sent = {"a": torch.randn(4, 3), "b": torch.randn(5).bfloat16()}
        read: dict[str, torch.Tensor] = {}
        fake = SimpleNamespace(reload_weights=lambda weights_iterator: read.update(dict(weights_iterator)))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(worker, "SHARD", 8)
            with worker.shared_files(sent.items()) as files:
                worker.reload_worker(fake, files)
        assert len(files) == 2
        assert all(torch.equal(read[name], sent[name]) for name in sent)
        assert not any(Path(file).exists() for file in files)


def test_token_ids_without_a_row() -> None:
    """One would end the engine, for every rank."""
    check_prompts([[0, 9], []], 10)
    for bad in ([10], [-1]):
        with pytest.raises(UserError, match="prompt 1 holds a token id outside the model's 10 rows"):
            check_prompts([[1], bad], 10)


class TestPatience:
    """How long a sampler may be silent is counted in looks, and a step is a sign of life."""

    @pytest.fixture
    def engine(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
        engine = Remotes([SimpleNamespace(state=SimpleNamespace(remote=object))], {}, 20.0)
        (remote,) = engine.all
        remote.up, remote.boot, remote.work = True, "b", {object(): Part(0, 1, 0)}
        self.now, self.took, self.steps = 0.0, 1.0, iter(range(1000))
        self.killed: list[Any] = []

        def wait(references: list[Any], num_returns: int, timeout: float) -> tuple[list[Any], list[Any]]:
            self.now += self.took
            return ([remote.asked] if self.answers and remote.asked in references else []), []

        self.answers = True
        monkeypatch.setattr(remotes.time, "monotonic", lambda: self.now)
        monkeypatch.setattr(ray, "wait", wait)
        monkeypatch.setattr(ray, "get", lambda r: {"boot": "b", "pid": 1, "steps": next(self.steps)})
        monkeypatch.setattr(ray, "kill", lambda actor, no_restart: self.killed.append(no_restart))
        return engine

    def test_progress_is_none_however_long_the_work_takes(self, engine: Any) -> None:
        for _ in range(200):
            assert engine.look() == []
        assert self.killed == []

    @pytest.mark.parametrize("answers", [True, False], ids=["no step", "no answer"])
    def test_no_progress_is_one(self, engine: Any, answers: bool) -> None:
        self.answers, self.steps = answers, iter([7] * 100)
        for _ in range(30):
            over = engine.look()
            if over:
                break
        assert self.killed == [False], "Ray starts it again"
        ((_, part, error),) = over
        assert (part.stop, str(error)) == (1, "it made no step for 20 s (rollout.timeout_s)")
        assert 20 <= self.now <= 25

    def test_a_trainer_that_was_suspended_blames_nobody(self, engine: Any) -> None:
        self.took = 3600.0
        for _ in range(3):
            assert engine.look() == []
        assert self.killed == []


@pytest.mark.vllm
class TestTransfer:
    """vLLM's trainer side as installed, its NCCL endpoint and broadcast replaced: no GPU is needed for the rest."""

    def test_handshake_and_rounds(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from vllm.distributed.weight_transfer import nccl_engine

        asked: list[tuple[int, str, dict[str, Any]]] = []
        sent: list[tuple[str, torch.Size]] = []

        class Fake:
            def __init__(self, number: int) -> None:
                call = lambda kind, request: asked.append((number, kind, request))  # noqa: E731
                self.transfer = SimpleNamespace(remote=call)

        monkeypatch.setattr(ray, "get", lambda calls, timeout: None)
        monkeypatch.setattr(ray.util, "get_node_ip_address", lambda: "127.0.0.1")

        opened, group = [], SimpleNamespace(destroy=lambda: left.append(True))
        left: list[bool] = []
        monkeypatch.setattr(nccl_engine, "open_trainer_endpoint", lambda info: opened.append(info) or group)
        monkeypatch.setattr(
            nccl_engine,
            "packed_nccl_broadcast_producer",
            lambda iterator, **rest: sent.extend((name, tensor.shape) for name, tensor in iterator),
        )
        expected = {"a": (2, 3), "b": (4,)}
        transfer = Transfer(Samplers([Fake(0), Fake(1)], 2, 5.0), expected, torch.bfloat16)
        weights = [(name, torch.zeros(shape, dtype=torch.bfloat16)) for name, shape in expected.items()]
        for version in (7, 8):
            transfer.send(iter(weights), version, f"push{version}", ["a", "b"])
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
        transfer.send(iter(weights), 9, "push9", ["a", "c"])
        assert (len(opened), left) == (2, [True]), "a sampler that was started anew is not in the group"

    def test_announced_names_are_checked(self) -> None:
        """Trap 42: what the server is told must be its model."""
        for names, shapes in ((["a"], [[2]]), (["a", "b", "c"], [[2], [3], [4]]), (["a", "b"], [[2], [4]])):
            with pytest.raises(SyncError, match="do not fit"):
                check_metadata({"names": names, "shapes": shapes}, {"a": (2,), "b": (3,)})

    def test_order_of_the_steps(self) -> None:
        """Traps 37, 40, 43: the head is tied again, what arrived is checked, the cache dropped; then it counts."""
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
            "apply_model", "apply_model", "reset_prefix_cache",
        ]  # fmt: skip
