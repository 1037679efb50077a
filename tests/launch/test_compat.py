"""Each private part of another project is where compat.py looks for it, and does what it is needed for."""

from __future__ import annotations

import argparse
import ast
import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

import pytest
import pytorch_lightning as pl
import torch
from hydra.core.override_parser.overrides_parser import OverridesParser
from transformers import AutoModelForCausalLM

from r1zero.launch import compat
from tiny_models import make_tiny


@pytest.fixture(scope="module")
def trainer() -> pl.Trainer:
    return pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)


def parse(*overrides: str) -> list:
    return OverridesParser.create().parse_overrides(list(overrides))


def test_checkpoints_come_last(trainer: pl.Trainer) -> None:
    class Saves(pl.callbacks.Checkpoint):
        pass

    first, last = pl.Callback(), Saves()
    compat.set_callbacks(trainer, [last, first])
    assert trainer.callbacks == [first, last]


def test_signals_are_left_alone(trainer: pl.Trainer) -> None:
    compat.leave_signals_alone(trainer)
    trainer._signal_connector.register_signal_handlers()
    assert trainer._signal_connector._original_handlers == {}


def test_plain_files_are_told_from_formats_of_a_strategys_own(trainer: pl.Trainer) -> None:
    class Other(pl.plugins.io.TorchCheckpointIO):
        pass

    assert compat.writes_plain_files(trainer.strategy)
    trainer.strategy.checkpoint_io = Other()
    assert not compat.writes_plain_files(trainer.strategy)


def test_triton_is_not_loaded_to_train_on_a_cpu() -> None:
    """In a process of its own; who wants Triton itself has it."""
    if importlib.util.find_spec("triton") is None or torch.version.cuda:
        pytest.skip("Triton is not installed, or torch is built for GPUs")
    code = """
import sys
from r1zero.launch.torch_start import start_torch
start_torch(0.1)
import r1zero.train.run
print("triton" in sys.modules)
import triton
assert triton.language
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "False", done.stderr


def test_the_launcher_calls_the_observer_it_is_given() -> None:
    from pytorch_lightning.strategies.launchers import subprocess_script

    source = subprocess_script._SubprocessScriptLauncher.launch.__code__.co_names
    assert "_launch_process_observer" in source
    theirs = subprocess_script._launch_process_observer
    with compat.launched_ranks_observed(print):
        assert subprocess_script._launch_process_observer is print
    assert subprocess_script._launch_process_observer is theirs


def test_hydras_names_and_products() -> None:
    assert compat.override_dirname(parse("b=2", "a=1", "seed=3"), ["seed"], "_", "-") == "a-1_b-2"
    assert compat.sweep_points(parse("a=1,2", "b=3")) == [["a=1", "b=3"], ["a=2", "b=3"]]


def test_usage_errors_reach_the_handler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(argparse.ArgumentParser, "error", argparse.ArgumentParser.error)

    def handler(parser: argparse.ArgumentParser, message: str) -> NoReturn:
        raise RuntimeError(message)

    compat.usage_errors_go_to(handler)
    with pytest.raises(RuntimeError, match="--nothing"):
        argparse.ArgumentParser().parse_args(["--nothing"])


def test_attention_and_layers_of_a_transformers_model(tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(make_tiny(tmp_path))
    assert compat.attention_of(model) == "sdpa"
    assert not compat.packs_sequences(model)
    model.config._attn_implementation = "flash_attention_2"
    assert compat.packs_sequences(model)
    classes = {type(module).__name__ for module in model.modules()}
    assert compat.layer_classes(model)
    assert compat.layer_classes(model) <= classes


def test_onednns_product_is_torchs_own_within_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is taken where MKL does not know the processor."""
    monkeypatch.setattr(compat, "intel", lambda: True)
    assert compat.float32_product("cpu") is None
    monkeypatch.setattr(compat, "intel", lambda: False)
    assert compat.float32_product("cuda") is None
    product = compat.float32_product("cpu")
    if torch.backends.cpu.get_cpu_capability() != "AVX512":
        assert product is None
        pytest.skip("no AVX512 here")
    assert product is not None
    generator = torch.Generator().manual_seed(0)
    left, right = torch.randn(40, 30, generator=generator), torch.randn(50, 30, generator=generator)
    assert torch.allclose(product(left, right), left @ right.T, atol=1e-5)
    assert torch.allclose(product(left.T, left.T), left.T @ left, atol=1e-5)  # of transposed matrices, as gradients are


def test_nothing_heavy_is_imported() -> None:
    code = "import sys, r1zero.launch.compat; print({'torch', 'hydra', 'pytorch_lightning'} & sys.modules.keys())"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"


def test_hydras_own_settings_resolve_although_they_lead_into_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    from hydra._internal.hydra import Hydra
    from omegaconf import OmegaConf

    monkeypatch.setattr(Hydra, "get_sanitized_hydra_cfg", staticmethod(Hydra.get_sanitized_hydra_cfg))
    config = OmegaConf.create({"a": 3, "hydra": {"x": "${a}", "help": {}, "hydra_help": {}}})
    compat.resolve_hydras_own()
    assert OmegaConf.to_container(Hydra.get_sanitized_hydra_cfg(config)) == {"hydra": {"x": 3}}


def test_a_strategy_that_writes_folders_is_told_from_others(trainer: pl.Trainer) -> None:
    assert not compat.writes_folders(trainer.strategy)
    assert compat.writes_folders(pl.strategies.ModelParallelStrategy(save_distributed_checkpoint=True))


@pytest.mark.parametrize("register", ["register_hook", "register_post_accumulate_grad_hook"])
def test_what_waits_for_a_gradient_is_found(register: str) -> None:
    weight = torch.nn.Parameter(torch.ones(2))
    assert not compat.has_gradient_hooks(weight)
    handle = getattr(weight, register)(lambda _: None)
    assert compat.has_gradient_hooks(weight)
    handle.remove()
    assert not compat.has_gradient_hooks(weight)


def test_hydras_sweeper_is_told_from_one_that_searches() -> None:
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper

    assert compat.is_hydras_sweeper(f"{BasicSweeper.__module__}.BasicSweeper")
    assert not compat.is_hydras_sweeper("hydra_plugins.hydra_optuna_sweeper.optuna_sweeper.OptunaSweeper")


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="the standard library has no distutils to hand out")
@pytest.mark.parametrize("look", ["find_top({0!r})", "check_path('{0}.x', 'algo.loss')", "_is_module({0!r})"])
@pytest.mark.parametrize("name", ["pip", "distutils", "setuptools"])
def test_a_question_for_a_package_changes_nothing_for_setuptools(name: str, look: str) -> None:
    """Asked by importlib's find_spec, setuptools can't be imported after a question for pip, and so vLLM can't."""
    asked = look.format(name)
    code = f"""
import sys
from r1zero.errors import UserError
from r1zero.launch.allowed import check_path
from r1zero.launch.compat import find_top
from r1zero.launch.targets import _is_module
try:
    {asked}
except UserError:
    pass
assert not {{"pip", "distutils", "setuptools"}} & set(sys.modules), "imported"
import setuptools, distutils.core
assert "setuptools" in distutils.core.__file__
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def source(module: str) -> str:
    """The text of a module of a package; the package is not imported, which takes vLLM long."""
    top, _, below = module.partition(".")
    spec = importlib.util.find_spec(top)
    if spec is None or spec.origin is None:
        pytest.skip(f"{top} is not installed")
    return Path(spec.origin).parent.joinpath(*below.split(".")).with_suffix(".py").read_text()


@pytest.mark.parametrize(
    ("module", "parts"),
    [
        ("vllm.v1.engine.core", ["    cleanup_dist_env_and_memory,", "        cleanup_dist_env_and_memory()"]),
        ("vllm.distributed.parallel_state", ["_WORLD: GroupCoordinator | None = None", "_WORLD = None"]),
        (
            "vllm.model_executor.layers.vocab_parallel_embedding",
            ["class VocabParallelEmbedding(", "class ParallelLMHead(VocabParallelEmbedding):"],
        ),
        (
            "vllm.v1.worker.gpu_model_runner",
            ["self.discard_request_mask.np[:num_reqs]", "return self.sampler(", "self.input_batch.req_ids"],
        ),
        ("vllm.v1.sample.sampler", ["sampled, processed_logprobs = self.sample(logits, sampling_metadata)"]),
        ("vllm.v1.engine.parallel_sampling", ['child_req_id = f"{index}_{self.request_id}"']),
        ("vllm.model_executor.models.transformers.base", ["def _decorate_cls_for_torch_compile("]),
        ("ray._private.worker", ["def listen_error_messages(", "target=listen_error_messages"]),
        ("ray._private.ray_constants", ["ENABLE_RAY_CLUSTER = "]),
        ("ray._private.services", ["process = ConsolePopen(", "def find_bootstrap_address("]),
        ("wandb_workspaces.reports.v2.interface", ["def _to_model("]),
        ("wandb_workspaces.workspaces.interface", ["def _to_model("]),
    ],
)
def test_engines_and_dashboards_have_the_parts_that_are_used(module: str, parts: list[str]) -> None:
    """What they do there, the tests of engines, of Ray and of the dashboard show."""
    found = source(module)
    assert [part for part in parts if part not in found] == []


def test_rays_settings_and_its_first_answer() -> None:
    ray = pytest.importorskip("ray")
    assert callable(ray._raylet.GcsClient)
    compat.reread_settings(ray)


def private(path: Path, known: set[str]) -> list[str]:
    """Names with a leading underscore that a file takes from other projects, and modules that are no one's to use."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        names: list[str] = []
        if isinstance(node, ast.Attribute) and not (isinstance(node.value, ast.Name) and node.value.id in OWNERS):
            names = [node.attr]
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("getattr", "hasattr", "setattr"):
            names = [str(ast.literal_eval(a)) for a in node.args[1:2] if isinstance(a, ast.Constant)]
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            module = getattr(node, "module", None) or ""
            full = [f"{module}.{alias.name}".strip(".") for alias in node.names]
            names = [part for name in full for part in name.split(".")]
            found += [f"{path}:{node.lineno} {name}" for name in full if name.startswith(UNDOCUMENTED)]
        found += [
            f"{path}:{node.lineno} {name}"  # type: ignore[attr-defined]
            for name in names
            if name.startswith("_") and not name.startswith(("__", "_r1zero_")) and name not in known | ALLOWED
        ]
    return found


OWNERS = ("self", "cls")
ALLOWED = {
    "_mpf_", "_mpc_",  # how SymPy and mpmath name the parts of their numbers, for others to read
    "_exit",  # of os, in its documentation
    "_target_",  # Hydra's key
    "_init_config_if_needed",  # Lightning's DeepSpeedStrategy, overridden in learn/zero.py; tests/scale/test_zero.py
}  # fmt: skip
UNDOCUMENTED = (
    "hydra._internal", "lightning_fabric", "pytorch_lightning.strategies.launchers", "pytorch_lightning.trainer.",
    "ray._private", "transformers.modeling_utils", "vllm.v1", "vllm.model_executor", "vllm.worker",
)  # fmt: skip


def ours(node: ast.AST) -> str:
    """The name that a definition or an assignment of this project gives."""
    if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
        return node.name
    if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
        return node.attr if isinstance(node.value, ast.Name) and node.value.id in OWNERS else ""
    return node.id if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) else ""


def test_private_parts_of_others_are_used_in_compat_alone() -> None:
    root = Path(compat.__file__).parents[1]
    files = [f for f in (*root.rglob("*.py"), *(root.parents[1] / "scripts").glob("*.py")) if f.name != "compat.py"]
    known = {ours(node) for file in files for node in ast.walk(ast.parse(file.read_text()))}
    assert [line for file in files for line in private(file, known)] == []


def test_a_private_part_outside_of_compat_is_found(tmp_path: Path) -> None:
    file = tmp_path / "module.py"
    file.write_text(
        "from hydra._internal.hydra import Hydra\nimport vllm.v1.engine\nfrom torch import _C\n"
        "trainer._signal_connector.x\ngetattr(model, '_no_split_modules')\nself._mine\nours._own\n"
    )
    lines = [line.split(":")[1] for line in private(file, {"_own"})]
    assert sorted(set(lines)) == [
        "1 _internal", "1 hydra._internal.hydra.Hydra", "2 vllm.v1.engine", "3 _C", "4 _signal_connector",
        "5 _no_split_modules",
    ]  # fmt: skip


def test_a_setting_inside_of_what_is_null_is_named() -> None:
    from omegaconf import OmegaConf

    from r1zero.evaluate.config import EvaluateConfig

    config = OmegaConf.structured(EvaluateConfig)
    with pytest.raises(AssertionError) as found:
        OmegaConf.update(config, "paper.row", 1)
    assert compat.key_inside_of_null(found.value) == "paper.row"
    assert compat.key_inside_of_null(AssertionError("another")) is None
