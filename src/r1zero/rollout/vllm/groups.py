"""The process groups of vLLM's engines beside the trainer's."""

from __future__ import annotations

from typing import Any

import torch

from r1zero.launch import compat

LIVE: set[int] = set()
"""Open engines of this process; vLLM's process groups are theirs in common and go with the last one."""
default_group_is_ours = False
"""Whether vLLM initialised torch.distributed, because nobody had when the first engine started."""


def before_a_start() -> None:
    """Note whether vLLM will initialise torch.distributed."""
    global default_group_is_ours
    default_group_is_ours |= not torch.distributed.is_initialized()


def shut_down(llm: Any) -> None:
    """Shut one engine down and leave the process groups of the trainer and of other engines alone.

    The last step of vLLM's own shutdown is left out and done by :func:`release_process_groups`.
    """
    with compat.process_groups_kept():
        llm.llm_engine.engine_core.shutdown()
    release_process_groups()


def release_process_groups() -> None:
    """Destroy vLLM's groups with the last engine; the default group only when vLLM made it, never the trainer's."""
    from vllm.distributed import parallel_state

    global default_group_is_ours
    if LIVE:
        return
    parallel_state.destroy_model_parallel()
    if default_group_is_ours:
        parallel_state.destroy_distributed_environment()
        default_group_is_ours = False
    else:  # destroy_distributed_environment() would take the default group along
        compat.drop_vllms_world()
