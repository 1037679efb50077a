"""One rule for every import path in a setting: the project's plug-ins, or code that the user has said yes to."""

from __future__ import annotations

import importlib.metadata
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from r1zero.config import RewardConfig, RewardFunctionConfig
from r1zero.errors import UserError
from r1zero.launch.allowed import ALLOW, SCRIPT, check_path, is_users, load
from r1zero.launch.plugins import find_function
from r1zero.launch.targets import check_kinds, check_targets
from r1zero.reward.grader import Grader
from r1zero.reward.workers.worker import load_function
from run_support import ROOT

ATTACKS = [
    # Python's own
    "os.system", "os.popen", "os.execv", "posix.system", "subprocess.run", "subprocess.Popen", "subprocess.getoutput",
    "builtins.eval", "builtins.exec", "builtins.__import__", "importlib.import_module", "runpy.run_path",
    "code.interact", "pickle.loads", "pickle.load", "marshal.loads", "shelve.open", "ctypes.CDLL", "shutil.rmtree",
    "timeit.timeit", "cProfile.run", "pdb.run", "trace.Trace", "webbrowser.open", "multiprocessing.Process",
    "zipimport.zipimporter", "types.FunctionType", "functools.partial", "operator.methodcaller",
    "logging.config.dictConfig", "pty.spawn", "xmlrpc.server.SimpleXMLRPCServer", "asyncio.create_subprocess_shell",
    "concurrent.futures.ProcessPoolExecutor",
    # packages that are installed here
    "numpy.testing._private.utils.runstring", "numpy.load", "numpy.f2py.compile",
    "numpy.distutils.exec_command.exec_command", "numpy.ctypeslib.load_library", "pandas.read_pickle", "pandas.eval",
    "pandas.io.pickle.read_pickle", "pandas.read_html", "torch.load", "torch.hub.load", "torch.jit.load",
    "torch.serialization.load", "torch.utils.cpp_extension.load_inline", "torch.utils.cpp_extension.load",
    "torch.ops.load_library", "torch.classes.load_library", "torch.package.PackageImporter",
    "torch.distributed.run.main", "torch.multiprocessing.spawn", "torch._C._jit_get_operation",
    "torch.utils.model_zoo.load_url", "torch.hub.load_state_dict_from_url", "torch._dynamo.run", "torch.export.load",
    "torch.fx.graph_module._forward_from_src", "joblib.load", "joblib.Parallel", "joblib.externals.cloudpickle.loads",
    "cloudpickle.loads", "dill.loads", "sympy.sympify", "sympy.parsing.sympy_parser.parse_expr",
    "sympy.parsing.sympy_parser.eval_expr", "sympy.lambdify", "sympy.utilities.autowrap.autowrap",
    "sympy.external.import_module", "sympy.preview", "transformers.AutoModel.from_pretrained",
    "transformers.dynamic_module_utils.get_class_from_dynamic_module", "transformers.pipeline",
    "transformers.utils.import_utils.direct_transformers_import", "transformers.AutoTokenizer", "wandb.init",
    "wandb.util.load_json_yaml_dict", "wandb.sdk.launch.launch", "wandb.sklearn.plot_classifier",
    "datasets.load_dataset", "datasets.load_from_disk", "datasets.utils.py_utils.Pickler",
    "huggingface_hub.snapshot_download", "hydra.utils.instantiate", "hydra.utils.get_method", "hydra.utils.get_class",
    "omegaconf.OmegaConf.load", "vllm.LLM", "vllm.utils.import_from_path", "vllm.plugins.load_general_plugins",
    "yaml.unsafe_load", "yaml.load", "jinja2.Environment.from_string", "pyarrow.deserialize", "scipy.io.loadmat",
    "sklearn.utils._joblib.load", "pytorch_lightning.cli.LightningCLI",
    "pytorch_lightning.utilities.migration.migrate_checkpoint", "fsspec.open", "matplotlib.cbook.boxplot_stats",
    "cffi.FFI", "setuptools.sandbox.run_setup", "pip.main", "pkg_resources.run_script", "IPython.start_ipython",
    "psutil.Popen", "rich.console.Console", "pytest.main", "_pytest.config.main",
    # the project's own starters, and what its modules have from elsewhere
    "r1zero.launch.sweep.run_point", "r1zero.launch.sweep.subprocess.Popen", "r1zero.launch.cli.os.system",
    "r1zero.reward.workers.worker.load_function", "r1zero.train.run.train", "r1zero.data.hub.read_hub",
    "r1zero.algo.loss.torch.load", "r1zero.algo.credit.torch.hub.load", "r1zero.reward.functions.re.compile",
    # nonsense
    "", ".", "..x", "torch", "x.", ".x", "../x.y", "a b.c", "r1zero.nowhere.thing",
]  # fmt: skip


def as_reward(path: str) -> None:
    Grader(RewardConfig(name="x", functions={"mine": RewardFunctionConfig(path=path, params={"code": "1"})}))


def as_target(path: str) -> None:
    config = OmegaConf.create({"callbacks": {"x": {"_target_": path}}})
    check_targets(config)
    check_kinds(config)


WAYS: dict[str, Callable[[str], Any]] = {
    "a reward": as_reward,
    "an advantage, credit, loss or sampler": lambda path: find_function(path, {}, "algo.advantage"),
    "a function of a worker": load_function,
    "a target": as_target,
}


@pytest.mark.parametrize("way", WAYS)
def test_no_callable_that_runs_or_loads_is_accepted(way: str) -> None:
    for path in ATTACKS:
        top, before = path.split(".")[0], set(sys.modules)
        with pytest.raises((UserError, ImportError)) as error:
            WAYS[way](path)
        text = str(error.value)
        assert "is not allowed" in text or "unknown" in text or "there is no " in text, text
        assert "\n" not in text
        assert top in before or top not in sys.modules, f"{path} was imported before it was refused"


def test_no_installed_package_is_accepted() -> None:
    """A walk over everything that is installed, none of which the user has named."""
    installed = set(importlib.metadata.packages_distributions()) | set(sys.stdlib_module_names)
    assert len(installed) > 200
    for top in sorted(installed - {"r1zero"}):
        with pytest.raises(UserError, match="is not allowed"):
            check_path(f"{top}.anything", "algo.credit")


IDEAS = """
from os import system
import pytorch_lightning as pl
from functools import partial
def shorter(rewards, **params): return rewards
twice = partial(shorter, x=1)
class Hook(pl.Callback): pass
class Log(pl.loggers.Logger):
    name = version = None
    def log_metrics(self, *a): pass
    def log_hyperparams(self, *a): pass
class Other: pass
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(ALLOW, raising=False)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv(SCRIPT, str(ROOT / "train.py"))
    return tmp_path


def write(file: Path, text: str = IDEAS) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    for name in [
        name for name in sys.modules if name.split(".")[0] == file.stem or file.parent.name in name.split(".")
    ]:
        del sys.modules[name]


def test_the_users_own_functions_callbacks_and_loggers_are_accepted(folder: Path) -> None:
    write(folder / "ideas_a.py")
    assert find_function("ideas_a.shorter", {}, "algo.advantage").__name__ == "shorter"
    assert load_function("ideas_a.shorter")([1.0]) == [1.0]
    for name in ("Hook", "Log"):
        check_kinds(OmegaConf.create({"logger": {"x": {"_target_": f"ideas_a.{name}"}}}))
    with pytest.raises(UserError, match="it is not a trainer, callback, logger"):
        check_kinds(OmegaConf.create({"callbacks": {"x": {"_target_": "ideas_a.Other"}}}))


def test_every_function_that_a_config_names_is_accepted() -> None:
    """A row, a reward or an algorithm of this project is no use if the project refuses it."""
    named: list[tuple[str, str]] = []
    for file in sorted((ROOT / "conf").rglob("*.yaml")):
        settings = re.sub(r"#.*|_target_: \S+", "", file.read_text())
        named += [(file.name, path) for path in re.findall(r"\br1zero(?:\.\w+){2,}", settings)]
    assert "r1zero.reward.functions.tag_format" in {path for _, path in named}
    for name, path in named:
        check_path(path, name)
        load(path, name)


def test_a_file_beside_the_script_is_the_users(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(folder / "repo" / "ideas_b.py")
    (folder / "elsewhere").mkdir()
    monkeypatch.chdir(folder / "elsewhere")
    monkeypatch.syspath_prepend(folder / "repo")
    with pytest.raises(UserError, match="is not allowed"):
        load("ideas_b.shorter", "algo.credit")
    monkeypatch.setenv(SCRIPT, str(folder / "repo" / "train.py"))
    assert callable(load("ideas_b.shorter", "algo.credit"))


@pytest.mark.parametrize("name", ["system", "partial", "twice", "pl.Trainer", "os.system"])
def test_what_the_users_file_has_from_elsewhere_is_not_the_users(folder: Path, name: str) -> None:
    write(folder / "ideas_c.py")
    with pytest.raises(UserError, match=r"is not allowed|can't be imported"):
        load(f"ideas_c.{name}", "algo.credit")


@pytest.mark.parametrize("mark", [".hydra", "config.json", "status.json", "dataset_dict.json"])
def test_a_downloaded_run_model_or_data_set_says_yes_to_nothing(folder: Path, mark: str) -> None:
    write(folder / "downloads" / "gift" / "evil.py", "raise SystemExit('code of a download was run')")
    (folder / "downloads" / "gift" / mark).touch()
    assert not is_users("downloads.gift.evil")
    with pytest.raises(UserError, match="is not allowed"):
        load("downloads.gift.evil.f", "algo.credit")


def test_installed_code_below_the_working_directory_is_not_the_users(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = folder / ".venv" / "lib" / "site-packages"
    write(place / "some_package_d.py")
    monkeypatch.syspath_prepend(place)
    with pytest.raises(UserError, match="is not allowed"):
        load("some_package_d.shorter", "algo.credit")
    monkeypatch.setenv(ALLOW, "other, some_package_d")
    assert callable(load("some_package_d.shorter", "algo.credit"))
    with pytest.raises(UserError, match="is not allowed"):
        load("some_package_d.system", "algo.credit")


def test_packages_are_named_in_conf_local(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = folder / "site-packages"
    write(place / "some_package_e.py")
    monkeypatch.syspath_prepend(place)
    monkeypatch.setenv(SCRIPT, str(folder / "repo" / "train.py"))
    listing = folder / "repo" / "conf" / "local" / "allow_modules.yaml"
    listing.parent.mkdir(parents=True)
    listing.write_text("- some_package_e\n")
    assert callable(load("some_package_e.shorter", "algo.credit"))
    listing.write_text("some_package_e: true\n")
    with pytest.raises(UserError, match="must be a list of packages"):
        load("some_package_e.shorter", "algo.credit")


def test_a_runs_settings_cant_say_yes() -> None:
    from r1zero.config import TrainConfig
    from r1zero.train.checks import check_known

    config = OmegaConf.create({"allow_modules": ["pandas"]})
    config._metadata.object_type = TrainConfig
    with pytest.raises(UserError, match="allow_modules: there is no such setting"):
        check_known(config)
