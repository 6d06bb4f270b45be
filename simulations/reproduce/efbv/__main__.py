"""The command: run what has not been run yet, then rewrite the report."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from fedstrategies.threads import single_threaded
from simulations.reproduce.efbv.flow import compute_flow, write_flow
from simulations.reproduce.efbv.instance import METHODS, Instance, find_dataset, load_instance
from simulations.reproduce.efbv.race import race
from simulations.reproduce.efbv.report import FLOW_FILE, write_report
from simulations.reproduce.efbv.thousand import measure_thousand

_PROGRAM = "python -m simulations.reproduce.efbv"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; 0 done, 2 wrong input."""
    options = _parser().parse_args(arguments)
    try:
        if not options.report_only:
            with single_threaded():
                _run(options)
        write_report(options.out)
    except ValueError as error:
        print(f"{_PROGRAM}: {error}", file=sys.stderr)
        return 2
    print(f"report: {options.out / 'efbv.md'}")
    return 0


def _run(options: argparse.Namespace) -> None:
    if options.data is None:
        raise ValueError("--data DIR is missing: the folder that holds the LIBSVM files")
    curves = options.out / "efbv"
    files = [find_dataset(options.data, name) for name in options.only]
    if options.mushrooms_checks:
        measure_thousand(curves, options.checkpoints, report=_say)
        write_flow(curves / FLOW_FILE, compute_flow("mushrooms", rounds=options.rounds))
    for path in files:
        for xi in options.xi:
            instance = load_instance(path, xi=xi, device=options.device)
            _say(_description(instance))
            race(
                instance,
                rounds=options.rounds,
                every=options.every,
                curves=curves,
                checkpoints=options.checkpoints,
                budget_seconds=None
                if options.budget_minutes is None
                else 60.0 * options.budget_minutes,
                report=_say,
            )


def _description(instance: Instance) -> str:
    x0 = instance.problem.start_point
    head = ", ".join(f"{value:.6f}" for value in x0[:3].tolist())
    steps = ", ".join(
        f"{name} gamma {instance.theory(method).gamma:.6e}" for method, name in METHODS.items()
    )
    return (
        f"{instance.name} xi={instance.xi}: n = {instance.clients}, d = {instance.dimension}, "
        f"comp-(1, {instance.k_prime}), l2 = {instance.problem.config.l2}, "
        f"L = {instance.smoothness.L:.10g}, L_tilde = {instance.smoothness.L_tilde:.10g}, "
        f"f* = {instance.fstar:.12g}\n"
        f"  x0 = {instance.problem.config.x0}, seed {instance.problem.config.seed}, starting "
        f"{head}; norm {float(x0.norm()):.6f}; {steps}"
    )


def _say(line: str) -> None:
    print(line, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=_PROGRAM,
        description="EF21 against EF-BV with comp-(1, d/2), one data row per client. Stop it at "
        "any time: the same command again continues.",
    )
    parser.add_argument("--data", type=Path, metavar="DIR", help="folder of the LIBSVM files")
    parser.add_argument(
        "--only",
        type=_names,
        default=["mushrooms", "a9a", "w8a"],
        metavar="NAME,...",
        help="data sets (default: mushrooms,a9a,w8a)",
    )
    parser.add_argument(
        "--xi", type=_counts, default=[1, 2], metavar="XI,...", help="overlaps (default: 1,2)"
    )
    parser.add_argument(
        "--rounds",
        type=_count,
        default=50_000,
        metavar="T",
        help="rounds; default 50000, the published 1.6e6 bits a client",
    )
    parser.add_argument(
        "--every", type=_count, default=100, metavar="R", help="rounds between points (100)"
    )
    parser.add_argument("--device", default="cpu", help="cpu (default) or cuda")
    parser.add_argument(
        "--budget-minutes",
        type=float,
        metavar="M",
        help="stop each problem (a data set and an overlap) after this time",
    )
    parser.add_argument(
        "--mushrooms-checks",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="also 1,000 clients on mushrooms, and the gradient flow (a minute)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("docs/results"),
        metavar="DIR",
        help="where efbv.md and efbv/ go (default: docs/results)",
    )
    parser.add_argument(
        "--checkpoints",
        type=Path,
        default=Path("runs/reproduce-efbv"),
        metavar="DIR",
        help="default: runs/reproduce-efbv",
    )
    parser.add_argument(
        "--report-only", action="store_true", help="only rewrite the report from the curves"
    )
    return parser


def _names(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _counts(text: str) -> list[int]:
    return [_count(part) for part in text.split(",")]


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a positive whole number")
    return number


if __name__ == "__main__":
    sys.exit(main())
