"""Settings of engines in other processes, held against the servers that run; imports nothing heavy."""

from __future__ import annotations

import os
from pathlib import Path

from r1zero.config import ModelConfig, RolloutConfig
from r1zero.errors import UserError
from r1zero.rollout.identity import sizes
from r1zero.rollout.served.client import TOKEN, Remote, Unreachable

ELSEWHERE = {"urls": [], "servers": 1, "transfer": "folder", "weights_dir": None}
"""Settings of ``vllm_server`` alone, and their values where it is not chosen."""


def check_servers(rollout: RolloutConfig, model: ModelConfig) -> None:
    """Refuse what can't work, and ask each server of ``rollout.urls`` whether it is there and serves our model.

    The model is compared as far as its folder's config.json says; weights' names and the vocabulary are compared
    when the engine connects.

    Raises:
        UserError: naming the setting or the server.
    """
    if rollout.name != "vllm_server":
        for name, value in ELSEWHERE.items():
            if getattr(rollout, name) != value:
                raise UserError(f"rollout.{name} has no use with rollout={rollout.name}: choose rollout=vllm_server")
        return
    if rollout.urls and rollout.servers != 1:
        raise UserError("rollout.servers starts servers and rollout.urls names running ones: give one of the two")
    if len(set(rollout.urls)) < len(rollout.urls):
        raise UserError("rollout.urls names a server twice")
    for url in rollout.urls:
        check_server(Remote(url, os.environ.get(TOKEN) or None), rollout, model)


def check_server(remote: Remote, rollout: RolloutConfig, model: ModelConfig) -> None:
    """Ask one server. Raises ``UserError``."""
    try:
        state = remote.health()
    except (Unreachable, TimeoutError) as error:
        raise UserError(
            f"no rollout server answers at {remote.url} ({error}): start it with scripts/serve.py, or mend rollout.urls"
        ) from error
    theirs, ours = state.get("sizes", {}), sizes(Path(model.path).expanduser())
    for name in ours.keys() & theirs.keys():
        if ours[name] != theirs[name]:
            raise UserError(
                f"{remote.url} serves another model ({state['model']}: {name} {theirs[name]}, here {ours[name]}): "
                "start it with the model of this run"
            )
    dtype = rollout.dtype or model.dtype
    if state["dtype"] != dtype:
        raise UserError(
            f"{remote.url} serves its model in {state['dtype']}, not in {dtype}: start it with model.dtype={dtype}"
        )
    if model.context and state["context"] < model.context:
        raise UserError(
            f"{remote.url} has a context of {state['context']} tokens; {model.context} are needed (model.context)"
        )
