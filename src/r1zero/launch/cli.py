"""The command line: one process per sweep point, errors in one line, signals.

Imports neither torch nor anything else that is slow, so ``--help`` answers at once.
"""

from __future__ import annotations

import argparse
import contextlib
import difflib
import importlib.util
import io
import os
import re
import signal
import sys
import textwrap
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import yaml
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from r1zero import config
from r1zero.errors import SyncError, UserError, whole_message
from r1zero.launch import compat, masking, run_folder, signals, sweep
from r1zero.launch.arguments import expand, folder_name, options
from r1zero.launch.objective import ACCURACY, objective_of, searches
from r1zero.launch.paths import given_path
from r1zero.launch.run_folder import disk_full, how_to_go_on, not_made, shown
from r1zero.ranges import check_ranges

DEBUG = "R1ZERO_DEBUG"
"""Environment variable; 1 shows the traceback of an error on the console as well."""


def main(entry: Callable[[], Any], script: Path) -> int:
    """Run a Hydra entry point and turn what goes wrong into one line.

    Args:
        entry: function decorated with ``hydra.main``.
        script: the file that the user started; ``conf/`` is beside it or one folder up.

    Returns:
        exit code: 0, 1 after an error, 128 + the number of a signal that asked to stop (130 after Ctrl-C).
    """
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises instead of printing and exiting
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # no remarks of torch's C++ side about the machine
    conf = next(folder / "conf" for folder in (script.parent, script.parent.parent) if (folder / "conf").is_dir())
    config.register()
    OmegaConf.register_new_resolver("folder_name", folder_name, replace=True)
    signals.note_terminals()
    signals.take(signals.stop_at_once)
    compat.usage_errors_go_to(_usage)
    if "--resolve" in sys.argv:
        compat.resolve_hydras_own()
    os.environ[sweep.SCRIPT] = str(script)
    try:
        sys.argv[1:] = expand(sys.argv[1:], conf, script.stem)
        masking.check_arguments(sys.argv[1:])
        if script.stem in ("train", "pretrain"):
            refuse_used(sys.argv[1:])
        asked = bool({"--help", "-h"} & set(sys.argv))
        if asked and script.stem in ("train", "pretrain"):
            print(help_text(conf) if script.stem == "train" else pretraining_help(conf))
            return 0
        with tidy_help() if asked else contextlib.nullcontext():
            entry()
        if job_result.error is not None:
            raise job_result.error
    except KeyboardInterrupt as error:
        number = getattr(error, "number", signal.SIGINT)
        print(signals.word(number), file=sys.stderr)
        return 128 + number
    except Exception as error:
        if os.environ.get(DEBUG) == "1":
            traceback.print_exc()
        print(masking.hidden(f"{rank_label()}error: {explain(error, sys.argv[1:])}"), file=sys.stderr)
        return 1
    finally:
        failed = sweep.close_table()
    return job_result.code or int(bool(failed))


def refuse_used(arguments: list[str]) -> None:
    """Refuse a new run in a folder with work of an earlier one before anything is loaded.

    Raises:
        UserError: with what to do.
    """
    folder = given_path(arguments, "hydra.run.dir")
    if folder is not None and given_path(arguments, "resume") is None:
        run_folder.refuse_used(Path(folder))


class JobResult:
    """How the job in this process ended. Hydra drops a task's return value and announces its exceptions itself."""

    code = 0
    error: BaseException | None = None
    run_dir: Path | None = None

    def __init__(self) -> None:
        self.said: set[str] = set()
        """What the points of a sweep have in common and is said once."""


job_result = JobResult()


def dispatch(cfg: DictConfig, job: Callable[[DictConfig, Path], int]) -> float | None:
    """Run one job here, or, in a sweep, one process per point.

    A process of its own frees the engine's memory, W&B and every random state between points, and keeps
    Lightning's DDP children from starting the whole sweep again (traps 55, 56).

    Args:
        cfg: the composed config.
        job: takes the config and the run folder, returns an exit code.

    Returns:
        the objective of a point that a search has chosen; None where it failed, and where nothing is sought.
    """
    hydra_config = HydraConfig.get()
    run_dir = Path(hydra_config.runtime.output_dir)
    if hydra_config.mode == RunMode.MULTIRUN:
        if line := base_missing(cfg):
            if line not in job_result.said:
                print(f"sweep points left out: {line}", file=sys.stderr)
            job_result.said.add(line)
            job_result.code = 1
            return None
        if searches(hydra_config):
            check_direction(cfg, hydra_config)
        names = sweep.Names(run_dir.name, sweep.group_of(Path(hydra_config.sweep.dir))) if "group" in cfg else None
        typed: Any = OmegaConf.to_container(hydra_config.overrides.task, resolve=False)
        done = run_point(typed, run_dir, names)
        return trial_objective(cfg, run_dir) if done and searches(hydra_config) else None
    job_result.run_dir = run_dir
    try:
        check_ranges(cfg)
        job_result.code = job(cfg, run_dir)
    except (Exception, KeyboardInterrupt) as error:
        job_result.error = error
        if isinstance(error, (UserError, KeyboardInterrupt)):
            given: Any = OmegaConf.to_container(hydra_config.overrides.hydra, resolve=False)
            if not any(re.match(r"hydra\.run\.dir=(?!.*\$\{now:)", setting) for setting in given):
                drop_empty(run_dir)
            return None  # the folder may be another run's; a run that holds it has stored the rest
        with contextlib.suppress(OSError), (run_dir / "train.log").open("a") as file:
            file.write(masking.hidden(f"{rank_label()}the run ended here:\n{traceback.format_exc()}"))
    return None


def drop_empty(run_dir: Path) -> None:
    """Remove the dated folder that was made for a run that is refused, and the one of its name: empty ones alone.

    A folder that was named, by the user, a sweep or torchrun for its ranks, stays: it need not be of this process.
    """
    with contextlib.suppress(OSError):
        run_dir.rmdir()
        run_dir.parent.rmdir()


def base_missing(cfg: DictConfig) -> str:
    """What to make first where a point starts from a base model that pretraining has not made yet."""
    path = OmegaConf.select(cfg, "model.path")
    return not_made(path) if path else ""


def check_direction(cfg: DictConfig, hydra_config: Any) -> None:
    """Refuse a search for the lowest accuracy, which Optuna's sweeper makes by default."""
    if "minimize" in str(hydra_config.sweeper.get("direction")) and OmegaConf.select(cfg, "objective") is None:
        raise UserError(
            "hydra.sweeper.direction=minimize seeks the lowest accuracy: choose hydra/sweeper=tune, or name the column "
            "that should be low as objective=..."
        )


def trial_objective(cfg: DictConfig, run_dir: Path) -> float | None:
    """The objective of a finished trial, said on the console."""
    column = OmegaConf.select(cfg, "objective")
    value = objective_of(run_dir, column)
    if value is None:
        print(
            f"trial {run_dir.name} has no {column or ACCURACY} in its metrics.csv: it counts as failed", file=sys.stderr
        )
    else:
        print(f"trial {run_dir.name}: objective {value:.4g}", flush=True)
    return value


def run_point(overrides: list[str], run_dir: Path, names: sweep.Names | None) -> bool:
    """Run one sweep point in a process of its own; a failure is named, and the sweep continues.

    Returns:
        whether the point has finished.
    """
    try:
        code = sweep.run_point(os.environ[sweep.SCRIPT], overrides, run_dir, names)
        why = sweep.why(run_dir) if code else ""
    except UserError as error:
        code, why = 1, whole_message(error)
    if code:
        print(f"sweep point {run_dir.name} failed: {why}", file=sys.stderr)
        job_result.code = 1
    return not code


def _usage(parser: argparse.ArgumentParser, message: str) -> NoReturn:
    raise UserError(f"{message}; settings are written key=value, see --help")


def rank_label() -> str:
    """``[rank 1]`` on ranks other than the first, which speaks for all."""
    rank = os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0"))
    return "" if rank == "0" else f"[rank {rank}] "


@contextlib.contextmanager
def tidy_help() -> Iterator[None]:
    """Leave schemas out of the list of options: nobody chooses them."""
    out = io.StringIO()
    try:
        with contextlib.redirect_stdout(out):
            yield
    finally:
        print(re.sub(r"(?<=[ ])_\w+_, ", "", out.getvalue()), end="")


def help_text(conf: Path) -> str:
    """The help of ``train.py``. Hydra's own way to list the groups takes longer than all the rest of it."""
    content = yaml.safe_load((conf / "hydra" / "default.yaml").read_text())["help"]
    defaults = yaml.safe_load((conf / "train.yaml").read_text())["defaults"]
    known = {key for entry in defaults if isinstance(entry, dict) for key in entry} - {"hydra"}
    groups = []
    for folder in sorted(path for path in conf.rglob("*") if path.is_dir()):
        group = folder.relative_to(conf).as_posix()
        if options(conf, group) and (group.split("/")[0] in known or group in ("hydra/launcher", "hydra/sweeper")):
            groups.append(f"{group}: {', '.join(options(conf, group))}")
    text = content["template"].replace("${hydra.help.header}", content["header"])
    return text.replace("$APP_CONFIG_GROUPS", "\n".join(groups) + "\n")


def pretraining_help(conf: Path) -> str:
    """The help of ``scripts/pretrain.py``: only the groups that it has, in lines of 80 columns."""
    text = yaml.safe_load((conf / "hydra" / "pretrain.yaml").read_text())["help"]["template"]
    defaults = yaml.safe_load((conf / "pretrain.yaml").read_text())["defaults"]
    groups = [key for entry in defaults if isinstance(entry, dict) for key in entry if key not in ("hydra", "paths")]
    lines = []
    for group in groups:
        names = options(conf / "pretrain", group) or options(conf, group)
        line = f"{group}: {', '.join(names)}"
        lines.append(textwrap.fill(line, 79, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False))
    return text.replace("$APP_CONFIG_GROUPS", "\n".join(lines) + "\n")


def explain(error: Exception, arguments: list[str]) -> str:
    """Any error in one line, with what to do where that is known."""
    run_dir = job_result.run_dir and shown(job_result.run_dir)
    if isinstance(error, (UserError, SyncError)):
        return whole_message(error)
    if "No trials are completed yet" in str(error):
        return "no trial of the search has finished, so there is no best one; the lines above say why each failed"
    if "torchvision::nms" in str(error):
        unused = "torchvision torchaudio torchcodec"
        return f"the installed torchvision does not fit torch; nothing here needs it: pip uninstall {unused}"
    if disk_full(error):
        again = f"; free some space and {how_to_go_on(job_result.run_dir)}" if job_result.run_dir else ""
        return f"the disk is full ({whole_message(error)[:200]}); what was saved before is whole{again}"
    if type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(error):
        return (
            f"out of memory ({whole_message(error)[:200]}): halve optim.micro_batch_tokens, which changes no result; "
            f"python scripts/plan.py <your settings> says what fits, docs/start/gpu.md what else helps"
        )
    if isinstance(error, (HydraException, OmegaConfBaseException)):
        return explain_composition(error, arguments)
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"{error.strerror}: {error.filename}"
    if key := compat.key_inside_of_null(error):
        part = key.rpartition(".")[0]
        return f"{key}: {part} is null here, so there is nothing in it to set; give {part} first"
    if "Config group override must be a string or a list" in str(error):
        given = [argument for argument in arguments if NO_NAME.fullmatch(argument)]
        return f"{' or '.join(given) or whole_message(error)}: a group wants the name of one of its options, see --help"
    where = f"the traceback is in {run_dir}/train.log" if run_dir else f"{DEBUG}=1 shows the traceback"
    return f"unexpected {type(error).__name__}: {whole_message(error)[:400]} ({where})"


NO_NAME = re.compile(r"[\w/]+=(nan|null|true|false|[-+]?(inf|[\d._]+(e[-+]?\d+)?))", re.IGNORECASE)
"""Arguments that Hydra reads as another thing than a name."""


RETIRED = {
    "rollout=vllm_server": "use rollout=ray; rollout.samplers stands for rollout.servers, rollout.ray.address for urls"
}
"""Options that went, and what does their work now."""


PLUGINS = {
    "hydra/sweeper/optuna": ("hydra_plugins.hydra_optuna_sweeper", "hydra-optuna-sweeper"),
    "hydra/launcher/joblib": ("hydra_plugins.hydra_joblib_launcher", "hydra-joblib-launcher"),
    "hydra/launcher/submitit_local": ("hydra_plugins.hydra_submitit_launcher", "hydra-submitit-launcher"),
    "hydra/launcher/submitit_slurm": ("hydra_plugins.hydra_submitit_launcher", "hydra-submitit-launcher"),
    "hydra/launcher/ray": ("hydra_plugins.hydra_ray_launcher", "hydra-ray-launcher"),
}
"""Options that a plugin of Hydra's brings: its module and its package."""


def explain_composition(error: Exception, arguments: list[str]) -> str:
    """A composition error in one line: which argument, what is wrong, what could be meant."""
    text = "\n".join(str(e) for e in (error, error.__cause__) if e is not None)
    if isinstance(error, OverrideParseException):
        how = "a setting is written key=value, and 'key=\"value\"' where the value holds = { [ or ,"
        return f"{error.override}: {how}"
    if found := re.search(r"Ambiguous value for argument '([^']+)'", text):
        return f"{found[1]}: several values are a sweep, which -m starts; one that is a list is written key=[a,b]"
    if command := other_command(text, arguments):
        return command
    found = re.search(r"Could not find '([\w.\-/]+)/([^'/]+)'", text)
    if found:
        group, option = found.groups()
        if (plugin := PLUGINS.get(f"{group}/{option}")) and importlib.util.find_spec(plugin[0]) is None:
            return f"{plugin[1]} is not installed, which this choice needs: pip install {plugin[1]}"
        if now := RETIRED.get(f"{group}={option}"):
            return f"{group}={option} is gone: {now}"
        names = [n for n in re.findall(r"^\t([\w.\-]+)$", text, re.MULTILINE) if not n.startswith("_")]
        close = difflib.get_close_matches(option, names, n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        return f"{group}={option}: there is no such option; {hint}choose one of {', '.join(names)}"
    found = re.search(r"In 'hydra/launcher/(\w+)': Could not load 'hydra/launcher/(\w+)'", text)
    if found:
        extra = "ray-launcher" if found[2] == "ray" else "launchers"
        return f"hydra/launcher={found[1]}: its plugin is not installed; pip install '.[{extra}]'"
    found = re.search(r"Key '([^']+)' (?:is )?not in '(\w+)'", text)
    if found:
        key, schema = found.groups()
        modules = [
            module for name, module in sys.modules.items() if re.fullmatch(r"r1zero\.(\w+\.)*(\w+_)?config", name)
        ]
        names = [
            name for module in modules for name in getattr(getattr(module, schema, None), "__dataclass_fields__", {})
        ]
        close = difflib.get_close_matches(key, names, n=1)
        hint = f"; did you mean {close[0]}?" if close else f"; known are {', '.join(names)}" if names else ""
        argument = next((a for a in arguments if re.search(rf"(^|\.){re.escape(key)}=|[{{,]{re.escape(key)}:", a)), key)
        return f"{argument}: there is no setting '{key}' here{hint}"
    found = re.search(r"Could not override '([^']+)'", text)
    if found:
        argument = next((a for a in arguments if a.startswith(f"{found[1]}=")), found[1])
        within = re.search(rf"full_key: ({re.escape(found[1])}\.\S+)", text)
        if within and argument.startswith(f"{found[1]}={{"):  # a mapping is merged, and gets no new keys
            add, drop = f"+{within[1]}=...", f"~{found[1]}.KEY"
            return f"{argument}: there is no key '{within[1]}' here; {add} adds it, {drop} takes one out"
        return f"{argument}: there is no key '{found[1]}' here; +{argument} adds it"
    text = text.replace("Error merging override ", "")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    kept = [line for line in lines if not line.startswith(("full_key:", "object_type=", "reference_type="))]
    return ": ".join(dict.fromkeys(kept[:2])) if kept else type(error).__name__


def other_command(text: str, arguments: list[str]) -> str:
    """What to type where ``experiment=`` names one of another command; nothing where it does not."""
    name = next((a.partition("=")[2] for a in reversed(arguments) if a.startswith("experiment=")), "")
    here = Path(os.environ.get(sweep.SCRIPT, ""))
    conf = next((f / "conf" for f in (here.parent, here.parent.parent) if (f / "conf").is_dir()), here)
    if name.startswith("table") and here.stem != "evaluate" and "not in 'TrainConfig'" in text:
        return f"experiment={name} is an evaluation: python scripts/evaluate.py experiment={name}"
    own = conf / "experiment" / f"{name}.yaml"
    if name and here.stem != "analyze" and own.is_file() and "\ntemperatures:" in own.read_text():
        return f"experiment={name} is an analysis: python scripts/analyze.py experiment={name}"
    data = next((a.partition("=")[2] for a in reversed(arguments) if a.startswith("data=")), "")
    if "not a subclass of TextConfig" in text and (conf / "data" / f"{data}.yaml").is_file():
        texts = ", ".join(options(conf, "pretrain/data"))
        return f"data={data} is a question set for train.py; pretraining reads text: choose {texts}, or name a file"
    missing = f"'experiment/{name}'" in text
    if name and missing and here.stem != "pretrain" and (conf / "pretrain" / "experiment" / f"{name}.yaml").is_file():
        return f"experiment={name} is a pretraining: python scripts/pretrain.py experiment={name}"
    if name and missing and here.stem == "pretrain" and (conf / "experiment" / f"{name}.yaml").is_file():
        return f"experiment={name} is a training: python train.py experiment={name}"
    return ""
