"""What an import path in a setting leads to, told by reading its file: nothing is imported or run."""

from __future__ import annotations

import ast
import inspect
import symtable

from r1zero.errors import UserError
from r1zero.launch import allowed


def read_signature(path: str, setting: str) -> inspect.Signature | None:
    """The signature of the function or class that an import path names; None where reading can't tell.

    Args:
        path: package.module.function.
        setting: the config key, for messages.

    Raises:
        UserError: the path is not accepted, its file is no Python, or nothing in it has that name.
    """
    allowed.check_path(path, setting)
    module, _, name = path.rpartition(".")
    file = allowed.file_of(module)
    if file is None or file.suffix != ".py" or not file.is_file():
        return None
    try:
        source = file.read_bytes()
        tree = ast.parse(source)
        symbols = symtable.symtable(source.decode(), str(file), "exec").get_symbols()
    except (SyntaxError, ValueError) as error:
        why = f"{type(error).__name__}: {error}".splitlines()[0]
        raise UserError(f"{setting}={path}: module {module} can't be imported ({why})") from error
    bound = {symbol.get_name() for symbol in symbols if symbol.is_assigned() or symbol.is_imported()}
    if name not in bound:
        if "__getattr__" in bound or any(_imports_all(node) for node in ast.walk(tree)):
            return None
        raise UserError(f"{setting}={path}: module {module} has no function {name}")
    rebound = any(isinstance(n, ast.Name) and n.id == name and isinstance(n.ctx, ast.Store) for n in ast.walk(tree))
    found = [n for n in tree.body if isinstance(n, ast.FunctionDef | ast.ClassDef) and n.name == name]
    if rebound or len(found) != 1 or found[0].decorator_list:
        return None
    (node,) = found
    if isinstance(node, ast.FunctionDef):
        return _signature(node)
    makers = [n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__" and not n.decorator_list]
    return _signature(makers[0], skipped=1) if len(makers) == 1 else None


def _imports_all(node: ast.AST) -> bool:
    return isinstance(node, ast.ImportFrom) and node.names[0].name == "*"


def _signature(node: ast.FunctionDef, skipped: int = 0) -> inspect.Signature:
    """As ``inspect`` gives it, with None for each default; ``skipped`` parameters at its head left out."""
    kind, given = inspect.Parameter, node.args
    placed = [*given.posonlyargs, *given.args]
    found = []
    for at, a in enumerate(placed):
        how = kind.POSITIONAL_ONLY if at < len(given.posonlyargs) else kind.POSITIONAL_OR_KEYWORD
        required = at < len(placed) - len(given.defaults)
        found.append(kind(a.arg, how, default=kind.empty if required else None))
    found += [kind(a.arg, kind.VAR_POSITIONAL) for a in (given.vararg,) if a is not None]
    for a, default in zip(given.kwonlyargs, given.kw_defaults, strict=True):
        found.append(kind(a.arg, kind.KEYWORD_ONLY, default=kind.empty if default is None else None))
    found += [kind(a.arg, kind.VAR_KEYWORD) for a in (given.kwarg,) if a is not None]
    return inspect.Signature(found[skipped:])
