"""Private parts of other projects, all of them: each with why it is needed and the version it was seen in.

``tests/launch/test_compat.py`` has a test for each that fails when the part moves. Imports nothing by itself.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import platform
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any, NoReturn


def find_top(name: str) -> ModuleSpec | None:
    """Where a top-level module or package is; nothing is imported and nothing changes.

    ``importlib.util.find_spec`` asks setuptools' finder too. That one imports setuptools when asked for distutils, and
    takes a question for pip as pip at work: it serves the standard library's distutils from then on, and the next
    import of setuptools (vLLM's, torch's extensions') fails. setuptools 78: ``_distutils_hack``.
    """
    if name in sys.modules:
        return getattr(sys.modules[name], "__spec__", None)
    finders = (finder for finder in sys.meta_path if type(finder).__module__ != "_distutils_hack")
    return next((spec for finder in finders if (spec := finder.find_spec(name, None)) is not None), None)


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


def leave_triton_out() -> None:
    """Keep a torch that is built for CPUs alone from loading Triton, which only makes kernels for GPUs.

    torch's compiler, which transformers imports, and its counter of operations, which Lightning imports, ask whether
    Triton is there by importing it: 75 MB in a training process. torch keeps the answer; whoever imports Triton itself,
    as vLLM does, still gets it. torch 2.13: ``torch.utils._triton``.
    """
    import torch
    from torch.utils import _triton

    if torch.version.cuda or torch.version.hip or torch.version.xpu or "triton" in sys.modules:
        return
    sys.modules["triton"] = None  # type: ignore[assignment]
    try:
        _triton.has_triton_package()
        import torch.utils.flop_counter
    finally:
        del sys.modules["triton"]


@functools.cache
def intel() -> bool:
    """Whether the processor says that it is Intel's, which MKL asks too."""
    with contextlib.suppress(OSError):
        return "GenuineIntel" in Path("/proc/cpuinfo").read_text()
    return "GenuineIntel" in platform.processor()


def float32_product(device: str) -> Callable[[Any, Any], Any] | None:
    """Float32 left @ right.T by oneDNN where that is worth it; None: torch's own product will do.

    Torch takes MKL, which keeps to AVX2 on processors that are not Intel's: 110 GFLOP/s on a core of a Zen 5 where
    oneDNN makes 250. On an Intel Xeon with AVX512 MKL is the faster one (the tiled head 1.3 times). torch 2.13:
    ``ops.mkldnn._linear_pointwise``, which its compiler uses.
    """
    import torch

    if device != "cpu" or not torch.backends.mkldnn.is_available():
        return None
    if torch.backends.cpu.get_cpu_capability() != "AVX512" or intel():
        return None
    linear = torch.ops.mkldnn._linear_pointwise
    return lambda left, right: linear(left, right, None, "none", [], "")


def watch_draws(llm: Any, note: Callable[[Sequence[str], Any, Any, Any], None]) -> bool:
    """Tell ``note`` of every decoding step of a CPU engine in this process; whether it will be.

    It gets the samples' names by row, which rows have not read their whole prompt and draw for nothing, the tokens
    [R] and the log-probabilities of all tokens [R, V], after temperature and cuts. vLLM 0.32:
    ``v1.worker.gpu_model_runner.GPUModelRunner``, its ``sampler``, ``input_batch.req_ids``, ``discard_request_mask``.
    """
    executor = getattr(getattr(llm, "llm_engine", None), "model_executor", None)
    worker = getattr(executor, "driver_worker", None)
    runner: Any = getattr(getattr(worker, "worker", None), "model_runner", None)
    if getattr(getattr(runner, "device", None), "type", "") != "cpu" or not hasattr(runner, "discard_request_mask"):
        return False
    theirs = runner.sampler.sample

    def sample(*args: Any, **keywords: Any) -> Any:
        tokens, logprobs = theirs(*args, **keywords)
        names = runner.input_batch.req_ids
        note(names, runner.discard_request_mask.np[: len(names)].tolist(), tokens, logprobs)
        return tokens, logprobs

    runner.sampler.sample = sample
    return True


def sample_names(request: str, n: int) -> list[str]:
    """Names of a request's ``n`` samples, which are requests too. vLLM 0.32: ``ParentRequest.get_child_info``."""
    return [request] if n == 1 else [f"{index}_{request}" for index in range(n)]


def watch_preemptions(llm: Any, note: Callable[[], None]) -> None:
    """Tell ``note`` of every response that gives up its place in the cache; its own count needs vLLM's statistics on.

    vLLM 0.32: ``v1.core.sched.scheduler.Scheduler._preempt_request`` of an engine whose core is in this process.
    """
    core = getattr(getattr(llm, "llm_engine", None), "engine_core", None)
    scheduler = getattr(getattr(core, "engine_core", None), "scheduler", None)
    theirs = getattr(scheduler, "_preempt_request", None)
    if theirs is None:
        return

    def preempt(*args: Any, **keywords: Any) -> None:
        note()
        theirs(*args, **keywords)

    scheduler._preempt_request = preempt  # type: ignore[union-attr]


def has_gradient_hooks(weight: Any) -> bool:
    """Whether something waits for a parameter's gradient as autograd makes it.

    torch 2.13: ``_backward_hooks``, ``_post_accumulate_grad_hooks``.
    """
    return bool(weight._backward_hooks or weight._post_accumulate_grad_hooks)


def attention_of(model: Any) -> str:
    """Name of a model's attention, such as sdpa. transformers 5: ``config._attn_implementation``."""
    return str(getattr(getattr(model, "config", None), "_attn_implementation", ""))


def packs_sequences(model: Any) -> bool:
    """Whether a model's attention takes packed sequences."""
    return attention_of(model).startswith("flash_attention")


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
