"""Private parts of other projects, all of them: each with why it is needed and the version it was seen in.

``tests/launch/test_compat.py`` has a test for each that fails when the part moves. Imports nothing by itself.
"""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn


def set_callbacks(trainer: Any, callbacks: Sequence[Any]) -> None:
    """Give a trainer its callbacks after it was built, checkpoints last, as its constructor would.

    Callbacks need the run's parts, and those need the trainer. Lightning 2.6: ``_callback_connector``.
    """
    trainer.callbacks = trainer._callback_connector._reorder_callbacks(list(callbacks))


def leave_signals_alone(trainer: Any) -> None:
    """Keep Lightning from handling signals.

    Its handler of SIGTERM starts a collective that the other ranks may not join, and under SLURM its handler of
    SIGUSR1 requeues the job. Signals are InterruptCallback's while there are steps, else the command line's.
    Lightning 2.6: ``_signal_connector``.
    """
    assert callable(trainer._signal_connector.register_signal_handlers)
    trainer._signal_connector.register_signal_handlers = lambda: None


def writes_plain_files(strategy: Any) -> bool:
    """Whether a strategy writes checkpoints by torch.save, so that another writer may take its place.

    The public ``checkpoint_io`` makes one where there is none yet. Lightning 2.6: ``_checkpoint_io``.
    """
    from pytorch_lightning.plugins.io import TorchCheckpointIO

    return type(strategy._checkpoint_io) in (TorchCheckpointIO, type(None))


def writes_folders(strategy: Any) -> bool:
    """Whether a strategy of Lightning's writes sharded checkpoints. Lightning 2.6: ``_save_distributed_checkpoint``."""
    return bool(getattr(strategy, "_save_distributed_checkpoint", False))


@contextlib.contextmanager
def launched_ranks_observed(observe: Callable[[list[Any]], None]) -> Iterator[None]:
    """Hand the processes that Lightning's launcher starts to ``observe`` in place of its own observer.

    Its own kills the others by SIGTERM and says nothing. Lightning 2.6: ``_launch_process_observer``.
    """
    from pytorch_lightning.strategies.launchers import subprocess_script

    theirs = subprocess_script._launch_process_observer
    subprocess_script._launch_process_observer = observe  # type: ignore[assignment]
    try:
        yield
    finally:
        subprocess_script._launch_process_observer = theirs


def key_inside_of_null(error: BaseException) -> str | None:
    """The key that ``OmegaConf.update`` could not set because what it lies in is null; None for another error.

    It ends in a bare assertion then. OmegaConf 2.3: the local ``key`` of ``update``.
    """
    trace = error.__traceback__ if isinstance(error, AssertionError) else None
    while trace is not None:
        code = trace.tb_frame.f_code
        if code.co_name == "update" and code.co_filename.endswith("omegaconf.py"):
            return str(trace.tb_frame.f_locals["key"])
        trace = trace.tb_next
    return None


def override_dirname(overrides: Sequence[Any], exclude: list[str], item_sep: str, kv_sep: str) -> str:
    """Overrides as Hydra's ``override_dirname`` spells them. Hydra 1.3: ``_internal.config_loader_impl``."""
    from hydra._internal.config_loader_impl import get_overrides_dirname

    return get_overrides_dirname(list(overrides), exclude, item_sep, kv_sep)


def sweep_points(overrides: Sequence[Any]) -> list[list[str]]:
    """The product of all axes, in Hydra's order. Hydra 1.3: ``_internal.core_plugins.basic_sweeper``."""
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper

    batches = BasicSweeper.split_arguments(list(overrides), max_batch_size=None)
    return [list(point) for batch in batches for point in batch]


def is_hydras_sweeper(target: str) -> bool:
    """Whether a sweeper is the one that comes with Hydra, which takes every point. Hydra 1.3: its module."""
    return target.startswith("hydra._internal.")


def usage_errors_go_to(handler: Callable[[argparse.ArgumentParser, str], NoReturn]) -> None:
    """Hydra builds its parser itself, and argparse prints its usage and exits where an argument is wrong."""
    argparse.ArgumentParser.error = handler  # type: ignore[method-assign,assignment]


def resolve_hydras_own() -> None:
    """Let ``--cfg hydra --resolve`` see what Hydra's settings take from the rest, which it cuts off before it resolves.

    Hydra 1.3: ``_internal.hydra.Hydra.get_sanitized_hydra_cfg``.
    """
    import copy

    from hydra._internal.hydra import Hydra
    from omegaconf import OmegaConf

    theirs = Hydra.get_sanitized_hydra_cfg

    def resolved(config: Any) -> Any:
        whole = copy.deepcopy(config)
        OmegaConf.set_readonly(whole.hydra, False)
        OmegaConf.resolve(whole.hydra)
        return theirs(whole)

    Hydra.get_sanitized_hydra_cfg = staticmethod(resolved)  # type: ignore[method-assign,assignment]


@contextlib.contextmanager
def engine_on_card(index: int) -> Iterator[None]:
    """Let an engine of this process that starts here take the card with this index; by itself it takes card 0.

    ``LLM`` has no argument for it. vLLM 0.32: ``v1.executor.uniproc_executor.UniProcExecutor._distributed_args``.
    """
    from vllm.v1.executor.uniproc_executor import UniProcExecutor

    theirs = UniProcExecutor._distributed_args

    def ours(executor: Any) -> tuple[str, int, int]:
        method, rank, _ = theirs(executor)
        return method, rank, index

    UniProcExecutor._distributed_args = ours
    try:
        yield
    finally:
        UniProcExecutor._distributed_args = theirs


@contextlib.contextmanager
def classes_left_alone() -> Iterator[None]:
    """Keep an engine that starts here from changing a class of transformers that the learner has an instance of.

    Where vLLM has no model of its own (SmolLM 3, OLMo 2, GPT-NeoX), it serves transformers' and turns its class, in
    place, into one to compile: the learner's passes then fail. vLLM 0.32: ``Base._decorate_cls_for_torch_compile``.
    """
    from vllm.model_executor.models.transformers.base import Base

    theirs = Base._decorate_cls_for_torch_compile
    Base._decorate_cls_for_torch_compile = lambda *args, **keywords: None  # type: ignore[method-assign]
    try:
        yield
    finally:
        Base._decorate_cls_for_torch_compile = theirs  # type: ignore[method-assign]


def sequences_at_a_time(responses: int, devices: int = 1) -> int:
    """Enough sequences for some responses, at least vLLM's own default for this machine; a decoding step bounds them.

    vLLM 0.32: ``engine.arg_utils.EngineArgs.get_batch_defaults``.
    """
    from vllm.engine.arg_utils import EngineArgs
    from vllm.usage.usage_lib import UsageContext

    tokens, sequences = (found[UsageContext.LLM_CLASS] for found in EngineArgs.get_batch_defaults(devices))
    return min(max(sequences, responses), tokens)


def packs_sequences(model: Any) -> bool:
    """Whether a model's attention takes packed sequences. transformers 5: ``config._attn_implementation``."""
    config = getattr(model, "config", None)
    return str(getattr(config, "_attn_implementation", "")).startswith("flash_attention")


def layer_classes(model: Any) -> set[str]:
    """Names of the classes of a model's layers, the units of sharding. transformers 5: ``_no_split_modules``."""
    return set(getattr(model, "_no_split_modules", None) or ())


@contextlib.contextmanager
def process_groups_kept() -> Iterator[None]:
    """An engine that shuts down in here leaves process groups alone.

    vLLM's shutdown ends by destroying all of them, the trainer's included. vLLM 0.32:
    ``v1.engine.core.cleanup_dist_env_and_memory``.
    """
    from unittest.mock import patch

    from vllm.v1.engine import core

    with patch.object(core, "cleanup_dist_env_and_memory", lambda: None):
        yield


def drop_vllms_world() -> None:
    """Destroy vLLM's own group of all ranks and keep torch's default group. vLLM 0.32: ``parallel_state._WORLD``."""
    from vllm.distributed import parallel_state

    if (world := parallel_state._WORLD) is not None:
        world.destroy()
        parallel_state._WORLD = None


def vocabulary_layers(model: Any) -> tuple[list[Any], list[Any]]:
    """Output heads and input embeddings of vLLM's model. vLLM 0.32: ``layers.vocab_parallel_embedding``."""
    from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead, VocabParallelEmbedding

    found = [module for module in model.modules() if isinstance(module, VocabParallelEmbedding)]
    heads = [module for module in found if isinstance(module, ParallelLMHead)]
    return heads, [module for module in found if not isinstance(module, ParallelLMHead)]


def reread_settings(ray: Any) -> None:
    """Let a Ray that was imported before its variables were set read them again. Ray 2.60: ``_raylet.Config``."""
    from ray._private import ray_constants

    ray_constants.ENABLE_RAY_CLUSTER = False
    ray._raylet.Config.initialize("")


def ask_ray(ray: Any, address: str) -> None:
    """Ask a Ray for an answer; raises where a token is wrong, where ``init`` would keep trying.

    Ray 2.60: ``_raylet.GcsClient``.
    """
    ray._raylet.GcsClient(address=address)


def address_of_ray() -> str | None:
    """Where ``ray start`` has last begun or joined a Ray on this machine.

    Ray's own "auto" also finds those that other runs have for themselves. Ray 2.60: ``_private.services``.
    """
    from ray._private import services

    found: str | None = services.find_bootstrap_address(None)
    return found


@contextlib.contextmanager
def apart(environment: dict[str, str]) -> Iterator[None]:
    """Ray's processes that start in here have process groups of their own, and ``environment`` besides this one's.

    A terminal, ``timeout`` and torchrun signal a whole group; the run needs Ray to finish its step. Ray 2.60:
    ``_private.services.ConsolePopen``.
    """
    from unittest.mock import patch

    from ray._private import services

    theirs = services.ConsolePopen

    def started(command: Any, *, env: dict[str, str], **rest: Any) -> Any:
        return theirs(command, env={**env, **environment}, process_group=0, **rest)

    with patch.object(services, "ConsolePopen", started):
        yield


@contextlib.contextmanager
def no_messages_of_lost_processes() -> Iterator[None]:
    """A Ray that is started in here prints no paragraph for a lost process. Ray 2.60: ``_private.worker``."""
    from unittest.mock import patch

    from ray._private import worker

    with patch.object(worker, "listen_error_messages", lambda *args: None):
        yield


def workspace_content(made: Any) -> dict[str, Any]:
    """A W&B workspace or report as it would be sent. wandb-workspaces 0.4: ``_to_model``."""
    return made._to_model().model_dump(mode="json", by_alias=True)
