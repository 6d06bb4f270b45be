"""The comparison of criteria for P_i: its runs are valid, and the page says what they say."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedstrategies.experiment import Summary, config_from_mapping
from simulations.reproduce.fedp3.criteria_jobs import CRITERIA, KEEPS, criterion_jobs
from simulations.reproduce.fedp3.criteria_report import BEGIN, END, write_criteria
from simulations.reproduce.fedp3.report import MARKERS, write_report

PAGE = Path(__file__).parents[1] / "docs" / "results" / "pruning.md"


def finished(runs: Path) -> None:
    """A summary for each run: accuracies that differ by criterion, share and seed."""
    for job in criterion_jobs():
        accuracy = 0.5 + 0.1 * job.keep + 0.02 * CRITERIA.index(job.criterion) + 0.01 * job.seed
        uplink = 2_000_000 if job.criterion == "magnitude" else 3_000_000
        summary = Summary(
            status="done",
            algorithm="fedp3",
            dataset="images",
            backend="cohort",
            clients=20,
            dimension=10,
            out="",
            last={"round": 20, "accuracy": accuracy, "uplink_bytes": uplink},
        )
        folder = runs / job.name
        folder.mkdir(parents=True)
        (folder / "summary.json").write_text(summary.to_json())


def test_every_run_is_one_of_its_own_and_its_options_are_valid(tmp_path: Path) -> None:
    jobs = list(criterion_jobs())
    assert len({job.name for job in jobs}) == len(jobs) == 3 * 2 * (1 + len(KEEPS) * len(CRITERIA))
    for job in jobs[:17]:
        config = config_from_mapping(job.settings(Path("images"), tmp_path / job.name))
        assert config.pruning == job.criterion  # type: ignore[attr-defined]
        assert config.keep == job.keep  # type: ignore[attr-defined]
        assert config.layers == "lowerb"  # type: ignore[attr-defined]


def test_the_page_says_what_was_measured(tmp_path: Path) -> None:
    page, runs = tmp_path / "page.md", tmp_path / "runs"
    page.write_text(f"before\n{BEGIN}old{END}\nafter\n")
    with pytest.raises(ValueError, match="102 runs of criteria are missing"):
        write_criteria(runs, page)
    finished(runs)
    write_criteria(runs, page)
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "Server's model on S1; nothing pruned: 61.0 (60.0 to 62.0) %." in text
    assert "| 0.5 | 56.0 (55.0 to 57.0) % | 58.0 (57.0 to 59.0) %" in text
    assert "| 2.00 MB | 3.00 MB |" in text
    assert (tmp_path / "pruning" / "criteria.png").stat().st_size > 1000


def test_the_published_page_has_its_markers() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert text.count(BEGIN) == text.count(END) == 1


def test_tables_stay_where_there_are_no_runs_to_report_of(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    before = f"{MARKERS[0]}\n\n| kept |\n\n{MARKERS[1]}\n"
    page.write_text(before)
    with pytest.raises(ValueError, match="no runs to report of"):
        write_report(tmp_path / "runs", page)
    assert page.read_text() == before
