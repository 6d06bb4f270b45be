"""What guides promise beside their code: how long it is, and the block that needs the hub."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import ArrayRecord
from torch import nn

from fedstrategies import CohortGrid, FedAvg
from tests.test_docs import blocks

GUIDES = Path(__file__).parents[1] / "docs" / "guides"
PAGE = GUIDES / "own-data.md"


def test_a_network_on_images_takes_fewer_than_thirty_lines() -> None:
    (program,) = [block for block in blocks(PAGE) if block.code.startswith("# cnn.py\n")]
    lines = program.code.splitlines()[1:]
    assert len(lines) < 30
    assert f"A network on your images: {len(lines)} lines" in PAGE.read_text(encoding="utf-8")
    assert max(map(len, lines)) <= 100
    # `flwr run` looks for the two halves in the text, and finds plain assignments alone.
    targets = [
        node.targets[0] for node in ast.parse(program.code).body if isinstance(node, ast.Assign)
    ]
    assert {"client", "server"} <= {t.id for t in targets if isinstance(t, ast.Name)}


def test_a_compressor_takes_fewer_than_twenty_lines() -> None:
    page = GUIDES / "your-own-compressor.md"
    (program,) = [block for block in blocks(page) if block.code.startswith("# signs.py\n")]
    lines = [line for line in program.code.splitlines()[1:] if line.strip()]
    assert len(lines) < 20
    assert f"The one below has {len(lines)} lines." in page.read_text(encoding="utf-8")


def test_the_block_for_the_hub_runs_with_a_table_in_its_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    datasets = pytest.importorskip("datasets")
    image = pytest.importorskip("PIL.Image")
    hub_of = pytest.importorskip("flwr_datasets.federated_dataset")
    asked = []
    columns = datasets.Features(
        image=datasets.Image(), label=datasets.ClassLabel(names=[str(k) for k in range(10)])
    )
    pixels = np.arange(900 * 16).reshape(900, 4, 4).astype("uint8")
    train = datasets.Dataset.from_dict(
        {
            "image": [image.fromarray(one) for one in pixels],
            "label": [row % 10 for row in range(900)],
        },
        features=columns,
    )

    def load_dataset(path: str, **options: Any) -> Any:
        asked.append(path)
        return datasets.DatasetDict(train=train)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    # It reports its use to Flower, from a thread that lasts as long as the process.
    monkeypatch.setattr(hub_of, "event", lambda *what: None)
    (hub,) = [block for block in blocks(PAGE) if block.language == "py"]
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 10))
    page: dict[str, Any] = {"__name__": "page", "nn": nn, "net": net}
    exec(compile(hub.code, str(PAGE), "exec"), page)

    assert not asked, "nothing is downloaded before a client asks"
    strategy = FedAvg(local_steps=2, stepsize=0.1, num_clients=10)
    result = strategy.start(
        CohortGrid(page["app"], num_clients=10),
        ArrayRecord(net.state_dict()),
        num_rounds=2,
    )
    assert asked == ["ylecun/mnist"]
    assert sum(len(page["rows"](client)[1]) for client in range(10)) == len(train)
    assert page["rows"](0)[0].shape[1:] == (1, 4, 4)
    losses = [result.evaluate_metrics_clientapp[round]["loss"] for round in (1, 2)]
    assert losses[1] < losses[0]
