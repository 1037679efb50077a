"""What surrounds vLLM in a process: environment, noise, start among several ranks, errors of the start."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from r1zero.errors import UserError, first_line
from r1zero.launch import compat
from r1zero.launch.gpu import check_batch_invariant

ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # in-process: no pickling of weights, and our seed reaches the sampler
    "VLLM_NO_USAGE_STATS": "1",
}
LOG_LEVEL = ("VLLM_LOGGING_LEVEL", "ERROR")


def import_vllm(batch_invariant: bool = False) -> None:
    """Set vLLM's environment, which it reads when it is imported, and import it.

    Raises:
        UserError: it is not installed, or has no kernels for ``batch_invariant`` here.
    """
    check_batch_invariant(batch_invariant)
    os.environ.update(ENVIRONMENT | ({"VLLM_BATCH_INVARIANT": "1"} if batch_invariant else {}))
    os.environ.setdefault(*LOG_LEVEL)
    try:
        with quiet():
            import vllm  # noqa: F401
    except ModuleNotFoundError as error:
        if error.name != "vllm":
            raise
        raise UserError(
            "rollout=vllm: vLLM is not installed; pip install '.[cpu]' (no NVIDIA GPU) or '.[gpu]', or set rollout=hf"
        ) from error


@contextmanager
def quiet() -> Iterator[None]:
    """Keep vLLM's start-up remarks off the console; its errors are still shown."""
    logger = logging.getLogger("vllm")
    if logger.level == logging.NOTSET:  # its import logs before its own configuration is in place
        logger.setLevel(os.environ.get("VLLM_LOGGING_LEVEL", "ERROR"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        yield


@contextmanager
def launcher_environment(card: int) -> Iterator[dict[str, Any]]:
    """Engine arguments, and for their use the environment, of one engine per rank of a running job.

    With the external launcher a rank's engine takes the card that LOCAL_RANK names. That is the learner's, neither the
    rank among all machines (srun sets no LOCAL_RANK) nor its number here (``trainer.devices=[2,3]``). Alone, it would
    take card 0. Lightning's own launcher sets no RANK, so it is taken from torch.distributed. On a CPU vLLM sets
    LOCAL_WORLD_SIZE to the size of its own group; what comes later in this process reads the job's.

    Args:
        card: index of the learner's card among those visible; 0 on a CPU.
    """
    distributed, names = torch.distributed, ("RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    before = {name: os.environ[name] for name in names if name in os.environ}
    try:
        if not (distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1):
            with compat.engine_on_card(card):
                yield {}
        else:
            os.environ.update(RANK=str(distributed.get_rank()), LOCAL_RANK=str(card))
            yield {"distributed_executor_backend": "external_launcher"}
    finally:
        for name in names:
            os.environ.pop(name, None)
        os.environ.update(before)


def start_error(error: Exception, settings: dict[str, Any], memory: str) -> UserError:
    """The user's one-line error for a failed start: with what to do where the cause is known, else what vLLM says."""
    text = str(error).lower()
    if "max_model_len" in text and "is greater than the derived" in text:
        return UserError(
            f"model.context={settings['max_model_len']} is more than {settings['model']} was made for; lower it"
        )
    if "max seq len" in text or ("max_model_len" in text and "kv cache" in text):
        return UserError(
            f"{memory} leaves too little key-value cache for a context of {settings['max_model_len']} tokens; "
            f"raise it, or lower rollout.max_tokens or model.context"
        )
    if isinstance(error, torch.OutOfMemoryError) or "memory" in text:
        return UserError(f"{memory} is more than this machine has free for the engine ({first_line(error)})")
    if settings.get("quantization") and ("scaledmm" in text or "quant" in text):
        return UserError(f"rollout.quantization: vLLM can't round this model here ({first_line(error)})")
    if "cannot find any model weights" in text:
        return UserError(f"model.path={settings['model']}: no weights there (*.safetensors)")
    return UserError(
        f"vLLM can't start with {settings['model']} ({type(error).__name__}: {first_line(error)}); rollout=hf samples "
        "without vLLM"
    )


def spare_token_strings(llm: Any) -> None:
    """Stop vLLM from decoding every token once more for the log-probabilities it returns.

    Stop strings need vLLM's detokenizer, and where it is on, each returned log-probability carries its
    token's text: a quarter of the time of a rollout of a small model. Nothing here reads that text. The
    attributes are vLLM's own; where a version has others, this changes nothing.
    """
    states = getattr(getattr(llm.llm_engine, "output_processor", None), "request_states", {})
    for state in states.values():
        processor = getattr(state, "logprobs_processor", None)
        if processor is not None and hasattr(processor, "tokenizer"):
            processor.tokenizer = None
