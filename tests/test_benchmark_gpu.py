"""The GPU benchmark, small: where there is no CUDA, what does not need it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.gpu.__main__ import BEGIN, END, TOLERANCE, Found, measure, report
from benchmarks.gpu.executions import EXECUTIONS, Suite, make
from benchmarks.gpu.task import SCALES, Task

ROOT = Path(__file__).parents[1]
DEVICES = [
    "cpu",
    pytest.param(
        "cuda",
        marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device"),
    ),
]


@pytest.mark.parametrize("device", DEVICES)
def test_all_executions_end_with_the_loops_weights(device: str) -> None:
    task = Task("linear", SCALES["small"], torch.device(device))
    found = measure(task, EXECUTIONS, rounds=1, repeats=1)
    for name, one in found.items():
        if name == "graphed" and device == "cpu":
            assert "CUDA" in one.error
            assert not one.counts
        else:
            assert one.counts, f"{name}: {one.error or one.distance}"
            assert len(one.medians) == 1
    text = report(task, "linear", found, rounds=1)
    assert "| looped |" in text
    assert "30,730 parameters" in text


def test_other_arithmetic_has_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Suite, "round", lambda self, x, round: 0.5 * x)
    task = Task("linear", SCALES["small"], torch.device("cpu"))
    found = measure(task, ("looped", "fedstrategies"), rounds=1, repeats=1)
    assert found["fedstrategies"].distance > TOLERANCE
    (line,) = [
        line
        for line in report(task, "linear", found, rounds=1).splitlines()
        if line.startswith("| fedstrategies |")
    ]
    assert "too far to count" in line
    assert line.count("| - ") == 3


def test_what_cannot_run_is_said_and_the_others_go_on() -> None:
    assert not Found().counts
    with pytest.raises(ValueError, match="not one of"):
        make("unrolled", Task("linear", SCALES["small"], torch.device("cpu")))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_cuda_the_command_says_what_to_do(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"{BEGIN}\nold\n{END}\n", encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu", "--output", str(page)],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == 2
    assert "--device cpu --scale small" in done.stderr
    assert "old" in page.read_text(encoding="utf-8")
