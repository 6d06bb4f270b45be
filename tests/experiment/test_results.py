import json
import math

import pytest

from fedstrategies.experiment.efbv_config import EFBVConfig
from fedstrategies.experiment.options import ConfigError
from fedstrategies.experiment.results import (
    Summary,
    check_directory,
    choose_directory,
    open_directory,
)


def test_default_folders_are_numbered(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = EFBVConfig(algorithm="ef21", seed=3)
    first = choose_directory(config)
    assert str(first) == "runs/ef21-mushrooms-3"
    open_directory(first, overwrite=False)
    assert choose_directory(config) == first  # an empty folder is free
    (first / "summary.json").touch()
    assert choose_directory(config).name == "ef21-mushrooms-3-2"
    (tmp_path / "runs" / "ef21-mushrooms-3-2").mkdir()
    (tmp_path / "runs" / "ef21-mushrooms-3-2" / "file").touch()
    assert choose_directory(config).name == "ef21-mushrooms-3-3"


def test_overwrite_removes_only_a_runs_files(tmp_path):
    (tmp_path / "history.jsonl").write_text("old")
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="--overwrite"):
        open_directory(tmp_path, overwrite=False)
    open_directory(tmp_path, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_what_a_killed_process_left_of_its_start_is_nothing(tmp_path):
    for name in (".lock", ".config.toml"):
        (tmp_path / name).touch()
        check_directory(tmp_path, overwrite=False)
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ConfigError, match="not empty"):
        check_directory(tmp_path, overwrite=False)


def test_a_file_in_the_way(tmp_path):
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ConfigError, match="not a folder"):
            check_directory(path, overwrite=True)


def test_summary_round_trip_without_what_json_cannot_say(tmp_path):
    summary = Summary(
        status="done",
        algorithm="gd",
        dataset="mushrooms",
        backend="cohort",
        clients=2,
        dimension=3,
        out=str(tmp_path),
        last={"round": 1, "loss": 0.5},
        theory={"s": math.inf, "gamma": 0.25},
        stepsize=math.nan,
    )
    (tmp_path / "summary.json").write_text(summary.to_json())
    values = json.loads((tmp_path / "summary.json").read_text(), parse_constant=pytest.fail)
    assert values["theory"] == {"gamma": 0.25}
    assert "stepsize" not in values
    assert Summary.read(tmp_path).last == summary.last


def test_reading_what_is_not_a_summary(tmp_path):
    with pytest.raises(ValueError, match="cannot be read"):
        Summary.read(tmp_path)
    (tmp_path / "summary.json").write_text('{"status": "done"}')
    with pytest.raises(ValueError, match="not the summary"):
        Summary.read(tmp_path)
