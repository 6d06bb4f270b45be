"""Execute the notebooks in place; keep their outputs, and nothing that differs from run to run.

    python notebooks/refresh.py [NOTEBOOK...]

People who read a notebook on a web page see its pictures, so outputs are stored. Times of
execution, random cell ids and what PNG files say of their writer are not.
"""

from __future__ import annotations

import base64
import hashlib
import json
import sys
from io import BytesIO
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode
from PIL import Image

HERE = Path(__file__).parent
LIMIT = 200_000


def source_digest(notebook: NotebookNode) -> str:
    """SHA-256 of the kinds and sources of all cells: the outputs belong to these."""
    cells = [[cell.cell_type, cell.source] for cell in notebook.cells]
    return hashlib.sha256(json.dumps(cells).encode()).hexdigest()


def small_png(picture: bytes) -> bytes:
    """The picture with 128 colours and nothing beside it, such as the writing program's version.

    Line plots have few colours but for the edges of lines; this takes half of their bytes away.
    """
    with Image.open(BytesIO(picture)) as opened:
        reduced = opened.convert("RGB").quantize(128, dither=Image.Dither.NONE)
    written = BytesIO()
    reduced.save(written, format="PNG", optimize=True)
    return written.getvalue()


def clean(notebook: NotebookNode, name: str) -> None:
    """Leave what the reader sees, under ids that say which cell it is."""
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    notebook.metadata = NotebookNode(
        kernelspec=NotebookNode(display_name="Python 3", language="python", name="python3"),
        language_info=NotebookNode(name="python"),
        sources=source_digest(notebook),
    )
    for number, cell in enumerate(notebook.cells):
        cell.id, cell.metadata = f"{name}-{number:02d}", NotebookNode()
        for output in cell.get("outputs", []):
            if "metadata" in output:
                output.metadata = NotebookNode()
            if picture := output.get("data", {}).get("image/png"):
                small = small_png(base64.b64decode(picture))
                output.data = NotebookNode({"image/png": base64.b64encode(small).decode()})


def refresh(path: Path) -> None:
    """Execute one notebook and write it back.

    Raises
    ------
    nbclient.exceptions.CellExecutionError
        If a cell raises; the file stays as it was.
    ValueError
        If a cell warns, or the notebook is too large.
    """
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(
        notebook,
        timeout=120,
        kernel_name="python3",
        record_timing=False,
        coalesce_streams=True,
        resources={"metadata": {"path": str(path.parent)}},
    ).execute()
    clean(notebook, path.stem)
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if output.output_type == "stream" and output.name == "stderr":
                raise ValueError(f"{path.name}, cell {cell.id} writes to stderr: {output.text}")
    text = nbformat.writes(notebook) + "\n"
    if len(text) > LIMIT:
        raise ValueError(f"{path.name} has {len(text):,} bytes, more than {LIMIT:,}")
    path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    for given in map(Path, sys.argv[1:] or sorted(HERE.glob("*.ipynb"))):
        refresh(given)
        print(f"{given.name}: {given.stat().st_size:,} bytes")
