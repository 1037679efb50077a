"""Rewrites the command line into what Hydra reads: shorthand, resume, names of folders. Imports nothing heavy."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from r1zero.errors import UserError
from r1zero.launch import slurm
from r1zero.launch.files import stored_yaml
from r1zero.launch.paths import PathGroup, check_name, given_path, literal, quoted, values_of
from r1zero.launch.record import made_by

SWITCHES = ("-m", "--multirun", "--run", "-r", "--resolve")
"""Options of Hydra's own that take no value."""

HYDRA_OPTIONS = ("cfg", "package", "config-path", "config-name", "config-dir", "experimental-rerun", "info")
"""Options of Hydra's own that may be written ``--option=value``."""

LONGEST_NAME = 160
"""Bytes of the name of a point's folder."""

REQUIRED_GROUPS = ("algo", "model", "template", "data", "reward", "rollout", "optim", "trainer")


OPEN = re.compile(r"^(?!model\.)(?=(?:[\w-]+\.)+(?:\w+_)?params(?:\.[\w.-]+)?=)")
"""Keyword arguments of a function: any name is one, so it is added without a "+" of the user's."""

RECORDS = ("benchmarks", "data.sources", "reward.functions")
"""Settings that hold typed records by name."""

NEW_RECORD = re.compile(
    rf"\+{{1,2}}(?P<parent>{'|'.join(map(re.escape, RECORDS))})\.(?P<keys>[\w-]+(?:\.[\w-]+)*)=(?P<value>.*)", re.DOTALL
)


def with_engine(arguments: list[str]) -> list[str]:
    """The demo where it names no engine: its own, vLLM, where that is installed, else transformers."""
    named = any(a.startswith("rollout=") for a in arguments)
    if named or "experiment=demo" not in arguments or importlib.util.find_spec("vllm"):
        return arguments
    print("vLLM is not installed: responses are sampled with transformers (rollout=hf)", file=sys.stderr)
    place = arguments.index("experiment=demo")  # among the settings: options may stand behind them
    return [*arguments[:place], "rollout=hf", *arguments[place:]]


def expand(arguments: list[str], conf: Path, command: str = "train") -> list[str]:
    """Rewrite shorthand into what Hydra reads; applying it twice changes nothing.

    ``model=<folder>``, ``data=<path>`` and ``data.path=<path>`` become the options ``folder`` and ``file`` with
    the path; ``resume=<folder>`` brings the stored command line back. Ranks that torchrun started agree on a folder;
    points of a sweep are named by what varies. New records are put in as a whole (:func:`added_record`).

    Args:
        arguments: as typed.
        conf: folder of the configs.
        command: name of the script. With ``pretrain``, ``data`` chooses text from the options that pretraining has.

    Raises:
        UserError: a group is set to null, or there is nothing to resume from.
    """
    # W&B's sweep agents hand settings over as --key=value (trap 58).
    given = [re.match(r"--([\w.@/+~-]+)=", a) for a in arguments]
    arguments = [
        a[2:] if match and match[1] not in HYDRA_OPTIONS else a for a, match in zip(arguments, given, strict=True)
    ]
    arguments = [OPEN.sub("++", a) for a in arguments]
    arguments = with_engine(arguments)
    sweeping = any(a in ("-m", "--multirun") or a.startswith("sweep=") for a in arguments)
    arguments = [literal(added_record(a), sweeping) for a in arguments]
    arguments = scaled(arguments, conf)
    # Hydra's parser takes settings in one row only, before or after its options.
    arguments = [*(a for a in arguments if a in SWITCHES), *(a for a in arguments if a not in SWITCHES)]
    for name in values_of(arguments, "name"):
        check_name(name)
    resume, run_dir = given_path(arguments, "resume"), given_path(arguments, "hydra.run.dir")
    step = slurm.name_ranks() if command == "train" and not sweeping else ""
    if resume and run_dir and Path(resume).resolve() != Path(run_dir).resolve():
        raise UserError(f"resume={resume} continues in its own folder: leave hydra.run.dir out")
    if run_dir is None:
        if resume:
            if sweeping:
                raise UserError("resume and a sweep don't go together: resume the points one by one")
            arguments = resumed(arguments, Path(resume), command)
        elif step or "TORCHELASTIC_RUN_ID" in os.environ:
            arguments = [*arguments, f"hydra.run.dir='${{paths.outputs}}/${{name}}/{step or launch_time()}'"]
        elif sweeping:
            # Beside the other overrides: Hydra's parser takes them in one row only, before or after the options.
            first = next((i for i, a in enumerate(arguments) if "=" in a and not a.startswith("-")), len(arguments))
            arguments = [*arguments[:first], *names_of_points(arguments, conf), *arguments[first:]]
    path = next((i for i, a in enumerate(arguments) if a.startswith("data.path=")), None)
    pretraining = command == "pretrain"
    if path is not None and not pretraining and not any(a.startswith("data=") for a in arguments):
        arguments.insert(path, "data=file")
    texts = conf / "pretrain" / "data" if pretraining else conf / "data"
    groups = {"model": PathGroup("model", "folder", "model.path", conf / "model"), "data": PathGroup(*(
        ("data", "text", "data.sources.text.path", texts) if pretraining else ("data", "file", "data.path", texts)
    ))}  # fmt: skip
    expanded: list[str] = []
    for argument in arguments:
        key, _, value = argument.partition("=")
        if key.lstrip("+~").split(".")[0] == "hydra" and ("_target_" in argument or "()" in argument):
            raise UserError(f"{key}: Hydra's own parts can't be replaced on the command line")
        if not key.strip("+~"):
            raise UserError(f"{argument}: settings are written key=value, see --help")
        if value.startswith("[") and not names_alone(argument, conf):
            raise UserError(f"{argument}: a group wants the name of one of its options, or a list of names, see --help")
        if key in REQUIRED_GROUPS and value in ("null", ""):
            raise UserError(f"{key}={value} names no option; choose one of {', '.join(options(conf, key))}")
        expanded += groups[key].expand(argument) if key in groups else [argument]
    return expanded


def names_alone(argument: str, conf: Path) -> bool:
    """Whether a list that is given to a group holds names alone; Hydra does not look, and fails in odd ways."""
    group = argument.partition("=")[0].lstrip("+").partition("@")[0]
    if not any((folder / group).is_dir() for folder in (conf, conf / "pretrain")):
        return True
    with contextlib.suppress(HydraException):
        override = OverridesParser.create().parse_override(argument)
        return override.is_sweep_override() or all(isinstance(item, str) for item in override.value())  # type: ignore[union-attr]
    return True


def added_record(argument: str) -> str:
    """``+data.sources.x.kind=prose`` as ``+data.sources={x:{kind:prose}}``; other arguments as they are.

    Hydra makes an untyped dict on the way to a key below a new entry, which a setting of typed records refuses;
    a whole dict it merges.

    Raises:
        UserError: a sweep over what does not exist yet.
    """
    match = NEW_RECORD.fullmatch(argument)
    if match is None:
        return argument
    with contextlib.suppress(HydraException):
        if OverridesParser.create().parse_override(argument).is_sweep_override():
            name = match["keys"].split(".")[0]
            raise UserError(
                f"{argument}: a sweep can't add an entry; add {match['parent']}.{name} first (with +), then sweep "
                f"over {match['parent']}.{match['keys']} without +"
            )
    value = match["value"] or "''"
    for key in reversed(match["keys"].split(".")):
        value = f"{{{key}:{value}}}"
    return f"+{match['parent']}={value}"


def scaled(arguments: list[str], conf: Path) -> list[str]:
    """An experiment that has a file for the sweep: ``experiment=full sweep=fig8`` is ``experiment=full/fig8``.

    Base, question set and horizon differ between the paper's figures, and a file that Hydra chooses by another
    choice can't override groups.
    """
    sweep = next((a.partition("=")[2] for a in arguments if a.startswith("sweep=")), "")

    def chosen(match: re.Match[str]) -> str:
        return f"{match[0]}/{sweep}" if (conf / "experiment" / match[0] / f"{sweep}.yaml").is_file() else match[0]

    return [re.sub(r"(?<![\w./])\w+(?![\w./=])", chosen, a) if a.startswith("experiment=") else a for a in arguments]


def resumed(arguments: list[str], folder: Path, command: str = "train") -> list[str]:
    """The stored command line of a run folder of this command, with the new arguments over it."""
    stored = folder / ".hydra" / "overrides.yaml"
    if not stored.is_file():
        raise UserError(f"resume={folder}: this is not a run folder (it has no .hydra/overrides.yaml)")
    if (made := made_by(folder)) not in ("", command):
        script = "train.py" if made == "train" else f"scripts/{made}.py"
        raise UserError(f"resume={folder}: this is a folder of {made}.py, so python {script} resume={folder} goes on")
    new = {argument.partition("=")[0] for argument in arguments} - {f"+{name}" for name in RECORDS}  # those are merged
    # A group that is chosen anew takes the old values below it along.
    old = [a for a in stored_overrides(stored) if a.partition("=")[0] not in new and a.partition(".")[0] not in new]
    kept = [a for a in arguments if not a.startswith("resume=")]
    return [*old, *kept, f"resume={quoted(folder)}", f"hydra.run.dir={quoted(folder)}"]


def stored_overrides(file: Path) -> list[str]:
    """A command line that a run has stored, without what none stores.

    Raises:
        UserError: it would change Hydra's own parts (launchers, callbacks, log handlers), which Hydra builds
            before any setting is looked at.
    """
    try:
        found = stored_yaml(file) or []
    except UserError as error:
        raise UserError(f"{file} can't be read as YAML: it can't be resumed") from error
    for argument in found if isinstance(found, list) else [found]:
        if not isinstance(argument, str) or re.match(r"[+~]*(hydra\b|-)", argument):
            raise UserError(f"{file} holds {str(argument)[:80]!r}, which no run stores: it can't be resumed")
    return found


def launch_time() -> str:
    """When the launcher that is our parent was started, so that its ranks name one folder (``now`` differs)."""
    try:
        ticks = int(Path(f"/proc/{os.getppid()}/stat").read_text().rpartition(")")[2].split()[19])
        boot = next(line for line in Path("/proc/stat").read_text().splitlines() if line.startswith("btime"))
        seconds = int(boot.split()[1]) + ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, StopIteration) as error:
        raise UserError("give the ranks one run folder with hydra.run.dir=<folder>") from error
    return time.strftime("%Y-%m-%d_%H-%M-%S", time.localtime(seconds))


def names_of_points(arguments: list[str], conf: Path) -> list[str]:
    """The argument that leaves out of the names of a sweep's folders whatever is the same in all of them.

    An axis of the sweep's file stays in the names where the command line fixes it: ``sweep=fig8 seed=0`` and
    ``sweep=fig8 seed=0,1`` mean the same folder by ``algo-grpo_seed-0``, and the second continues the first.
    """
    plain = [a for a in arguments if "=" in a and not a.startswith("-")]
    with contextlib.suppress(HydraException):
        parsed = OverridesParser.create().parse_overrides(plain)
        axes = axes_of(arguments, conf)
        fixed = [o.get_key_element() for o in parsed if not o.is_sweep_override() and not o.is_hydra_override()]
        fixed = [key for key in fixed if key not in axes]
        return [f"hydra.job.config.override_dirname.exclude_keys=[{','.join(sorted(fixed))}]"]
    return []


def axes_of(arguments: list[str], conf: Path) -> set[str]:
    """The axes of the file that ``sweep=`` names; none where there is no such file (Hydra says so itself)."""
    name = next((a.partition("=")[2] for a in arguments if a.startswith("sweep=")), "")
    file = conf / "sweep" / f"{name}.yaml"
    if not file.is_file():
        return set()
    return set(yaml.safe_load(file.read_text()).get("hydra", {}).get("sweeper", {}).get("params", {}))


def folder_name(text: str, overrides: Sequence[str] = ()) -> str:
    """The name of a point's folder: what varies, readable, and never that of another point.

    Args:
        text: the overrides that vary, as Hydra's ``override_dirname`` joins them.
        overrides: all of them, each as it is typed.

    Returns:
        the text; where characters of it can't stand in a name, it is too long, or a value holds what looks like another
        override, with a digest of what it was.
    """
    clean = re.sub(r"[^\w.,=+-]+", "-", text) or "point"
    keys = [override.partition("=")[0].lstrip("+~") for override in overrides]
    twice = any(f"_{text}".count(f"_{key}-") > 1 for key in keys)
    if clean == text and not twice and len(clean.encode()) <= LONGEST_NAME:
        return clean
    digest = hashlib.blake2b("\0".join([text, *(overrides if twice else ())]).encode(), digest_size=4).hexdigest()
    short = clean.encode()[: LONGEST_NAME - 9].decode(errors="ignore")
    return f"{short}-{digest}"


def options(conf: Path, group: str) -> list[str]:
    """Names of a group's files."""
    return sorted(path.stem for path in (conf / group).glob("*.yaml") if not path.stem.startswith("_"))
