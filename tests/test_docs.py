"""The documentation is true: its code runs, its commands parse, its links and tests exist."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import re
import shlex
import sys
import tomllib
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import typer

from fedstrategies.cli.main import app
from fedstrategies.experiment.families import all_options

ROOT = Path(__file__).parents[1]
PAGES = [
    ROOT / "README.md",
    ROOT / "CHANGELOG.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "simulations").rglob("*.md")),
]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")
TEST_NAME = re.compile(r"`(tests/[\w/]+\.py)(?:::(\w+))?`")
FILE_NAME = re.compile(r"# ([\w/]+\.py)\n")


class Block(NamedTuple):
    language: str
    code: str
    line: int


def blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    return [Block(m[1], m[2], text.count("\n", 0, m.start()) + 1) for m in FENCE.finditer(text)]


def named(page: Path) -> str:
    return str(page.relative_to(ROOT))


def having(language: str) -> list[Path]:
    return [page for page in PAGES if any(b.language == language for b in blocks(page))]


@pytest.mark.parametrize("page", having("python"), ids=named)
def test_python_code_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In order and in one namespace; a block that begins with a file's name is that file."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)
    namespace: dict[str, Any] = {"__name__": "page"}
    try:
        for block in blocks(page):
            if block.language != "python":
                continue
            if file := FILE_NAME.match(block.code):
                target = tmp_path / file[1]
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_text(block.code, encoding="utf-8")
                importlib.invalidate_caches()
                continue
            # Blank lines in front make tracebacks point into the page.
            exec(compile("\n" * block.line + block.code, str(page), "exec"), namespace)
    finally:
        for name in set(sys.modules) - before:
            if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
                del sys.modules[name]


def commands(page: Path) -> list[str]:
    shell = [block.code for block in blocks(page) if block.language in ("sh", "bash")]
    return [line for code in shell for line in code.replace("\\\n", " ").splitlines()]


def starting_with(program: str) -> list[Any]:
    return [
        pytest.param(line, id=f"{named(page)}:{number}")
        for page in PAGES
        for number, line in enumerate(commands(page))
        if line.startswith(f"{program} ")
    ]


class Reached(Exception):
    """The command line was understood."""


@pytest.mark.parametrize("line", starting_with("fedstrategies"))
def test_commands_are_understood(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to the point where work would begin, configurations included."""

    def stop(*arguments: Any, **keywords: Any) -> None:
        raise Reached

    monkeypatch.chdir(ROOT)
    for place in (
        # First: being imported here for the first time, it must not find the runner replaced.
        "fedstrategies.experiment.comparison.compare",
        "fedstrategies.experiment.sweep.run_sweep",
        "fedstrategies.experiment.runner.run",
        "fedstrategies.experiment.plots.read_curve",
        "fedstrategies.experiment.report.write_report",
        "fedstrategies.cli.model_info.print_model",
        "fedstrategies.experiment.doctor.examine",
        "fedstrategies.cli.tables.print_info",
        "fedstrategies.experiment.language_pruning.prune_language_model",
    ):
        monkeypatch.setattr(place, stop)
    with pytest.raises(Reached):
        app(args=shlex.split(line, comments=True)[1:], standalone_mode=False)


def in_consoles(program: str) -> list[str]:
    """Commands that need what an earlier one left behind: their options are looked at alone."""
    shown = [block.code for page in PAGES for block in blocks(page) if block.language == "console"]
    lines = [line for code in shown for line in code.replace("\\\n", " ").splitlines()]
    return [line for line in lines if line.startswith(f"{program} ")]


@pytest.mark.parametrize("line", in_consoles("fedstrategies"))
def test_options_in_consoles_exist(line: str) -> None:
    _, command, *rest = shlex.split(line, comments=True)
    known = {
        option
        for parameter in typer.main.get_command(app).commands[command].params  # type: ignore[attr-defined]
        for option in parameter.opts
    }
    assert {word for word in rest if word.startswith("--")} <= known


@pytest.mark.parametrize("page", having("toml"), ids=named)
def test_toml_is_toml(page: Path) -> None:
    for block in blocks(page):
        if block.language == "toml":
            assert tomllib.loads(block.code)


@pytest.mark.parametrize("page", having("py"), ids=named)
def test_python_that_is_not_run_here_imports_what_there_is(page: Path) -> None:
    """Blocks that start Ray: tests/engines/test_ray_grid.py runs the like."""
    for block in blocks(page):
        if block.language == "py":
            tree = ast.parse(block.code)
            imports = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
            assert imports
            exec(compile(ast.Module(imports, type_ignores=[]), str(page), "exec"), {})


@pytest.mark.parametrize("line", starting_with("make"))
def test_make_targets_exist(line: str) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in shlex.split(line, comments=True)[1:]:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


@pytest.mark.parametrize("line", starting_with("flwr run"))
def test_flower_apps_know_the_keys_they_are_given(line: str) -> None:
    words = shlex.split(line, comments=True)
    project = tomllib.loads((ROOT / words[2] / "pyproject.toml").read_text(encoding="utf-8"))
    known = project["tool"]["flwr"]["app"]["config"]
    given = words[words.index("--run-config") + 1] if "--run-config" in words else ""
    for pair in shlex.split(given):
        key, equals, _ = pair.partition("=")
        assert not equals or key in known, key
    assert {*known} - {"output-dir"} <= option_keys()


def option_keys() -> set[str]:
    return {"algorithm", *(entry.key for entry in all_options())}


@pytest.mark.parametrize("line", starting_with("python"))
def test_modules_that_are_run_exist(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    words = shlex.split(line, comments=True)
    if words[1] == "-m":
        assert importlib.util.find_spec(words[2]), words[2]


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_relative_links_resolve(page: Path) -> None:
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    for target in LINK.findall(text):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        linked = page.parent / path if path else page
        assert linked.exists(), target
        if anchor:
            assert anchor in anchors(linked), target


def anchors(page: Path) -> set[str]:
    """GitHub's: lower case, punctuation dropped, blanks as hyphens."""
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    heads = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).strip().replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_tests_that_are_named_exist(page: Path) -> None:
    for path, function in TEST_NAME.findall(page.read_text(encoding="utf-8")):
        assert (ROOT / path).is_file(), path
        if function:
            tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
            assert function in {n.name for n in tree.body if isinstance(n, ast.FunctionDef)}


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_modules_that_are_named_exist(page: Path) -> None:
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    for path in re.findall(r"`(fedstrategies/[\w/.]+)`", text):
        assert (ROOT / path).exists(), path
    for name in re.findall(r"`(fedstrategies(?:\.\w+)+)`", text):
        module, _, attribute = name.rpartition(".")
        found = importlib.import_module(module)
        assert hasattr(found, attribute) or importlib.import_module(name), name


def test_something_is_checked() -> None:
    assert len(having("python")) >= 5
    assert len(starting_with("fedstrategies")) >= 5
    assert starting_with("flwr run")
    assert {"make demo", "make test"} <= {
        " ".join(p.values[0].split()[:2]) for p in starting_with("make")
    }
