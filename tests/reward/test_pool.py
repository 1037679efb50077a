"""Workers that hang, eat memory, die or are killed cost one answer each and nothing else (traps 45, 46)."""

from __future__ import annotations

import itertools
import json
import os
import resource
import signal
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import Future
from pathlib import Path

import psutil
import pytest

from r1zero.reward.workers.pool import WorkerPool
from run_support import until

TIMEOUT = 1.0
"""Of jobs that hang; the others have as long as a machine that is busy may take."""


def call(name: str, response: str = "", **params: object) -> dict[str, object]:
    arguments = {"question": "", "response": response, "gold": ["1"], "extracted": None, "tokens": None}
    return {"kind": "call", "path": f"worker_functions.{name}", "params": params, "arguments": arguments}


@pytest.fixture(scope="module")
def pool():
    pool = WorkerPool(2, 60.0, memory_gib=1.0)
    pool.submit(call("fine")).result(timeout=60)
    yield pool
    pool.close()


def submit(pool: WorkerPool, jobs: list[dict[str, object]]) -> list[Future[dict[str, object]]]:
    return [pool.submit(job, TIMEOUT if "hang" in str(job) else None) for job in jobs]


def results(pool: WorkerPool, jobs: list[dict[str, object]]) -> list[dict[str, object]]:
    return [future.result(timeout=120) for future in submit(pool, jobs)]


def test_results_are_those_of_their_jobs(pool):
    """Every future gets the result of its own job, whichever worker ran it."""
    got = results(pool, [call("fine", "x" * n) for n in range(300)])
    assert [result["value"] for result in got] == [float(n) for n in range(300)]


def test_ten_hung_answers_cost_ten_deadlines_over_the_workers(pool):
    """10 hung jobs on 2 workers take 5 deadlines; the 100 good ones around them are all answered (trap 46)."""
    jobs = [call("hang") if n % 11 == 5 else call("fine", "x" * n) for n in range(110)]
    assert sum(job["path"] == "worker_functions.hang" for job in jobs) == 10
    ends: list[float] = []
    begin, kills = time.monotonic(), pool.kills
    futures = submit(pool, jobs)
    for future in futures[5::11]:
        future.add_done_callback(lambda _: ends.append(time.monotonic()))
    got = [future.result(timeout=120) for future in futures]
    for n, result in enumerate(got):
        if n % 11 == 5:
            assert result["error"] == "timeout"
        else:
            assert result["value"] == n
    assert ends[-1] - begin >= 5 * TIMEOUT
    assert min(b - a for a, b in itertools.pairwise(ends)) < TIMEOUT, "two at a time, not one after another"
    assert pool.kills - kills == 10


def test_ten_hung_in_a_row_leave_a_working_pool(pool):
    """No worker is lost to a hang: the next answer is there long before its deadline."""
    hung = [pool.submit(call("hang"), 0.2) for _ in range(10)]
    assert all(future.result(timeout=60)["error"] == "timeout" for future in hung)
    assert pool.submit(call("fine", "abc"), 600.0).result(timeout=60)["value"] == 3.0


def test_memory_is_limited_and_the_worker_replaced(pool):
    got = results(pool, [call("eat_memory"), call("fine", "ab"), call("eat_memory"), call("fine", "abc")])
    assert [result.get("error") for result in got] == ["crash", None, "crash", None]
    assert got[0]["detail"] == "MemoryError"
    assert got[3]["value"] == 3.0


@pytest.mark.parametrize("name", ["die", "stop_quietly"])
def test_a_worker_that_dies_loses_its_own_job_alone(pool, name):
    jobs = [call("fine", "x" * n) for n in range(20)] + [call(name)] + [call("fine", "x" * n) for n in range(20)]
    got = results(pool, jobs)
    assert got[20]["error"] == "crash"
    assert got[20]["detail"] == "the worker process died"
    assert [result["value"] for result in got[:20] + got[21:]] == [*map(float, range(20)), *map(float, range(20))]


def test_a_worker_killed_from_outside_is_replaced(pool):
    """As the kernel does when memory runs out: no shared lock is left behind, the job is tried again."""
    for _ in range(4):
        victim = int(results(pool, [call("pid")])[0]["value"])
        os.kill(victim, signal.SIGKILL)
    assert [result["value"] for result in results(pool, [call("fine", "x" * n) for n in range(20)])] == list(range(20))


def test_the_helper_process_killed_from_outside_is_replaced(pool):
    """Workers die with it; the pool starts again, and no job is lost."""
    results(pool, [call("fine", "x")])  # the pool starts with its first job
    first = pool.pids()[0]
    workers = psutil.Process(first).children()
    os.kill(first, signal.SIGKILL)
    psutil.wait_procs(workers, timeout=60)  # until then they may still answer
    assert [result["value"] for result in results(pool, [call("fine", "x" * n) for n in range(20)])] == list(range(20))
    assert pool.pids()[0] != first


@pytest.mark.parametrize(
    ("name", "detail"),
    [
        ("raise_error", "KeyError: 'no such thing'"),
        ("exit_interpreter", "SystemExit: 3"),
        ("not_a_number", "ValueError: worker_functions.not_a_number returned nan"),
        ("recurse", "RecursionError"),
        ("missing", "ImportError: path=worker_functions.missing: module worker_functions has no function missing"),
    ],
)
def test_what_a_function_raises_is_its_result(pool, name, detail):
    result = results(pool, [call(name)])[0]
    assert result["error"] == "crash"
    assert result["detail"] == detail
    assert results(pool, [call("fine", "ab")])[0]["value"] == 2.0


def test_a_function_may_print(pool):
    assert results(pool, [call("prints")])[0]["value"] == 1.0


def test_big_jobs_behind_a_hung_one_do_not_block_the_pool(pool):
    """A megabyte does not fit a socket's buffer: it must not be sent to a busy worker."""
    jobs = [call("hang_if", "hang" + "x" * 10**6), *[call("hang_if", "x" * 10**6)] * 6]
    begin = time.monotonic()
    got = results(pool, jobs)
    assert [result.get("error") for result in got] == ["timeout", *[None] * 6]
    assert time.monotonic() - begin < pool.timeout * 0.75, "nobody waits until a worker takes what it is sent"


def test_any_thread_may_submit(pool):
    """Eight threads at once, each with results of its own."""
    seen: dict[int, list[object]] = {}

    def work(n: int) -> None:
        seen[n] = [result["value"] for result in results(pool, [call("fine", "x" * (n + k)) for k in range(25)])]

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert seen == {n: [float(n + k) for k in range(25)] for n in range(8)}


def test_close_ends_every_process_and_every_open_job():
    pool = WorkerPool(2, 600.0)
    pool.submit(call("fine")).result(timeout=60)
    server = psutil.Process(pool.pids()[0])
    until(lambda: len(server.children(recursive=True)) == 2, 60)  # one of the two may have answered already
    processes = [server, *server.children(recursive=True)]
    hung = [pool.submit(call("hang")) for _ in range(6)]
    begin = time.monotonic()
    pool.close()
    assert time.monotonic() - begin < 60.0, "it waits for no deadline"
    assert all(future.result(timeout=0)["error"] == "crash" for future in hung)
    _, alive = psutil.wait_procs(processes, timeout=60)
    assert alive == []
    with pytest.raises(RuntimeError, match="closed"):
        pool.submit(call("fine"))


def test_starting_costs_under_three_seconds_of_cpu_once():
    """The libraries are imported once, in the helper process; workers are forked from it."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    pool = WorkerPool(4, TIMEOUT)
    results(pool, [call("fine")] * 8)
    pool.close()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 3.0


SCRIPT = """
import sys, time
sys.path[:0] = {path!r}
from r1zero.config import RewardConfig
from r1zero.reward.grader import Grader
print("started", flush=True)
grader = Grader(RewardConfig(name="test", timeout=60.0, workers=2))
outcome = grader.grade("\\\\boxed{{\\\\cosh^2 3 - \\\\sinh^2 3 + \\\\min(1,2)}}", ("2",))
print(outcome.status.value, outcome.rule, *grader.pool.pids(), flush=True)
{rest}
"""


def start_script(tmp_path: Path, rest: str, new_group: bool = False) -> subprocess.Popen[str]:
    """A script without a main guard that grades and then goes on with ``rest``."""
    file = tmp_path / "script.py"
    file.write_text(SCRIPT.format(path=[p for p in sys.path if p], rest=textwrap.dedent(rest)))
    return subprocess.Popen(
        [sys.executable, str(file)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=new_group,
    )


def family(pid: int) -> list[psutil.Process]:
    parent = psutil.Process(pid)
    return [parent, *parent.children(recursive=True)]


def test_a_script_without_main_guard_runs_once(tmp_path):
    """The caller's main module is never imported again, whatever the start method."""
    process = start_script(tmp_path, "")
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert out.count("started") == 1
    assert "right math_verify" in out
    assert err == ""


@pytest.mark.parametrize("how", ["interrupt", "terminate", "kill", "exception"])
def test_no_process_outlives_the_caller(tmp_path, how):
    """Ctrl-C (sent to the whole group), SIGTERM, SIGKILL and an exception leave no orphan, even with hung workers."""
    rest = """
    job = {"kind": "call", "path": "worker_functions.hang", "params": {}, "arguments": {"gold": []}}
    hung = [grader.pool.submit(job) for _ in range(4)]
    time.sleep(0.5)
    print("ready", flush=True)
    if sys.stdin.readline() == "raise\\n":
        raise RuntimeError("boom")
    time.sleep(60)
    """
    file_rest = rest.replace("sys.stdin.readline()", "open(sys.argv[0] + '.how').read()")
    (tmp_path / "script.py.how").write_text("raise\n" if how == "exception" else "wait\n")
    process = start_script(tmp_path, file_rest, new_group=True)
    assert process.stdout is not None
    for line in process.stdout:
        if line.strip() == "ready":
            break
    processes = []
    if how != "exception":
        until(lambda: len(family(process.pid)) == 4, 60)
        processes = family(process.pid)
    if how == "interrupt":
        os.killpg(process.pid, signal.SIGINT)
    elif how == "terminate":
        process.terminate()
    elif how == "kill":
        process.kill()
    process.communicate(timeout=120)
    assert process.returncode != 0
    _, alive = psutil.wait_procs(processes, timeout=60)
    assert alive == []
    until(lambda: not left_running(tmp_path), 60)


def left_running(folder: Path) -> list[psutil.Process]:
    """Processes with a file of the folder on their command line."""
    found = psutil.process_iter(["cmdline"])
    return [p for p in found if any(str(folder) in word for word in p.info["cmdline"] or [])]


def test_ranks_share_the_cores(monkeypatch):
    """Workers per rank: cores - 1, shared among the ranks of the machine, at least one, at most eight."""
    from r1zero.reward.grader import default_workers

    for cores, ranks, wanted in [(2, 1, 1), (1, 1, 1), (9, 1, 8), (64, 1, 8), (9, 4, 2), (64, 8, 7), (2, 8, 1)]:
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, cores=cores: set(range(cores)), raising=False)
        monkeypatch.setenv("LOCAL_WORLD_SIZE", str(ranks))
        assert default_workers() == wanted


def test_a_forked_child_gets_workers_of_its_own(tmp_path):
    """A grader that was used before a fork works in the child and stays whole in the parent."""
    rest = """
    import os
    read, write = os.pipe()
    if os.fork() == 0:
        child = grader.grade("\\\\boxed{\\\\min(1,2)+\\\\max(0,1)}", ("2",))
        os.write(write, f"{child.status.value} {grader.pool.pids()[0]}".encode())
        grader.close()
        os._exit(0)
    status, pid = os.read(read, 100).decode().split()
    again = grader.grade("\\\\boxed{\\\\min(1,2)+\\\\max(0,2)}", ("3",))
    print(status, again.status.value, int(pid) != grader.pool.pids()[0])
    """
    process = start_script(tmp_path, rest)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert out.splitlines()[-1] == "right right True"


def test_workers_that_cannot_start_are_a_crash_not_a_hang(monkeypatch, tmp_path):
    """A broken installation ends every job, those submitted later too."""
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(broken))
    pool = WorkerPool(2, TIMEOUT)
    got = results(pool, [call("fine")] * 3)
    assert {result["error"] for result in got} == {"crash"}
    assert "can't be started" in str(got[0]["detail"])
    assert results(pool, [call("fine")])[0]["error"] == "crash"
    pool.close()


def test_a_defect_of_the_dispatcher_ends_every_job(monkeypatch):
    """No future is left open, whatever goes wrong in the thread."""
    pool = WorkerPool(1, TIMEOUT)
    monkeypatch.setattr(pool, "_hand_out", lambda: 1 / 0)
    got = results(pool, [call("fine")] * 3)
    assert all("ZeroDivisionError" in str(result["detail"]) for result in got)
    pool.close()


def test_jobs_and_results_are_json(pool):
    """Nothing a worker says is unpickled; a lone surrogate passes both ways."""
    assert results(pool, [call("fine", "\ud800\x00\n")])[0]["value"] == 3.0
    assert json.loads(json.dumps("\ud800")) == "\ud800"


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("[1, 2]\n", 1),
        ("5\n", 1),
        ("null\n", 1),
        ('"text"\n', 1),
        ("no JSON at all\n", 1),
        ("\n", 3),
        ("\udcff\udcfe\n", 1),
        ("[" * 100_000 + "\n", 1),
        ('{"id": 987654321, "result": {"value": 9.0}}\n', 1),
        ('{"result": {"value": 9.0}}\n', 1),
        ('{"id": true, "result": 5}\n', 1),
        ("x" * 2**21, 1),
    ],
    ids=str,
)
def test_no_future_stays_open_whatever_a_worker_writes(pool, text, lines):
    """Anything but the result of the very job: a crash of that job, and the next one is answered."""
    got = results(pool, [call("say", text=text, lines=lines), call("fine", "abc")])
    assert got[0]["error"] == "crash"
    assert "the worker wrote" in got[0]["detail"]
    assert got[1]["value"] == 3.0


def left_over(file: Path, pool: WorkerPool | None = None) -> list[int]:
    """What still runs a minute later of the processes whose numbers a file holds, or below the pool but its workers.

    One look decides: a process that has just started may write its number, and be killed, after an earlier one.
    """
    deadline = time.monotonic() + 60
    while True:
        found = [int(line) for line in file.read_text().split() if has_number(int(line), file.stat().st_mtime)]
        if pool is not None:
            try:
                children = psutil.Process(pool.pids()[0]).children(recursive=True)
                found += [child.pid for child in children][pool.workers :]
            except (psutil.NoSuchProcess, IndexError):
                found.append(0)  # the helper process is being replaced
        if not found or time.monotonic() > deadline:
            return found
        time.sleep(0.02)


def has_number(pid: int, noted: float) -> bool:
    """Whether the process that has noted its number is there; one that was started later is another."""
    try:
        return psutil.Process(pid).create_time() <= noted + 2  # the time of a start is good to a second
    except psutil.NoSuchProcess:
        return False


@pytest.mark.parametrize("then", ["hang", "exit"])
@pytest.mark.parametrize("new_session", [False, True])
@pytest.mark.parametrize("name", ["popen", "fork"])
def test_what_a_function_started_dies_with_its_worker(pool, tmp_path, name, new_session, then):
    """Killed or ended, in the worker's group or out of it; a fork holds nothing that keeps a dead worker alive."""
    file = tmp_path / "pids"
    for seconds in (1.0, 30.0) if then == "hang" else (60.0,):  # what it starts takes seconds on a busy machine
        job = call(name, file=str(file), new_session=new_session, then=then)
        result = pool.submit(job, seconds).result(timeout=120)
        assert (result["error"], result["detail"]) == {
            "hang": ("timeout", f"no verdict within {seconds:g} s"),
            "exit": ("crash", "the worker process died"),
        }[then]
        if file.exists() and file.read_text():
            break
    assert file.read_text()
    assert left_over(file, pool) == []


def test_what_a_function_left_running_ends_with_the_pool(tmp_path):
    pool = WorkerPool(1, 60.0)
    file = tmp_path / "pids"
    got = results(pool, [call("popen", file=str(file), new_session=session, then="") for session in (False, True)])
    assert [result["value"] for result in got] == [1.0, 1.0]
    pool.close()
    assert left_over(file) == []


def test_a_forked_twin_does_not_answer(pool):
    """Both sides of a fork return from the call: the worker's own answer counts, and no job gets another's."""
    got = results(pool, [job for n in range(10) for job in (call("forked_twin"), call("fine", "x" * n))])
    assert [result["value"] for result in got] == [value for n in range(10) for value in (2.0, float(n))]


def test_a_job_may_have_a_deadline_of_its_own(pool, monkeypatch):
    """Longer and shorter than the pool's, also for a job that was sent ahead of its turn."""
    monkeypatch.setattr(pool, "timeout", 3.0)
    slow, quick = call("slow", seconds=3.5), call("slow", seconds=0.4)
    futures = [
        pool.submit(slow, 60.0),
        pool.submit(quick, 0.1),
        pool.submit(quick),
        pool.submit(slow),
        pool.submit(slow, 60.0),
    ]
    got = [future.result(timeout=60) for future in futures]
    assert [result.get("value") for result in got] == [1.0, None, 1.0, None, 1.0]
    assert [result.get("detail") for result in got] == [
        None, "no verdict within 0.1 s", None, "no verdict within 3 s", None
    ]  # fmt: skip
