import logging
import random
from pathlib import Path

import pytest

from fedstrategies.cli import main as command_line


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


@pytest.fixture
def fedstrategies(capsys):
    """Call the command; (exit code, standard output, standard error)."""
    # The command sets how much its process logs; the tests after it are of the same process.
    logger = logging.getLogger("flwr")
    level = logger.level

    def call(*arguments):
        with pytest.raises(SystemExit) as exit:
            command_line.main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return exit.value.code, captured.out, captured.err

    yield call
    logger.setLevel(level)


@pytest.fixture
def problem(libsvm_file):
    return ("--dataset", libsvm_file, "--clients", 4, "--rounds", 8, "--compressor", "rand-k:k=2")
