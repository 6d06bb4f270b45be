"""What the commands print last, on standard output."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fedstrategies.experiment.drawing import why_no_pictures
from fedstrategies.experiment.families import ALGORITHMS, all_options
from fedstrategies.experiment.history import total_bytes
from fedstrategies.experiment.model_facts import MODELS
from fedstrategies.experiment.progress import format_bytes
from fedstrategies.experiment.results import Summary
from fedstrategies.experiment.views import versions

if TYPE_CHECKING:
    from pathlib import Path

    from fedstrategies.experiment.comparison import Comparison
    from fedstrategies.experiment.sweep_results import Cell, SweepResults

__all__ = ["print_comparison", "print_info", "print_summary", "print_sweep"]

_TABLE_WIDTH = 120
_MOST_CELLS = 10
_THEORY = {
    "lam": "lambda",
    "nu": "nu",
    "r": "r",
    "r_av": "r_av",
    "downlink_error": "downlink p",
    "downlink_moment": "M",
    "p": "p",
    "gamma_min": "gamma_i from",
    "gamma_max": "to",
    "zeta": "zeta",
    "mu_as": "mu_AS",
    "rate": "rate",
}


def print_summary(summary: Summary) -> None:
    """How a run ended, and from which constants its step size came."""
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold")
    table.add_column()
    for name, value in _facts(summary):
        table.add_row(name, escape(value))
    Console().print(table, soft_wrap=True)


def _facts(summary: Summary) -> list[tuple[str, str]]:
    last, smoothness, theory = summary.last, summary.smoothness, summary.theory
    size = f"n = {summary.clients}, d = {summary.dimension}"
    facts = [
        ("run", f"{summary.algorithm} on {summary.dataset}, {size}: {summary.status}"),
        (
            "constants",
            _pairs(smoothness, {"L": "L", "L_tilde": "L_tilde", "mu": "mu"}, ".11g") or "unknown",
        ),
        ("theory", _pairs(theory, _THEORY, ".6g") or "none"),
        ("step size", f"{_number(summary.stepsize)}{_allowed(theory, known=bool(smoothness))}"),
    ]
    shown = {
        "round": "rounds",
        "loss": "loss",
        "gap": "gap",
        "grad_norm_sq": "||grad||^2",
        "accuracy": "accuracy",
        "accuracy_personal": "personal",
        "accuracy_personal_worst_decile": "worst tenth",
    }
    facts += [(label, _number(last[key])) for key, label in shown.items() if key in last]
    if last:
        up, down = format_bytes(last["uplink_bytes"]), format_bytes(last["downlink_bytes"])
        total = format_bytes(total_bytes(last) or 0)
        facts.append(("bytes", f"up {up}, down {down}, total {total}"))
    facts += _privacy(summary.privacy)
    if last and (missing := why_no_pictures()):
        facts.append(("picture", f"none: {missing}"))
    for goal, record in summary.reached.items():
        cost = f"cost {record['cost']:g}, uplink {format_bytes(record['uplink_bytes'])}"
        cost += f", total {format_bytes(total_bytes(record) or 0)}"
        facts.append((goal, f"reached in round {record['round']} at {cost}"))
    return [*facts, ("seconds", f"{summary.seconds:.2f}"), ("results", summary.out)]


def _privacy(spent: Mapping[str, float | str]) -> list[tuple[str, str]]:
    if not spent:
        return []
    worst = f"{spent['epsilon_max']:.4g}" if "epsilon_max" in spent else "infinite"
    at = f"at delta {spent['delta']:g}, noise multiplier {spent['noise_multiplier']:.4g}"
    return [
        (
            "epsilon",
            f"{worst} (largest of the clients) {at}; simulated, what is measured is outside",
        )
    ]


def _pairs(values: Mapping[str, float], names: Mapping[str, str], form: str) -> str:
    return "  ".join(
        f"{name} = {format(values[key], form)}" for key, name in names.items() if key in values
    )


def _allowed(theory: Mapping[str, float], *, known: bool) -> str:
    if "gamma" in theory:
        return f" (theory {theory['gamma']:.9g})"
    if "lam" not in theory:
        return ""
    return " (no theory)" if "downlink_scale" in theory and known else " (no theory without L)"


def _number(value: float | None) -> str:
    return "-" if value is None else str(value) if isinstance(value, int) else f"{value:.10g}"


def _short(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def print_comparison(comparison: Comparison) -> None:
    """One row per run, and below it what the budget of the comparison is."""
    table = Table(box=None, pad_edge=False)
    for name in comparison.columns:
        table.add_column(name, no_wrap=True, justify="left" if name == "algorithm" else "right")
    for row in comparison.rows():
        table.add_row(*row)
    # A table cut to fit a narrow terminal would lose digits.
    console = Console(width=max(Console().width, _TABLE_WIDTH))
    console.print(table)
    console.print(comparison.note(), highlight=False)
    if missing := why_no_pictures():
        console.print(f"no picture: {missing}", highlight=False, soft_wrap=True, markup=False)


def print_sweep(results: SweepResults, out: Path) -> None:
    """The best cells, and where the others are."""
    table = Table(box=None, pad_edge=False)
    # What cells are compared by without a target must be there to see.
    measured = {name for cell in results.cells for name in cell.last}
    last = ["gap" if "gap" in measured else "loss", *({"accuracy"} & measured)]
    columns = (*results.grid, "cost", "rounds", "uplink", "total", *last, "")
    for name in columns:
        table.add_column(name, no_wrap=True, justify="right" if name else "left")
    best = results.best
    for cell in results.ranked()[:_MOST_CELLS]:
        table.add_row(
            *(cell.values[key] for key in results.grid),
            _number(cell.at.get("cost")),
            _number(cell.at.get("round")),
            _bytes_of(cell, "uplink_bytes"),
            _bytes_of(cell, "uplink_bytes", "downlink_bytes"),
            *(_short(cell.last.get(name)) for name in last),
            f"best: {cell.ended}" if cell is best else cell.ended,
        )
    console = Console(width=max(Console().width, _TABLE_WIDTH))
    console.print(table)
    shown = min(_MOST_CELLS, len(results.cells))
    missing = why_no_pictures()
    picture = f"; no picture: {missing}" if missing else ""
    if (out / "sweep.png").exists():
        picture = f", picture {out}/sweep.png"
    note = f"{shown} of {len(results.cells)} cells, by {results.measure}; all in {out}/sweep.csv"
    for line in (note + picture, *_troubles(results)):
        console.print(line, highlight=False, soft_wrap=True, markup=False)


def _bytes_of(cell: Cell, *ways: str) -> str:
    if any(way not in cell.at for way in ways):
        return "-"
    return format_bytes(sum(cell.at[way] for way in ways))


def _troubles(results: SweepResults) -> list[str]:
    """A line for each way in which cells ended badly, with one of them."""
    bad: dict[str, list[Cell]] = {}
    for cell in results.cells:
        if cell.status != "done":
            bad.setdefault(cell.status, []).append(cell)
    return [
        f"{len(cells)} {status}, e.g. {cells[0].text}: {cells[0].error}"
        for status, cells in bad.items()
    ]


def print_info() -> None:
    """What there is to choose from, and which versions are installed."""
    choices = {entry.key: ", ".join(entry.choices) for entry in all_options() if entry.choices}
    help_of = {entry.key: entry.help for entry in all_options()}
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold")
    table.add_column()
    for name, value in (
        ("algorithms", ", ".join(ALGORITHMS)),
        ("compressors", help_of["compressor"]),
        ("samplings", help_of["sampling"]),
        ("solvers", help_of["solver"]),
        ("data sets", help_of["dataset"]),
        *(
            ("models" if row == 0 else "", f"{name}: {facts.text}")
            for row, (name, facts) in enumerate(MODELS.items())
        ),
        ("partitions", help_of["partition"]),
        ("regularisers", help_of["prox"]),
        ("backends", choices["backend"]),
        ("versions", ", ".join(f"{name} {number}" for name, number in versions().items())),
    ):
        table.add_row(name, value)
    Console().print(table)
