"""Lost machines: a cluster of three Ray nodes on this machine, in processes of its own."""

from __future__ import annotations

import json
import os
import random
import secrets
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
from rollout_support import Served, differences

from r1zero.rollout.engine import Sampling
from run_support import ENVIRONMENT, SMALL, Server, assert_no_orphans, assert_same_run, members, table, until
from tiny_models import perturb

pytestmark = [pytest.mark.ray, pytest.mark.slow]
HERE = Path(__file__).resolve().parent


def environment(token: str) -> dict[str, str]:
    paths = [str(HERE), str(HERE.parent), str(HERE.parents[1] / "src")]
    return {
        **os.environ, **ENVIRONMENT, "PYTHONPATH": os.pathsep.join(paths), "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": token, "RAY_USAGE_STATS_ENABLED": "0", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_memory_monitor_refresh_ms": "0",
    }  # fmt: skip


def test_a_machine_that_is_lost(folders: dict[str, Path], tmp_path: Path) -> None:
    """While sampling, then while weights are sent: the step is that of an undisturbed call, nothing is sampled by old
    weights, and the sampler comes back by itself, newest weights and all, as soon as a machine joins."""
    out = tmp_path / "report.json"
    process = subprocess.Popen(
        [sys.executable, str(HERE / "ray_cluster_worker.py"), str(folders["tied"]), str(out)],
        env=environment(secrets.token_hex(24)), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True,
    )  # fmt: skip
    said, _ = process.communicate(timeout=600)
    assert process.returncode == 0, said[-4000:]
    assert_no_orphans(process.pid)
    report = json.loads(out.read_text())
    assert report["spread"] == 2
    assert report["while sampling"]
    assert report["with one machine"]
    assert report["up"] == [True, False]
    for name in ("new weights", "took them by itself", "while syncing", "both again"):
        assert report[name] < 1e-5, name
    others = ("Loading weights", "Overwriting previous Ray address")  # the second: a cluster before was killed
    lost = [line for line in said.splitlines() if line.strip() and not any(other in line for other in others)]
    assert len(lost) == 2, said
    assert all("sampler 1 is lost (its process or its machine is gone)" in line for line in lost), said


def test_a_wrong_token_is_one_line(tmp_path: Path) -> None:
    """Ray's own processes of another user's cluster do not let us in; we say so and are back at once."""
    right, wrong = environment(secrets.token_hex(24)), environment(secrets.token_hex(24))
    code = (
        "import sys, time; from r1zero.launch import cluster\n"
        "started = cluster.start(1, 0, 80 * 2**20); print(started.address, flush=True); sys.stdin.read()\n"
        "started.close()"
    )
    ray = subprocess.Popen(
        [sys.executable, "-c", code], env=right, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    assert ray.stdout is not None
    address = ray.stdout.readline().strip()
    code = (
        "import sys; from r1zero.errors import UserError; from r1zero.launch import cluster\n"
        "try: cluster.connect(sys.argv[1], 20.0)\n"
        "except UserError as error: print(error)"
    )
    try:
        done = subprocess.run(
            [sys.executable, "-c", code, address], env=wrong, capture_output=True, text=True, timeout=120, check=False
        )
        assert f"rollout.ray.address={address}: the cluster wants another token" in done.stdout, done
        assert (len(done.stdout.splitlines()), done.stderr) == (1, "")
    finally:
        ray.communicate("", timeout=60)
    assert_no_orphans(ray.pid)


@pytest.mark.vllm
@pytest.mark.skipif(not os.environ.get("R1ZERO_SOAK"), reason="R1ZERO_SOAK is not set")
def test_a_model_that_is_cut_over_two_processes(folders: dict[str, Path]) -> None:
    """rollout.tensor_parallel=2 on a CPU: both shares follow every sync, draws follow the seed, nothing is left."""
    one = Served("ray", folders["tied"], tensor_parallel=2)
    engine = one.engine
    try:
        workers = psutil.Process(engine.remotes.all[0].pid).children(recursive=True)
        assert len(workers) >= 2
        model, prompts = one.fresh(), one.prompts(["What is 12 + 30?", "A"])
        sampling = Sampling(n=4, max_tokens=20, stop_ids=(0,))
        for version in (1, 2):
            engine.load_weights(perturb(model, seed=version).named_parameters(), version)
            groups = engine.generate(prompts, sampling, seed=3)
            assert differences(model, prompts, groups).max() < 1e-5
            assert engine.generate(prompts, sampling, seed=3) == groups
    finally:
        engine.close()
    until(lambda: not any(w.is_running() and w.status() != psutil.STATUS_ZOMBIE for w in workers), 180)


@pytest.mark.skipif(not os.environ.get("R1ZERO_SOAK"), reason="R1ZERO_SOAK is not set")
def test_twenty_kills_in_a_hundred_steps(server: Server, tmp_path: Path) -> None:
    """A sampler is killed every fifth step, whichever and whatever it does; the weights are the undisturbed run's."""
    args = ["experiment=demo", *SMALL[2:], "steps=100", "eval.every=0", "checkpoint.every=50", "checkpoint.keep=9"]
    kills, folder = [0], tmp_path / "killed"
    ray = ["rollout=ray", "rollout.samplers=2", "rollout.ray.engine=hf", f"hydra.run.dir={folder}"]
    run = server.start([*args, *ray], tmp_path)
    chosen, over = random.Random(0), threading.Event()

    def kill() -> None:
        while kills[0] < 20 and not over.wait(0.02):
            steps = len(table(folder)) if (folder / "metrics.csv").exists() else 0
            samplers = [p for p in members(run.pid) if "ray::Sampler" in " ".join(p.cmdline())]
            if steps < 5 * kills[0] or not samplers:
                continue
            time.sleep(chosen.random() * 0.2)
            try:
                chosen.choice(samplers).kill()
                kills[0] += 1
            except psutil.NoSuchProcess:
                continue

    killer = threading.Thread(target=kill)
    killer.start()
    ended = run.wait()
    over.set()
    killer.join()
    assert (ended.code, ended.errors) == (0, [])
    assert kills[0] == 20
    calm = server.run([*args, "rollout=hf", "rollout.parts=2", f"hydra.run.dir={tmp_path / 'calm'}"], tmp_path)
    assert calm.code == 0, calm.err
    assert_same_run(folder, tmp_path / "calm", 100)
