"""The section of the report on 1,000 clients."""

from __future__ import annotations

from collections.abc import Iterator
from math import ceil
from pathlib import Path

from simulations.reproduce.efbv.figure import draw_panels
from simulations.reproduce.efbv.pairs import read_pairs
from simulations.reproduce.efbv.tables import row
from simulations.reproduce.efbv.thousand import CLIENTS, STARTS, log_reduction

__all__ = ["thousand_section"]


def thousand_section(folder: Path) -> Iterator[str]:
    """Lines of the section, its figure drawn; none where there are no curves."""
    measured = {start: pairs[0] for start in STARTS if (pairs := read_pairs(start.folder(folder)))}
    if not measured:
        return
    draw_panels(
        {start.title: (pair.ef21, pair.efbv) for start, pair in measured.items()},
        folder / "thousand.png",
        title=f"mushrooms, {CLIENTS:,} clients",
    )
    yield f"## {CLIENTS:,} clients on mushrooms\n"
    wait = 1 / next(iter(measured.values())).ef21.header.lam
    yield (
        "Shards of eight rows (the last client has the remainder), comp-(1, 56), the theory's "
        "steps. *Log reduction*: log of the gap at x0 over the last gap. An independent loop found "
        "EF-BV's to be 1.4 times EF21's over 2,000 rounds. The quotient depends on the memories' "
        f"start: from h0 = 0 EF21 needs about 1/lambda\\* = {wait:.0f} rounds before its g is like "
        "the gradient, while EF-BV's is from round 1 (nu = 1); from h0 = gradient both are, and "
        "the quotient is that of the steps.\n"
    )
    yield (
        "| start | rounds | bytes a client (ours) | log reduction EF21 | EF-BV | quotient "
        "| gamma ratio |"
    )
    yield "|---|---|---|---|---|---|---|"
    for start, pair in measured.items():
        slow, fast = log_reduction(pair.ef21), log_reduction(pair.efbv)
        yield row(
            start.title,
            f"{pair.rounds:,}",
            f"{ceil(pair.ef21.last.uplink_bytes / pair.ef21.header.clients):,}",
            f"{slow:.5g}",
            f"{fast:.5g}",
            f"{fast / slow:.4f}",
            f"{pair.gamma_ratio:.4f}",
        )
    yield ""
    yield f"![{CLIENTS:,} clients: gap against bits a client has sent](efbv/thousand.png)\n"
