"""Secrets come from the environment, and are in nothing that a run writes."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from r1zero.errors import UserError
from r1zero.launch.masking import MASK, check_arguments, hidden, is_secret, masked
from run_support import SMALL, Server, status

SECRETS = ["api_key", "logger.wandb.api_key", "WANDB_API_KEY", "HF_TOKEN", "password", "db.passwd", "hub.token"]
SECRETS += ["client_secret", "x.access_token", "AWS_SECRET_ACCESS_KEY", "apikey", "credentials", "wandb_token"]
OPEN = ["max_tokens", "rollout.max_tokens", "stop_tokens", "length_norm", "micro_batch_tokens", "key", "tokenizer"]
OPEN += ["end_token", "seed", "algo.credit", "bos_token", "secretary", "tokens"]


@pytest.mark.parametrize("name", SECRETS + OPEN)
def test_which_names_are_secrets(name: str) -> None:
    assert is_secret(name) is (name in SECRETS)


@pytest.mark.parametrize(
    "argument",
    [
        "logger.wandb.api_key=hunter2hunter2",
        "+logger.wandb.api_key=hunter2hunter2",
        "++a.password='hunter2hunter2'",
        "+logger.wandb.settings={api_key: hunter2hunter2, quiet: true}",
        "+x=[{a: 1}, {'token': hunter2hunter2}]",
        "~logger.hf_token=hunter2hunter2",
    ],
)
def test_a_secret_on_the_command_line_is_refused_without_being_said(argument: str) -> None:
    with pytest.raises(UserError, match="would be stored with the run") as caught:
        check_arguments(["steps=2", argument])
    assert "hunter2" not in str(caught.value)


def test_what_is_no_secret_passes() -> None:
    check_arguments(["rollout.max_tokens=5", "+logger.wandb.api_key=${oc.env:WANDB_API_KEY}", "a.api_key=null", "-m"])
    check_arguments(["+reward.functions.mine.params={end_token: abc}", "logger=wandb", "~logger.wandb.api_key"])


def test_nested_values_and_the_environments_are_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_API_KEY", "0123456789")
    monkeypatch.setenv("OTHER_TOKEN", "short")
    made = masked({"a": [{"api_key": "x", "b": 1}], "token": None, "url": "http://0123456789@host", "c": "short"})
    assert made == {"a": [{"api_key": MASK, "b": 1}], "token": None, "url": f"http://{MASK}@host", "c": "short"}
    assert hidden("key 0123456789!") == f"key {MASK}!"


def test_no_file_of_a_run_holds_the_secret(server: Server, tmp_path: Path) -> None:
    """A key from the environment, named in a setting that is saved, logged and part of an error message."""
    secret = "hunter2-hunter2-hunter2"
    env = {"MY_API_KEY": secret}
    sizes = ["steps=1", "eval.every=0", "eval.at_start=false", "logger=[wandb,tensorboard,csv]", "hydra.run.dir=run"]
    named = "+logger.csv.prefix=${oc.env:MY_API_KEY}"
    refused = server.run([*SMALL, *sizes, f"+logger.wandb.api_key={secret}"], tmp_path, env=env)
    assert refused.code == 1
    assert refused.err.startswith("error: logger.wandb.api_key=... would be stored with the run")
    assert len(refused.err.splitlines()) == 1
    assert not (tmp_path / "run").exists()
    done = server.run([*SMALL, *sizes, named], tmp_path, env=env, fault="secret_in_an_error:1")
    assert done.code == 1
    assert status(tmp_path / "run")["state"] == "failed"
    assert MASK in status(tmp_path / "run")["error"]
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert config["logger"]["csv"]["prefix"] == MASK
    stored = (tmp_path / "run" / ".hydra" / "overrides.yaml").read_text()
    assert "${oc.env:MY_API_KEY}" in stored
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) > 10
    assert [str(path) for path in files if secret.encode() in path.read_bytes()] == []
    assert secret not in done.out + done.err
