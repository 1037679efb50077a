"""Where a finished run's policy goes: the hub, W&B's artifacts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import huggingface_hub
import pytest

from r1zero.config import HubConfig
from r1zero.errors import UserError
from r1zero.launch.loggers import finish_wandb, wandb_logger
from r1zero.train import hub
from r1zero.train.build import log_policy
from run_support import wandb_records


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    folder = tmp_path / "policy"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    return folder


def test_what_can_not_be_pushed_is_refused_before_training(monkeypatch: pytest.MonkeyPatch) -> None:
    hub.check_hub(HubConfig())
    with pytest.raises(UserError, match="must be user/name"):
        hub.check_hub(HubConfig(push="policy"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="HF_HUB_OFFLINE is set"):
        hub.check_hub(HubConfig(push="me/policy"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    with pytest.raises(UserError, match="hf auth login"):
        hub.check_hub(HubConfig(push="me/policy"))
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: "hf_x")
    hub.check_hub(HubConfig(push="me/policy"))


def test_a_policy_is_pushed_or_its_owner_told_how(
    policy: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    asked: list[Any] = []

    class Hub:
        def create_repo(self, name: str, **more: Any) -> str:
            asked.append((name, more))
            return f"https://huggingface.co/{name}"

        def upload_folder(self, **more: Any) -> None:
            asked.append((more["repo_id"], more["folder_path"]))
            if more["repo_id"] == "me/full":
                raise OSError("quota exceeded")

    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    assert hub.push(policy, HubConfig()) == ""
    assert hub.push(policy, HubConfig(push="me/policy")) == "https://huggingface.co/me/policy"
    assert asked == [("me/policy", {"private": True, "exist_ok": True}), ("me/policy", policy)]
    assert hub.push(policy, HubConfig(push="me/full")) == ""
    assert (
        f"the policy was not pushed (OSError: quota exceeded); push it with: hf upload me/full {policy}" in caplog.text
    )


def test_wandb_keeps_the_policy_where_log_model_asks_for_it(
    policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    logger = wandb_logger(str(tmp_path), "r1zero")
    log_policy(policy, [logger])
    logger.keeps_policy = True  # what log_model=true sets
    log_policy(policy, [logger])
    finish_wandb(failed=False)
    records = wandb_records(next((tmp_path / "wandb").glob("offline-run-*")))
    artifacts = [record.artifact for record in records if record.WhichOneof("record_type") == "artifact"]
    assert [(made.name, made.type) for made in artifacts] == [
        (f"policy-{(tmp_path / 'wandb_id').read_text()}", "model")
    ]
