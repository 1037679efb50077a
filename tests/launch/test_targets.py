"""What a config may have built: parts of a Trainer from three packages, and nothing that loads or starts anything."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import DictConfig, OmegaConf

from r1zero.errors import UserError
from r1zero.launch.plugins import find_function
from r1zero.launch.targets import check_kinds, check_targets
from r1zero.reward.grader import Grader

BY_NAME = [
    "os.system", "subprocess.Popen", "builtins.eval", "builtins.exec", "functools.partial", "hydra.utils.get_method",
    "transformers.AutoModel.from_pretrained", "r1zerox.Evil", "lightning.Trainer",
    # What an allowed package imports is not its own.
    "torch.os.system", "torch.os.PathLike", "r1zero.launch.sweep.subprocess.Popen", "r1zero.launch.cli.os.system",
    "pytorch_lightning.trainer.os.system", "torch.sys.modules", "torch.builtins.eval",
    # Loaders and starters of the allowed packages.
    "torch.load", "torch.hub.load", "torch.jit.load", "torch.serialization.load", "torch.package.PackageImporter.load",
    "torch.utils.cpp_extension.load_inline", "torch.ops.load_library", "torch.classes.load_library",
    "torch.distributed.run.main", "torch.multiprocessing.spawn", "torch.hub.load_state_dict_from_url",
    "r1zero.train.run.train", "pytorch_lightning.Trainer.fit", "r1zero.launch.sweep.run_point",
    "torch._utils_internal.os.system",
    "", ".", "torch", "torch.", "torch..Module", "../x.Y", "r1zero.nowhere.Thing",
]  # fmt: skip
BY_KIND = [
    "torch.package.PackageImporter",
    "torch.distributed.elastic.multiprocessing.subprocess_handler.SubprocessHandler",
    "pytorch_lightning.cli.LightningCLI",
    "torch.utils.data.DataLoader",
    "torch.nn.Linear",
    "r1zero.launch.sweep.Path",
    "r1zero.reward.workers.pool.WorkerPool",
    "r1zero.launch.plugins.Path",
]
PLACES = {
    "plain": lambda name: {"callbacks": {"x": {"_target_": name}}},
    "nested": lambda name: {"trainer": {"_target_": "pytorch_lightning.Trainer", "strategy": {"_target_": name}}},
    "in a list": lambda name: {"trainer": {"callbacks": [1, [{"deep": [{"_target_": name}]}]]}},
    "by interpolation": lambda name: {"a": name, "logger": {"x": {"_target_": "${a}"}}},
}


def config(place: str, name: str) -> DictConfig:
    return OmegaConf.create(PLACES[place](name))


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", BY_NAME)
def test_names_that_are_refused_before_anything_is_imported(place: str, name: str) -> None:
    with pytest.raises(UserError, match="is not allowed"):
        check_targets(config(place, name))


@pytest.mark.parametrize("name", BY_KIND)
def test_classes_of_another_kind_are_refused_before_they_are_made(name: str) -> None:
    with pytest.raises(UserError, match=r"is not allowed|there is no such class"):
        check_kinds(config("in a list", name))


def test_what_the_project_ships_is_allowed() -> None:
    files = (Path(__file__).resolve().parents[2] / "conf").rglob("*.yaml")
    lines = [line.split() for file in files for line in file.read_text().splitlines()]
    shipped = {words[1] for words in lines if words[:1] == ["_target_:"]} - {"r1zero.launch.sweep.SweepCallback"}
    for name in shipped:
        check_kinds(config("nested", name))
    assert len(shipped) > 15
    for name in ("pytorch_lightning.plugins.MixedPrecision", "pytorch_lightning.profilers.SimpleProfiler"):
        check_kinds(config("nested", name))


@pytest.mark.parametrize("path", ["os.system", "subprocess.getoutput", "builtins.eval", "posix.system", "pickle.loads"])
def test_pythons_own_functions_are_no_plug_ins(path: str) -> None:
    from r1zero.config import RewardConfig, RewardFunctionConfig

    with pytest.raises(UserError, match=f"algo.credit={path} is not allowed"):
        find_function(path, {}, "algo.credit")
    with pytest.raises(UserError, match=rf"reward.functions.mine.path={path} is not allowed"):
        Grader(RewardConfig(name="x", functions={"mine": RewardFunctionConfig(path=path)}))


def test_what_was_typed_at_a_prompt_is_the_users_own_and_what_it_imported_is_not() -> None:
    code = (
        "from r1zero.errors import UserError; from r1zero.launch import allowed; from os import system\n"
        "def mine(): pass\n"
        "assert allowed.load('__main__.mine', 'algo.loss') is mine\n"
        "try: allowed.load('__main__.system', 'algo.loss')\n"
        "except UserError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "algo.loss=posix.system is not allowed" in done.stdout, done.stderr
