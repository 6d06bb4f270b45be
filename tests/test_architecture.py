"""The house keeps its order: imports point one way, and Flower's private names stay in one file.

The layers and what is forbidden to whom are contracts in ``pyproject.toml`` (import-linter). What
they cannot say is checked here on the import graph and the syntax trees. ``docs/architecture.md``
says why.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "fedstrategies"
SOURCES = sorted(PACKAGE.rglob("*.py"))

FOR_ALGORITHMS = (
    "compressors",
    "memoryless",
    "objectives",
    "pruning",
    "random",
    "reduce",
    "robust",
    "sampling",
    "server_optimizer",
)
FOR_FLOWER_HALVES = (
    *FOR_ALGORITHMS,
    "flower",
    "layout",
    "privacy",
    "saved_model",
    "stepsize",
    "wire",
)

PURE = (
    "__init__",
    "aggregation",
    "algorithm",
    "capacity",
    "constants",
    "frames",
    "head",
    "layer_choice",
    "line_search",
    "model_groups",
    "subproblem",
    "second_order",
    "settings",
    "solver_spec",
    "solvers",
    "theory",
    "traffic",
)

PUBLIC_FLOWER = {
    "flwr.app",
    "flwr.client",
    "flwr.clientapp",
    "flwr.clientapp.mod",
    "flwr.clientapp.typing",
    "flwr.common",
    "flwr.server",
    "flwr.server.client_proxy",
    "flwr.server.strategy",
    "flwr.serverapp",
    "flwr.serverapp.strategy",
    "flwr.simulation",
}
PRIVATE_FLOWER = {
    "flower/private.py": {
        "flwr.common.constant",
        "flwr.supercore.inflatable.inflatable_object",
        "flwr.supercore.inflatable.inflatable_utils",
        "flwr.supercore.task_identity",
    },
    # Grid, a public class, has a property of this type, which has no public name.
    "engines/virtual_grid.py": {"flwr.supercore.run"},
}


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    return grimp.build_graph("fedstrategies", cache_dir=None)


def rooms() -> list[str]:
    return sorted(path.parent.name for path in PACKAGE.glob("*/algorithm.py"))


def first_party(graph: grimp.ImportGraph, module: str) -> set[str]:
    """Names below ``fedstrategies`` that a module imports, down to the room."""
    imported = graph.find_modules_directly_imported_by(module)
    return {name.split(".")[1] for name in imported if "." in name}


def run_linter(config: Path) -> subprocess.CompletedProcess[str]:
    program = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports("
    arguments = f"config_filename={str(config)!r}, no_cache=True))"
    return subprocess.run(
        [sys.executable, "-c", program + arguments],
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT), "PATH": "", "COLUMNS": "100"},
        capture_output=True,
        text=True,
    )


def test_the_contracts_in_pyproject_are_kept() -> None:
    done = run_linter(ROOT / "pyproject.toml")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


def test_a_broken_contract_is_found(tmp_path: Path) -> None:
    text = (ROOT / "pyproject.toml").read_text()
    upside_down = text.replace('  "flower",\n', "").replace('  "cli",\n', '  "flower",\n  "cli",\n')
    assert upside_down != text
    config = tmp_path / "pyproject.toml"
    config.write_text(upside_down)
    done = run_linter(config)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "imports point one way BROKEN" in done.stdout


def test_every_room_is_furnished_alike() -> None:
    assert "efbv" in rooms()
    for room in rooms():
        for file in ("__init__.py", "algorithm.py", "strategy.py", "client.py"):
            assert (PACKAGE / room / file).is_file(), f"{room}/{file} is missing"


@pytest.mark.parametrize("room", rooms())
def test_a_room_imports_what_its_halves_may(graph: grimp.ImportGraph, room: str) -> None:
    for path in (PACKAGE / room).glob("*.py"):
        allowed = FOR_ALGORITHMS if path.stem in PURE else FOR_FLOWER_HALVES
        name = f"fedstrategies.{room}" + ("" if path.stem == "__init__" else f".{path.stem}")
        strangers = first_party(graph, name) - {room, *allowed}
        assert not strangers, f"{room}/{path.name} imports {sorted(strangers)}"


@cache
def nodes(path: Path) -> tuple[ast.AST, ...]:
    return tuple(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))


def flower_modules(path: Path) -> Iterator[tuple[int, str]]:
    """Line and module of every import from Flower; ``from flwr import x`` counts as ``flwr.x``."""
    for node in nodes(path):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            module = node.module or ""
            names = [f"flwr.{a.name}" for a in node.names] if module == "flwr" else [module]
        for name in names:
            if name.split(".")[0] == "flwr":
                yield node.lineno, name


def test_flowers_private_names_are_used_in_one_place() -> None:
    strangers = []
    for path in SOURCES:
        where = path.relative_to(PACKAGE).as_posix()
        allowed = PUBLIC_FLOWER | PRIVATE_FLOWER.get(where, set())
        for line, module in flower_modules(path):
            if module not in allowed:
                strangers.append(f"{where}:{line} imports {module}")
        if where != "flower/private.py" and '__dict__["_' in path.read_text(encoding="utf-8"):
            strangers.append(f'{where} uses __dict__["_..."]')
    assert not strangers


def test_the_list_of_private_names_is_not_longer_than_it_need_be() -> None:
    for name, expected in PRIVATE_FLOWER.items():
        found = {module for _, module in flower_modules(PACKAGE / name)} - PUBLIC_FLOWER
        assert found == expected, name


PICKLING = ("torch.load", "torch.save", "np.load", "numpy.load")
PICKLES = {"pickle", "cloudpickle", "ray.cloudpickle", "dill", "shelve", "marshal"}
# What Ray's own processes exchange is pickled in any case: no file, no client's message.
BETWEEN_ACTORS = {"engines/parcel.py", "engines/ray_actor.py"}


def test_nothing_unpickles() -> None:
    strangers = []
    for path in SOURCES:
        where = path.relative_to(PACKAGE).as_posix()
        forbidden = PICKLES if where not in BETWEEN_ACTORS else set()
        for node in nodes(path):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                called = ast.unparse(node.func)
                # Arrays of plain numbers may be read, where it is written that they are.
                plain = called == "np.load" and "allow_pickle=False" in ast.unparse(node)
                names = [called] if called in PICKLING and not plain else []
            if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
                names = [] if ast.unparse(node.value) == "False" else ["allow_pickle"]
            if {*names} & {*forbidden, *PICKLING, "allow_pickle"}:
                strangers.append(f"{where}:{getattr(node, 'lineno', 0)} uses {names}")
    assert not strangers


def test_the_mathematics_runs_where_neither_flower_nor_ray_is_installed() -> None:
    pure = ["compressors", "data", "layout", "objectives", "pruning", "random", "reduce"]
    pure += ["sampling", "wire", "fedp3", "language"]
    pure += [f"{room}.algorithm" for room in rooms()]
    pure += [f"{path.parent.name}.theory" for path in PACKAGE.glob("*/theory.py")]
    program = "import sys; sys.modules['flwr'] = sys.modules['ray'] = None\n" + "\n".join(
        f"import fedstrategies.{module}" for module in pure
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
