"""`--log tensorboard`: what its own reader finds is the history."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from fedstrategies.experiment import config_from_mapping, read_history, run
from fedstrategies.experiment.history import HistoryRecord
from fedstrategies.experiment.options import ConfigError
from fedstrategies.experiment.results import Summary
from fedstrategies.experiment.writing import WriteError

pytest.importorskip("tensorboard")


@pytest.fixture
def given(libsvm_file: Path, tmp_path: Path) -> dict[str, object]:
    return {
        "algorithm": "efbv",
        "dataset": str(libsvm_file),
        "clients": 4,
        "compressor": "rand-k:k=2",
        "rounds": 12,
        "fstar": "solve",
        "out": str(tmp_path / "out"),
        "quiet": True,
        "log": "tensorboard",
    }


def scalars(out: Path) -> dict[str, dict[int, float]]:
    """Name -> round -> value, as TensorBoard's reader has them."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    reader = EventAccumulator(str(out / "tensorboard"), size_guidance={"scalars": 0})
    reader.Reload()
    found = {}
    for name in reader.Tags()["scalars"]:
        events = reader.Scalars(name)
        found[name] = {event.step: event.value for event in events}
        assert len(found[name]) == len(events)  # each round once
    return found


def expected(records: list[HistoryRecord]) -> dict[str, dict[int, float]]:
    found: dict[str, dict[int, float]] = {}
    for record in records:
        ways = sum(record[f"{way}_bytes"] for way in ("uplink", "downlink", "recovery"))
        for name, value in {**record, "total_bytes": ways}.items():
            found.setdefault(name, {})[int(record["round"])] = pytest.approx(value, rel=1e-6)
    del found["round"]
    return found


def test_the_events_are_the_history(given: dict[str, object], tmp_path: Path) -> None:
    assert run(config_from_mapping(given)).status == "done"
    found = scalars(tmp_path / "out")
    assert found == expected(read_history(tmp_path / "out/history.jsonl"))
    assert set(found) >= {"loss", "gap", "accuracy", "uplink_bytes", "total_bytes", "seconds"}
    assert set(found["loss"]) == set(range(13))
    assert set(found["accuracy"]) == {0, 10, 12}


def test_what_private_clients_spend_is_logged(given: dict[str, object], tmp_path: Path) -> None:
    private = {"epsilon": 4, "max-grad-norm": 1, "clip-rows": 1, "fstar": "", "stepsize": 0.1}
    run(config_from_mapping({**given, **private, "compressor": "identity"}))
    found = scalars(tmp_path / "out")
    assert found == expected(read_history(tmp_path / "out/history.jsonl"))
    assert 0 < found["epsilon_max"][12] <= 4


@pytest.mark.parametrize("before", ["tensorboard", ""])
def test_it_survives_a_resumption(given: dict[str, object], tmp_path: Path, before: str) -> None:
    def stop(record: HistoryRecord) -> bool:
        if record["round"] == 8:
            raise KeyboardInterrupt
        return False

    first = config_from_mapping({**given, "log": before, "checkpoint-every": 5})
    with pytest.raises(KeyboardInterrupt):
        run(first, observers=[stop])
    assert len(read_history(tmp_path / "out/history.jsonl")) == 9
    run(config_from_mapping({**given, "checkpoint-every": 5, "resume": True}))
    records = read_history(tmp_path / "out/history.jsonl")
    assert len(records) == 13
    assert scalars(tmp_path / "out") == expected(records)


def test_overwriting_a_run_removes_its_events(given: dict[str, object], tmp_path: Path) -> None:
    run(config_from_mapping(given))
    run(config_from_mapping({**given, "log": "", "overwrite": True}))
    assert not list((tmp_path / "out/tensorboard").iterdir())


def test_without_the_package_nothing_is_written(
    given: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == "tensorboard" else find(name)
    )
    with pytest.raises(ConfigError, match=r'pip install "fedstrategies\[tensorboard\]"'):
        run(config_from_mapping(given))
    assert not (tmp_path / "out").exists()


def test_events_that_cannot_be_written_are_told(given: dict[str, object], tmp_path: Path) -> None:
    def occupy(record: HistoryRecord) -> None:
        (tmp_path / "out/tensorboard").touch()

    with pytest.raises(WriteError, match="out/tensorboard: cannot be written"):
        run(config_from_mapping(given), observers=[occupy])
    assert Summary.read(tmp_path / "out").status == "failed"
