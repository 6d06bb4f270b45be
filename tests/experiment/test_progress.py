import pytest

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
