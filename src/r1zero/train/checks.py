"""Impossible settings, found before anything heavy is imported."""

from __future__ import annotations

import dataclasses
import difflib
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from r1zero.algo_config import AlgoConfig
from r1zero.config import DataConfig, Gold, RewardConfig, TrainConfig
from r1zero.data.sources import check_source
from r1zero.data.templates import template_of
from r1zero.errors import UserError
from r1zero.launch.cluster import knock
from r1zero.launch.files import read_json
from r1zero.launch.gpu import check_batch_invariant, check_cuda, check_quantization, has_gpu, installed, is_here
from r1zero.launch.model_files import check_divides, check_files, check_trainable
from r1zero.launch.plugins import check_function
from r1zero.launch.renamed import bring_up_to_date
from r1zero.launch.run_folder import not_made
from r1zero.launch.targets import check_targets
from r1zero.launch.torch_start import limit_threads
from r1zero.learn.optimizer import check_memory
from r1zero.ranges import check_ranges
from r1zero.reward.signatures import check_named
from r1zero.rollout.choice import narrow, say
from r1zero.rollout.ray.check import check_ray
from r1zero.train.hub import check_hub

OWNED = {
    "max_epochs": "steps",
    "max_steps": "steps",
    "min_epochs": "steps",
    "min_steps": "steps",
    "precision": "model.dtype",
    "gradient_clip_val": "optim.max_grad_norm",
    "gradient_clip_algorithm": "optim.max_grad_norm",
    "accumulate_grad_batches": "optim.micro_batch_tokens",
    "val_check_interval": "eval.every",
    "check_val_every_n_epoch": "eval.every",
    "logger": "the logger group",
    "callbacks": "the callbacks group",
    "enable_checkpointing": "checkpoint.every",
    "enable_progress_bar": "callbacks.progress",
    "log_every_n_steps": "the logger group",
    "use_distributed_sampler": "rollout.questions",
    "reload_dataloaders_every_n_epochs": "data.limit",
}
"""Arguments of Lightning's Trainer that would be overruled or would do harm here, and what to use instead."""

LARGE_FOR_CPU = 0.5
"""Billions of parameters from which training on a CPU is refused unless trainer=cpu asks for it."""


def optimizer_steps(cfg: TrainConfig) -> int:
    """K: optimizer steps per rollout step."""
    return cfg.algo.inner_epochs * cfg.rollout.questions * cfg.rollout.group_size // cfg.algo.minibatch_size


def check_set(config: DictConfig) -> None:
    """Every value is given. Raises ``UserError`` naming the first that is not."""
    missing = sorted(OmegaConf.missing_keys(config))
    if missing:
        raise UserError(f"{missing[0]} is not set: give it on the command line as {missing[0]}=...")


def check(config: DictConfig) -> None:
    """Refuse settings that can't work, in one line each; fills ``model.context`` from a local folder.

    Raises:
        UserError: naming the keys and what to do.
    """
    check_set(config)
    check_known(config)
    check_ranges(config)
    bring_up_to_date(config)
    check_targets(config)
    if config.model.context is None:
        config.model.context = folder_context(config.model.path)
    only = narrow(config)
    if config.rollout["async"]:
        config.algo.sampler_correction = "token"
    cfg: Any = OmegaConf.to_object(config)
    check_sizes(cfg)
    check_async(cfg)
    check_groups(cfg)
    check_sampling(cfg)
    check_algo(cfg.algo)
    check_model(cfg)
    for key in cfg.trainer:
        if key in OWNED:
            raise UserError(f"trainer.{key} has no place here, where a batch is a rollout step: use {OWNED[key]}")
    for data in (cfg.data, *cfg.benchmarks.values()):
        if is_here():
            check_source(data)
        check_judge(data, cfg.reward)
    check_functions(cfg)
    if is_here():
        check_machine(cfg)
        check_hub(cfg.hub)
    check_ray(cfg.rollout)
    if cfg.rollout.name != "ray":  # whose samplers have cards of their own, and say it themselves
        check_batch_invariant(cfg.rollout.batch_invariant, cfg.rollout.name)
    check_quantization(cfg.rollout)
    if is_here() and cfg.reward.pool == "ray" and cfg.rollout.name != "ray":  # else they share the samplers' Ray
        knock(cfg.reward.address, 5.0, "reward.address")
    say(only)


def check_judge(data: DataConfig, reward: RewardConfig) -> None:
    """A set without gold answers needs a reward function that says what is right."""
    if data.gold is Gold.none and not any(function.weight > 0 for function in reward.functions.values()):
        raise UserError(
            f"data {data.name} has no gold answers (gold=none) and reward={reward.name} has no function of positive "
            "weight that could judge a response: choose another reward, such as reward=code_tests, or add "
            "reward.functions"
        )


def check_known(config: DictConfig, where: str = "") -> None:
    """A key that no schema knows would be ignored silently; ``+key=value`` puts one past Hydra's own check."""
    schema = OmegaConf.get_type(config)
    if not dataclasses.is_dataclass(schema):
        return
    known = [field.name for field in dataclasses.fields(schema)]
    for name in config:
        if name not in known:
            close = difflib.get_close_matches(str(name), known, n=1)
            hint = f"; did you mean {where}{close[0]}?" if close else ""
            raise UserError(f"{where}{name!s}: there is no such setting{hint}")
        node = None if OmegaConf.is_missing(config, name) else config[name]
        if isinstance(node, DictConfig):
            check_known(node, f"{where}{name}.")


def check_sizes(cfg: TrainConfig) -> None:
    """Batch sizes must fit together (semantics: P, G, B)."""
    rollout, algo = cfg.rollout, cfg.algo
    total = rollout.questions * rollout.group_size
    if total % algo.minibatch_size:
        raise UserError(
            f"algo.minibatch_size={algo.minibatch_size} does not divide the {total} responses of a rollout step "
            f"(rollout.questions={rollout.questions} x rollout.group_size={rollout.group_size})"
        )
    context = cfg.model.context
    longest = cfg.data.max_prompt_tokens + rollout.max_tokens
    if context and longest > context:
        raise UserError(
            f"data.max_prompt_tokens={cfg.data.max_prompt_tokens} + rollout.max_tokens={rollout.max_tokens} = "
            f"{longest} is over the context of model {cfg.model.name}, {context} tokens: lower one of them"
        )
    limit = cfg.eval.max_tokens or rollout.max_tokens
    if context and limit >= context:
        raise UserError(
            f"the response limit of evaluations, {limit} tokens, leaves no room for a prompt in the context of model "
            f"{cfg.model.name}, {context} tokens: lower eval.max_tokens"
        )


def check_async(cfg: TrainConfig) -> None:
    """Sampling ahead: one step, one device, questions whose order no reward decides."""
    if not cfg.rollout.async_steps:
        return
    if cfg.data.sampler != "uniform":
        raise UserError(
            f"rollout.async=1 asks the next questions before this step's rewards are used, and "
            f"data.sampler={cfg.data.sampler} chooses them by those: use data.sampler=uniform"
        )
    devices, nodes = cfg.trainer.get("devices", 1), cfg.trainer.get("num_nodes", 1)
    if cfg.rollout.name != "ray" and (devices != 1 or nodes != 1):
        raise UserError(
            f"rollout.async=1 with rollout={cfg.rollout.name} works on one device, trainer.devices={devices} "
            f"num_nodes={nodes} are more: use rollout=ray, whose samplers are processes of their own"
        )


def check_groups(cfg: TrainConfig, devices: int | None = None) -> None:
    """Ranks that share an engine or a pass are ranks of one machine, as many in each group.

    Args:
        cfg: the settings.
        devices: of each machine, once Lightning has counted them; None: as far as ``trainer.devices`` says it.
    """
    if devices is None:
        given = cfg.trainer.get("devices", 1)
        devices = given if isinstance(given, int) else len(given) if isinstance(given, list) else -1
    for key, parts in (
        ("rollout.tensor_parallel", cfg.rollout.ranks_per_engine),
        ("optim.context_parallel", cfg.optim.context_parallel),
    ):
        if devices > 0 and devices % parts:
            raise UserError(
                f"{key}={parts} cuts the model or its passes over ranks of a machine, and trainer.devices={devices} is "
                f"no multiple: use trainer=ddp trainer.devices={parts}"
            )


def check_context(cfg: TrainConfig) -> None:
    """What goes together with passes that several ranks make."""
    if (parts := cfg.optim.context_parallel) == 1:
        return
    key, strategy = f"optim.context_parallel={parts}", str(cfg.trainer.get("strategy", "auto"))
    if cfg.model.compile or cfg.model.attention != "sdpa" or "Zero" in strategy:
        raise UserError(
            f"{key} has attention of its own, under trainer=ddp or trainer=fsdp: leave model.compile, model.attention "
            "and trainer=deepspeed out"
        )
    for name, node in cfg.callbacks.items():
        if node is not None and "distribution" in str(node.get("_target_")):
            raise UserError(f"{key}: callbacks.{name} asks for whole distributions on one rank: leave it out")


def check_cut(cfg: TrainConfig, folder: Path) -> None:
    """Whether the model of a folder can be cut into as many parts as are asked for."""
    config = read_json(folder / "config.json")
    check_parts(cfg, config.get("text_config", config), str(folder / "config.json"))


def check_parts(cfg: TrainConfig, sizes: Mapping[str, Any], where: str) -> None:
    """The same for the sizes that a model's config names; ``where`` it does."""
    heads, inner = "num_attention_heads", "intermediate_size"
    check_divides(sizes, where, "rollout.tensor_parallel", cfg.rollout.tensor_parallel, (heads, inner))
    check_divides(sizes, where, "optim.context_parallel", cfg.optim.context_parallel, (heads,))


def check_sampling(cfg: TrainConfig) -> None:
    """Sampling settings under which the policy gradient would be wrong (semantics 6)."""
    rollout, algo = cfg.rollout, cfg.algo
    if cfg.eval.temperature == 0 and cfg.eval.n > 1:
        raise UserError(
            f"eval.n={cfg.eval.n}: at eval.temperature=0 all responses are equal; set a temperature above 0"
        )
    if (rollout.top_p < 1 or rollout.top_k > 0) and algo.sampler_correction.value != "token":
        raise UserError(
            f"rollout.top_p={rollout.top_p} rollout.top_k={rollout.top_k}: the sampler renormalises and the learner "
            "does not, so the gradient is biased; use top_p=1 top_k=-1, or algo.sampler_correction=token"
        )
    if rollout.quantization and algo.sampler_correction.value == "off":
        raise UserError(
            f"rollout.quantization={rollout.quantization} samples by rounded weights and the learner's are whole, so "
            "the gradient is biased without a correction: leave algo.sampler_correction=off out"
        )


def check_algo(algo: AlgoConfig) -> None:
    """Values of the objective of which one would undo or ignore another."""
    ratio, clip = algo.ratio.value, algo.clip.value
    if ratio == "none" and clip != "none":
        raise UserError(f"algo.ratio=none leaves algo.clip={clip} nothing to clip: set algo.clip=none")
    if ratio == "sequence" and algo.credit != "uniform":
        raise UserError(
            f"algo.ratio=sequence gives all tokens of a response one gradient, so algo.credit={algo.credit} would be "
            "averaged out: use algo.ratio=sequence_token"
        )
    if algo.advantage == "group" and algo.advantage_params:
        raise UserError("algo.advantage=group has no advantage_params: use algo.std_norm")
    if algo.std_norm and algo.advantage != "group" and "." not in algo.advantage:
        raise UserError(
            f"algo.std_norm=true divides by the deviation of the group, and algo.advantage={algo.advantage} has a "
            "scale of its own: set algo.std_norm=false"
        )
    for name in ("overlong", "kl_in_reward"):
        if (value := getattr(algo, name)) and algo.advantage == "mean_norm":
            raise UserError(
                f"algo.{name}={value:g} makes rewards negative, and algo.advantage=mean_norm divides by their mean, a "
                f"success rate: set algo.{name}=0"
            )


def check_functions(cfg: TrainConfig) -> None:
    """Every function that is named must be there and take its arguments, as far as its file tells."""
    algo = cfg.algo
    for setting, name, params in (
        ("algo.loss", algo.loss, algo.loss_params),
        ("algo.advantage", algo.advantage, algo.advantage_params),
        ("algo.credit", algo.credit, algo.credit_params),
        ("data.sampler", cfg.data.sampler, cfg.data.sampler_params),
        ("rollout.environment", cfg.rollout.environment, cfg.rollout.environment_params),
    ):
        if name is not None:
            check_function(name, setting, {str(key): value for key, value in params.items()})
    check_named(cfg.reward, cfg.template.extractor)


def check_model(cfg: TrainConfig) -> None:
    """Files, adapters and template of the model."""
    if cfg.model.served:
        raise UserError(
            f"model={cfg.model.name} stands behind a server and can't be trained; scripts/evaluate.py and "
            "scripts/analyze.py take it, with server.url"
        )
    check_lora(cfg)
    check_compile(cfg)
    check_context(cfg)
    check_attention(cfg)
    check_memory(cfg)
    template_of(cfg.template)
    if line := not_made(cfg.model.path):
        raise UserError(line)
    folder = Path(cfg.model.path).expanduser()
    if is_here() and folder.is_dir() and not any([*folder.glob("*.safetensors"), *folder.glob("pytorch_model*.bin")]):
        raise UserError(f"model folder {folder} has no weights (*.safetensors); export or download the model again")
    if folder.is_dir():
        if is_here():
            check_files(folder)
        check_trainable(folder, cfg.model.context, cfg.rollout.name)
        check_cut(cfg, folder)


def check_lora(cfg: TrainConfig) -> None:
    """Sizes of the adapters; whether the targets exist is seen when the model is loaded."""
    lora = cfg.model.lora
    if lora.rank and not lora.targets:
        raise UserError("model.lora.targets is empty: name the linear layers that get adapters, e.g. [q_proj,v_proj]")


def check_compile(cfg: Any) -> None:
    """What ``model.compile`` needs: weights that are whole, and as ``model.compile_head`` on a CPU a C++ compiler."""
    chosen = "compile" if cfg.model.compile else "compile_head" if cfg.model.compile_head else None
    if chosen is None:
        return
    if cfg.model.compile and "ModelParallelStrategy" in str(cfg.trainer.get("strategy", "auto")):
        raise UserError(
            "model.compile=true needs whole weights on each device, and trainer=fsdp cuts them: leave it off"
        )
    if not has_gpu() and not any(shutil.which(name) for name in (os.environ.get("CXX", "g++"), "g++", "clang++")):
        raise UserError(f"model.{chosen}=true needs a C++ compiler on a CPU: install g++, or leave it off")


def check_attention(cfg: Any) -> None:
    """What ``model.attention=flash_attention_2`` needs: a GPU, the package, and compute in 16 bits."""
    if not cfg.model.attention.startswith("flash"):
        return
    chosen = f"model.attention={cfg.model.attention}"
    if not has_gpu() or str(cfg.trainer.get("accelerator", "auto")) == "cpu":
        raise UserError(f"{chosen} has kernels for NVIDIA GPUs alone: use model.attention=sdpa on a CPU")
    if not installed("flash_attn", "kernels"):
        raise UserError(f"{chosen} needs the package flash-attn: pip install '.[flash]', or use model.attention=sdpa")
    if cfg.model.dtype == "float32":
        raise UserError(f"{chosen} has no kernels for model.dtype=float32: use bfloat16, or model.attention=sdpa")


def check_machine(cfg: TrainConfig) -> None:
    """A GPU that is asked for must be there; a large model on a CPU is refused unless that is asked for."""
    if (accelerator := str(cfg.trainer.get("accelerator", "auto"))) == "cpu":
        return
    if has_gpu():
        limit_threads(cfg.model.params)
        check_cuda("trainer=cpu")
        return
    if accelerator in ("gpu", "cuda"):
        raise UserError("no NVIDIA GPU was found and this trainer needs one: use trainer=cpu, or try experiment=demo")
    if cfg.model.params >= LARGE_FOR_CPU:
        raise UserError(
            f"no NVIDIA GPU was found, and model {cfg.model.name} ({cfg.model.params:g} B parameters) is too large to "
            "train on a CPU: try experiment=demo, which takes minutes on two cores (trainer=cpu insists)"
        )


def folder_context(path: str) -> int:
    """``max_position_embeddings`` of a local model folder.

    Raises:
        UserError: there is no such folder, or its config.json does not say.
    """
    if line := not_made(path):
        raise UserError(line)
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise UserError(f"model.path={path}: there is no such folder; for a hub id also give model.context=<tokens>")
    file = folder / "config.json"
    if not file.is_file():
        raise UserError(f"model folder {folder} has no config.json; name a folder in the Hugging Face layout")
    content = read_json(file)
    context = content.get("max_position_embeddings") or content.get("n_positions")
    if not isinstance(context, int):
        raise UserError(f"{file} names no max_position_embeddings: give model.context=<tokens>")
    return context
