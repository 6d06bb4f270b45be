"""The measurement of post-training pruning: cells are kept, and the page says what they say."""

from __future__ import annotations

import json
from dataclasses import asdict
from math import log
from pathlib import Path

import pytest

from benchmarks import pruning as scoring
from fedstrategies.pruning import parse_method
from simulations.reproduce.pruning.cells import METHODS, Cell, label, measure, read_cells
from simulations.reproduce.pruning.report import BEGIN, END, write_report
from tests.language.tiny import TEXT, tiny_llama, write_checkpoint, write_tokenizer

PAGE = Path(__file__).parents[1] / "docs" / "results" / "pruning.md"


def cell(method: str, pattern: str, seed: int, perplexity: float) -> Cell:
    return Cell(
        method=method,
        pattern=pattern,
        seed=seed,
        stories=log(perplexity),
        wiki=log(2 * perplexity),
        seconds=1.0,
        scoring_seconds=0.5,
    )


def keep(runs: Path, *cells: Cell) -> None:
    runs.mkdir(exist_ok=True)
    for one in cells:
        (runs / f"{one.name}.json").write_text(json.dumps(asdict(one)))


def test_every_method_is_one_and_has_a_label_of_its_own() -> None:
    assert all(parse_method(method.format(seed=3)) for method in METHODS)
    assert len({label(method) for method in METHODS}) == len(METHODS)
    assert label("stochria:seed={seed},per=row") == "stochria:per=row"


def test_the_page_says_what_was_measured(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}old{END}\nafter\n")
    runs = tmp_path / "runs"
    keep(
        runs,
        cell("dense", "0", 0, 5.0),
        cell("magnitude", "0.5", 0, 44.0),
        *(cell("wanda", pattern, 0, 20.0) for pattern in ("0.5", "0.6", "0.7", "2:4")),
        cell("wanda", "0.5", 1, 24.0),
    )
    write_report(runs, page)
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "held-out stories, dense 5.00" in text
    assert "WikiText-2, dense 10.00" in text
    assert "| `wanda` | 22 (20 to 24) | 20 | 20 | 20 |" in text
    assert "| `magnitude` | 44 | - | - | - |" in text
    assert "- 0.5: `wanda`, `magnitude`" in text
    assert "| `wanda` | 0.500 | 1.00 |" in text
    assert (tmp_path / "pruning" / "perplexity.png").stat().st_size > 1000


def test_cells_are_measured_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, told = tmp_path / "data", []
    (data / "tinylm").mkdir(parents=True)
    (data / "lm").mkdir()
    write_checkpoint(tiny_llama(), data / "tinylm" / "stories260K.bin")
    write_tokenizer(data / "tinylm" / "tok512.bin")
    (data / "tinylm" / "tinystories_sample.txt").write_text(f"{TEXT}\n" * 8)
    (data / "lm" / "wiki.txt").write_text(TEXT * 4)
    cells = "simulations.reproduce.pruning.cells"
    monkeypatch.setattr(f"{cells}.WIKI", Path("lm/wiki.txt"))
    monkeypatch.setattr(f"{cells}.METHODS", ("magnitude", "ria", "stochri:seed={seed}"))
    monkeypatch.setattr(f"{cells}.SAMPLES", 4)
    monkeypatch.setattr(f"{cells}.LENGTH", 16)
    runs = tmp_path / "runs"
    measure(data, runs, patterns=["2:4"], report=told.append)
    found = read_cells(runs)
    # The dense model, one of magnitude, three of each that draws or calibrates.
    assert len(told) == len(found) == 1 + 1 + 3 + 3
    by_seed = {one.seed: one.stories for one in found if one.method == "ria"}
    assert len(set(by_seed.values())) == 3
    measure(data, runs, patterns=["2:4"], report=told.append)
    assert len(told) == 8
    (runs / "2_4-ria-1.json").unlink()
    measure(data, runs, patterns=["2:4"], report=told.append)
    assert len(told) == 9
    again = {one.seed: one.stories for one in read_cells(runs) if one.method == "ria"}
    assert again == by_seed


def test_a_file_that_is_no_cell_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("{")
    with pytest.raises(ValueError, match=r"x\.json: not a cell; delete it"):
        read_cells(tmp_path)
    with pytest.raises(ValueError, match="nothing was measured"):
        write_report(tmp_path / "none", PAGE)


def test_calibration_is_compared_in_one_run() -> None:
    section = scoring.calibration_report([1, 2], 2)
    rows = [line for line in section.splitlines() if line.startswith(("| 1 |", "| 2 |"))]
    assert len(rows) == 2
    text = PAGE.read_text(encoding="utf-8")
    assert all(text.count(marker) == 1 for marker in scoring.CALIBRATION)


def test_scoring_is_compared_in_one_run() -> None:
    section = scoring.report((16, 24), 2)
    assert "| RIA |" in section
    assert "1.00 (1.00 to 1.00)" in section
    assert section.count("| stochRIA, ") == 4
    text = PAGE.read_text(encoding="utf-8")
    assert text.count(scoring.BEGIN) == text.count(scoring.END) == 1
