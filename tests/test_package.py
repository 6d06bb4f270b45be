"""The package as a user installs it: names, versions, data, dependencies."""

from __future__ import annotations

import ast
import importlib.metadata
import re
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path

import pytest

import fedstrategies

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
SOURCES = sorted((ROOT / "fedstrategies").rglob("*.py"))

# Flower's command line is written with these; its own requirements bring them.
WITH_FLOWER = {"click", "packaging", "rich", "typer", "tomli-w"}

# Imported where Ray is there, and not before: see `RayGrid.__init__`.
WITH_RAY = {
    ROOT / "fedstrategies" / "engines" / name
    for name in (
        "letterbox.py",
        "parcel.py",
        "ray_actor.py",
        "ray_answer.py",
        "ray_cluster.py",
        "ray_failures.py",
        "ray_session.py",
        "ray_shard.py",
        "ray_step.py",
    )
}


def python(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)


@pytest.mark.parametrize(
    "module", ["fedstrategies", "fedstrategies.cli.main", "fedstrategies.experiment.config"]
)
def test_help_does_not_wait_for_torch(module: str) -> None:
    heavy = "{'torch', 'flwr', 'ray', 'sklearn', 'matplotlib', 'numpy'} & set(sys.modules)"
    done = python(f"import sys, {module}; print(sorted({heavy}))")
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def test_every_public_name_can_be_had() -> None:
    for name in fedstrategies.__all__:
        found = getattr(fedstrategies, name)
        assert found.__module__.startswith("fedstrategies."), name


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'FedBest'"):
        fedstrategies.FedBest  # noqa: B018


def test_the_lists_of_public_names_agree() -> None:
    tree = ast.parse((ROOT / "fedstrategies" / "__init__.py").read_text(encoding="utf-8"))
    (typing,) = [node for node in tree.body if isinstance(node, ast.If)]
    imported = {
        (alias.name, (node.module or "").removeprefix("fedstrategies."))
        for node in typing.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert imported == set(fedstrategies._ROOM_OF.items())
    assert {name for name, _ in imported} == set(fedstrategies.__all__)
    assert len(fedstrategies.__all__) == len(set(fedstrategies.__all__))


@cache
def syntax(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def test_what_a_module_exports_is_there() -> None:
    missing = []
    for path in SOURCES:
        exported = [
            ast.literal_eval(node.value)
            for node in syntax(path).body
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
        ]
        if not exported:
            continue
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        module = __import__(name, fromlist=["_"])
        missing += [f"{name}.{entry}" for entry in exported[0] if not hasattr(module, entry)]
    assert not missing


def test_the_version_is_said_once() -> None:
    assert fedstrategies.__version__ == PROJECT["version"]
    try:
        installed = importlib.metadata.version("fedstrategies")
    except importlib.metadata.PackageNotFoundError:
        return
    assert installed == PROJECT["version"]


def test_types_and_data_are_in_the_package() -> None:
    package = files("fedstrategies")
    assert (package / "py.typed").is_file()
    assert (package / "data" / "mushrooms.xz").is_file()
    for name in ("page.html", "style.css"):
        assert (package / "experiment" / "report" / name).is_file()


def test_the_bundled_data_is_what_it_is_said_to_be() -> None:
    from fedstrategies.data import load_dataset

    mushrooms = load_dataset("mushrooms")
    assert mushrooms.features.shape == (8124, 112)
    assert set(mushrooms.labels.tolist()) == {1.0, 2.0}


def test_the_command_is_installed_under_its_name() -> None:
    module, _, function = PROJECT["scripts"]["fedstrategies"].partition(":")
    assert callable(getattr(__import__(module, fromlist=[function]), function))


def normalised(requirement: str) -> str:
    return re.split(r"[^A-Za-z0-9._-]", requirement, maxsplit=1)[0].lower().replace("_", "-")


def imports_of(path: Path, *, at_top: bool) -> set[str]:
    """Top-level names of absolute imports; ``at_top``: of those that run with the module."""
    tree = syntax(path)
    nodes = tree.body if at_top else list(ast.walk(tree))
    modules = [
        name
        for node in nodes
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom) and not node.level
            else []
        )
    ]
    return {name.split(".")[0] for name in modules} - {"fedstrategies"} - sys.stdlib_module_names


@cache
def providers() -> Mapping[str, list[str]]:
    return importlib.metadata.packages_distributions()


def distributions(modules: set[str]) -> set[str]:
    return {normalised(name) for module in modules for name in providers().get(module, [module])}


def test_what_is_imported_is_required() -> None:
    core = {normalised(entry) for entry in PROJECT["dependencies"]} | WITH_FLOWER
    extras = {
        normalised(entry)
        for name, entries in PROJECT["optional-dependencies"].items()
        if name != "dev"
        for entry in entries
    }
    for path in SOURCES:
        at_top = core | ({"ray"} if path in WITH_RAY else set())
        assert distributions(imports_of(path, at_top=True)) <= at_top, path
        assert distributions(imports_of(path, at_top=False)) <= core | extras, path


def test_flower_brings_what_we_take_from_it() -> None:
    brought = {normalised(entry) for entry in importlib.metadata.requires("flwr") or ()}
    assert brought >= WITH_FLOWER


def test_every_module_can_be_imported_without_the_extras() -> None:
    modules = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for path in SOURCES
        if path not in WITH_RAY
    ]
    program = "import sys\n"
    program += "".join(f"sys.modules[{m!r}] = None\n" for m in ("ray", "sklearn", "matplotlib"))
    done = python(program + "\n".join(f"import {module}" for module in modules))
    assert done.returncode == 0, done.stderr
