"""From a config to samplers on Ray, and to the engine that uses them."""

from __future__ import annotations

import contextlib
import math
import os
import secrets
import time
from typing import Any

import torch

from r1zero.errors import UserError
from r1zero.launch import cluster
from r1zero.reward.grader import available_cores
from r1zero.rollout import ranks
from r1zero.rollout.identity import cards, identity, releases
from r1zero.rollout.ray.sampler import WEIGHTS, Sampler, Weights
from r1zero.rollout.ray.transfer import Samplers, Transfer
from r1zero.rollout.sync import expected_parameters, torch_dtype
from r1zero.rollout.vllm.engine import BESIDE_A_LEARNER
from r1zero.rollout_config import RolloutConfig

BIND = "VLLM_CPU_OMP_THREADS_BIND"
ON_A_CARD = 0.9
"""Share of a card's memory for an engine that has it to itself."""
CALLS = 4096
"""Requests of all ranks that a sampler with continuous batching takes at a time."""


def build_ray_engine(rollout: RolloutConfig, engine: dict[str, Any]) -> Any:
    """Start ``rollout.samplers`` samplers (rank 0 does, for all ranks), on a Ray of our own or on a cluster.

    Args:
        rollout: the rollout group.
        engine: its and the model's settings, from :func:`r1zero.rollout.vllm.settings.vllm_settings`.

    Raises:
        UserError: Ray is not installed, does not answer or lacks the places; a sampler can't start.
    """
    from transformers import AutoTokenizer

    ray = cluster.import_ray(local=rollout.ray.address is None)
    from r1zero.rollout.ray.engine import RayEngine

    settings = rollout.ray
    source: Any = {name: engine[name] for name in ("revision", "trust_remote_code")}
    expected = expected_parameters(engine["model_path"], **source)
    own = identity(expected, AutoTokenizer.from_pretrained(engine["model_path"], **source)) | {"releases": releases()}
    size = sum(math.prod(shape) for shape in expected.values()) * torch_dtype(engine["dtype"]).itemsize
    samplers = Fleet(rollout, engine, size)
    try:
        with ranks.agreed(samplers.start) as (address, token, namespace):
            if token:
                os.environ[cluster.TOKEN] = token
            if not samplers.started:
                samplers.cluster = cluster.connect(address, settings.wait_s, namespace)
            actors = [ray.get_actor(sampler_name(i), namespace) for i in range(rollout.samplers)]
            transfer = None
            if settings.transfer == "nccl" and ranks.rank() == 0:
                own["cards"] = cards(torch.cuda.current_device())
                inference = Samplers(actors, rollout.tensor_parallel, rollout.timeout_s)
                transfer = Transfer(inference, expected, torch_dtype(engine["dtype"]))
            continuous = settings.batching == "continuous"
            each = 4 * rollout.samplers if continuous else max(1, rollout.samplers // ranks.size())
            return RayEngine(
                actors,
                ray.get_actor(WEIGHTS, namespace),
                own=own,
                expected=expected,
                dtype=engine["dtype"],
                context=engine["context"],
                parts=rollout.parts or each,
                continuous=continuous,
                timeout_s=rollout.timeout_s,
                transfer=transfer,
                by_transfer=settings.transfer == "nccl",
                on_close=samplers.close,
            )
    except BaseException:
        samplers.close()
        raise


def sampler_name(number: int) -> str:
    """An actor's name in the run's namespace."""
    return f"sampler-{number}"


class Fleet:
    """The actors of a run, and Ray under them.

    Args:
        rollout: the rollout group.
        engine: settings of each sampler's engine.
        size: bytes of the weights.
    """

    def __init__(self, rollout: RolloutConfig, engine: dict[str, Any], size: int) -> None:
        self.rollout, self.settings, self.engine, self.size = rollout, rollout.ray, engine, size
        self.cluster: cluster.Cluster | None = None
        self.started = False
        self.alone = True
        """Whether samplers have cards on which there is no learner."""
        self._actors: list[Any] = []
        self._places: Any = None

    def start(self) -> tuple[str, str, str]:
        """Rank 0's share: Ray, the ``Weights`` and the samplers; address, token (of our own Ray) and namespace."""
        namespace = f"r1zero-{secrets.token_hex(6)}"
        self.started = True
        gpus = self._gpus()
        if self.settings.address is None:
            self.cluster = self._start_local(gpus)
        else:
            self.cluster = cluster.connect(self.settings.address, self.settings.wait_s, namespace)
        self._check_store()
        self._place(gpus)
        self._create(namespace, gpus)
        return self.cluster.address, os.environ.get(cluster.TOKEN, "") if self.cluster.local else "", namespace

    def close(self) -> None:
        """End the samplers and our own Ray, or leave the cluster; safe to call twice."""
        ray = cluster.import_ray()
        if ray.is_initialized():
            with contextlib.suppress(Exception):
                ray.get([actor.close.remote() for actor in self._actors[1:]], timeout=10)
            for actor in self._actors:
                with contextlib.suppress(Exception):
                    ray.kill(actor)
            if self._places is not None:
                with contextlib.suppress(Exception):
                    ray.util.remove_placement_group(self._places)
        self._actors, self._places = [], None
        if self.cluster is not None:
            self.cluster.close()

    def _gpus(self) -> float:
        """GPUs that each sampler reserves."""
        if self.settings.gpus is not None:
            return self.settings.gpus
        here = torch.cuda.device_count() > 0 and self.settings.engine == "vllm"
        return float(self.rollout.tensor_parallel) if here else 0.0

    def _share(self) -> float:
        """Part of a card's memory for a sampler: nearly all of one of its own, as much of one that it shares."""
        return ON_A_CARD * min(self._gpus(), 1.0) if self.alone else BESIDE_A_LEARNER

    def _start_local(self, gpus: float) -> cluster.Cluster:
        """A Ray that sees the GPUs behind those of this machine's ranks; where they are too few, the ranks' too."""
        if several_machines():
            raise UserError(
                "a Ray of the run's own is reached from its machine alone, and this job has several: start Ray on "
                "each (scripts/slurm/train.sbatch does) and set rollout.ray.address=auto"
            )
        count, wanted = torch.cuda.device_count(), gpus * self.rollout.samplers
        if wanted > count:
            raise UserError(
                f"rollout.samplers={self.rollout.samplers} with {gpus:g} GPU(s) each want {wanted:g}, and this machine "
                f"has {count}: lower one of them (rollout.ray.gpus=0.5 shares a GPU)"
            )
        self.alone = free = count - ranks.size() >= wanted
        if not free and self.settings.transfer == "nccl":
            raise UserError(
                f"rollout.ray.transfer=nccl sends from card to card, and {ranks.size()} learner(s) and samplers with "
                f"{wanted:g} GPU(s) share this machine's {count}: use fewer of either, or transfer=object"
            )
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        names = visible.split(",") if visible else [str(i) for i in range(count)]
        store = self.settings.object_store_gib
        memory = int(store * cluster.GIB) if store else self.size + cluster.LEAST_STORE
        if memory < self.size + cluster.LEAST_STORE // 2:
            raise UserError(
                f"rollout.ray.object_store_gib={store:g} does not hold the weights, {self.size / cluster.GIB:.3g} GiB"
            )
        if not count:
            return cluster.start(self.rollout.samplers * self.settings.cpus + 1, 0, memory)
        others = names[ranks.size() :]
        names = others if free else others + names[: ranks.size()]  # Ray takes the first ones first
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(names)
        try:
            return cluster.start(self.rollout.samplers * self.settings.cpus + 1, len(names), memory)
        finally:
            if visible is None:
                del os.environ["CUDA_VISIBLE_DEVICES"]
            else:
                os.environ["CUDA_VISIBLE_DEVICES"] = visible

    def _check_store(self) -> None:
        """The weights must fit into the shared memory of this machine's Ray."""
        import ray

        here = ray.get_runtime_context().get_node_id()
        (room,) = [n["Resources"].get("object_store_memory", 0) for n in ray.nodes() if n["NodeID"] == here]
        if room < self.size:
            raise UserError(
                f"Ray's object store on this machine holds {room / cluster.GIB:.3g} GiB and the weights need "
                f"{self.size / cluster.GIB:.3g}: raise rollout.ray.object_store_gib, or on a cluster "
                "`ray start --object-store-memory`"
            )

    def _place(self, gpus: float) -> None:
        """Reserve a place for each sampler, on as many machines as there are. Raises ``UserError``."""
        import ray

        bundle = {"CPU": self.settings.cpus} | ({"GPU": gpus} if gpus else {})
        count = self.rollout.samplers
        self._places = ray.util.placement_group([bundle] * count, strategy="SPREAD")
        ready = self._places.ready()
        begun = time.monotonic()
        while not ray.wait([ready], timeout=0.5)[0]:
            if time.monotonic() - begun > self.settings.wait_s:
                there, free = ray.cluster_resources(), ray.available_resources()
                has = ", ".join(f"{there.get(k, 0):g} {k} ({free.get(k, 0):g} free)" for k in bundle)
                want = " and ".join(f"{value:g} {key}" for key, value in bundle.items())
                raise UserError(
                    f"rollout.samplers={count} with {want} each find no place on the cluster within "
                    f"{self.settings.wait_s:g} s (rollout.ray.wait_s): it has {has}"
                )

    def _create(self, namespace: str, gpus: float) -> None:
        """The ``Weights`` actor beside the trainer, the samplers in their places."""
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy, PlacementGroupSchedulingStrategy

        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        weights = (
            ray.remote(Weights)
            .options(name=WEIGHTS, namespace=namespace, num_cpus=0, max_restarts=-1, scheduling_strategy=here)
            .remote()
        )
        self._actors = [weights]
        continuous = self.settings.batching == "continuous"
        kind = "continuous" if continuous else self.settings.engine
        # ``state`` has a thread of its own: it answers while the engine works.
        groups: Any = {"concurrency_groups": {"watch": 1}}
        actor: Any = ray.remote(**groups)(watched(Sampler))
        for number in range(self.rollout.samplers):
            spec = {
                "kind": kind, "engine": self._engine(), "environment": self._environment(), "namespace": namespace,
            }  # fmt: skip
            place = PlacementGroupSchedulingStrategy(self._places, placement_group_bundle_index=number)
            options: dict[str, Any] = dict(
                name=sampler_name(number),
                namespace=namespace,
                num_cpus=self.settings.cpus,
                num_gpus=gpus,
                max_restarts=-1,
                max_concurrency=CALLS if continuous else 1,
                scheduling_strategy=place,
            )
            self._actors.append(actor.options(**options).remote(spec))

    def _engine(self) -> dict[str, Any]:
        if self.settings.engine == "hf":
            names = ("model_path", "dtype", "context", "revision", "trust_remote_code", "max_num_seqs")
            return {name: self.engine[name] for name in names} | {"device": "cuda" if self._gpus() else "cpu"}
        transfer = None if self.settings.transfer == "object" else self.settings.transfer
        own = {"gpu_memory": self.engine["gpu_memory"] or self._share()}
        count, tokens = self.engine["evaluated"]
        own["responses"], own["evaluated"] = self._dealt(self.engine["responses"]), (self._dealt(count), tokens)
        return self.engine | own | {"sleep": False, "transfer": transfer}

    def _dealt(self, responses: int) -> int:
        """A sampler's share of the responses that every rank asks for."""
        return -(-responses * ranks.size() // self.rollout.samplers)

    def _environment(self) -> dict[str, str]:
        """On a CPU the samplers of a machine share its cores out.

        Threads of two that wait for each other on one core make both many times slower. The workers of a cut model
        are not bound to cores: vLLM would want a memory node for each.
        """
        if torch.cuda.device_count():
            return {}
        local = self.cluster is None or self.cluster.local
        machines = 1 if local else sum(node["Alive"] for node in cluster.import_ray().nodes())
        here = -(-self.rollout.samplers // machines)
        share = max(1, available_cores() // (here * self.rollout.tensor_parallel))
        given = os.environ.get("OMP_NUM_THREADS", "")
        threads = min(share, int(given)) if given.isdigit() and int(given) else share
        more = {BIND: os.environ.get(BIND, "nobind")} if self.rollout.tensor_parallel > 1 else {}
        return {"OMP_NUM_THREADS": str(threads), **more}


def watched(actor: type) -> type:
    """The class with what is asked meanwhile in the concurrency group "watch"."""
    import ray

    for name in ("state", "drop"):
        setattr(actor, name, ray.method(concurrency_group="watch")(getattr(actor, name)))
    return actor


def several_machines() -> bool:
    """Whether torchrun or SLURM spread the ranks over machines."""
    here, nodes = os.environ.get("LOCAL_WORLD_SIZE"), os.environ.get("SLURM_NNODES", "1")
    return (here is not None and int(here) < ranks.size()) or (ranks.size() > 1 and int(nodes) > 1)
