"""``fedstrategies doctor``: the findings as lines, the actors as a table."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from fedstrategies.engines.packing import Plan
from fedstrategies.experiment.doctor import Diagnosis, Finding

__all__ = ["print_diagnosis"]

_STYLES = {"ok": "green", "note": "yellow", "problem": "bold red"}
_SUBJECT = 14


def print_diagnosis(diagnosis: Diagnosis) -> None:
    """A line for each finding, the pools of actors, and how many problems there are."""
    console = Console()
    for finding in diagnosis.findings:
        for line in _lines(finding):
            console.print(line, soft_wrap=True)
    if diagnosis.plan is not None:
        console.print()
        console.print(_pools(diagnosis.plan))
        console.print(_idle(diagnosis.plan), soft_wrap=True, highlight=False)
    count = diagnosis.problems
    verdict = "no problems" if not count else f"{count} problem{'s' * (count > 1)}"
    console.print(f"\n{verdict}", soft_wrap=True, highlight=False)


def _lines(finding: Finding) -> list[Text]:
    head = Text(f"{finding.level:<8}", style=_STYLES[finding.level])
    lines = [head + Text(f"{finding.subject:<{_SUBJECT}} {finding.text}", style="default")]
    if finding.advice:
        lines.append(Text(f"{'':8}{'':{_SUBJECT}} -> {finding.advice}"))
    return lines


def _pools(plan: Plan) -> Table:
    """Shares, actors and clients; the last column is what each actor reserves."""
    table = Table(box=None, pad_edge=False)
    for name in ("pool", "GPU", "CPUs", "clients", "actors", "at a time", "an actor reserves"):
        table.add_column(name, no_wrap=True, justify="right")
    for number, pool in enumerate(plan.pools):
        reserved = pool.reserved
        table.add_row(
            str(number),
            f"{pool.share.gpus:g}",
            f"{pool.share.cpus:g}",
            f"{pool.clients:,}",
            str(len(pool.actors)),
            str(len(pool.actors) * pool.chunk),
            f"{reserved.gpus:g} GPU, {reserved.cpus:g} CPUs",
        )
    return table


def _idle(plan: Plan) -> str:
    """What nobody reserves, GPU by GPU."""
    cpus = sum(plan.idle_cpus)
    gpus = [
        f"{part:.0%} of GPU {device}" + (f" of machine {machine}" if len(plan.machines) > 1 else "")
        for machine, parts in enumerate(plan.idle_gpus)
        for device, part in enumerate(parts)
        if part >= 0.005
    ]
    return f"idle: {', '.join([f'{cpus:g} CPUs', *gpus])}"
