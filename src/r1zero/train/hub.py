"""``hub.push``: the policy of a finished run goes to the Hugging Face hub. Imports nothing heavy."""

from __future__ import annotations

import logging
import re
from pathlib import Path

from r1zero.config import HubConfig
from r1zero.errors import UserError
from r1zero.launch.run_folder import one_line, shown

log = logging.getLogger("r1zero")


def check_hub(cfg: HubConfig) -> None:
    """Refuse ``hub.push`` before training where it can't work.

    Raises:
        UserError: naming what is missing.
    """
    if cfg.push is None:
        return
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", cfg.push):
        raise UserError(f"hub.push={cfg.push} must be user/name, a repository on the Hugging Face hub")
    from huggingface_hub import constants, get_token

    if constants.HF_HUB_OFFLINE:
        raise UserError(
            f"hub.push={cfg.push} needs the hub, and HF_HUB_OFFLINE is set: unset it, or leave hub.push out"
        )
    if get_token() is None:
        raise UserError(f"hub.push={cfg.push} needs a token: run `hf auth login`, or set HF_TOKEN")


def push(policy: Path, cfg: HubConfig) -> str:
    """Push a policy folder; a hub that can't be reached costs a warning, with what to type later.

    Returns:
        the repository's address; empty where nothing was pushed.
    """
    if cfg.push is None:
        return ""
    import huggingface_hub

    api = huggingface_hub.HfApi()
    try:
        url = api.create_repo(cfg.push, private=cfg.private, exist_ok=True)
        api.upload_folder(repo_id=cfg.push, folder_path=policy, commit_message="Policy trained with r1zero")
    except Exception as error:
        command = f"hf upload {cfg.push} {shown(policy)}"
        log.warning("the policy was not pushed (%s); push it with: %s", one_line(error), command)
        return ""
    return str(url)
