"""The architecture as a test: what import-linter (``make lint``) can't say of the rooms."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import grimp
from importlinter import configuration
from importlinter.contracts.forbidden import ForbiddenContract

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "r1zero"
FILES = sorted(PACKAGE.rglob("*.py"))
SCRIPTS = [ROOT / "train.py", *sorted((ROOT / "scripts").glob("*.py"))]


def imports(file: Path) -> Iterator[tuple[int, str]]:
    """Line and full name of everything a file imports, in functions too, but not for type checkers alone."""
    tree = ast.parse(file.read_text())
    unread = {
        id(child)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING"
        for child in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in unread:
            continue
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno}: relative import"
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def own(name: str) -> str | None:
    """The part of the package that an import names; None for other packages and for the package's version."""
    pieces = name.split(".")
    return pieces[1] if pieces[0] == "r1zero" and len(pieces) > 1 and pieces[1] != "__version__" else None


KNOWN_TO_ALGO = ("algo", "algo_config", "batch", "errors")


def test_the_objective_knows_tensors_alone() -> None:
    """algo/ imports torch, the batch's shapes, its settings, errors and the standard library: no model, no logger."""
    foreign = []
    for file in (PACKAGE / "algo").glob("*.py"):
        for line, name in imports(file):
            top = name.split(".")[0]
            allowed = top == "torch" or top in sys.stdlib_module_names or own(name) in KNOWN_TO_ALGO
            if not allowed:
                foreign.append(f"{file.name}:{line} imports {name}")
    assert foreign == []


def test_vllm_is_imported_in_its_own_files_alone() -> None:
    found = {
        str(f.relative_to(ROOT)) for f in [*FILES, *SCRIPTS] for _, name in imports(f) if name.split(".")[0] == "vllm"
    }
    assert found == {
        f"src/r1zero/{name}.py"
        for name in (
            "lab/benchmark/bare",
            "launch/compat",
            "rollout/ray/transfer",
            "rollout/vllm/engine",
            "rollout/vllm/groups",
            "rollout/vllm/joint",
            "rollout/vllm/process",
            "rollout/vllm/request",
        )
    }


def test_lightning_has_one_name() -> None:
    """pytorch_lightning and lightning are two copies of one library, and their classes are not each other's."""
    everywhere = [*FILES, *SCRIPTS, *sorted((ROOT / "tests").rglob("*.py"))]
    assert [str(f) for f in everywhere for _, name in imports(f) if name.split(".")[0] == "lightning"] == []
    configs = sorted((ROOT / "conf").rglob("*.yaml"))
    assert configs
    assert [str(c) for c in configs if "_target_: lightning." in c.read_text()] == []


def test_no_file_is_long() -> None:
    lengths = {str(f.relative_to(PACKAGE)): len(f.read_text().splitlines()) for f in FILES}
    assert {name: length for name, length in lengths.items() if length > 400} == {}


def test_nothing_is_called_utils() -> None:
    assert [f for f in FILES if "util" in f.stem or f.stem in ("helpers", "misc", "common")] == []


def test_what_the_command_line_reads_first_is_light() -> None:
    """``train.py --help`` answers at once: schemas and checks import neither torch nor Lightning."""
    code = (
        "import sys, r1zero.config, r1zero.errors, r1zero.train.checks, r1zero.evaluate.checks, r1zero.launch.cli;"
        "heavy = {'torch', 'transformers', 'pytorch_lightning', 'vllm', 'datasets', 'pandas'};"
        "print(sorted(heavy & sys.modules.keys()));"
        "import r1zero.train.trial;"  # functions of the user's are tried when torch is there, and nothing else
        "print(sorted(heavy & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["[]", "['torch']"]


def test_lint_tells_an_audit_that_borrows_from_training() -> None:
    """The contract of pyproject.toml on the imports as they are, and with one that must not be."""
    configuration.configure()
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (options,) = [c for c in contracts if c["type"] == "forbidden" and c["source_modules"] == ["r1zero.lab.audit"]]
    session = {"root_packages": ["r1zero"]}
    contract = ForbiddenContract(name=options["name"], session_options=session, contract_options=options)
    graph = grimp.build_graph("r1zero", cache_dir=None)
    assert contract.check(graph, verbose=False).kept
    audit = sorted(module for module in graph.modules if module.startswith("r1zero.lab.audit."))
    for importer, borrowed in zip(audit, ("algo.loss", "algo.advantages", "learn.step", "learn.module"), strict=False):
        graph.add_import(importer=importer, imported=f"r1zero.{borrowed}")
        assert not contract.check(graph, verbose=False).kept
        graph.remove_import(importer=importer, imported=f"r1zero.{borrowed}")
    assert contract.check(graph, verbose=False).kept
