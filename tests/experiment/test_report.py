"""The page of `fedstrategies report`: what stands on it, and that it needs nothing else."""

from __future__ import annotations

import errno
import json
import re
from pathlib import Path

import numpy as np
import pytest

from fedstrategies.experiment import report
from fedstrategies.experiment.options import ConfigError
from fedstrategies.experiment.report import write_report
from fedstrategies.experiment.report.charts import MOST_CURVES, X_NAMES, chart_of
from fedstrategies.experiment.report.folders import find_runs
from fedstrategies.experiment.report.groups import grouped
from fedstrategies.experiment.report.remarks import remarks_on
from fedstrategies.experiment.report.series import series_of
from tests.experiment.report_folders import Page, record, write_run

STYLE = Path(__file__).parents[2] / "fedstrategies/experiment/report/style.css"


def page_on(*outs: Path) -> Page:
    return Page(write_report(outs, outs[0] / "page.html").read_text(encoding="utf-8"))


def remarks(*outs: Path) -> list[str]:
    return remarks_on(grouped(find_runs(outs)))


def test_one_run(tmp_path: Path) -> None:
    out = write_run(
        tmp_path / "out",
        [0.7, 0.5, 0.4],
        options={"compressor": "top-k:k=1", "l2": 0.1},
        theory={"lam": 0.125},
        smoothness={"L": 2.5},
    )
    assert write_report([out]) == out / "report.html"
    page = Page((out / "report.html").read_text(encoding="utf-8"))
    assert page.texts["h1"] == ["out"]
    assert page.texts["h2"] == [
        "Curves",
        "How it ended",
        "Constants of the theory",
        "Options",
    ]
    cells = [text.strip() for tag in ("th", "td") for text in page.texts[tag]]
    for shown in ("0.4", "200 B", "220 B", "0.25", "0.125", "2.5", "lambda", "top-k:k=1", "2.13.0"):
        assert shown in cells, shown
    # Loss against five quantities; no accuracy was measured.
    assert len(page.having("div", "plot")) == len(X_NAMES) == 5
    assert not page.having("path", "band")


def test_everything_is_reachable_without_eyes_or_a_mouse(tmp_path: Path) -> None:
    page = page_on(write_run(tmp_path / "out", [0.7, 0.5]))
    for plot in page.having("div", "plot"):
        assert plot["role"] == "img"
        assert "0.7 at 0 to 0.5 at" in (plot["aria-label"] or "")
    scopes = [attributes.get("scope") for tag, attributes in page.elements if tag == "th"]
    assert set(scopes) == {"col", "row"}
    labelled = {a["for"] for tag, a in page.elements if tag == "label"}
    inputs = [a for tag, a in page.elements if tag == "input"]
    assert labelled == {a["id"] for a in inputs}
    assert [a["id"] for a in inputs if "checked" in a] == ["x-rounds"]
    shown = STYLE.read_text()
    for name in X_NAMES:
        assert f"#x-{name}:checked ~ .panels .by-{name}" in shown


def test_the_page_needs_nothing_else(tmp_path: Path) -> None:
    page = page_on(write_run(tmp_path / "out", [0.7, 0.5]))
    for tag, attributes in page.elements:
        assert tag not in ("script", "link", "img", "iframe", "object", "embed", "base", "a"), tag
        assert not {"src", "href", "srcset", "action", "data"} & set(attributes)
        assert not any(name.startswith("on") for name in attributes)
    assert not re.search(r"https?:|url\(|@import|//", page.html)
    (policy,) = [a for t, a in page.elements if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy["content"] == "default-src 'none'; style-src 'unsafe-inline'"


HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>"


def test_what_files_say_is_text(tmp_path: Path) -> None:
    out = write_run(
        tmp_path / "<script>alert(0)<" / "a",
        [0.7, 0.5],
        options={"algorithm": HOSTILE, "dataset": HOSTILE, HOSTILE: HOSTILE},
        history=[record(0, 0.7, **{HOSTILE: 1.0}), record(1, 0.5)],
        status="failed",
        error=HOSTILE,
        theory={HOSTILE: 1.0},
        incidents={HOSTILE: 3},
        reached={HOSTILE: record(1, 0.5)},
    )
    other = write_run(tmp_path / "b", [0.7, 0.6], options={"compressor": HOSTILE})
    page = page_on(out, other)
    kinds = {tag for tag, _ in page.elements}
    assert not kinds & {"script", "img"}
    assert sum(HOSTILE in text for tag in page.texts for text in page.texts[tag]) > 10
    assert not any("onerror" in attributes for _, attributes in page.elements)


def test_half_a_surrogate_pair_is_replaced(tmp_path: Path) -> None:
    out = write_run(tmp_path / "out", [0.7, 0.5], status="failed", error="x")
    text = (out / "summary.json").read_text()
    (out / "summary.json").write_text(text.replace('"error": "x"', '"error": "\\ud800"'))
    assert "failed. ?" in page_on(out).html


def test_the_same_files_give_the_same_bytes(tmp_path: Path) -> None:
    out = write_run(tmp_path / "out", [0.7, 0.5])
    first = write_report([out]).read_bytes()
    assert write_report([out]).read_bytes() == first


def test_the_median_and_the_band_over_seeds() -> None:
    losses = {0: [1.0, 0.5, 0.30], 1: [1.0, 0.7, 0.10], 2: [1.0, 0.6, 0.25, 0.2]}
    histories = [[record(t, loss) for t, loss in enumerate(each)] for each in losses.values()]
    histories[1][2]["uplink_bytes"] = 900
    found = series_of(histories, "rounds", "loss")
    assert found.seeds == 3
    assert found.x == (0, 1, 2)  # the third goes on, and is not followed alone
    assert found.y == (1.0, 0.6, 0.25)
    assert found.low == (1.0, 0.5, 0.10)
    assert found.high == (1.0, 0.7, 0.30)
    assert series_of(histories, "uplink_bytes", "loss").x == (0, 100, 200)
    even = series_of(histories[:2], "uplink_bytes", "loss")
    assert (even.x, even.y) == ((0, 100, 550), (1.0, 0.6, pytest.approx(0.2)))


def test_what_is_measured_now_and_then_is_drawn_where_it_is() -> None:
    records = [record(t, 1.0, **({"accuracy": t / 10} if t % 5 == 0 else {})) for t in range(11)]
    assert series_of([records], "rounds", "accuracy").x == (0, 5, 10)


def test_long_histories_are_thinned_and_keep_their_ends() -> None:
    records = [record(t, 1.0 / (t + 1)) for t in range(10_001)]
    found = series_of([records], "rounds", "loss")
    assert len(found.x) < 250
    assert (found.x[0], found.x[-1]) == (0, 10_000)


def test_seeds_are_one_curve_and_other_options_another(tmp_path: Path) -> None:
    for seed, loss in enumerate((0.5, 0.6, 0.4)):
        for name in ("ef21", "efbv"):
            options = {"algorithm": name, "seed": seed, "out": f"{name}{seed}", "quiet": seed > 0}
            write_run(tmp_path / f"{name}-{seed}", [0.7, loss], options=options)
    groups = grouped(find_runs([tmp_path]))
    assert [(group.label, len(group.runs)) for group in groups] == [("EF21", 3), ("EF-BV", 3)]
    page = page_on(tmp_path)
    assert len(page.having("path", "band")) == 2 * len(X_NAMES)
    assert "0.5\n(0.4 to 0.6)" in page.texts["td"]
    assert "the least" in page.html
    assert not page.having("section", "remarks")


def test_labels_say_what_differs(tmp_path: Path) -> None:
    for k in (1, 2):
        write_run(tmp_path / f"k{k}", [0.7, 0.5], options={"compressor": f"top-k:k={k}"})
    labels = [group.label for group in grouped(find_runs([tmp_path]))]
    assert labels == ["compressor=top-k:k=1", "compressor=top-k:k=2"]
    write_run(tmp_path / "z", [0.7, 0.5], options={"algorithm": "gd"})
    labels = [group.label for group in grouped(find_runs([tmp_path]))]
    assert labels == [
        "EF-BV, compressor=top-k:k=1",
        "EF-BV, compressor=top-k:k=2",
        "gradient descent",
    ]


def test_labels_stay_short(tmp_path: Path) -> None:
    for name in ("a", "b"):
        options = dict.fromkeys(("compressor", "stepsize", "prox", "dataset", "lambda"), name * 9)
        write_run(tmp_path / name, [0.7, 0.5], options=options)
    labels = [group.label for group in grouped(find_runs([tmp_path]))]
    assert labels == [f"EF-BV ({tmp_path / name})" for name in ("a", "b")]


def test_a_chart_ends_where_its_values_end(tmp_path: Path) -> None:
    out = write_run(tmp_path / "out", [1.0, 0.1, 0.01, 0.001])
    chart = chart_of(grouped(find_runs([out])), "uplink_bytes", "loss")
    assert chart is not None
    assert chart.log
    assert [text for _, text in chart.y_ticks] == ["0.001", "0.01", "0.1", "1"]
    assert [text for _, text in chart.x_ticks] == ["0 B", "100 B", "200 B", "300 B"]
    (line,) = chart.lines
    points = [tuple(map(int, point.split())) for point in line.path[1:].split("L")]
    assert [x for x, _ in points] == [0, 667, 1333, 2000]
    heights = [y for _, y in points]
    steps = np.diff(heights)  # equal factors, equal steps
    assert max(steps) - min(steps) <= 1
    assert line.end[0] == 1.0


def test_only_so_many_curves_are_drawn(tmp_path: Path) -> None:
    for number in range(MOST_CURVES + 3):
        options = {"stepsize": 0.1 * (number + 1)}
        write_run(tmp_path / f"{number:02}", [0.7, 0.5 - 0.01 * number], options=options)
    page = page_on(tmp_path)
    (chart,) = [a for t, a in page.elements if t == "figure" and a["class"] == "by-rounds"]
    assert len(page.having("span", "name")) == MOST_CURVES * len(X_NAMES)
    assert f"{MOST_CURVES} of {MOST_CURVES + 3} curves are drawn" in page.html
    assert chart
    assert "stepsize=0.1" not in page.html.split("How it ended")[0].split("</style>")[1]
    assert "stepsize=0.1" in page.html


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"status": "diverged", "error": "the loss is inf"}, "diverged. the loss is inf."),
        ({"options": {"rounds": 100}}, "ends with round 2 of 100"),
        ({"incidents": {"frozen_cohorts": 2}}, "frozen cohorts, 2 times"),
        ({"privacy": {"simulated": "yes", "epsilon_max": 1.0}}, "outside of epsilon"),
        ({"privacy": {"delta": 1e-5}}, "epsilon is not finite"),
        ({"last": {"round": 7}}, "the summary with round 7"),
        ({"history": [record(0, 0.7), record(1, 0.8)]}, "above the 0.7 it began with"),
        ({"history": [record(0, 0.7), record(2, 0.5)]}, "something was cut out"),
        ({"history": [record(0, 0.7), record(1, 0.5, failures=3)]}, "3 uploads"),
        ({"history": [record(0, 0.7), record(1, 0.5, recovery_bytes=2000)]}, "2 kB were sent"),
        (
            {"history": [record(0, 0.7), record(1, 0.5, epsilon_max=5)], "options": {"epsilon": 4}},
            "epsilon is 5, above the target 4",
        ),
    ],
)
def test_what_must_be_known_first(tmp_path: Path, change: dict[str, object], word: str) -> None:
    out = write_run(tmp_path / "out", [0.7, 0.6, 0.5], **change)  # type: ignore[arg-type]
    assert any(word in text for text in remarks(out)), remarks(out)
    assert not remarks(write_run(tmp_path / "good", [0.7, 0.6, 0.5]))


def test_a_run_that_goes_on(tmp_path: Path) -> None:
    out = write_run(tmp_path / "out", [0.7, 0.6])
    (out / "summary.json").unlink()
    with (out / "history.jsonl").open("a") as file:
        file.write('{"round": 2, "lo')
    found = remarks(out)
    assert any("has not ended" in text for text in found)
    assert any("last line of the history was cut off" in text for text in found)
    assert page_on(out).having("section", "remarks")


def test_what_makes_curves_hard_to_compare(tmp_path: Path) -> None:
    for name, seeds in (("ef21", (0, 1, 2)), ("efbv", (0, 2))):
        for seed in seeds:
            options = {"algorithm": name, "seed": seed, "l2": 0.1 if name == "efbv" else 0.2}
            write_run(tmp_path / f"{name}-{seed}", [0.7, 0.6], options=options)
    found = remarks(tmp_path)
    assert "EF-BV: without seed 1, which others have." in found
    assert any("differ in l2" in text for text in found)
    assert write_run(tmp_path / "again", [0.7, 0.5], options={"algorithm": "ef21", "l2": 0.2})
    (tmp_path / "ef21-0/config.toml").write_text(
        (tmp_path / "ef21-0/config.toml").read_text().replace("2.13", "2.12")
    )
    found = remarks(tmp_path)
    assert any("seed 0 is there more than once" in text for text in found)
    assert any("different versions of torch" in text for text in found)


def test_unequal_lengths_are_told(tmp_path: Path) -> None:
    for seed in (0, 1):
        options = {"seed": seed, "rounds": 5}
        write_run(tmp_path / str(seed), [0.7] * (2 + seed), options=options, reached={"g": {}})
    assert any("end between rounds 1 and 2" in text for text in remarks(tmp_path))


def test_sweeps_and_comparisons_are_folders_of_runs(tmp_path: Path) -> None:
    write_run(tmp_path / "sweep/cells/a", [0.7, 0.5])
    write_run(tmp_path / "compare/ef21", [0.7, 0.5], options={"algorithm": "ef21"})
    both = [tmp_path / "sweep", tmp_path / "compare", tmp_path / "compare/ef21"]
    assert [Path(run.name).name for run in find_runs(both)] == ["a", "ef21"]
    assert write_report(both) == tmp_path / "report.html"


def test_what_cannot_be_written_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, content: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    out = write_run(tmp_path / "out", [0.7, 0.5])
    monkeypatch.setattr(report, "write_durably", full)
    with pytest.raises(ConfigError, match=r"report\.html cannot be written \(No space"):
        write_report([out])


def test_a_foreign_file_stays(tmp_path: Path) -> None:
    out = write_run(tmp_path / "out", [0.7, 0.5])
    (out / "report.html").write_text("<html>mine</html>")
    with pytest.raises(ConfigError, match="is there and no report"):
        write_report([out])
    assert (out / "report.html").read_text() == "<html>mine</html>"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("summary.json", "[]"),
        ("summary.json", "[" * 100_000),
        ("summary.json", '{"status": "done"}'),
        ("history.jsonl", '{"round": 0, "loss": NaN}\n'),
        ("history.jsonl", "[" * 100_000 + "\n{}\n"),
        ("history.jsonl", "\xff"),
        ("config.toml", "algorithm = "),
    ],
)
def test_broken_files_are_one_line(tmp_path: Path, name: str, content: str) -> None:
    out = write_run(tmp_path / "out", [0.7, 0.5])
    (out / name).write_bytes(content.encode("latin-1"))
    with pytest.raises(ConfigError, match=name.replace(".", r"\.")) as error:
        write_report([out])
    assert "\n" not in str(error.value)
    assert not (out / "report.html").exists()


@pytest.mark.parametrize(
    "change",
    [{"last": []}, {"theory": {"L": []}}, {"status": 3}, {"reached": {"g": 3}}, {"stepsize": "x"}],
)
def test_summaries_of_other_types_are_refused(tmp_path: Path, change: dict[str, object]) -> None:
    out = write_run(tmp_path / "out", [0.7, 0.5])
    content = json.loads((out / "summary.json").read_text())
    (out / "summary.json").write_text(json.dumps({**content, **change}))
    with pytest.raises(ConfigError, match="not the summary of a run"):
        write_report([out])


@pytest.mark.parametrize(
    "values",
    [
        [0.0, 0.0],
        [-1.0, -1.0],
        [1e308, -1e308],
        [5e-324, 1.0],
        [5e-324, 5e-324],
        [1e308, 1e-308],
        [1e308, 1e308],
        [1e16, 1e16 + 2],
        [0.7],
    ],
)
@pytest.mark.parametrize("name", ["loss", "gap"])
def test_any_number_can_be_drawn(tmp_path: Path, values: list[float], name: str) -> None:
    history = [
        {**record(t, value), name: value, "seconds": value} for t, value in enumerate(values)
    ]
    for seed in (0, 1):
        write_run(tmp_path / f"{seed}", [], history=history, options={"seed": seed})
    page = page_on(tmp_path)
    for path in page.having("path", "line") + page.having("path", "band"):
        numbers = [float(number) for number in re.findall(r"[-\d.]+", path["d"] or "")]
        assert all(-1 <= number <= 2001 for number in numbers)
    assert "inf" not in page.html.split("</style>")[1]
    assert "nan" not in page.html.split("</style>")[1]


def test_an_empty_history(tmp_path: Path) -> None:
    out = write_run(tmp_path / "out", [0.7])
    (out / "history.jsonl").write_text("")
    (out / "summary.json").unlink()
    page = page_on(out)
    assert "the history is empty" in page.html
    assert not page.having("div", "plot")


# Colours


def colour(css: str, name: str) -> np.ndarray:
    """Linear light of a variable of the style sheet."""
    found = re.search(rf"--{name}: #(\w\w)(\w\w)(\w\w);", css)
    assert found, name
    srgb = np.array([int(part, 16) / 255 for part in found.groups()])
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)


def contrast(one: np.ndarray, other: np.ndarray) -> float:
    """As WCAG defines it."""
    bright = sorted(float(c @ np.array([0.2126, 0.7152, 0.0722])) + 0.05 for c in (one, other))
    return bright[1] / bright[0]


# Machado, Oliveira and Fernandes 2009, severity 1: red-, green- and blue-blind.
VISIONS = {
    "all": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216],
                   [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413],
                     [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602],
                   [0.004733, 0.691367, 0.303900]],
}  # fmt: skip
TO_LMS = [[0.4122214708, 0.5363325363, 0.0514459929], [0.2119034982, 0.6806995451, 0.1073969566],
          [0.0883024619, 0.2817188376, 0.6299787005]]  # fmt: skip
TO_OKLAB = [[0.2104542553, 0.7936177850, -0.0040720468], [1.9779984951, -2.4285922050, 0.45059371],
            [0.0259040371, 0.7827717662, -0.8086757660]]  # fmt: skip


@pytest.fixture(params=[0, 1], ids=["light", "dark"])
def scheme(request: pytest.FixtureRequest) -> str:
    """The part of the style sheet that one scheme's colours stand in."""
    return STYLE.read_text().split("@media (prefers-color-scheme: dark)")[request.param]


@pytest.mark.parametrize("ground", ["ground", "raised", "warn"])
def test_text_can_be_read(scheme: str, ground: str) -> None:
    for name in ("ink", "faint"):
        assert contrast(colour(scheme, name), colour(scheme, ground)) >= 4.5  # WCAG 1.4.3


def test_lines_stand_out_from_the_ground_and_from_each_other(scheme: str) -> None:
    lines = np.array([colour(scheme, f"s{number}") for number in range(MOST_CURVES)])
    assert min(contrast(line, colour(scheme, "ground")) for line in lines) >= 3  # WCAG 1.4.11
    for seen in VISIONS.values():
        cones = np.cbrt(np.clip(lines @ np.array(seen).T, 0, 1) @ np.array(TO_LMS).T)
        lab = cones @ np.array(TO_OKLAB).T
        apart = np.linalg.norm(lab[:, None] - lab[None], axis=-1) + np.eye(len(lab))
        assert apart.min() > 0.06  # in OKLab, where 0.02 is just seen
