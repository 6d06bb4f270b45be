"""The reproduction of Scafflix's experiments, on made-up runs."""

from __future__ import annotations

import gzip
import json
import struct
from pathlib import Path

import pytest

from fedstrategies.data import load_dataset
from fedstrategies.experiment import Summary
from simulations.reproduce.scafflix import convex, networks
from simulations.reproduce.scafflix.__main__ import main
from simulations.reproduce.scafflix.report import MARKERS, write_report

pytest.importorskip("matplotlib", reason="the extra 'plots' is not installed")


def pretend(runs: Path, job: networks.Job, accuracy: float) -> None:
    """A finished run of two measurements that ends at ``accuracy``."""
    out = runs / job.dataset / job.name
    out.mkdir(parents=True)
    records = [
        {
            "round": t,
            "accuracy": 0.1,
            "accuracy_personal": accuracy * t / 80,
            "accuracy_personal_worst_decile": 0.05,
            "uplink_bytes": 1000 * t,
        }
        for t in (0, 40, 80)
    ]
    (out / "history.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    summary = Summary(
        status="done",
        algorithm=job.method,
        dataset=job.dataset,
        backend="cohort",
        clients=3,
        dimension=4,
        out=str(out),
        last=records[-1],
    )
    (out / "summary.json").write_text(summary.to_json())


def test_the_table_has_every_method_weight_and_seed() -> None:
    for dataset in networks.DATASETS:
        steps = dict.fromkeys(networks.METHODS, 0.5)
        jobs = list(networks.jobs(dataset, steps))
        assert len(jobs) == len({job.name for job in jobs}) == 33
        for job in jobs:
            config = job.config(Path("source"), Path("out"))
            assert config.seed == job.seed
            assert config.alpha == job.alpha
            divisor = 1.0 if job.method != "flix" else (job.alpha or 1.0) ** 2
            assert config.stepsize == 0.5 / divisor
            assert config.rounds == 80


def test_the_tuned_step_is_the_best_of_its_grid(tmp_path: Path) -> None:
    for job in networks.tuning_jobs("fashion-mnist"):
        best = {"scafflix": 0.02, "flix": 0.05, "fedavg": 0.2}[job.method]
        pretend(tmp_path, job, 0.8 if job.stepsize == best else 0.5)
    found = networks.tuned("fashion-mnist", tmp_path)
    assert found == {"scafflix": 0.02, "flix": 0.05, "fedavg": 0.2}


def test_the_page_is_rewritten_from_the_runs_that_are_there(tmp_path: Path) -> None:
    runs, page = tmp_path / "runs", tmp_path / "page.md"
    for job in networks.tuning_jobs("shakespeare"):
        pretend(runs, job, 0.5)
    steps = networks.tuned("shakespeare", runs)
    for job in networks.jobs("shakespeare", steps):
        pretend(runs, job, 0.25 + 0.25 * (job.method == "scafflix") + 0.01 * job.seed)
    page.write_text(f"before\n{MARKERS[0]}\nkept\n{MARKERS[1]}\nold\n{MARKERS[2]}\nafter\n")
    write_report(runs, page)
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "kept" in text
    assert "old" not in text
    assert "| 0.3 | scafflix | 3 | 51.0 (50.0 to 52.0) % |" in text
    assert "| none | fedavg | 3 | 26.0 (25.0 to 27.0) % |" in text
    assert (tmp_path / "scafflix" / "shakespeare.png").stat().st_size > 10_000
    write_report(runs, page)
    assert page.read_text() == text


def test_a_page_without_markers_and_data_that_are_not_there_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.md"
    page.write_text("no markers")
    assert main(["--only", "--runs", str(tmp_path), "--page", str(page)]) == 2
    assert "markers" in capsys.readouterr().err
    assert main(["--only", "shakespeare", "--runs", str(tmp_path), "--page", str(page)]) == 2
    assert "--data" in capsys.readouterr().err
    given = ["--data", str(tmp_path / "none"), "--only", "shakespeare", "--runs", str(tmp_path)]
    assert main(given) == 2
    assert "no such file" in capsys.readouterr().err


def test_the_short_configuration_takes_the_first_rows(tmp_path: Path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    for split in ("train", "t10k"):
        images = bytes(range(256)) * 4 * 49
        header = struct.pack(">IIII", 2051, 64, 28, 28)
        with gzip.open(source / f"{split}-images-idx3-ubyte.gz", "wb") as file:
            file.write(header + images[: 64 * 784])
        with gzip.open(source / f"{split}-labels-idx1-ubyte.gz", "wb") as file:
            file.write(struct.pack(">II", 2049, 64) + bytes(i % 10 for i in range(64)))
    monkeypatch.setattr(networks, "_ROWS", {"train": 20, "t10k": 10})
    part = load_dataset(networks._first_rows(source, target))
    whole = load_dataset(source)
    assert len(part) == 20
    assert bool((part.features == whole.features[:20]).all())
    assert bool((part.labels == whole.labels[:20]).all())
    assert part.test is not None
    assert len(part.test[1]) == 10


def test_the_authors_data_have_an_intercept_and_the_other_labels(tmp_path: Path) -> None:
    path = tmp_path / "with.libsvm"
    convex._write_with_intercept(path)
    plain, found = load_dataset("mushrooms"), load_dataset(path)
    assert found.dimension == 113
    assert bool((found.features[:, :112] == plain.features).all())
    assert bool((found.features[:, 112] == 1).all())
    assert bool(((found.labels > 0) == (plain.labels == 1)).all())


def test_the_convex_table_names_each_curve_once() -> None:
    names = [panel.name for panel in convex.panels()]
    assert len(names) == len(set(names)) == 3 * 5 * (2 + len(convex.SEEDS))
