"""``rollout=auto``: what is measured, what is taken without, and what a run keeps."""

from __future__ import annotations

import errno
import importlib.util
import inspect
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
from omegaconf import OmegaConf
from rollout_support import start

from r1zero.errors import SyncError, UserError
from r1zero.launch.files import read_json, write_json
from r1zero.launch.number_format import SMALL
from r1zero.rollout import choice, figures, measure
from r1zero.rollout.engine import Sampling
from run_support import ENVIRONMENT, ROOT, until
from run_support import SMALL as SMALL_RUN

FIGURES = {"hf": 1.5, "vllm": 4.0}


def settings(folder: Path, **rollout: Any) -> Any:
    sampled = dict(dtype="auto", kv_cache_gib=0.05, enforce_eager=True, max_num_seqs=8, top_p=1.0, top_k=-1)
    step = dict(temperature=1.0, questions=4, group_size=2, max_tokens=6, measured={})
    return OmegaConf.create(
        {
            "model": {"path": str(folder), "dtype": "float32"},
            "trainer": {"accelerator": "cpu", "devices": 2},
            "rollout": {"name": "auto", **sampled, **step, **rollout},
        }
    )


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Jobs that are measured; the figures are ``FIGURES``."""
    jobs: list[dict[str, Any]] = []
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(figures, "measure", lambda job, seconds: jobs.append(job) or dict(FIGURES))
    return jobs


def test_the_quicker_engine_is_taken_and_the_figures_are_kept(
    asked: list[dict[str, Any]], folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = settings(folders["tied"])
    choice.settle_engine(config, tmp_path)
    assert (config.rollout.name, config.rollout.measured) == ("hf", FIGURES)
    assert "rollout=auto is hf: ms a decoding step: hf 1.50, vllm 4.00 (measured)" in capsys.readouterr().out
    assert (asked[0]["questions"], asked[0]["sampling"]["n"]) == (2, 2), "a rank's share of a step"
    choice.settle_engine(settings(folders["tied"]), tmp_path)
    assert "(kept from an earlier run)" in capsys.readouterr().out
    assert len(asked) == 1
    for other in (settings(folders["llama"]), settings(folders["tied"], questions=64)):
        choice.settle_engine(other, tmp_path)  # another shape of the model, of a step
    assert len(asked) == 3
    other_way = {"hf": 5.0, "vllm": 4.0}
    write_json(figures.cache_file(asked[0]), other_way)
    assert choice.choose(settings(folders["tied"]))[:2] == ("vllm", other_way)


def test_a_resumed_run_keeps_its_engine(
    asked: list[dict[str, Any]], folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """On whatever machine it goes on."""
    (tmp_path / "config.yaml").write_text(OmegaConf.to_yaml({"rollout": {"name": "vllm", "measured": {"hf": 9.0}}}))
    config = settings(folders["tied"])
    choice.settle_engine(config, tmp_path)
    assert (config.rollout.name, config.rollout.measured) == ("vllm", {"hf": 9.0})
    assert "as stored in" in capsys.readouterr().out
    assert not asked


def test_nothing_is_measured_where_the_answer_is_known(
    asked: list[dict[str, Any]], folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert choice.choose(settings(folders["tied"], quantization="fp8"))[0] == "vllm"
    assert choice.choose(settings(tmp_path / "not_here"))[0] == "vllm"
    with monkeypatch.context() as patch:
        patch.setattr(choice, "parameters", lambda model: SMALL)
        assert choice.choose(settings(folders["tied"]))[0] == "vllm"
    with monkeypatch.context() as patch:
        patch.setattr(choice, "on_gpu", lambda config: True)
        assert choice.choose(settings(folders["tied"]))[0] == "vllm"
    with monkeypatch.context() as patch:
        patch.setattr(importlib.util, "find_spec", lambda name: None)
        assert choice.choose(settings(folders["tied"]))[0] == "hf"
    assert not asked
    monkeypatch.setattr(figures, "measure", lambda job, seconds: {"error": "no kernels"})
    assert choice.choose(settings(folders["tied"]))[::2] == ("hf", "the two could not be measured here (no kernels)")
    assert not list(tmp_path.rglob("engines_*.json")), "a failure is tried again"
    monkeypatch.setattr(figures, "measure", lambda job, seconds: {"hf": 2.0, "failed": {"vllm": "no such layer"}})
    assert choice.choose(settings(folders["tied"]))[::2] == ("hf", "vllm can't take the model (no such layer)")
    both = {"failed": {"hf": "broken", "vllm": "no such layer"}}
    monkeypatch.setattr(figures, "measure", lambda job, seconds: both)
    with pytest.raises(UserError, match=r"finds no engine for .*: hf: broken; vllm: no such layer"):
        choice.choose(settings(folders["tied"]))


def test_each_engines_own_is_taken_or_refused_before_anything_heavy(
    asked: list[dict[str, Any]], folders: dict[str, Path], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """A mixture of experts trains with transformers alone, some settings are vLLM's, and both at once nobody can."""
    experts = tmp_path / "experts"
    shutil.copytree(folders["tied"], experts)
    write_json(experts / "config.json", read_json(experts / "config.json") | {"num_experts": 4})

    def narrowed(folder: Path, **rollout: Any) -> str:
        config = settings(folder, **rollout)
        config.algo = {}
        choice.say(choice.narrow(config))
        return config.rollout.name

    assert narrowed(experts) == "hf"
    assert "rollout=auto is hf: vLLM does not take the weights of a mixture of experts again" in capsys.readouterr().out
    for setting in ({"quantization": "fp8"}, {"batch_invariant": True}, {"tensor_parallel": 2}):
        assert narrowed(folders["tied"], **setting) == "vllm"
        with pytest.raises(
            UserError, match=rf"rollout\.{next(iter(setting))}=.* is vLLM's, and .* \(num_experts=4\): le"
        ):
            narrowed(experts, **setting)
    assert narrowed(folders["tied"], quantization=None, batch_invariant=False, tensor_parallel=1) == "auto"
    assert choice.only_engine(settings(experts), experts) is None, "an evaluation loads no weights again"
    with monkeypatch.context() as patch:
        patch.setattr(importlib.util, "find_spec", lambda name: None)
        with pytest.raises(UserError, match="tensor_parallel=2 is vLLM's, and vLLM is not installed"):
            narrowed(folders["tied"], tensor_parallel=2)
    hub = tmp_path / "hub" / "models--some--experts"
    (hub / "refs").mkdir(parents=True)
    (hub / "refs" / "main").write_text("abc")
    shutil.copytree(experts, hub / "snapshots" / "abc")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    config = settings(Path("some/experts"))
    config.algo = {}
    assert choice.choose(config)[0] == "hf", "a model of the hub by its config"
    assert not asked


def test_served_models_need_no_engine_but_their_judge(asked: list[dict[str, Any]], tmp_path: Path) -> None:
    config = settings(tmp_path / "not_here")
    config.model.served = True
    choice.settle_engine(config, tmp_path)
    assert config.rollout.name == "auto"
    config.judge = {"via": "model"}
    choice.settle_engine(config, tmp_path)
    assert config.rollout.name == "vllm"


def test_a_job_is_sampled_as_the_run_samples(folders: dict[str, Path]) -> None:
    """Each setting that changes the cost has figures of its own."""
    train = settings(folders["tied"])
    changes: list[dict[str, Any]] = [{"top_p": 0.9}, {"top_k": 5}, {"temperature": 0.5}, {"max_tokens": 5}]
    others = [settings(folders["tied"], **one) for one in changes]
    greedy = {"n": 1, "temperature": 0.0, "top_p": 1.0, "top_k": -1, "max_tokens": 9}
    groups: list[dict[str, Any]] = [
        {"template": {"stop": ["</answer>"]}},
        {"trainer": {"accelerator": "cpu", "devices": 2, "num_nodes": 2}},
        {"sampling": greedy, "chunk": 5},
    ]
    configs = [train, *others, *(OmegaConf.create({**train, **more}) for more in groups)]
    jobs = [figures.job_of(config, folders["tied"]) for config in configs]
    assert len({figures.cache_file(job) for job in jobs}) == len(jobs)
    assert (jobs[-1]["sampling"], jobs[-1]["questions"]) == (greedy, 5), "an evaluation's own"
    assert jobs[-2]["questions"] == 1, "a rank's of 4 questions on 2 x 2 ranks"
    assert figures.job_of(settings(folders["tied"], parts=2), folders["tied"])["questions"] == 1, "a part at a time"
    long = OmegaConf.create({**settings(folders["tied"], max_tokens=40), "model": {**train.model, "context": 44}})
    assert figures.job_of(long, folders["tied"])["prompt"] == 4, "no more than the context leaves"


DAMAGED = ["", "{", '{"hf": 1.5', "[1, 2]", '{"hf": 1.5}', '{"hf": NaN, "vllm": 4.0}', '{"hf": "1", "vllm": 4.0}',
    '{"hf": -1, "vllm": 4.0}', '{"hf": true, "vllm": 4.0}', '{"hf": 1e9, "vllm": 4.0}', "\udcff"]  # fmt: skip


@pytest.mark.parametrize("text", DAMAGED)
def test_figures_that_are_damaged_are_measured_anew(
    text: str, asked: list[dict[str, Any]], folders: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    config = settings(folders["tied"])
    file = figures.cache_file(figures.job_of(config, folders["tied"]))
    file.parent.mkdir(parents=True)
    file.write_bytes(text.encode(errors="surrogateescape"))
    assert choice.choose(config)[2].endswith("(measured)")
    assert choice.choose(config)[2].endswith("(kept from an earlier run)")
    assert len(asked) == 1
    assert not caplog.records


@pytest.mark.parametrize("place", ["a folder", "a file", "read-only", "no home", "relative"])
def test_a_place_that_keeps_nothing_is_told_in_one_line(
    place: str, asked: list[dict[str, Any]], folders: dict[str, Path], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    config = settings(folders["tied"])
    file = figures.cache_file(figures.job_of(config, folders["tied"]))
    if place == "a folder":
        file.mkdir(parents=True)
    elif place == "a file":
        file.parent.parent.write_text("")
    elif place == "read-only":
        monkeypatch.setattr(figures, "write_json", refused)  # root may write anywhere
    else:
        monkeypatch.setenv("XDG_CACHE_HOME", "here" if place == "relative" else "")
        monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home directory")))
    assert choice.choose(config)[:2] == ("hf", FIGURES)
    (record,) = caplog.records
    assert "can't be kept in" in record.getMessage()
    assert "it is measured again next time" in record.getMessage()
    assert len(asked) == 1


def refused(path: Path, content: Any) -> None:
    raise PermissionError(errno.EACCES, "Permission denied", str(path))


def test_points_of_a_sweep_wait_for_the_one_that_measures(
    asked: list[dict[str, Any]], folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    inside, go_on = threading.Event(), threading.Event()

    def slow(job: dict[str, Any], seconds: float) -> dict[str, float]:
        asked.append(job)
        inside.set()
        assert go_on.wait(30)
        return dict(FIGURES)

    monkeypatch.setattr(figures, "measure", slow)
    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(choice.choose, settings(folders["tied"]))
        assert inside.wait(30)
        others = [pool.submit(choice.choose, settings(folders["tied"])) for _ in range(2)]
        time.sleep(0.3)
        assert not any(other.done() for other in others)
        go_on.set()
        assert first.result()[2].endswith("(measured)")
        assert [other.result()[2][-12:] for other in others] == ["earlier run)"] * 2
    assert len(asked) == 1
    file = figures.cache_file(asked[0])
    file.unlink()
    monkeypatch.setattr(figures, "TIMEOUT_S", 0.3)
    with figures.turn(file.with_suffix(".lock"), time.monotonic() + 9):
        assert choice.choose(settings(folders["tied"]))[0] == "hf", "nobody waits for ever"


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Puts a program in the place of the one that measures; the process around it stays ours."""

    def put(text: str) -> None:
        room = tmp_path / "path" / "r1zero"
        (room / "rollout").mkdir(parents=True)
        for folder in (room, room / "rollout"):
            (folder / "__init__.py").touch()
        (room / "rollout" / "measure.py").write_text("import os, sys, time, json, subprocess\n" + text)
        monkeypatch.setenv("PYTHONPATH", str(tmp_path / "path"))
        monkeypatch.chdir(tmp_path)
        (tmp_path / "json.py").write_text("raise SystemExit('a file of the folder that we are in')")

    return put


def test_the_measuring_process_is_no_rank(program: Callable[[str], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Under torchrun it would look for the other ranks; and it imports nothing from the folder we are in."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    program("print(json.dumps({'ranks': [name for name in os.environ if name in ('WORLD_SIZE', 'LOCAL_RANK')]}))")
    assert figures.measure({}) == {"ranks": []}


@pytest.mark.parametrize(
    ("text", "error"),
    [("print('hello')", "exit code 0"), ("", "exit code 0"), ("sys.exit('no kernels')", "no kernels"),
     ("os.kill(os.getpid(), 9)", "exit code -9"), ("print('[]')", "exit code 0")],
)  # fmt: skip
def test_a_measurement_that_fails_says_why(text: str, error: str, program: Callable[[str], None]) -> None:
    program(text)
    assert figures.measure({}) == {"error": error}


@pytest.mark.parametrize("why", ["late", "interrupted"])
def test_nothing_is_left_of_a_measurement_that_is_given_up(
    why: str, program: Callable[[str], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor of what it has started, which holds its pipes."""
    program(
        "other = subprocess.Popen(['sleep', '600'])\n"
        "open('ids.tmp', 'w').write(f'{os.getpid()} {other.pid}')\nos.rename('ids.tmp', 'ids')\ntime.sleep(600)"
    )
    ids = tmp_path / "ids"
    communicate = subprocess.Popen.communicate

    def given_up(self: Any, *args: Any, **keywords: Any) -> Any:
        until(ids.exists, 120)  # a new interpreter takes seconds on a machine that is busy
        if why == "interrupted":
            raise KeyboardInterrupt
        return communicate(self, *args, **keywords)

    monkeypatch.setattr(subprocess.Popen, "communicate", given_up)
    if why == "interrupted":
        with pytest.raises(KeyboardInterrupt):
            figures.measure({})
    else:
        assert figures.measure({}, 0.3) == {"error": "nothing came of it in 0.3 s"}
    for process in map(int, ids.read_text().split()):
        gone(process, ids)


def gone(process: int, noted: Path) -> None:
    """Wait for the end of a process that has noted its number; whoever has the number later is another one."""
    since = noted.stat().st_mtime + 2  # the time of a start is good to a second

    def ended() -> bool:
        try:
            one = psutil.Process(process)
            return one.status() == psutil.STATUS_ZOMBIE or one.create_time() > since
        except psutil.NoSuchProcess:
            return True

    until(ended, 30)


def test_a_measurement_ends_with_the_run_that_was_killed(tmp_path: Path) -> None:
    """By the thread that looks after the parent, in a process that has its code alone: imports take seconds."""
    child = (
        f"import os, signal, sys, threading, time\n{inspect.getsource(measure.end_with)}\n"
        "threading.Thread(target=end_with, args=(int(sys.argv[1]),), daemon=True).start(); "
        "open('id', 'w').write(str(os.getpid())); time.sleep(600)"
    )
    parent = (
        "import os, subprocess, sys, time\n"
        f"child = subprocess.Popen([sys.executable, '-c', {child!r}, str(os.getpid())], start_new_session=True)\n"
        "while not os.path.exists('id') or not open('id').read():\n"
        "    if child.poll() is not None: sys.exit('the child has ended by itself')\n"
        "    time.sleep(0.05)\n"
        "os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", parent], cwd=tmp_path, stderr=subprocess.PIPE, text=True, timeout=120)
    assert done.returncode == -9, done.stderr
    gone(int((tmp_path / "id").read_text()), tmp_path / "id")


def test_both_engines_are_timed(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """The measuring process's own code, with one engine in both places, the second of them slow, or unable."""
    built: list[str] = []
    seen: list[Sampling] = []
    fault: list[Exception] = []

    def build(rollout: Any, folder: str, **keywords: Any) -> Any:
        built.append(rollout.name)
        engine = start("hf", Path(folder))
        if rollout.name == "vllm":
            engine.on_step = lambda: time.sleep(0.02)
            generate, load = engine.generate, engine.load_weights

            def seen_by(prompts: Any, sampling: Sampling, seed: int) -> Any:
                seen.append(sampling)
                groups = generate(prompts, sampling, seed)
                assert {one.finish_reason for group in groups for one in group} == {"length"}
                return groups

            def taken(weights: Any, version: int) -> None:
                if fault:
                    raise fault[0]
                load(weights, version)

            engine.generate, engine.load_weights = seen_by, taken
        return engine

    monkeypatch.setattr(measure, "build_engine", build)
    more = {"template": {"stop": ["e", "a"]}, "algo": {}}
    job = figures.job_of(OmegaConf.create({**settings(folders["tied"], top_p=0.5), **more}), folders["tied"])
    found = measure.measured(job)
    assert built == ["hf", "vllm"]
    assert found["vllm"] >= 20
    assert found["hf"] > 0
    assert (seen[0].top_p, len(seen[0].stop)) == (0.5, 2)
    fault.append(SyncError("it kept older weights\nand more"))
    assert measure.measured(job)["failed"] == {"vllm": "it kept older weights"}
    assert measure.measured({**job, "synced": False})["vllm"] >= 20, "an evaluation sends none"


def test_a_run_stores_its_choice_and_loads_no_vllm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole way, with figures kept before; resumed without them."""
    cache = tmp_path / "cache"
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    sitecustomize = "import r1zero.rollout.figures as f\nf.measure = lambda job, seconds: {'hf': 1.0, 'vllm': 2.0}\n"
    (tmp_path / "start.py").write_text(
        f"import runpy, sys\n{sitecustomize}"
        "import r1zero.rollout.build as b\nbuild = b.build_engine\n"
        "b.build_engine = lambda *a, **k: print('evaluated:', k['evaluated']) or build(*a, **k)\n"
        f"sys.argv[0] = {str(ROOT / 'train.py')!r}\n"
        "try:\n    runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "finally:\n    print('vllm loaded:', 'vllm' in sys.modules)\n"
    )
    given = [one for one in SMALL_RUN if one != "rollout=hf"]

    def train(*arguments: str) -> str:
        command = [sys.executable, str(tmp_path / "start.py"), *arguments]
        done = subprocess.run(command, cwd=tmp_path, env=os.environ | ENVIRONMENT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert "vllm loaded: False" in done.stdout
        return done.stdout

    said = train(*given, "rollout=auto", "steps=1", "eval.every=0", "eval.at_start=false", "hydra.run.dir=run")
    assert "rollout=auto is hf: ms a decoding step" in said
    assert re.search(r"evaluated: \(8, 1[3-9]\d\)", said), "8 responses of 64 tokens, a prompt and two blocks each"
    stored = OmegaConf.load(tmp_path / "run" / "config.yaml").rollout
    assert (stored.name, stored.measured) == ("hf", {"hf": 1.0, "vllm": 2.0})
    for kept in (cache / "r1zero").iterdir():
        kept.unlink()
    assert "rollout=auto is hf: as stored in run" in train("resume=run", "steps=2")
