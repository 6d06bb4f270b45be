import pytest

from fedstrategies.experiment import comparison
from fedstrategies.experiment.options import options
from fedstrategies.experiment.problem_config import ProblemConfig
from fedstrategies.experiment.progress import format_bytes
from fedstrategies.experiment.results import Summary


def test_compare_networks_by_their_gradients(fedstrategies, problem, tmp_path):
    given = ("--model", "mlp", "--width", 3, "--stepsize", 0.2, "--out", tmp_path / "out")
    code, out, _ = fedstrategies("compare", "ef21", "gd", *problem, *given)
    assert code == 0
    assert "gd" in out
    assert Summary.read(tmp_path / "out" / "gd").fstar is None
    assert (tmp_path / "out" / "comparison.png").read_bytes().startswith(b"\x89PNG")


COMMON = [
    *(f"{entry.key}=1" for entry in options(ProblemConfig)),
    *("out=x", "overwrite=true", "quiet=true", "backend=flower", "fast=never", "fstar=0.1"),
    *("target-gap=1", "cost-outer=1", "algorithm=gd"),
]


@pytest.mark.parametrize("override", COMMON)
def test_what_is_common_to_all_runs_cannot_be_overridden(
    fedstrategies, tmp_path, monkeypatch, override
):
    monkeypatch.chdir(tmp_path)
    code, _, err = fedstrategies("compare", "efbv", "ef21", f"ef21:{override}")
    assert code == 2
    assert err.count("\n") == 1
    assert f"'ef21:{override}': {override.partition('=')[0]} is common to all runs" in err
    assert list(tmp_path.iterdir()) == []


def test_compare_writes_a_table_and_a_picture(fedstrategies, problem, tmp_path):
    out = tmp_path / "out"
    code, printed, _ = fedstrategies(
        "compare",
        "efbv",
        "ef21",
        "diana",
        "gd",
        "ef21:compressor=top-k:k=2",
        *problem,
        "--out",
        out,
    )
    assert code == 0
    table = (out / "comparison.md").read_text()
    for name in ("efbv", "ef21", "diana", "gd"):
        assert name in printed
        assert f"| {name} |" in table
        assert Summary.read(out / name).status == "done"
        assert Summary.read(out / name).fstar is not None
    assert "top-k:k=2" in (out / "ef21" / "config.toml").read_text()
    assert "rand-k:k=2" in (out / "efbv" / "config.toml").read_text()
    assert "identity" in (out / "gd" / "config.toml").read_text()
    assert (out / "comparison.png").read_bytes().startswith(b"\x89PNG")


def test_a_compressed_downlink_reaches_all_and_totals_are_both_ways(
    fedstrategies, problem, tmp_path
):
    out = tmp_path / "out"
    given = ("--stepsize", 0.05, "--downlink-compressor", "top-k:k=1", "--out", out)
    code, printed, _ = fedstrategies("compare", "efbv", "gd", *problem, *given)
    assert code == 0
    assert "Total: both ways" in printed
    heads, _, *rows = (out / "comparison.md").read_text().splitlines()[:4]
    assert "| uplink | downlink | total |" in heads
    for name, row in zip(("efbv", "gd"), rows, strict=True):
        summary = Summary.read(out / name)
        assert summary.theory["downlink_scale"] == 1
        assert 0 < summary.theory["downlink_error"] < 1
        last = summary.last
        total = last["uplink_bytes"] + last["downlink_bytes"] + last["recovery_bytes"]
        assert f"| {format_bytes(total)} |" in row
        assert 'downlink-compressor = "top-k:k=1"' in (out / name / "config.toml").read_text()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("run", "efbv", "--downlink-compressor", "top-j:k=1"), "downlink-compressor: unknown"),
        (("run", "efbv", "--downlink-compressor", "top-k:k=50"), "efbv: k = 50 exceeds"),
        (
            ("run", "ef21", "--downlink-compressor", "top-k:k=1", "--prox", "l1:0.1"),
            "no theory for a compressed downlink with a regulariser R; give a number",
        ),
        (("run", "scafflix", "--downlink-compressor", "top-k:k=1"), "scafflix has no such option"),
    ],
)
def test_a_downlink_that_cannot_be_is_refused_in_one_line(
    fedstrategies, problem, tmp_path, arguments, said
):
    more = problem if arguments[1] != "scafflix" else problem[:-2]
    code, _, err = fedstrategies(*arguments, *more, "--out", tmp_path / "out")
    assert code == 2
    assert err.count("\n") == 1
    assert said in err
    assert not (tmp_path / "out").exists()


def test_gd_has_no_use_for_the_shared_options_of_compressed_methods(
    fedstrategies, problem, tmp_path
):
    given = ("--shift-init", "gradient", "--out", tmp_path / "out")
    assert fedstrategies("compare", "ef21", "gd", *problem, *given)[0] == 0
    assert 'shift-init = "gradient"' in (tmp_path / "out" / "ef21" / "config.toml").read_text()
    assert 'shift-init = "zero"' in (tmp_path / "out" / "gd" / "config.toml").read_text()


@pytest.mark.parametrize(
    ("override", "title", "labels"),
    [
        ((), "small, 4 clients, rand-k:k=2", ["EF-BV", "EF21", "GD"]),
        (
            ("ef21:compressor=top-k:k=2",),
            "small, 4 clients",
            ["EF-BV, rand-k:k=2", "EF21, top-k:k=2", "GD"],
        ),
    ],
)
def test_the_picture_names_a_compressor_once_if_all_share_it(
    fedstrategies, problem, tmp_path, monkeypatch, override, title, labels
):
    drawn = {}

    def draw(curves, path, *, title):
        drawn.update(title=title, labels=[curve.label for curve in curves])

    monkeypatch.setattr(comparison, "draw_comparison", draw)
    arguments = ("efbv", "ef21", "gd", *override, *problem, "--out", tmp_path / "out")
    assert fedstrategies("compare", *arguments)[0] == 0
    assert drawn == {"title": title, "labels": labels}


def test_compare_goes_on_after_a_failure(fedstrategies, problem, tmp_path):
    out = tmp_path / "out"
    code, printed, err = fedstrategies(
        "compare", "efbv", "gd", "efbv:stepsize=1e6", *problem, "--out", out
    )
    assert code == 1
    assert "efbv (diverged)" in printed
    assert "round 1" in err
    assert Summary.read(out / "gd").status == "done"


def test_compare_checks_everything_first(fedstrategies, problem, tmp_path):
    out = tmp_path / "out"
    code, _, err = fedstrategies(
        "compare", "efbv", "diana", "diana:compressor=top-k:k=2", *problem, "--out", out
    )
    assert code == 2
    assert "unbiased" in err
    assert not out.exists()
