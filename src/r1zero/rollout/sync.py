"""What both engines check when the learner's weights arrive: every name, once, in its shape (traps 40, 42)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch

from r1zero.errors import SyncError, UserError, first_line

WRAPPERS = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.", "base_model.model.", "module.")
"""Prefixes that wrappers put into parameter names; a name with one of them would be skipped silently."""

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def torch_dtype(name: str) -> torch.dtype:
    """The torch dtype of a config value. Raises ``UserError`` for an unknown name."""
    if name not in DTYPES:
        raise UserError(f"rollout.dtype={name} is unknown; choose one of {', '.join(DTYPES)}")
    return DTYPES[name]


def expected_parameters(
    model_path: str, *, revision: str | None = None, trust_remote_code: bool = False
) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the Hugging Face module's parameters, read from its config alone.

    A tied head is one parameter with its embedding and counted once, as ``named_parameters()`` does.
    No weights are allocated (meta device).
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        config = AutoConfig.from_pretrained(model_path, revision=revision, trust_remote_code=trust_remote_code)
    except (OSError, ValueError) as error:
        raise UserError(f"model.path={model_path}: no model config can be read there ({first_line(error)})") from error
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
    return {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}


class CheckedWeights:
    """Iterates over the learner's tensors in the engine's dtype and remembers what is wrong with them.

    Nothing is raised while the engine consumes the stream, because an exception in the middle of a
    reload leaves an engine half emptied; :meth:`verify` raises afterwards. A tensor that does not belong
    is not passed on. An error of the source itself ends the stream and is raised by :meth:`verify`.
    """

    def __init__(
        self, weights: Iterable[tuple[str, torch.Tensor]], expected: dict[str, tuple[int, ...]], dtype: torch.dtype
    ) -> None:
        self._weights = weights
        self._expected = expected
        self._dtype = dtype
        self._seen: set[str] = set()
        self._faults: list[str] = []
        self._error: BaseException | None = None

    def __iter__(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield (name, detached tensor in the engine's dtype) for every tensor that is expected."""
        source = iter(self._weights)
        while True:
            try:
                name, tensor = next(source)
            except StopIteration:
                return
            except BaseException as error:
                self._error = error
                return
            if self._accept(name, tensor):
                yield name, tensor.detach().to(self._dtype)
            del tensor  # before the next one is gathered

    def _accept(self, name: str, tensor: torch.Tensor) -> bool:
        if name not in self._expected:
            prefix = next((prefix for prefix in WRAPPERS if prefix in name), None)
            hint = f" (wrapper prefix '{prefix}' must be stripped)" if prefix else ""
            self._faults.append(f"unexpected {name}{hint}")
        elif name in self._seen:
            self._faults.append(f"{name} came twice")
        elif tuple(tensor.shape) != self._expected[name]:
            self._seen.add(name)
            self._faults.append(f"{name} has shape {tuple(tensor.shape)}, not {self._expected[name]}")
        else:
            self._seen.add(name)
            return True
        return False

    def verify(self, version: int) -> None:
        """Raise the source's own error, or ``SyncError`` naming missing, unexpected and misshapen tensors."""
        if self._error is not None:
            raise self._error
        missing = [f"missing {name}" for name in self._expected if name not in self._seen]
        faults = [*self._faults, *missing]
        if faults:
            shown = "; ".join(faults[:4]) + (f"; and {len(faults) - 4} more" if len(faults) > 4 else "")
            raise SyncError(f"weights of version {version} do not fit the sampler's model: {shown}")


def check_metadata(declared: dict[str, Any], expected: dict[str, tuple[int, ...]]) -> None:
    """Raise ``SyncError`` unless the names and shapes that a transfer announces are those of the sampler's model."""
    given = dict(zip(declared["names"], map(tuple, declared["shapes"]), strict=True))
    if given != expected:
        faults = [f"missing {name}" for name in expected if name not in given]
        faults += [f"unexpected or misshapen {name}" for name in given if expected.get(name) != given[name]]
        raise SyncError(f"the weights announced do not fit the sampler's model: {'; '.join(faults[:4])}")
