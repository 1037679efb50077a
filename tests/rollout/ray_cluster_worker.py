"""A trainer on a cluster of three Ray nodes, processes of this machine: the scenario of ``test_ray_cluster``."""

from __future__ import annotations

import contextlib
import json
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
from rollout_support import differences, on_ray

from r1zero.launch import cluster
from r1zero.rollout.engine import Sampling
from tiny_models import perturb

STORE = 80 * 2**20
LONG = Sampling(n=8, max_tokens=200)


class Machines:
    """A head, on which the trainer runs, and two machines with a place for one sampler each."""

    def __init__(self) -> None:
        cluster.import_ray()
        from ray.cluster_utils import Cluster

        head = dict(num_cpus=0, object_store_memory=STORE, include_dashboard=False)
        self.all = Cluster(initialize_head=True, head_node_args=head)
        self.nodes = [self.join() for _ in range(2)]

    def join(self) -> Any:
        """One more machine."""
        return self.all.add_node(num_cpus=1, object_store_memory=STORE)

    def lose(self, node: Any) -> None:
        """A machine is gone without a word, all its processes at once: orphans of a raylet would answer for a while."""
        raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
        for process in [raylet, *raylet.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.all.remove_node(node, allow_graceful=False)


def main(folder: str, out: str) -> None:
    machines = Machines()
    one = on_ray(Path(folder), address=machines.all.address, timeout_s=60.0)
    engine, report = one.engine, {}
    first, second = engine.remotes.all
    prompts = one.prompts(["What is 12 + 30?", "7 - 5 =", "A", "12 * 3 ="])
    model = perturb(one.fresh(), seed=1)
    engine.load_weights(model.named_parameters(), 1)
    undisturbed = engine.generate(prompts, LONG, seed=5)
    report["spread"] = len({state(remote)["node"] for remote in (first, second)})

    victim = node_with(machines, state(second)["node"])
    killer = threading.Timer(0.3, machines.lose, [victim])
    killer.start()
    report["while sampling"] = engine.generate(prompts, LONG, seed=5) == undisturbed
    killer.join()
    begun = time.monotonic()
    report["with one machine"] = engine.generate(prompts, LONG, seed=5) == undisturbed
    report["up"] = [remote.up for remote in (first, second)]

    engine.load_weights(perturb(model, seed=2).named_parameters(), 2)
    newest = engine.generate(prompts, LONG, seed=5)
    report["new weights"] = differences(model, prompts, newest).max().item()
    joined = machines.join()
    wait_for(engine)
    report["back_s"] = round(time.monotonic() - begun, 1)
    answer = second.actor.generate.remote(prompts, LONG, 5, 2, engine._push, "own")
    report["took them by itself"] = differences(model, prompts, cluster.import_ray().get(answer)).max().item()

    def dying(tensors: Iterator[Any]) -> Iterator[Any]:
        for number, named in enumerate(tensors):
            if number == 3:
                machines.lose(joined)
            yield named

    engine.load_weights(dying(perturb(model, seed=3).named_parameters()), 3)
    report["while syncing"] = differences(model, prompts, engine.generate(prompts, LONG, seed=5)).max().item()
    machines.join()
    wait_for(engine)
    engine.load_weights(perturb(model, seed=4).named_parameters(), 4)
    report["both again"] = differences(model, prompts, engine.generate(prompts, LONG, seed=5)).max().item()
    engine.close()
    machines.all.shutdown()
    Path(out).write_text(json.dumps(report))


def state(remote: Any) -> dict[str, Any]:
    """What a sampler says of itself."""
    return cluster.import_ray().get(remote.actor.state.remote())


def node_with(machines: Machines, node: str) -> Any:
    """The machine of that name."""
    return next(machine for machine in machines.all.worker_nodes if machine.node_id == node)


def wait_for(engine: Any) -> None:
    """Until every sampler answers again."""
    deadline = time.monotonic() + 240
    while not all(remote.up for remote in engine.remotes.all):
        assert time.monotonic() < deadline
        engine.remotes.look()


if __name__ == "__main__":
    main(*sys.argv[1:])
