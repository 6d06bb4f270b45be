"""The published reference runs, through the command line: EF21, top-k, mushrooms, 20 clients.

The numbers come from the EF-BV authors' own numpy implementation, confirmed there by an
independent loop: L = 2.6862142339 and L_tilde = 3.3938773746, 1000 steps from x0 = 0 with
h_i^0 = grad f_i(x0).
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fedstrategies.cli.main import app
from fedstrategies.experiment import read_history

REFERENCE = {
    1: (6.61698283e-4, 0.5417730520, 1.571785e-1),
    5: (3.39110351e-3, 0.3787109958, 1.790301e-2),
    56: (5.62200870e-2, 0.3442619917, 4.250365e-9),
}
PROBLEM = (
    *("--dataset", "mushrooms", "--clients", "20", "--partition", "contiguous"),
    *("--l2", "0.1", "--shift-init", "gradient"),
)


def run(out: Path, *options: str) -> dict[str, object]:
    done = CliRunner().invoke(
        app, ["run", "ef21", *PROBLEM, *options, "--quiet", "--out", str(out)]
    )
    assert done.exit_code == 0, done.output
    summary: dict[str, object] = json.loads((out / "summary.json").read_text())
    return summary


@pytest.mark.parametrize("k", REFERENCE)
def test_a_thousand_rounds_end_at_the_reference_value(k: int, tmp_path: Path) -> None:
    gamma, loss, gradient = REFERENCE[k]
    run(
        tmp_path / "out",
        *("--compressor", f"top-k:k={k}", "--rounds", "1000", "--stepsize", repr(gamma)),
    )
    last = read_history(tmp_path / "out" / "history.jsonl")[-1]
    assert last["round"] == 1000
    assert last["loss"] == pytest.approx(loss, abs=1e-9)
    # The reference gives seven digits of it.
    assert last["grad_norm_sq"] == pytest.approx(gradient, rel=1e-6)


@pytest.mark.parametrize("k", REFERENCE)
def test_the_theory_finds_the_reference_step_sizes(k: int, tmp_path: Path) -> None:
    summary = run(
        tmp_path / "out",
        *("--compressor", f"top-k:k={k}", "--rounds", "1", "--stepsize", "theory"),
        *("--smoothness", "L=2.6862142339,L_tilde=3.3938773746"),
    )
    assert summary["stepsize"] == pytest.approx(REFERENCE[k][0], abs=1e-9)


def test_without_overrides_the_exact_constants_are_used_and_reported(tmp_path: Path) -> None:
    summary = run(tmp_path / "out", "--compressor", "top-k:k=5", "--rounds", "1")
    constants = summary["smoothness"]
    assert isinstance(constants, dict)
    # L of the plain mean of the f_i; 2.6862142339 above is that of the pooled rows.
    assert constants["L"] == pytest.approx(2.6864126834, abs=1e-9)
    assert constants["L_tilde"] == pytest.approx(3.3938773746, abs=1e-9)
    assert summary["stepsize"] == pytest.approx(3.39110123e-3, abs=1e-10)
