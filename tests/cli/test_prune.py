from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from fedstrategies.language import load_sparse
from tests.language.tiny import tiny_llama, write_tiny

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def given(tmp_path: Path) -> tuple[object, ...]:
    path, text = write_tiny(tmp_path), tmp_path / "text.txt"
    return (path, "--eval", text, "--calibration", text, "--calibration-samples", 5, "--length", 16)


def test_one_method_leaves_a_summary_and_a_sparse_model(
    fedstrategies: Call, given: tuple[object, ...], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    code, shown, progress = fedstrategies(
        "prune", *given, "--method", "r2-dsnot", "--sparsity", 0.5, "--out", out
    )
    assert code == 0
    assert "dense" in shown
    assert "r2-dsnot" in shown
    assert "r2-dsnot  14/14" in progress
    summary = json.loads((out / "summary.json").read_text())
    assert summary["method"] == "r2-dsnot"
    assert (summary["pattern"], summary["sparsity"], summary["layers"]) == ("0.5", 0.5, 14)
    for name in ("perplexity_dense", "perplexity", "seconds", "peak_memory_bytes"):
        assert summary[name] > 0
    assert summary["perplexity"] != summary["perplexity_dense"]
    arrays, dense = load_sparse(out / "model.safetensors"), tiny_llama().state_dict()
    assert arrays.keys() == dense.keys()
    zeros = 0
    for name, value in arrays.items():
        kept = value != 0
        assert torch.equal(value[kept], dense[name][kept])
        zeros += int((~kept).sum())
    assert zeros == summary["weights"] // 2


def test_several_methods_start_from_the_dense_model(
    fedstrategies: Call, given: tuple[object, ...], tmp_path: Path
) -> None:
    methods = ("--method", "magnitude", "--method", "ria:p=2", "--pattern", "2:4")
    code, shown, _ = fedstrategies("prune", *given, *methods, "--out", tmp_path / "both")
    assert code == 0
    assert "ria:p=2" in shown
    both = json.loads((tmp_path / "both" / "summary.json").read_text())["methods"]
    assert [summary["pattern"] for summary in both] == ["2:4", "2:4"]
    fedstrategies("prune", *given, *methods[2:], "--out", tmp_path / "alone", "--quiet")
    alone = json.loads((tmp_path / "alone" / "summary.json").read_text())
    assert alone["perplexity"] == both[1]["perplexity"]
    one = load_sparse(tmp_path / "alone" / "model.safetensors")
    other = load_sparse(tmp_path / "both" / "ria_p_2" / "model.safetensors")
    assert all(torch.equal(value, other[name]) for name, value in one.items())


def test_quiet_and_overwrite(
    fedstrategies: Call, given: tuple[object, ...], tmp_path: Path
) -> None:
    again = (*given, "--method", "ri", "--sparsity", 0.5, "--out", tmp_path / "out", "--quiet")
    assert fedstrategies("prune", *again) == (0, "", "")
    (tmp_path / "out" / "notes.txt").write_text("mine")
    other = tmp_path / "out" / "another-run"
    other.mkdir()
    for name in ("model.safetensors", "summary.json"):
        (other / name).write_text("mine")
    code, _, error = fedstrategies("prune", *again)
    assert code == 2
    assert "is not empty; add --overwrite" in error
    assert fedstrategies("prune", *again, "--overwrite") == (0, "", "")
    assert (tmp_path / "out" / "notes.txt").read_text() == "mine"
    assert [path.read_text() for path in other.iterdir()] == ["mine", "mine"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--method", "ria"], "give either --sparsity or --pattern"),
        (["--method", "ria", "--sparsity", "0.5", "--pattern", "2:4"], "give either"),
        (["--method", "ria", "--sparsity", "1.5"], "--sparsity: 1.5 is not between 0 and 1"),
        (["--method", "ria", "--pattern", "2-4"], "--pattern: pattern '2-4'"),
        (["--method", "ria", "--pattern", "5:7"], "16 inputs are no multiple of 7"),
        (["--method", "sparsegpt", "--sparsity", "0.5"], "--method: 'sparsegpt': the pruning"),
        (["--method", "ri", "--method", "ri", "--sparsity", "0.5"], "one is given twice"),
        (["--method", "ri", "--sparsity", "0.5", "--skip", "x"], "no linear layer is called 'x'"),
        (["--method", "ri", "--sparsity", "0.5", "--length", "99"], "the context is 32"),
        (["--method", "ri", "--sparsity", "0.5", "--device", "abacus"], "--device: abacus"),
        (["--method", "ri", "--sparsity", "0.5", "--eval", "{nowhere}"], "cannot be read"),
        (["--method", "ri", "--sparsity", "0.5", "--tokenizer", "{nowhere}"], "cannot be read"),
        (["--sparsity", "0.5"], "--method"),
    ],
)
def test_wrong_input_is_one_line(
    fedstrategies: Call,
    given: tuple[object, ...],
    tmp_path: Path,
    arguments: list[str],
    words: str,
) -> None:
    nowhere = tmp_path / "nowhere"
    arguments = [text.replace("{nowhere}", str(nowhere)) for text in arguments]
    code, shown, error = fedstrategies("prune", *given, *arguments, "--out", tmp_path / "out")
    assert code == 2
    assert shown == ""
    assert error.count("\n") == 1
    assert words in error
    assert not (tmp_path / "out").exists()


def test_a_method_with_activations_needs_a_text(
    fedstrategies: Call, given: tuple[object, ...]
) -> None:
    code, _, error = fedstrategies("prune", *given[:3], "--method", "wanda", "--sparsity", 0.5)
    assert code == 2
    assert error == "fedstrategies: --calibration: wanda needs a text to calibrate on\n"
