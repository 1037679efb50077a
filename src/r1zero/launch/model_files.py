"""What the files of a local model folder tell in a moment: headers and configs alone are read."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from r1zero.errors import UserError
from r1zero.launch.files import read_json

TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "tokenizer_config.json")
EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
"""Names that configs have for the number of experts of a layer."""


def check_files(folder: Path) -> None:
    """Whether a folder has a tokenizer, and weights that are whole.

    Raises:
        UserError: naming the file and what is wrong.
    """
    if not any((folder / name).is_file() for name in TOKENIZERS[:-1]):
        code = any(folder.glob("*.py"))
        if not code:
            raise UserError(f"model folder {folder} has no tokenizer (tokenizer.json); copy it from the base model")
    for index in folder.glob("*.safetensors.index.json"):
        listed = read_json(index).get("weight_map", {})
        for name in sorted(set(listed.values())):
            if not (folder / name).is_file():
                raise UserError(f"model folder {folder} lacks {name}, which {index.name} lists; download it again")
    for file in sorted(folder.glob("*.safetensors")):
        check_safetensors(file)


def check_safetensors(file: Path) -> None:
    """Compare a file's size with what its header announces. Raises ``UserError`` for a cut or foreign file."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        start = stream.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else size
        if length + 8 > size:
            raise UserError(f"{file} is cut or no safetensors file ({size:,} bytes); download it again")
        try:
            header = json.loads(stream.read(length))
            ends = [tensor["data_offsets"][1] for name, tensor in header.items() if name != "__metadata__"]
        except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError):
            raise UserError(f"{file} has no safetensors header; download it again") from None
    whole = 8 + length + max(ends, default=0)
    if size != whole:
        raise UserError(f"{file} has {size:,} bytes where its header announces {whole:,}; download it again")


def check_trainable(folder: Path, context: int | None, engine: str) -> None:
    """Whether log-probabilities of this architecture can be the same in the learner and in the sampler.

    Args:
        folder: of the model.
        context: longest prompt + response in tokens.
        engine: ``rollout.name``.

    Raises:
        UserError: naming what the config holds and what to do.
    """
    config = read_json(folder / "config.json")
    for rope in _ropes(config):
        kind = str(rope.get("rope_type", rope.get("type", "default")))
        most = rope.get("original_max_position_embeddings") or config.get("original_max_position_embeddings")
        most = most or (config.get("max_position_embeddings") if kind == "dynamic" else None)
        if kind in ("longrope", "dynamic", "su", "yarn_dynamic") and (most is None or (context or 0) > most):
            limit = f"model.context={most} or less" if most else "another model"
            raise UserError(
                f"{folder / 'config.json'}: rope of type {kind} depends on the longest sequence of a batch, so "
                f"a response's log-probabilities would depend on its neighbours; use {limit}"
            )
    if cap := config.get("attn_logit_softcapping"):
        raise UserError(
            f"{folder / 'config.json'}: attn_logit_softcapping={cap}, a cap of attention's scores that sdpa leaves out "
            "and other code applies; such a model can't be trained here: set it to null, or use another model"
        )
    if engine != "hf" and (experts := experts_of(folder)):
        raise UserError(
            f"{folder / 'config.json'}: {experts}, a mixture of experts, whose weights vLLM does not "
            "take whole when they are loaded again; use rollout=hf"
        )


def experts_of(folder: Path) -> str | None:
    """How many experts a layer of a folder's model has, as its config.json says it; None where that names none."""
    config = read_json(folder / "config.json") if (folder / "config.json").is_file() else {}
    return next(
        (f"{name}={config[name]}" for name in EXPERTS if isinstance(config.get(name), int) and config[name] > 1), None
    )


def check_divides(sizes: Mapping[str, Any], where: str, key: str, parts: int, names: tuple[str, ...]) -> None:
    """Whether sizes that a model's config names can be dealt out evenly. Raises ``UserError`` with the setting."""
    for name in names if parts > 1 else ():
        size = sizes.get(name)
        if not isinstance(size, int) or size % parts:
            raise UserError(f"{key}={parts} cuts the model evenly and {where} has {name}={size}: choose a divisor")


def _ropes(config: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The rope settings of a config, those of kinds of layers and of a text model inside of it included."""
    for name, value in config.items():
        if not isinstance(value, Mapping):
            continue
        if "rope_type" in value or (name == "rope_scaling" and "type" in value):
            yield value
        else:
            yield from _ropes(value)
