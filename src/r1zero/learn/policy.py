"""The policy: a Hugging Face causal language model that returns log-probabilities of sampled tokens."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule

from r1zero.algo.in_place import GradientSum, gradient_sums, looks_up, lookups_in_place
from r1zero.algo.logprobs import token_logprobs
from r1zero.config import LoRAConfig, ModelConfig
from r1zero.errors import UserError, first_line
from r1zero.launch import compat
from r1zero.launch.files import SUMS, read_json, unlike_sums, write_json
from r1zero.launch.run_folder import not_made
from r1zero.learn.collate import MicroBatch
from r1zero.learn.context import Context
from r1zero.learn.lora import adapter_weights, add_adapters, keep_adapters_only, merged_weights, save_adapter
from r1zero.learn.optimizer import activations_on_host

log = logging.getLogger("r1zero")

LOUD = 1000.0
"""Greatest logit with which a head is tried; caps of real models are 30 to 50."""

WEIGHT_FILES = ("*.safetensors", "pytorch_model*.bin")


def resolve_model(cfg: ModelConfig) -> Path:
    """Folder of the model: the local one named by ``model.path``, or the hub repository's snapshot.

    Raises:
        UserError: the folder lacks configuration or weights, or the hub repository can't be downloaded.
    """
    folder = Path(cfg.path).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise UserError(f"model folder {folder} has no config.json; name a folder in the Hugging Face layout")
        if not any(next(folder.glob(pattern), None) for pattern in WEIGHT_FILES):
            raise UserError(f"model folder {folder} has no weights (*.safetensors); export or download the model again")
        if unlike := unlike_sums(folder, "*.safetensors"):
            raise UserError(
                f"{folder / unlike[0]} is not what {SUMS} there says: it was damaged, so export or copy it again; "
                f"where you changed it yourself, remove {SUMS}"
            )
        return folder
    if line := not_made(cfg.path):
        raise UserError(line)
    if cfg.path.startswith(("/", ".", "~")) or cfg.path.count("/") > 1:
        raise UserError(f"model.path={cfg.path}: there is no such folder")
    from huggingface_hub import snapshot_download

    try:
        patterns = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja", "*.tiktoken"]
        patterns += ["*.py"] if cfg.trust_remote_code else []
        wanted: dict[str, Any] = {"revision": cfg.revision, "ignore_patterns": ["consolidated*", "original/*"]}
        folder = Path(snapshot_download(cfg.path, allow_patterns=patterns, **wanted))
        if not any(folder.glob("*.safetensors")):
            folder = Path(snapshot_download(cfg.path, allow_patterns=[*patterns, "pytorch_model*.bin*"], **wanted))
        return folder
    except Exception as error:
        raise UserError(
            f"model {cfg.path} is not a local folder and could not be downloaded from the hub "
            f"({first_line(error)[:160]}); name a local folder with model=<folder>, or try experiment=demo, which "
            "needs no download"
        ) from error


def load_tokenizer(folder: Path, trust_remote_code: bool = False) -> Any:
    """The tokenizer of a model folder; a missing padding token is set to EOS (padding is never trained on)."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
    except Exception as error:
        raise UserError(f"model folder {folder} has no usable tokenizer: {_why(error)}") from error
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def eos_ids(folder: Path) -> tuple[int, ...]:
    """Every EOS id that the model's files name; models may have several (trap 16)."""
    found: set[int] = set()
    for name in ("config.json", "generation_config.json"):
        file = folder / name
        if file.is_file():
            value = read_json(file).get("eos_token_id")
            found.update(value if isinstance(value, list) else [] if value is None else [value])
    return tuple(sorted(found))


class Policy(nn.Module):
    """A causal language model whose forward gives log-probabilities and entropies, never logits.

    Parameters are float32 (an update of 1e-6 would vanish in bfloat16, semantics 11); dropout is off
    (semantics 12), so two forwards of the same batch agree in training mode too (trap 29).
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.lora: LoRAConfig | None = None
        """Set where adapters are trained and the model's own weights are frozen."""
        self.activation_offload = False
        self.autocast: torch.dtype | None = None
        """Number format to compute in whatever the caller's is; None: the caller's."""
        self.context: Context | None = None
        """The ranks that make each pass together (optim.context_parallel)."""
        self.sums_gradients = False
        """Whether embedding and head add to their ``.grad`` without autograd; see :meth:`sum_gradients`."""
        self.packs = compat.packs_sequences(model)
        """Whether attention takes packed sequences at no cost; with a mask (sdpa, eager) padding costs less."""
        self.head_scale = head_scale(model)
        self.compile_head: bool | None = None
        """Whether the work on logits is compiled; None: by device."""
        self.base = ""
        """Folder that the weights came from."""
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0

    @classmethod
    def from_folder(cls, folder: Path, cfg: ModelConfig, *, trainable: bool = True, meta: bool = False) -> Policy:
        """Load a model folder in float32, ready to train (or frozen, as a reference).

        Args:
            folder: in the hub's layout.
            cfg: attention, adapters and the like.
            trainable: whether it is trained.
            meta: make everything but the weights, on the meta device: rank 0 sends them (``shard_policy``).

        Raises:
            UserError: the folder can't be read as a causal language model, or its head is not a plain
                matrix product, which the tiled log-probabilities rely on.
        """
        from transformers import AutoConfig, AutoModelForCausalLM

        # Weights are loaded, and the head is tried, on the CPU, where flash attention has no kernel.
        flash = cfg.attention.startswith("flash")
        try:
            config = AutoConfig.from_pretrained(folder, trust_remote_code=cfg.trust_remote_code)
            for name in [n for n in vars(config) if n.endswith(("dropout", "_pdrop")) and vars(config)[n]]:
                setattr(config, name, 0.0)
            how: dict[str, Any] = dict(
                dtype=torch.float32,
                attn_implementation="sdpa" if flash else cfg.attention,
                trust_remote_code=cfg.trust_remote_code,
            )
            if meta:
                with torch.device("meta"):
                    model = AutoModelForCausalLM.from_config(config, **how)
            else:
                model = AutoModelForCausalLM.from_pretrained(folder, config=config, **how)
        except Exception as error:
            raise UserError(f"model folder {folder} can't be loaded: {_why(error)}") from error
        policy = cls(model)
        if not meta:
            policy.check_head()
        if flash:
            policy.take_attention(cfg.attention)
        policy.base, policy.compile_head = cfg.path, cfg.compile_head
        if trainable:
            policy.train()
            if cfg.lora.rank:
                add_adapters(model, cfg.lora, getattr(torch, cfg.dtype))
                policy.lora = cfg.lora
                keep_adapters_only(policy)
            if cfg.gradient_checkpointing:
                # Dropout is off: no random state to restore, which an engine that samples meanwhile would see.
                keywords = {"use_reentrant": False, "preserve_rng_state": False}
                model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=keywords)
            policy.activation_offload = cfg.activation_offload
            if cfg.compile:
                compile_layers(model)
        else:
            policy.eval().requires_grad_(False)
            if cfg.reference_dtype == "bfloat16":
                policy.store_in(torch.bfloat16, everything=bool(cfg.lora.rank))
        return policy

    def store_in(self, dtype: torch.dtype, *, everything: bool = False) -> None:
        """Keep the frozen weights in the number format of compute, as it would cast them for each product.

        Equal weights then give the log-probabilities of a policy whose masters are float32, to the last bit: gains and
        biases stay float32, and so does the stream of states that the embedding begins. A model under adapters is
        frozen in ``dtype`` as a whole (``everything``), and its reference is the same.
        """
        self.autocast = dtype
        if everything:
            for parameter in self.parameters():
                parameter.data = parameter.data.to(dtype)
            return
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Embedding)):
                module.weight.data = module.weight.data.to(dtype)
        self.model.get_input_embeddings().register_forward_hook(lambda module, inputs, states: states.float())

    def forward(
        self,
        batch: MicroBatch,
        temperature: float = 1.0,
        with_entropy: bool = True,
        head: Callable[..., tuple[torch.Tensor, torch.Tensor]] = token_logprobs,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-probabilities and entropies of the generated tokens, float32 [n, T] each, zeros off the mask.

        The head is applied to the states that predict generated tokens alone: prompts and padding cost
        no logits.
        """
        batch = batch if self.context is None else self.context.share(batch)
        device = batch.input_ids.device
        own = nullcontext() if self.autocast is None else torch.autocast(device.type, self.autocast)
        lookups, of_head = self._sums(batch)
        with activations_on_host(self.activation_offload, device), own, lookups_in_place(self.model, lookups):
            states = self.model.base_model(
                input_ids=batch.input_ids, position_ids=batch.position_ids, use_cache=False
            ).last_hidden_state
        states = states.reshape(-1, states.shape[-1])[batch.source]
        weight = self.model.get_output_embeddings().weight
        with torch.autocast(states.device.type, enabled=False):
            logp, entropy = head(
                states,
                weight,
                batch.targets,
                temperature=temperature / self.head_scale,
                with_entropy=with_entropy,
                product=compat.float32_product(states.device.type),
                compiled=self.compile_head,
                **({"into": of_head} if of_head else {}),
            )
        found = batch.scatter(logp), batch.scatter(entropy)
        return found if self.context is None else self.context.whole(*found)

    def sum_gradients(self) -> None:
        """Spare the gradients of a pass that are as large as the vocabulary's matrices, where that can be.

        For one process whose gradients nothing but its optimizer reads. DDP averages what autograd makes, FSDP what it
        gathered, and each would see nothing.
        """
        self.sums_gradients = looks_up(self.model.get_input_embeddings())

    def _sums(self, batch: MicroBatch) -> tuple[GradientSum | None, GradientSum | None]:
        """Where this pass adds the gradients of embedding and head; None: autograd has them."""
        if not self.sums_gradients or batch.used is None or not torch.is_grad_enabled():
            return None, None
        return gradient_sums(self.model, batch.used, compat.has_gradient_hooks)

    def take_attention(self, name: str) -> None:
        """Compute attention by another implementation of transformers from now on. Raises ``UserError``."""
        try:
            self.model.set_attn_implementation(name)
        except (ImportError, ValueError) as error:
            raise UserError(f"model.attention={name} can't be used: {_why(error)}") from error
        self.packs = compat.packs_sequences(self.model)

    def share_passes(self, context: Context) -> None:
        """Make every pass together with other ranks from now on. Raises ``UserError``."""
        context.serve(self.model)
        self.context = context

    @torch.no_grad()
    def check_head(self) -> None:
        """See that logits are the head's product with the last states, times ``head_scale``.

        The head's input is made so large that its greatest logit is ``LOUD``: a cap shows whatever the size of the
        model's own logits is.

        Raises:
            UserError: weights are not finite, or logits are capped or shifted after the output matrix.
        """
        if broken := next((name for name, p in self.named_parameters() if not bool(p.sum().isfinite())), None):
            raise UserError(f"the weights of this model are not finite ({broken.removeprefix('model.')}): NaN or inf")
        head, config = self.model.get_output_embeddings(), self.model.config.get_text_config()
        ids = torch.arange(1, 9, device=head.weight.device).unsqueeze(0) % config.vocab_size
        products: list[torch.Tensor] = []

        def louder(module: Any, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
            logits = inputs[0] @ module.weight.T
            factor = LOUD / logits.abs().amax().clamp(min=1e-6)
            products.append(logits * factor)
            return (inputs[0] * factor, *inputs[1:])

        hook = head.register_forward_pre_hook(louder)
        try:
            theirs = self.eval().model(input_ids=ids, use_cache=False).logits
        finally:
            hook.remove()
        if len(products) != 1 or not torch.allclose(products[0] * self.head_scale, theirs, atol=LOUD * 1e-4, rtol=1e-4):
            cap = getattr(config, "final_logit_softcapping", None)
            why = f"final_logit_softcapping={cap}" if cap else "cap, scale or bias"
            raise UserError(
                f"model class {type(self.model).__name__} changes its logits after the output matrix "
                f"({why}); its log-probabilities can't be computed in tiles"
            )

    def named_weights(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Weights under their Hugging Face names, one at a time, shared ones once, for an engine to load.

        Sharded parameters are gathered one by one; prefixes that wrappers add are taken off (trap 42).
        All ranks must iterate together.
        """
        reshard(self)
        for name, tensor in merged_weights(self.model, whole):
            yield name.replace("_fsdp_wrapped_module.", "").replace("_orig_mod.", ""), tensor
            del tensor  # before the next one is gathered

    def exported_weights(self) -> Iterator[tuple[str, torch.Tensor]]:
        """What :meth:`save` writes, under the names of the files; all ranks must iterate together."""
        if self.lora is not None and self.lora.export == "adapter":
            reshard(self)
            yield from adapter_weights(self.model, whole)
        else:
            yield from self.named_weights()

    def save(self, folder: Path, tokenizer: Any, dtype: torch.dtype) -> None:
        """Write a Hugging Face folder (weights, tokenizer, generation config) that transformers and vLLM load.

        With ``model.lora.export=adapter``: the adapter's files instead, in float32.
        """
        folder.mkdir(parents=True, exist_ok=True)
        if self.lora is not None and self.lora.export == "adapter":
            save_adapter({name: tensor.cpu() for name, tensor in self.exported_weights()}, folder, self.lora, self.base)
            tokenizer.save_pretrained(folder)
            _give_usual_mode(folder)
            return
        state = {name: tensor.to("cpu", dtype) for name, tensor in self.exported_weights()}
        save_model(self.model, state, tokenizer, folder, dtype)


def head_scale(model: Any) -> float:
    """Logits are the head's product times this (Granite's logits_scaling, Cohere's logit_scale)."""
    config = model.config.get_text_config() if hasattr(model, "config") else None
    return float((getattr(config, "logit_scale", None) or 1.0) / (getattr(config, "logits_scaling", None) or 1.0))


def save_model(model: Any, state: dict[str, torch.Tensor], tokenizer: Any, folder: Path, dtype: torch.dtype) -> None:
    """Write a folder in the hub's layout; its config.json names ``dtype``, in which ``state`` is stored.

    transformers names the format of the model's own parameters, float32 in training: vLLM and whoever else goes by it
    would compute bfloat16 weights in float32.
    """
    model.save_pretrained(folder, state_dict=state)
    tokenizer.save_pretrained(folder)
    config = read_json(folder / "config.json")
    write_json(folder / "config.json", config | {"dtype": str(dtype).removeprefix("torch.")})
    _give_usual_mode(folder)


def compile_layers(model: Any) -> None:
    """Compile each layer in place, so that no name of a weight changes; shapes differ from pass to pass.

    Not the model as a whole: inside a compiled region transformers makes a mask of S x S for each sequence, with which
    sdpa has no flash kernel. A layer is given none where sequences are padded on the right.
    """
    layers = compat.layer_classes(model)
    found = [module for module in model.modules() if type(module).__name__ in layers]
    for module in found or [model.base_model]:
        module.compile(dynamic=True)


def reshard(root: nn.Module) -> None:
    """Give up what a pass without backward left gathered: those are copies, not the masters."""
    for module in root.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def whole(parameter: torch.Tensor) -> torch.Tensor:
    """A parameter without its history; a sharded one is gathered from all ranks."""
    tensor: Any = parameter.detach()
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def _why(error: Exception) -> str:
    """What transformers says, in one line."""
    text = str(error)
    if "custom code" in text or "trust_remote_code" in text:
        return "it needs Python code that comes with it, and none is run; model.trust_remote_code=true runs it: read it"
    if "weights_only" in text or "Weights only" in text:
        return "its weights are pickled Python objects, which are not loaded; convert them to safetensors"
    return first_line(error)


def _give_usual_mode(folder: Path) -> None:
    """Let every file have the mode that the umask gives; safetensors makes its own readable for the user alone."""
    probe = folder / ".mode"
    probe.touch()
    mode = probe.stat().st_mode & 0o777
    probe.unlink()
    for path in folder.iterdir():
        if path.is_file():
            path.chmod(mode)
