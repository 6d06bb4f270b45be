"""The notebooks as they are stored; that they run is seen by ``pytest --nbmake``.

Their outputs are kept for those who read them without running them (`notebooks/refresh.py`).
"""

from __future__ import annotations

import base64
import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import nbformat
import pytest

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
LINK = re.compile(r"\]\(([^)\s]+)\)")
FOREIGN = re.compile(r"(?<![\w.])/(?:home|root|tmp|usr|work|Users)/| at 0x[0-9a-f]+")
PNG = b"\x89PNG\r\n\x1a\n"


def loaded(path: Path) -> Any:
    return nbformat.read(path, as_version=4)


def code_of(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def outputs_of(notebook: Any) -> list[Any]:
    return [output for cell in code_of(notebook) for output in cell.outputs]


@pytest.fixture(scope="module")
def refresh() -> ModuleType:
    spec = importlib.util.spec_from_file_location("refresh", FOLDER / "refresh.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_there_are_notebooks() -> None:
    assert len(NOTEBOOKS) >= 8


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_outputs_belong_to_the_source_and_to_one_run_in_order(
    path: Path, refresh: ModuleType
) -> None:
    notebook = loaded(path)
    nbformat.validate(notebook)
    assert notebook.metadata.get("sources") == refresh.source_digest(notebook), "make notebooks"
    counts = [cell.execution_count for cell in code_of(notebook)]
    assert counts == list(range(1, len(counts) + 1))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_nothing_is_stored_that_differs_from_run_to_run(path: Path) -> None:
    notebook = loaded(path)
    assert [cell.id for cell in notebook.cells] == [
        f"{path.stem}-{number:02d}" for number in range(len(notebook.cells))
    ]
    assert set(notebook.metadata) == {"kernelspec", "language_info", "sources"}
    assert notebook.metadata.language_info == {"name": "python"}
    assert all(not cell.metadata for cell in notebook.cells)
    for output in outputs_of(notebook):
        assert output.output_type in ("stream", "display_data")
        assert output.get("name", "stdout") == "stdout"
        assert not output.get("metadata")
    assert not FOREIGN.search(path.read_text(encoding="utf-8"))
    assert path.stat().st_size <= 200_000


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_shows_states_and_verifies(path: Path) -> None:
    notebook = loaded(path)
    pictures = [
        base64.b64decode(output.data["image/png"])
        for output in outputs_of(notebook)
        if "image/png" in output.get("data", {})
    ]
    assert pictures
    assert all(picture.startswith(PNG) for picture in pictures)
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    assert "$" in text
    code = "\n".join(cell.source for cell in code_of(notebook))
    assert len(re.findall(r"^ *assert ", code, re.MULTILINE)) >= 3


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_links_lead_somewhere_and_the_readme_and_the_docs_lead_here(path: Path) -> None:
    for cell in loaded(path).cells:
        if cell.cell_type == "markdown":
            for link in LINK.findall(cell.source):
                if "://" not in link:
                    assert (FOLDER / link.partition("#")[0]).is_file(), link
    assert f"](notebooks/{path.name})" in (ROOT / "README.md").read_text(encoding="utf-8")
    pages = (page.read_text(encoding="utf-8") for page in (ROOT / "docs").rglob("*.md"))
    assert any(f"`notebooks/{path.name}`" in page for page in pages)


def test_a_false_assertion_fails_and_the_kernel_is_this_python(tmp_path: Path) -> None:
    """Every ``make test`` relies on this: a notebook whose statement is wrong does not pass."""

    def write(name: str, *cells: str) -> None:
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in cells])
        notebook.metadata = loaded(NOTEBOOKS[0]).metadata
        nbformat.write(notebook, tmp_path / f"{name}.ipynb")

    write("kernel", f"import sys\nassert sys.executable == {sys.executable!r}")
    write("wrong", "x = 1", "assert x == 2, 'one is not two'")
    found = subprocess.run(
        [sys.executable, "-m", "pytest", "--nbmake", "-q", "-p", "no:cacheprovider", str(tmp_path)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert found.returncode == 1, found.stdout + found.stderr
    assert "1 failed, 1 passed" in found.stdout, found.stdout
    assert "one is not two" in found.stdout


def test_what_refreshing_leaves_is_clean(refresh: ModuleType, tmp_path: Path) -> None:
    """Executed twice the file has the same bytes, whatever ids and outputs it had."""
    cells = [
        nbformat.v4.new_markdown_cell("# A title"),
        nbformat.v4.new_code_cell("import matplotlib.pyplot as plt\nprint('one')\nprint('two')"),
        nbformat.v4.new_code_cell("plt.plot([1, 2])\nplt.show()"),
    ]
    path = tmp_path / "small.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    refresh.refresh(path)
    first = path.read_bytes()
    notebook = json.loads(first)
    assert [cell["id"] for cell in notebook["cells"]] == ["small-00", "small-01", "small-02"]
    assert [output["name"] for output in notebook["cells"][1]["outputs"]] == ["stdout"]
    assert list(notebook["cells"][2]["outputs"][0]["data"]) == ["image/png"]
    refresh.refresh(path)
    assert path.read_bytes() == first


def test_a_cell_that_warns_or_fails_leaves_the_file_as_it_was(
    refresh: ModuleType, tmp_path: Path
) -> None:
    path = tmp_path / "bad.ipynb"
    for code, error in (
        ("import warnings\nwarnings.warn('careful')", ValueError),
        ("assert False", Exception),
    ):
        nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)]), path)
        before = path.read_bytes()
        with pytest.raises(error):
            refresh.refresh(path)
        assert path.read_bytes() == before
