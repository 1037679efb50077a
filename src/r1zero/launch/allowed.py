"""The one rule for import paths in settings: the project's own code, or code that the user has allowed.

A config is data, and so is a downloaded run folder, checkpoint or model: none of them may run anything that the
user did not put there. Nothing is imported before its path is accepted; docs/security.md states the rule.
"""

from __future__ import annotations

import importlib
import os
import sys
import sysconfig
from pathlib import Path
from typing import Any

import yaml

from r1zero.errors import UserError
from r1zero.launch.compat import find_top

PLUGINS = (
    "r1zero.algo",
    "r1zero.data.samplers",
    "r1zero.reward.functions",
    "r1zero.reward.extract",
    "r1zero.reward.code",
    "r1zero.rollout.calculator",
)
"""Modules of the project whose functions a setting may name; the others start processes or read files."""

ALLOW = "R1ZERO_ALLOW_MODULES"
"""Environment variable: packages that the user allows, with commas between them."""
FILE = Path("local") / "allow_modules.yaml"
"""The same as a list in ``conf/``; git ignores that folder."""
SCRIPT = "R1ZERO_SCRIPT"
"""Environment variable that holds the script that the user started (see ``launch.sweep``)."""

FOREIGN = (
    "status.json",
    "config.json",
    "adapter_config.json",
    "draw.json",
    "dataset_dict.json",
    ".hydra",
    "hubconf.py",
)
"""What tells a run, a model or a data set: code in such a folder came with it."""

RULE = (
    "a path may lead to r1zero's own plug-ins, to a Trainer's parts in pytorch_lightning and torch, to a file of yours "
    f"beside train.py or under the working directory, or to a package that you name in {ALLOW} or conf/{FILE}"
)


def check_path(path: str, setting: str) -> None:
    """Refuse an import path that leads neither to the project's plug-ins nor to the user's code; imports nothing.

    Raises:
        UserError: naming the setting, the path and the rule.
    """
    module = path.rpartition(".")[0]
    project = any(module == known or module.startswith(f"{known}.") for known in PLUGINS)
    if (project and file_of(module) is not None) or is_users(module):
        return
    top = module.split(".")[0]
    if top not in sys.stdlib_module_names and file_of(top) is None:
        hint = "name a function or class by its import path, my_file.my_function"
        raise UserError(f"{setting}={path} is not allowed: there is no module '{module}'; {hint}")
    raise UserError(f"{setting}={path} is not allowed: {RULE}")


def load(path: str, setting: str) -> Any:
    """What an accepted path names.

    Raises:
        UserError: the path is not accepted, can't be imported, or names what its module has from elsewhere.
    """
    check_path(path, setting)
    module_name, _, attribute = path.rpartition(".")
    make_findable()
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        why = f"{type(error).__name__}: {error}".splitlines()[0]
        raise UserError(f"{setting}={path}: module {module_name} can't be imported ({why})") from error
    if not hasattr(module, attribute):
        raise UserError(f"{setting}={path}: module {module_name} has no function {attribute}")
    found = getattr(module, attribute)
    check_path(f"{getattr(found, '__module__', None) or module_name}.{attribute}", setting)
    return found


def is_users(module: str) -> bool:
    """Whether a module is the user's: named by them as allowed, or a file beside the script or below the folder."""
    top = module.split(".")[0]
    if not top or not all(part.isidentifier() for part in module.split(".")):
        return False
    if any(module == name or module.startswith(f"{name}.") for name in allowed_modules()):
        return True
    if module == "__main__":  # a notebook or a prompt: the user has typed what is in there
        return not hasattr(sys.modules["__main__"], "__file__")
    if top in sys.stdlib_module_names:
        return False
    make_findable()
    file = file_of(module)
    return file is not None and is_users_file(file)


def is_users_file(file: Path) -> bool:
    """Whether a file lies where the user writes code, and not in an installed package, a run, a model or a data set."""
    file = file.resolve()
    installed = {Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    if {"site-packages", "dist-packages"} & set(file.parts) or any(file.is_relative_to(root) for root in installed):
        return False
    root = next((root for root in roots() if file.is_relative_to(root)), None)
    if root is None or file.is_relative_to(Path(__file__).resolve().parents[1]):
        return False
    between = [file.parent, *file.parent.parents]
    below = between[: between.index(root)]
    return not any((folder / name).exists() for folder in below for name in FOREIGN)


def roots() -> list[Path]:
    """Folders of the user's code: that of the script that was started, and the working directory."""
    script = os.environ.get(SCRIPT)
    found = [Path.cwd().resolve()]
    return [*found, Path(script).resolve().parent] if script else found


def file_of(module: str) -> Path | None:
    """The file of a module, or the folder of a package; only the place of its top package is looked up."""
    top, *below = module.split(".")
    spec = find_top(top) if top else None
    if spec is None:
        return None
    if not below and spec.origin and spec.origin not in ("namespace", "built-in", "frozen"):
        return Path(spec.origin)
    for place in spec.submodule_search_locations or ():
        path = Path(place).joinpath(*below)
        if path.with_suffix(".py").is_file():
            return path.with_suffix(".py")
        if path.is_dir():
            return path / "__init__.py"
    return None


def allowed_modules() -> tuple[str, ...]:
    """Packages that the user has allowed; a run's settings can't add any.

    Raises:
        UserError: the file is not a list of names.
    """
    names = [name.strip() for name in os.environ.get(ALLOW, "").split(",")]
    script = os.environ.get(SCRIPT)
    places = [Path(script).resolve().parent, Path(script).resolve().parent.parent] if script else []
    for conf in [place / "conf" for place in places]:
        file = conf / FILE
        if file.is_file():
            listed = yaml.safe_load(file.read_text()) or []
            if not isinstance(listed, list) or not all(isinstance(name, str) for name in listed):
                raise UserError(f"{file} must be a list of packages, such as [my_lab_rewards]")
            names += listed
    return tuple(filter(None, names))


def make_findable() -> None:
    """Let modules in the working directory be imported, wherever the script lies."""
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
