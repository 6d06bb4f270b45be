"""A Flower app of the user's: what goes wrong with many, read off its files, without imports."""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fedstrategies.experiment.doctor.finding import Finding, note, ok, problem

__all__ = ["check_flower_app"]

_SEEDS = frozenset({"random.seed", "np.random.seed", "numpy.random.seed"})
_APPS = frozenset({"ClientApp", "client_app"})


def check_flower_app(folder: Path) -> Iterator[Finding]:
    """The folder that is given to ``flwr run``: its components, and habits that cost time or truth.

    Parameters
    ----------
    folder : Path
        With a ``pyproject.toml`` that has ``[tool.flwr.app]``.
    """
    try:
        project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))
        app = project["tool"]["flwr"]["app"]
        components = app["components"]
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        yield problem("app", f"{folder}: no pyproject.toml that can be read: {error}", _GIVE)
        return
    except (KeyError, TypeError):
        text = f"{folder / 'pyproject.toml'} has no [tool.flwr.app.components]"
        yield problem("app", text, _GIVE)
        return
    if not isinstance(components, Mapping):
        yield problem("app", "[tool.flwr.app.components] is no table", _GIVE)
        return
    for name in ("serverapp", "clientapp"):
        yield _component(folder, name, components.get(name))
    evaluating = _evaluating_strategies()
    for path in sorted(folder.rglob("*.py")):
        if not any(part.startswith(".") for part in path.relative_to(folder).parts):
            yield from _file(path, str(path.relative_to(folder)), evaluating)
    yield note(
        "exit code",
        "`flwr run` ends with 0 even if the app raised",
        "look at `flwr ls --format json`, or at a file that the ServerApp writes last",
    )


_GIVE = "give the folder that `flwr run` is given"


def _component(folder: Path, name: str, value: Any) -> Finding:
    advice = f'{name} = "package.module:name" in [tool.flwr.app.components]'
    module, colon, attribute = value.partition(":") if isinstance(value, str) else ("", "", "")
    if not (module and colon and attribute):
        return problem(name, f"{value!r} does not name a module and an object", advice)
    places = [folder.joinpath(*module.split(".")).with_suffix(".py")]
    places.append(folder.joinpath(*module.split("."), "__init__.py"))
    found = [path for path in places if path.is_file()]
    if not found:
        # Flower says so after ten seconds, as a LoadClientAppError of every node.
        return problem(name, f"there is no module {module} in {folder}", advice)
    tree = _parsed(found[0])
    if tree is not None and attribute not in _names(tree):
        return problem(name, f"{found[0]} defines no {attribute} at its top level", advice)
    return ok(name, value)


def _file(path: Path, name: str, evaluating: frozenset[str]) -> Iterator[Finding]:
    tree = _parsed(path)
    if tree is None:
        yield problem(
            "app", f"{name} is not Python that can be parsed", "see `python -m py_compile`"
        )
        return
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    called = {_dotted(call.func) for call in calls}
    last = {dotted.rpartition(".")[2] for dotted in called}
    if "run_simulation" in last and last & _APPS:
        yield note(
            "pickled",
            f"{name} calls run_simulation and defines the ClientApp: run as a script, the app and "
            "all globals it uses, data among them, are pickled for every task",
            "put the ClientApp into a module that the script imports, and load data there in a "
            "function with functools.lru_cache",
        )
    if seeds := called & _SEEDS:
        yield note(
            "seed",
            f"{name} calls {sorted(seeds)[0]}: Flower's node ids are random in every run, so whom "
            "its strategies ask, and in which order they add, is not repeated by it",
            "the strategies here draw by partition: give them seed=",
        )
    for call in calls:
        made = _dotted(call.func).rpartition(".")[2]
        keywords = {keyword.arg for keyword in call.keywords}
        # None stands for **settings, which may hold it.
        if made in evaluating and not keywords & {"fraction_evaluate", None}:
            yield note(
                "evaluation",
                f"{name}:{call.lineno}: {made} without fraction_evaluate: every node is sent the "
                "model a second time in every round, to evaluate it",
                "fraction_evaluate=0.0, or a small share",
            )


def _evaluating_strategies() -> frozenset[str]:
    """Names of the strategies, Flower's and ours, that evaluate unless they are told otherwise."""
    import flwr.serverapp.strategy as upstream

    import fedstrategies

    found = set()
    for module in (upstream, fedstrategies):
        for name in module.__all__:
            kind = getattr(module, name)
            bases = kind.__mro__ if isinstance(kind, type) else ()
            made = [vars(base)["__init__"] for base in bases if "__init__" in vars(base)]
            if any("fraction_evaluate" in _parameters(one) for one in made):
                found.add(name)
    return frozenset(found)


def _parameters(function: Any) -> frozenset[str]:
    """None where it is written in C."""
    code = getattr(function, "__code__", None)
    return frozenset(code.co_varnames) if code is not None else frozenset()


def _parsed(path: Path) -> ast.Module | None:
    try:
        return ast.parse(path.read_bytes(), filename=str(path))
    except (SyntaxError, ValueError):
        return None


def _names(tree: ast.Module) -> set[str]:
    """What a module binds at its top level."""
    names: set[str] = set()
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names |= {alias.asname or alias.name.partition(".")[0] for alias in node.names}
        else:
            stored = (one for one in ast.walk(node) if isinstance(one, ast.Name))
            names |= {one.id for one in stored if isinstance(one.ctx, ast.Store)}
    return names


def _dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""
