"""How long the rest of a run takes: by a clock that is set by hand."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from fedstrategies.experiment import config_from_mapping, run, runner
from fedstrategies.experiment import progress as progress_module
from fedstrategies.experiment.doctor.memory import warn_of_memory
from fedstrategies.experiment.forecast import Forecast, format_duration
from fedstrategies.experiment.preparation import prepare
from fedstrategies.experiment.progress import progress, sweep_progress
from fedstrategies.experiment.sweep_results import Cell


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """That of the progress display as well."""
    found = Clock()

    class Time:
        monotonic = found

    monkeypatch.setattr(progress_module, "time", Time)
    monkeypatch.setattr(
        progress_module, "Forecast", lambda *a, **given: Forecast(*a, **given, clock=found)
    )
    return found


def test_the_first_round_does_not_count() -> None:
    clock = Clock()
    forecast = Forecast(1000, clock=clock)
    forecast.seen(0)
    for number in range(1, 41):
        clock.now += 5.0 if number == 1 else 0.1
        forecast.seen(number)
    assert forecast.left == pytest.approx(960 * 0.1)
    assert (forecast.first, forecast.last) == (2, 40)


def test_nothing_is_said_before_it_is_known() -> None:
    clock = Clock()
    forecast = Forecast(100, clock=clock)
    assert forecast.left is None
    for number in range(10):
        forecast.seen(number)
        clock.now += 0.5
        assert forecast.left is None
    forecast.seen(10)
    assert forecast.left == pytest.approx(90 * 0.5)


def test_one_slow_round_is_enough() -> None:
    clock = Clock()
    forecast = Forecast(3, clock=clock)
    forecast.seen(0)
    clock.now += 300
    forecast.seen(1)
    assert forecast.left == pytest.approx(600)
    clock.now += 200
    forecast.seen(2)
    assert forecast.left == pytest.approx(200)
    forecast.seen(3)
    assert forecast.left == 0


def test_what_an_earlier_process_did_took_no_time_here() -> None:
    clock = Clock()
    forecast = Forecast(100, clock=clock)
    for number in range(81, 92):  # the first record after a checkpoint is of round 81
        forecast.seen(number)
        clock.now += 1
    assert forecast.left == pytest.approx(9)
    assert (forecast.first, forecast.last) == (83, 91)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min"),
        (700, "12 min"),
        (3599, "1 h"),
        (12000, "3 h 20 min"),
        (86400, "1 d"),
        (100000, "1 d 4 h"),
    ],
)
def test_durations_for_reading(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


def shown(clock: Clock, rounds: int, seconds: float) -> None:
    with progress("efbv", rounds) as (observe,):
        for number in range(rounds + 1):
            observe({"round": number, "loss": 0.5, "uplink_bytes": number})
            clock.now += seconds


def test_a_long_run_is_told_once(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    shown(clock, 1000, 0.5)
    lines = capsys.readouterr().err.splitlines()
    (told,) = [line for line in lines if "measured over" in line]
    assert told.startswith("efbv  about 8 min left, measured over rounds 2 to 10; this process has")
    assert told.endswith("are free")
    assert lines.index(told) == 1
    assert lines[2] == "efbv  round 60/1000  loss 0.5  uplink 60 B  8 min left"
    assert lines[-1].endswith("loss 0.5  uplink 1 kB")


def test_a_short_one_is_not(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    shown(clock, 100, 0.5)
    assert "measured over" not in capsys.readouterr().err


def test_a_sweep_counts_the_cells_of_this_process(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    cell = Cell(values={"l2": "0.1"}, status="done")
    with sweep_progress("sppm", 20, kept=10) as finished:
        for _ in range(10):
            finished(cell)
        for _ in range(2):
            clock.now += 30
            finished(cell)
    lines = capsys.readouterr().err.splitlines()
    assert lines[9] == "sppm  cell 10/20  l2=0.1: done"
    assert lines[10].startswith("sppm  about 4 min left, measured over cell 11; this")
    assert lines[11] == "sppm  cell 11/20  l2=0.1: done  4 min left"
    assert lines[12].endswith("4 min left")


# Memory


@pytest.fixture
def given(libsvm_file: Path, tmp_path: Path) -> dict[str, object]:
    return {
        "algorithm": "efbv",
        "dataset": str(libsvm_file),
        "clients": 4,
        "compressor": "rand-k:k=2",
        "rounds": 5,
        "out": str(tmp_path / "out"),
    }


# 4 clients x 6 numbers of 8 bytes, and 40 rows of 6 and a label, twice.
NEEDED = 4 * 6 * 8 + 2 * 40 * 7 * 8


@pytest.mark.parametrize(
    ("free", "words"),
    [
        (None, None),
        (NEEDED - 1, "memory: more than is free: client memories 4 x 6 x 8 bytes"),
        (NEEDED + 1, "memory: nearly all that is free"),
        (2 * NEEDED, None),
        (100 * NEEDED, None),
    ],
)
def test_memory_that_is_not_there_is_told_before_the_first_round(
    given: dict[str, object], caplog: pytest.LogCaptureFixture, free: int | None, words: str | None
) -> None:
    prepared = prepare(config_from_mapping(given))
    with caplog.at_level(logging.WARNING, logger="flwr"):
        warn_of_memory(prepared, free)
    found = [entry.getMessage() for entry in caplog.records]
    assert not found if words is None else found[0].startswith(words)
    assert all("fewer --clients" in text for text in found)


def test_looking_at_the_memory_changes_nothing(
    given: dict[str, object],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    histories = []
    for free in (1 << 50, 1):
        monkeypatch.setattr(runner, "available_memory", lambda free=free: free)
        run(config_from_mapping({**given, "overwrite": True}))
        lines = (tmp_path / "out/history.jsonl").read_text().splitlines()
        histories.append([{**json.loads(line), "seconds": 0} for line in lines])
    assert "memory: more than is free" in caplog.text
    assert histories[0] == histories[1]
