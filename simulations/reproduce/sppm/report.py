"""The page of results, rewritten from the runs that are there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from simulations.reproduce.sppm.costs import PRICES, Best, Row, cells_of, cheapest
from simulations.reproduce.sppm.figures import draw_costs
from simulations.reproduce.sppm.jobs import SOLVERS, read_rows
from simulations.reproduce.sppm.networks import DATASET, network_section
from simulations.reproduce.sppm.passages import MEASURES
from simulations.reproduce.sppm.problems import DATASETS, SAMPLINGS, SPLITS

__all__ = ["MARKERS", "write_report"]

MARKERS = ("<!-- results: convex -->", "<!-- results: networks -->", "<!-- results: end -->")
"""What stands between them on the page is rewritten; the rest is prose."""

_GOAL = "gap:0.005"
_MEASURES = {
    "gap": "f - f* ≤ 5e-3",
    "relative_gap": "(f - f*)/(f(x⁰) - f*) ≤ 5e-3",
    "grad_norm_sq": "‖∇f‖² ≤ 5e-3",
    "distance_sq": "‖x - x*‖² ≤ 5e-3",
    "relative_distance_sq": "‖x - x*‖²/‖x⁰ - x*‖² ≤ 5e-3",
}
_PUBLISHED = 0.7436, 0.9487


def write_report(runs: Path, page: Path) -> None:
    """Rewrite tables and pictures of ``page`` from the files below ``runs``.

    Raises
    ------
    ValueError
        If the page has lost its markers.
    """
    text = page.read_text(encoding="utf-8")
    if not all(marker in text for marker in MARKERS):
        raise ValueError(f"{page}: the markers {', '.join(MARKERS)} are needed")
    head, rest = text.split(MARKERS[0])
    _, rest = rest.split(MARKERS[1])
    _, tail = rest.split(MARKERS[2])
    pictures = page.parent / "sppm"
    pictures.mkdir(exist_ok=True)
    convex = "\n\n".join(_convex(runs, pictures))
    networks = network_section(runs / DATASET, pictures)
    page.write_text(
        f"{head}{MARKERS[0]}\n\n{convex}\n\n{MARKERS[1]}\n\n{networks}\n\n{MARKERS[2]}{tail}",
        encoding="utf-8",
    )


def _convex(runs: Path, pictures: Path) -> Iterable[str]:
    rows = {
        (dataset, split): found
        for dataset in DATASETS
        for split in SPLITS
        if (found := read_rows(runs, dataset, split))
    }
    if not rows:
        return
    yield _reductions(rows)
    for (dataset, split), found in rows.items():
        if split != "clusters":
            continue
        draw_costs(found, pictures / f"{dataset}.png", goal=_GOAL, title=_title(dataset))
        yield (
            f"### {dataset}, clusters as strata\n\n"
            f"![Cost to the accuracy against K on {dataset}](sppm/{dataset}.png)\n\n"
            f"{_solver_table(found)}\n\n{_measure_table(found)}"
        )
    yield _splits(rows)
    yield _full(rows)


def _title(dataset: str) -> str:
    return f"{dataset}, 100 clients in 10 clusters, cohorts of 10: rounds to a gap of 5e-3"


def _reductions(rows: Mapping[tuple[str, str], Sequence[Row]]) -> str:
    """The comparison that was published: best SPPM-AS against FedAvg."""
    lines = []
    for (dataset, split), found in rows.items():
        if split != "clusters":
            continue
        ours = cells_of(found, method="sppm", sampling="stratified")
        baselines = {
            "1/L_max, nice": cells_of(found, method="localgd", sampling="nice", stepsize="theory"),
            "best step, nice": cells_of(found, method="localgd", sampling="nice"),
            "best step, stratified": cells_of(found, method="localgd", sampling="stratified"),
        }
        for name, cells in baselines.items():
            line = [dataset, name]
            base = cheapest(cells, _GOAL, PRICES["flat"])
            line.append("" if base is None else base.text)
            for how, theirs in (
                ("flat", "flat"),
                ("c1 = 0.05", "c1 = 0.05"),
                ("c1 = 0.1", "c1 = 0.1"),
                ("c1 = 0.05", "c2 T"),
                ("c1 = 0.1", "c2 T"),
            ):
                line.append(
                    _reduction(
                        cheapest(ours, _GOAL, PRICES[how]), cheapest(cells, _GOAL, PRICES[theirs])
                    )
                )
            lines.append(line)
    heads = (
        "data set",
        "FedAvg / LocalGD",
        "its rounds",
        "flat",
        "c1 = 0.05",
        "c1 = 0.1",
        "c1 = 0.05, FedAvg c2 T",
        "c1 = 0.1, FedAvg c2 T",
    )
    return (
        "### Reduction of the cost to f - f* ≤ 5e-3\n\n"
        "SPPM-AS with stratified sampling, best solver, K and γ for each price, against LocalGD at "
        "its best number of local steps H. Published: up to "
        f"{100 * _PUBLISHED[0]:.2f} % (flat) and {100 * _PUBLISHED[1]:.2f} % (hierarchical).\n\n"
        + _table(heads, lines)
    )


def _reduction(ours: Best | None, theirs: Best | None) -> str:
    if ours is None or theirs is None:
        return ""
    saved = 100 * (1 - ours.cost / theirs.cost)
    return f"{saved:.1f} % ({ours.cost:.3g} of {theirs.cost:.3g})"


def _solver_table(rows: Sequence[Row]) -> str:
    methods: list[tuple[str, dict[str, Any]]] = [
        ("mini-batch GD", {"method": "localgd", "local_steps": 1}),
        ("LocalGD / FedAvg", {"method": "localgd"}),
        ("FedProx", {"method": "fedprox"}),
        *((f"SPPM-AS, {solver}", {"method": "sppm", "solver": solver}) for solver in SOLVERS),
    ]
    lines = []
    for sampling in SAMPLINGS:
        for name, where in methods:
            cells = cells_of(rows, sampling=sampling, **where)
            found = [cheapest(cells, _GOAL, PRICES[p]) for p in ("flat", "c1 = 0.05", "c1 = 0.1")]
            lines.append([sampling, name, *("-" if b is None else b.text for b in found)])
    heads = ("sampling", "method", "flat", "hierarchical, c1 = 0.05", "hierarchical, c1 = 0.1")
    return "Cost to f - f* ≤ 5e-3, and the cell that has it:\n\n" + _table(heads, lines)


def _measure_table(rows: Sequence[Row]) -> str:
    lines = []
    for measure in MEASURES:
        goal = f"{measure}:0.005"
        for sampling in SAMPLINGS:
            theory = cells_of(rows, method="localgd", sampling=sampling, stepsize="theory")
            tuned = cells_of(rows, method="localgd", sampling=sampling)
            ours = cells_of(rows, method="sppm", sampling=sampling)
            flat = PRICES["flat"]
            found = [cheapest(cells, goal, flat) for cells in (theory, tuned, ours)]
            texts = ["-" if b is None else b.text for b in found]
            if found[2] is not None:
                texts[2] += f", {found[2].settings['solver']}"
            lines.append([_MEASURES[measure], sampling, *texts])
    heads = ("accuracy", "sampling", "LocalGD, step 1/L_max", "LocalGD, best step", "SPPM-AS")
    return "Other measures of accuracy, flat cost:\n\n" + _table(heads, lines)


def _splits(rows: Mapping[tuple[str, str], Sequence[Row]]) -> str:
    lines = []
    for (dataset, split), found in rows.items():
        for sampling in SAMPLINGS:
            tuned = cells_of(found, method="localgd", sampling=sampling)
            theory = cells_of(found, method="localgd", sampling=sampling, stepsize="theory")
            ours = cells_of(found, method="sppm", sampling=sampling, solver="lbfgs")
            best = [cheapest(c, _GOAL, PRICES["flat"]) for c in (theory, tuned, ours)]
            hierarchical = cheapest(ours, _GOAL, PRICES["c1 = 0.05"])
            texts = ["-" if b is None else b.text for b in (*best, hierarchical)]
            lines.append([dataset, split, sampling, *texts])
    heads = (
        "data set",
        "split",
        "sampling",
        "LocalGD, 1/L_max",
        "LocalGD, best step",
        "SPPM-AS, lbfgs",
        "hierarchical, c1 = 0.05",
    )
    return "### Other splits\n\nCost to f - f* ≤ 5e-3:\n\n" + _table(heads, lines)


def _full(rows: Mapping[tuple[str, str], Sequence[Row]]) -> str:
    lines = []
    for (dataset, split), found in rows.items():
        if split != "clusters":
            continue
        ours = cells_of(found, method="sppm", sampling="full")
        gd = cells_of(found, method="localgd", sampling="full")
        best = [cheapest(cells, _GOAL, PRICES["flat"]) for cells in (gd, ours)]
        lines.append([dataset, *("-" if b is None else b.text for b in best)])
    return (
        "### Full participation, apart\n\nNothing is sampled here: one outer step with a large γ "
        "is L-BFGS on f itself, and no merit of SPPM-AS.\n\n"
        + _table(("data set", "gradient descent", "SPPM-AS, lbfgs"), lines)
    )


def _table(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rows = [heads, ["---"] * len(heads), *lines]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)
