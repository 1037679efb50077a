"""Training over servers: the weights of a run with the engine in its own process, whatever happens to the servers."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest
from rollout_support import CONTEXT, Served, differences, start
from transformers import AutoModelForCausalLM

from r1zero.errors import UserError
from r1zero.rollout.engine import Sampling
from r1zero.rollout.served.client import TOKEN, Remote
from run_support import ENVIRONMENT, ROOT, SMALL, Server, assert_no_orphans, assert_same_run, members, until
from tiny_models import perturb

pytestmark = [pytest.mark.vllm, pytest.mark.slow]
ARGS = [
    *(a for a in SMALL if a not in ("rollout=hf", "steps=4")),
    "rollout.kv_cache_gib=0.1",
    "rollout.max_num_seqs=64",
]


def test_the_weights_are_those_of_a_run_with_the_engine_in_its_own_process(
    pair: Served, server: Server, tmp_path: Path
) -> None:
    """Bit for bit, although a server is killed in the middle; its successor is given the weights of the moment."""
    model = ["model=folder", f"model.path={pair.folder}", "model.dtype=float32", f"model.context={CONTEXT}"]
    args = [*ARGS, *model, "steps=4", "checkpoint.keep=9"]
    urls = ",".join(remote.url for remote in pair.engine.remotes)
    over, token = tmp_path / "over", {TOKEN: pair.engine.fleet.token}
    run = server.start(
        [*args, "rollout=vllm_server", f"rollout.urls=[{urls}]", f"hydra.run.dir={over}"], tmp_path, env=token
    )
    restarts = pair.engine.fleet.restarts

    def kill() -> None:
        until(lambda: (over / "metrics.csv").exists() and len((over / "metrics.csv").read_text().splitlines()) > 1)
        os.kill(pair.engine.fleet.pid(0), signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    ended = run.wait()
    killer.join()
    assert (ended.code, ended.errors) == (0, [])
    own = server.run([*args, "rollout=vllm", "rollout.parts=2", f"hydra.run.dir={tmp_path / 'own'}"], tmp_path)
    assert own.code == 0, own.err  # vLLM's C++ side has said a word on stderr
    assert_same_run(over, tmp_path / "own", 4)
    until(lambda: pair.engine.fleet.restarts == restarts + 1)


@pytest.mark.parametrize("stopped", [False, True])
def test_servers_end_with_whoever_started_them(tmp_path: Path, stopped: bool) -> None:
    """kill -9 of the parent leaves no process behind, not even one that can't act because it is stopped."""
    code = (
        "import sys, time; from pathlib import Path; from r1zero.rollout.served.fleet import Fleet;"
        "engine = {'model_path': 'nowhere'}; settings = {'kind': 'vllm', 'engine': engine, 'host': '', 'port': 0};"
        "fleet = Fleet([settings], token=None, logs=Path(sys.argv[1]));\n"
        "while not fleet.pid(0): time.sleep(0.01)\n"
        "print(fleet.pid(0), flush=True); time.sleep(600)"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    until(lambda: ignores(pid, signal.SIGTERM))  # it has come so far as to care about its parent
    if stopped:
        os.kill(pid, signal.SIGSTOP)
    parent.kill()
    parent.communicate()
    assert_no_orphans(parent.pid)


@pytest.mark.skipif(not os.environ.get("R1ZERO_SOAK"), reason="R1ZERO_SOAK is not set")
def test_servers_end_with_a_trainer_that_is_killed(server: Server, tmp_path: Path) -> None:
    """The trainer starts a server of its own; kill -9 of the trainer leaves none, and its resumed self goes on."""
    out, other = tmp_path / "run", tmp_path / "other"
    args = [*ARGS, "steps=60", "rollout=vllm_server"]
    run = server.start([*args, f"hydra.run.dir={out}"], tmp_path)
    until(lambda: (out / "metrics.csv").exists() and len((out / "metrics.csv").read_text().splitlines()) > 4)
    assert any("r1zero.rollout.served.main" in " ".join(p.cmdline()) for p in members(run.pid))
    run.signal(signal.SIGKILL)
    assert run.wait().code == -signal.SIGKILL
    assert server.run([f"resume={out}"], tmp_path).code == 0
    assert server.run([*args, f"hydra.run.dir={other}"], tmp_path).code == 0
    assert_same_run(out, other, 60)


@pytest.mark.skipif(not os.environ.get("R1ZERO_SOAK"), reason="R1ZERO_SOAK is not set")
def test_a_model_that_is_cut_over_two_processes(folders: dict[str, Path]) -> None:
    """rollout.tensor_parallel=2 on a CPU: both shares follow every sync, draws follow the seed, nothing is left."""
    engine = start("vllm_server", folders["tied"], tensor_parallel=2)
    try:
        workers = psutil.Process(engine.fleet.pid(0)).children(recursive=True)
        assert len(workers) >= 2
        model = AutoModelForCausalLM.from_pretrained(folders["tied"]).eval()
        prompts, sampling = [[5, 6, 7], [8, 9]], Sampling(n=4, max_tokens=20, stop_ids=(0,))
        for version in (1, 2):
            engine.load_weights(perturb(model, seed=version).named_parameters(), version)
            groups = engine.generate(prompts, sampling, seed=3)
            assert differences(model, prompts, groups).max() < 1e-5
            assert engine.generate(prompts, sampling, seed=3) == groups
    finally:
        engine.close()
    until(lambda: not any(w.is_running() and w.status() != psutil.STATUS_ZOMBIE for w in workers), 60)


def ignores(pid: int, number: signal.Signals) -> bool:
    (mask,) = re.findall(r"^SigIgn:\s*(\w+)", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return bool(int(mask, 16) >> (number - 1) & 1)


def serve(*args: str, cwd: Path, **env: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(ROOT / "scripts" / "serve.py"), "model=tiny", *args],
        cwd=cwd, env=os.environ | ENVIRONMENT | {"COLUMNS": "400"} | env,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip


def test_serve_says_what_to_type_and_ends_in_order(tmp_path: Path) -> None:
    process = serve("port=0", "rollout.kv_cache_gib=0.1", cwd=tmp_path, **{TOKEN: "secret"})
    assert process.stdout is not None
    lines = [process.stdout.readline() for _ in range(3)]
    (url,) = re.findall(r"at (http://127\.0\.0\.1:\d+)$", lines[0], re.MULTILINE)
    assert f"python train.py model=tiny rollout=vllm_server 'rollout.urls=[{url}]'" in lines[1]
    assert "a token is asked for" in lines[2]
    assert "secret" not in "".join(lines)
    assert Remote(url, "secret").health()["model"].endswith("tiny")
    arguments = [" ".join(child.cmdline()) for child in psutil.Process(process.pid).children(recursive=True)]
    assert not any("secret" in line for line in arguments)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=300)
    assert (process.returncode, errors.strip()) == (143, "terminated")
    assert_no_orphans(process.pid)


def test_what_to_type_names_a_folder_by_its_path() -> None:
    from r1zero.config import ModelConfig, RolloutConfig
    from r1zero.lab.serve.config import ServeConfig
    from r1zero.lab.serve.run import command

    rollout = RolloutConfig(name="vllm_server", weights_dir="w", transfer="nccl")
    given = ServeConfig(model=ModelConfig(name="folder", path="my/model"), rollout=rollout)
    assert command(given, ["http://a:1", "http://a:2"], Path("/w")) == (
        "python train.py model=my/model rollout=vllm_server 'rollout.urls=[http://a:1,http://a:2]' "
        "rollout.weights_dir=/w rollout.transfer=nccl"
    )


def test_a_token_is_asked_for_before_other_machines_are_let_in(tmp_path: Path) -> None:
    process = serve("host=0.0.0.0", cwd=tmp_path, **{TOKEN: ""})
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 1
    assert f"set a token in the environment first, e.g. export {TOKEN}=" in errors
    assert len(errors.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["rollout=hf"], "only rollout=vllm_server is served"),
        (["rollout.servers=0"], "rollout.servers=0 must be at least 1"),
        (["port=70000"], "port=70000 must lie between 0"),
        (["host=192.168.0.1"], "can be reached from other machines"),
        (["rollout.transfer=nccl"], "no GPU was found"),
        (["rollout.transfer=pickle"], "choose folder or nccl"),
        (["rollout.urls=[http://127.0.0.1:1]"], "starts them"),
        (["+token=abc"], "there is no such setting"),
    ],
)
def test_serve_refuses(args: list[str], words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A token on the command line, where every user sees it, is no setting at all."""
    from hydra import compose, initialize_config_dir

    from r1zero.config import register
    from r1zero.lab.serve import config
    from r1zero.lab.serve.checks import check

    monkeypatch.delenv(TOKEN, raising=False)
    register()
    config.register()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        settings = compose("serve", ["model=tiny", "paths.run=x", "paths.outputs=x", *args])
    with pytest.raises(UserError, match=re.escape(words)) as caught:
        check(settings)
    assert "\n" not in str(caught.value)
