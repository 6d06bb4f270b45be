"""The two versions of the app in simulations/quickstart, and a grid that weighs what they send."""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from flwr.app import Context, Message, MessageType, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp

from fedstrategies import CohortGrid
from fedstrategies.flower.private import serialised_size

__all__ = ["FOLDER", "WeighingGrid", "difference", "load", "options", "run"]

FOLDER = Path(__file__).parents[2] / "simulations" / "quickstart"
NODES = 10
Version = Literal["before", "after"]


class WeighingGrid(CohortGrid):
    """Sums the replies to train messages as Flower serialises them; keeps the first ones' sizes."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.uplink = 0
        self.replies: list[int] = []

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        asked = list(messages)
        replies = list(super().send_and_receive(asked, timeout=timeout))
        if asked and asked[0].metadata.message_type == MessageType.TRAIN:
            sizes = [serialised_size(one) for one in replies if not one.has_error()]
            self.replies += sizes
            self.uplink += sum(sizes)
        return replies


def load(version: Version) -> tuple[ServerApp, ClientApp]:
    """Both halves of a version; the module names are the same, so none is left in the table."""
    path = str(FOLDER / version)
    sys.path.insert(0, path)
    try:
        importlib.invalidate_caches()
        server = importlib.import_module("pytorchexample.server_app").app
        client = importlib.import_module("pytorchexample.client_app").app
    finally:
        sys.path.remove(path)
        for name in [name for name in sys.modules if name.split(".")[0] == "pytorchexample"]:
            del sys.modules[name]
    return server, client


def options(**changed: bool | float | int | str) -> dict[str, bool | float | int | str]:
    """The app's run configuration."""
    import tomllib

    project = tomllib.loads((FOLDER / "before" / "pyproject.toml").read_text(encoding="utf-8"))
    known = project["tool"]["flwr"]["app"]["config"]
    assert changed.keys() <= known.keys()
    return {**known, **changed}


def run(version: Version, **changed: bool | float | int | str) -> WeighingGrid:
    """Run a version on ten nodes in this process."""
    server, client = load(version)
    config = options(**changed)
    grid = WeighingGrid(client, num_clients=NODES, run_config=config)
    context = Context(run_id=1, node_id=0, node_config={}, state=RecordDict(), run_config=config)
    server(grid, context)
    return grid


def difference() -> list[str]:
    """The lines that were taken away or added, marked by - and +."""
    changed = []
    before, after = FOLDER / "before", FOLDER / "after"
    names = {
        str(path.relative_to(folder))
        for folder in (before, after)
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    for name in sorted(names):
        texts = [
            (folder / name).read_text(encoding="utf-8").splitlines()
            if (folder / name).exists()
            else []
            for folder in (before, after)
        ]
        lines = difflib.unified_diff(*texts, n=0, lineterm="")
        changed += [one for one in lines if one[0] in "+-" and one[:3] not in ("+++", "---")]
    return changed
