"""The reproduction of Cohort Squeeze: its jobs, its costs and its page, on made-up rows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from simulations.reproduce.sppm.__main__ import main
from simulations.reproduce.sppm.costs import PRICES, cells_of, cheapest
from simulations.reproduce.sppm.jobs import jobs, read_rows
from simulations.reproduce.sppm.networks import network_jobs
from simulations.reproduce.sppm.passages import Job, passages
from simulations.reproduce.sppm.problems import DATASETS, SPLITS, bench
from simulations.reproduce.sppm.report import MARKERS, write_report

pytest.importorskip("matplotlib", reason="the extra 'plots' is not installed")
pytest.importorskip("sklearn", reason="the extra 'data' is not installed")


def row(method: str, seed: int, rounds: int | None, cohorts: int = 1, **settings: object) -> dict:
    known = {
        "dataset": "mushrooms",
        "split": "clusters",
        "sampling": "stratified",
        "method": method,
        "solver": "lbfgs" if method == "sppm" else "",
        "gamma": "100" if method == "sppm" else "",
        "inner_rounds": 1,
        "local_steps": 1,
        "stepsize": "" if method == "sppm" else "theory",
        "seed": seed,
    }
    reached = {} if rounds is None else {"gap:0.005": [rounds, cohorts]}
    return {**known, **settings, "passages": reached}


def test_every_job_is_there_once() -> None:
    for dataset in DATASETS:
        for split in SPLITS:
            found = list(jobs(dataset, split))
            assert len({job.key for job in found}) == len(found) > 500
            assert all(Job.of(json.loads(json.dumps(job.__dict__))) == job for job in found)
    assert len({job.name for job in network_jobs()}) == len(network_jobs())


def test_costs_are_medians_and_a_seed_that_fails_counts() -> None:
    rows = [
        *(row("sppm", seed, rounds, 2, inner_rounds=5) for seed, rounds in enumerate((10, 10, 15))),
        *(row("sppm", seed, rounds, 1, inner_rounds=2) for seed, rounds in enumerate((2, 2, None))),
        *(row("localgd", seed, rounds, rounds) for seed, rounds in enumerate((39, 40, 38))),
    ]
    best = cheapest(cells_of(rows, method="sppm"), "gap:0.005", PRICES["flat"])
    assert best is not None
    assert best.text == "10 (K = 5, γ = 100)"
    hierarchical = cheapest(cells_of(rows, method="sppm"), "gap:0.005", PRICES["c1 = 0.1"])
    assert hierarchical is not None
    assert hierarchical.cost == pytest.approx(0.1 * 10 + 2)
    local = cells_of(rows, method="localgd")
    assert [cell.cost("gap:0.005", PRICES["c2 T"]) for cell in local] == [39.0]
    assert cheapest(local, "gap:0.05", PRICES["flat"]) is None


def test_the_page_has_tables_and_pictures_of_what_is_there(tmp_path: Path) -> None:
    runs, page = tmp_path / "runs", tmp_path / "results" / "sppm.md"
    page.parent.mkdir()
    page.write_text("# Results\n\n" + "\n".join(MARKERS) + "\n\nProse.\n")
    runs.mkdir()
    rows = [
        row(method, seed, rounds, cohorts, sampling=sampling)
        for sampling in ("nice", "stratified", "full")
        for method, rounds, cohorts in (("sppm", 10, 1), ("localgd", 39, 39))
        for seed in range(3)
    ]
    lines = [json.dumps(one) for one in rows]
    (runs / "mushrooms-clusters.jsonl").write_text("\n".join(lines) + '\n{"cut sho')
    assert len(read_rows(runs, "mushrooms", "clusters")) == len(rows)
    write_report(runs, page)
    text = page.read_text()
    assert "74.4 % (10 of 39)" in text
    assert "| 94.9 % (2 of 39) |" in text
    assert "The networks have not been run." in text
    assert text.endswith("Prose.\n")
    assert (page.parent / "sppm" / "mushrooms.png").stat().st_size > 10_000
    write_report(runs, page)
    assert page.read_text() == text


def test_wrong_input_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--only", "a6a", "--runs", str(tmp_path)]) == 2
    assert "--data DIR is missing" in capsys.readouterr().err
    assert main(["--only", "a6a", "--data", str(tmp_path), "--runs", str(tmp_path)]) == 2
    assert "a6a" in capsys.readouterr().err
    page = tmp_path / "page.md"
    page.write_text("no markers")
    assert main(["--only", "--page", str(page)]) == 2


def test_the_published_baseline_and_a_cohort_squeezed_to_one(tmp_path: Path) -> None:
    """Mini-batch GD takes the published 39 rounds; one stratified cohort takes K = 10."""
    one = bench(tmp_path, "mushrooms", "clusters")
    place = {"dataset": "mushrooms", "split": "clusters"}
    descent = Job(**place, sampling="nice", method="localgd", stepsize="theory")
    assert passages(descent, one)["passages"]["gap:0.005"] == [39, 39]
    squeezed = Job(
        **place, sampling="stratified", method="sppm", solver="cg", gamma="1000", inner_rounds=10
    )
    assert passages(squeezed, one)["passages"]["gap:0.005"] == [10, 1]
