import logging
import random
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def _log_level() -> Iterator[None]:
    """The command line sets it for its process."""
    logger = logging.getLogger("flwr")
    before = logger.level
    yield
    logger.setLevel(before)


@pytest.fixture
def libsvm_file(tmp_path: Path) -> Path:
    """40 rows of 6 features, two classes."""
    draw = random.Random(0)
    lines = []
    for row in range(40):
        entries = " ".join(f"{j}:{draw.uniform(-1, 1):.4f}" for j in range(1, 7))
        lines.append(f"{1 + row % 2} {entries}")
    path = tmp_path / "small.libsvm"
    path.write_text("\n".join(lines) + "\n")
    return path
