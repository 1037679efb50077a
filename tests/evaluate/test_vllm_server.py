"""vLLM's own OpenAI server with the model that comes with the package: evaluated, analysed, and killed midway."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

from evaluate_support import SMALL, TINY, analyzed, evaluated, result
from r1zero.errors import UserError
from r1zero.evaluate.store import ResponseStore

pytestmark = [pytest.mark.vllm, pytest.mark.slow]
START_SECONDS = 400


class Server:
    """The server's processes and its address."""

    def __init__(self, log: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}/v1"
        command = [
            sys.executable,
            "-m",
            "vllm.entrypoints.openai.api_server",
            "--model",
            str(TINY),
            "--port",
            str(port),
        ]
        command += ["--served-model-name", "tiny", "--dtype", "float32", "--enforce-eager", "--max-model-len", "512"]
        environment = os.environ | {
            "VLLM_CPU_KVCACHE_SPACE": "1",
            "VLLM_LOGGING_LEVEL": "ERROR",
            "OMP_NUM_THREADS": "1",
        }
        self.process = subprocess.Popen(
            command, env=environment, stdout=log.open("w"), stderr=subprocess.STDOUT, start_new_session=True
        )
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            assert self.process.poll() is None, log.read_text()[-2000:]
            try:
                urllib.request.urlopen(f"{self.url}/models", timeout=2)
                return
            except OSError:
                time.sleep(1)
        self.kill()
        raise AssertionError(f"no server after {START_SECONDS} s: {log.read_text()[-2000:]}")

    def kill(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    made = Server(tmp_path_factory.mktemp("server") / "log")
    yield made
    made.kill()


def served(server: Server) -> tuple[str, ...]:
    return ("model=server", f"server.url={server.url}", "server.retries=2", "bootstrap=50")


def responses(folder: Path) -> pd.DataFrame:
    return pd.read_parquet(folder / "responses.parquet")


SETTINGS = ("benchmarks=arithmetic", "limit=12", "sampling.max_tokens=96")


def test_greedy_responses_are_those_of_the_engine_in_this_process(server, tmp_path):
    """Texts, lengths in tokens, ends and verdicts: nothing is lost on the way."""
    evaluated(tmp_path / "served", *served(server), "template=question", *SETTINGS)
    evaluated(tmp_path / "own", *SMALL, *SETTINGS, "bootstrap=50")
    there, here = responses(tmp_path / "served"), responses(tmp_path / "own")
    columns = ["response", "tokens", "finish_reason", "right", "extracted"]
    pd.testing.assert_frame_equal(there[columns], here[columns])
    assert there["right"].any()
    one, other = (result(tmp_path / name)["sets"]["arithmetic"]["accuracy"] for name in ("served", "own"))
    assert one == other


def test_the_stop_string_stays_and_stop_tokens_are_found(server, tmp_path):
    """Traps 16, 26: with r1 a response ends with </answer>; with qwen_chatstop at <|im_end|>, which leaves no text."""
    sampled = ("sampling.n=4", "sampling.temperature=1.0")
    evaluated(tmp_path / "r1", *served(server), "template=r1", *SETTINGS, *sampled)
    table = responses(tmp_path / "r1")
    stopped = table[table["response"].str.contains("</answer>")]
    assert len(stopped) > 0
    assert stopped["response"].str.endswith("</answer>").all()
    assert (stopped["finish_reason"] == "stop").all()
    evaluated(tmp_path / "qwen", *served(server), "template=qwen_chatstop", *SETTINGS, *sampled)
    assert not responses(tmp_path / "qwen")["response"].str.contains("<|im_end|>", regex=False).any()


def test_an_analysis_of_a_served_model_with_the_same_server_as_judge(server, tmp_path):
    """The tiny model is no judge: its answers are all unparsable, and none is turned into a label."""
    prompts = [f"judge.prompts.{task}.user='Question: {{response}}'" for task in ("answering", "reflection")]
    judge = ("judge=local", "judge.model=tiny", f"judge.url={server.url}", "judge.max_tokens=16", "judge.longest=200")
    short = [f"judge.prompts.{task}.system=Judge" for task in ("answering", "reflection")]
    data = ("data=arithmetic", "data.params.count=50", "questions=4", "sampling.n=3", "temperatures=[0.5,1.0]")
    analyzed(
        tmp_path / "run",
        *served(server),
        "template=question",
        "sampling.max_tokens=96",
        *data,
        *judge,
        *prompts,
        *short,
    )
    made = result(tmp_path / "run", "analysis.json")
    assert made["responses"] == 24
    assert made["temperatures"]["0.5"]["accuracy"]["value"] > 0
    assert made["judge"]["unparsable"] >= made["judge"]["asked"] > 0
    assert made["judge"]["tokens_in"] > 0
    assert made["temperatures"]["1"]["answering"] is None


def test_a_prompt_that_is_too_long_is_reported_for_that_question(server, tmp_path):
    file = tmp_path / "q.jsonl"
    file.write_text('{"question": "1+1=?", "answer": "2"}\n{"question": "' + "9+" * 700 + '9=?", "answer": "1"}\n')
    long = ("benchmarks=file", f"benchmarks.file.path={file}", "sampling.max_tokens=32", "template=question")
    with pytest.raises(UserError, match=r"1 responses are missing .*status 400"):
        evaluated(tmp_path / "run", *served(server), *long)
    assert result(tmp_path / "run")["sets"]["file"]["questions"] == 1


def test_a_server_that_is_killed_midway_is_reported_and_nothing_is_counted_as_wrong(server, tmp_path, monkeypatch):
    """Last test of the module: the server is gone after it."""
    write = ResponseStore.write_part

    def write_then_kill(self, name, number, table):
        write(self, name, number, table)
        server.kill()

    monkeypatch.setattr(ResponseStore, "write_part", write_then_kill)
    with pytest.raises(UserError, match=r"8 responses are missing \(the server can't be reached"):
        evaluated(tmp_path / "run", *served(server), "template=question", *SETTINGS, "chunk=4")
    made = result(tmp_path / "run")
    assert made["missing"] == {"arithmetic": 8}
    assert made["sets"]["arithmetic"]["questions"] == 4
    with pytest.raises(UserError, match="is it running"):
        evaluated(tmp_path / "again", *served(server), "template=question", *SETTINGS)
