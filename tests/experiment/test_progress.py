import io
import re

import pytest
from rich.console import Console

from fedstrategies.experiment import progress as progress_module
from fedstrategies.experiment.progress import describe_record, format_bytes, progress


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1234, "1.23 kB"),
        (5e6, "5 MB"),
        (7.7e9, "7.7 GB"),
        (2e12, "2 TB"),
    ],
)
def test_bytes_for_reading(count, text):
    assert format_bytes(count) == text


def test_a_record_shows_what_was_measured():
    record = {"round": 1, "loss": 0.25, "uplink_bytes": 1500, "seconds": 1.0}
    assert describe_record(record) == "loss 0.25  uplink 1.5 kB"
    assert "gap 0.125" in describe_record({**record, "gap": 0.125})


def test_what_was_spent_of_privacy_is_shown():
    record = {"round": 1, "loss": 0.25, "epsilon_max": 1.5, "uplink_bytes": 0}
    assert describe_record(record) == "loss 0.25  epsilon 1.5  uplink 0 B"


@pytest.fixture
def terminal(monkeypatch):
    """The display on a terminal of so many columns; what it drew, one line each."""

    def draw(width, rounds, record):
        console = Console(
            file=io.StringIO(), force_terminal=True, width=width, legacy_windows=False
        )
        monkeypatch.setattr(progress_module, "Console", lambda stderr: console)
        monkeypatch.setattr(progress_module, "_REFRESH_SECONDS", 0.0)
        with progress("efbv", rounds) as (observe,):
            for number in range(rounds + 1):
                observe({"round": number, **record})
        text = re.sub(r"\x1b\[[0-9;]*m", "", console.file.getvalue())
        lines = re.split(r"\r|\n|\x1b\[[0-9;?]*[a-zA-Z]", text)
        return [line.strip() for line in lines if line.strip()]

    return draw


RECORD = {"loss": 0.123456, "gap": 1.23456e-7, "accuracy": 0.98765, "uplink_bytes": 1_234_567}


@pytest.mark.parametrize(
    ("width", "shown"),
    [
        (140, "loss 0.1235  gap 1.235e-07  accuracy 0.9877  uplink 1.23 MB"),
        (80, "loss 0.1235  gap 1.235e-07  uplink 1.23 MB"),
        (60, "loss 0.1235  uplink 1.23 MB"),
    ],
)
def test_a_narrow_terminal_shows_what_matters_most(terminal, width, shown):
    lines = [line for line in terminal(width, 2, RECORD) if "loss" in line]
    assert all(line.endswith(shown) for line in lines)
    assert all(len(line) <= width for line in lines)
    assert lines[-1].startswith("efbv")
    assert "2/2" in lines[-1]


def test_plain_lines_are_few(capsys):
    with progress("efbv", 1000) as observers:
        for number in range(1001):
            for observe in observers:
                assert not observe({"round": number, "loss": 0.5, "uplink_bytes": number})
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 11
    assert lines[-1].startswith("efbv  round 1000/1000")


def test_quiet(capsys):
    with progress("efbv", 10, quiet=True) as observers:
        assert observers == []
    assert capsys.readouterr() == ("", "")
