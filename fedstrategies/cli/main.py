"""Commands, and how their ends become exit codes.

0: done. 1: the run failed or diverged, or its results could not be written. 2: wrong usage or
input, one line on standard error. 130: interrupted, records kept. Heavy modules are imported
inside the commands, so that help appears at once.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections import ChainMap
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import click
import typer

from fedstrategies import __version__
from fedstrategies.cli.options import with_experiment_options
from fedstrategies.cli.prune import prune_command
from fedstrategies.cli.report import report_command
from fedstrategies.experiment.families import ALGORITHMS
from fedstrategies.experiment.options import ConfigError

if TYPE_CHECKING:
    from fedstrategies.experiment.config import ExperimentConfig
    from fedstrategies.experiment.progress import Observer

__all__ = ["app", "main"]

app = typer.Typer(
    help="Communication-efficient federated learning on Flower.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)

_NAMES = ", ".join(ALGORITHMS)
_INTERRUPTED = 130


def _print_version(asked: bool) -> None:
    if asked:
        print(f"fedstrategies {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", is_eager=True, callback=_print_version, help="print the version and exit"
        ),
    ] = False,
) -> None:
    """What may stand before a command."""


@app.command("run", help=f"Run one experiment. ALGORITHM: {_NAMES}.")
@with_experiment_options
def run_command(
    *,
    algorithm: Annotated[str, typer.Argument(metavar="ALGORITHM")],
    given: Mapping[str, object],
) -> None:
    """Run one experiment."""
    from fedstrategies.cli.tables import print_summary
    from fedstrategies.experiment.families import config_from_mapping

    if given.get("resume"):
        from fedstrategies.experiment.continuation import kept_options

        given = kept_options(given)
    config = config_from_mapping({**given, "algorithm": algorithm})
    from fedstrategies.experiment.runner import run

    _quieten_flower(config.quiet)
    with _progress(config.algorithm, config) as observers:
        summary = run(config, observers=observers)
    if not config.quiet:
        print_summary(summary)
    if summary.status != "done":
        _complain(f"{summary.error} (records kept in {summary.out})")
        raise typer.Exit(1)


@app.command(
    "compare",
    help="Run several algorithms on the same problem: a table and a picture. "
    f"ALGORITHM: {_NAMES}. NAME:option=value overrides an option of the method for one of them.",
)
@with_experiment_options
def compare_command(
    *,
    algorithms: Annotated[
        list[str],
        typer.Argument(metavar="ALGORITHM... [NAME:option=value]..."),
    ],
    given: Mapping[str, object],
) -> None:
    """Run several algorithms on the same problem: a table and a picture."""
    from fedstrategies.experiment.comparison import compare, comparison_configs

    configs = comparison_configs(algorithms, given)
    quiet = all(config.quiet for config in configs.values())
    _quieten_flower(quiet)
    comparison = compare(configs, show=_progress)
    if not quiet:
        from fedstrategies.cli.tables import print_comparison

        print_comparison(comparison)
    for name, summary in comparison.summaries.items():
        if summary.status != "done":
            _complain(f"{name}: {summary.error} (records kept in {summary.out})")
    if not comparison.ok:
        raise typer.Exit(1)


@app.command(
    "sweep",
    help="Run a grid of experiments: every combination of some options. "
    f"ALGORITHM: {_NAMES}. With --target-gap or --target-accuracy cells are compared by their "
    "cost to get there.",
)
@with_experiment_options
def sweep_command(
    *,
    algorithm: Annotated[str, typer.Argument(metavar="ALGORITHM")],
    given: ChainMap[str, object],
    over: Annotated[
        list[str],
        typer.Option(metavar="KEY=VALUES", help="values of an option: 1..20, 1..20:2 or 0.1,1,10"),
    ],
) -> None:
    """Run a grid of experiments."""
    from fedstrategies.cli.tables import print_sweep
    from fedstrategies.experiment.progress import sweep_progress
    from fedstrategies.experiment.sweep import run_sweep
    from fedstrategies.experiment.sweep_grid import sweep_of

    written, from_file = given.maps
    resume = bool(written.pop("resume", False))
    sweep = sweep_of(algorithm, over, written, defaults=from_file)
    config = sweep.first
    _quieten_flower(config.quiet)
    try:
        results = run_sweep(
            sweep,
            show=lambda cells, kept: sweep_progress(
                algorithm, cells, kept=kept, quiet=config.quiet
            ),
            overwrite=bool(given.get("overwrite")),
            resume=resume,
        )
    except KeyboardInterrupt:
        _complain(f"to go on with the sweep in {sweep.out}, give --resume (and no --overwrite)")
        raise
    if not config.quiet:
        print_sweep(results, sweep.out)
    if not results.ok:
        _complain(f"no cell of the sweep ended well (see {sweep.out}/sweep.json)")
        raise typer.Exit(1)


@app.command("plot")
def plot_command(
    outs: Annotated[list[Path], typer.Argument(metavar="OUT...", help="folders of runs")],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="FILE.png", help="the picture")],
    x: Annotated[
        str, typer.Option(metavar="rounds|uplink_bytes|total_bytes|cost|seconds")
    ] = "rounds",
    y: Annotated[
        str,
        typer.Option(
            metavar="loss|gap|grad_norm_sq|accuracy|accuracy_personal|"
            "accuracy_personal_worst_decile"
        ),
    ] = "loss",
) -> None:
    """Draw the histories of runs in one picture."""
    from fedstrategies.experiment.drawing import why_no_pictures
    from fedstrategies.experiment.plots import X_AXES, Y_AXES, draw_curves, read_curve

    if missing := why_no_pictures():
        raise ConfigError(f"plot: {missing}")
    for name, value, known in (("x", x, X_AXES), ("y", y, Y_AXES)):
        if value not in known:
            raise ConfigError(f"--{name}: {value!r} is not one of {', '.join(known)}")
    if not output.parent.is_dir():
        raise ConfigError(f"--output: {output.parent} is not a folder; create it first")
    try:
        draw_curves([read_curve(out) for out in outs], output, x=x, y=y)
    except OSError as error:
        raise ConfigError(f"--output: {output} cannot be written ({error.strerror})") from None
    except ValueError as error:
        raise ConfigError(f"plot: {error}") from None


app.command("prune")(prune_command)
app.command("report")(report_command)


@app.command(
    "info",
    help="List algorithms, compressors, samplings, data sets and versions; with --model, the layer "
    "groups of a model and what FedP3 uploads of them.",
)
def info_command(
    model: Annotated[str | None, typer.Option(metavar="NAME", help="a network")] = None,
    classes: Annotated[int | None, typer.Option(metavar="K", help="of --model: 10")] = None,
    image: Annotated[str | None, typer.Option(metavar="CxHxW", help="of --model: 3x32x32")] = None,
    width: Annotated[int | None, typer.Option(metavar="H", help="of --model, as in a run")] = None,
    norm: Annotated[
        str | None, typer.Option(metavar="group|batch", help="of --model, as in a run")
    ] = None,
) -> None:
    """List what there is to choose from, or the layer groups of a model."""
    if model is not None:
        from fedstrategies.cli.model_info import print_model

        print_model(model, classes=classes, image=image, width=width, norm=norm)
        return
    given = {"classes": classes, "image": image, "width": width, "norm": norm}
    for name, value in given.items():
        if value is not None:
            raise ConfigError(f"--{name}: says how large a --model is; name one")
    from fedstrategies.cli.tables import print_info

    print_info()


@app.command(
    "doctor",
    help="Check that a run with these options would work, and say what to change: versions, Ray, "
    f"GPUs and their shares, memory, Flower's environment, disk. ALGORITHM: {_NAMES} "
    "(default efbv). Exit code 1 if a problem would stop the run.",
)
@with_experiment_options
def doctor_command(
    *,
    algorithm: Annotated[str, typer.Argument(metavar="[ALGORITHM]")] = "efbv",
    flower_app: Annotated[
        Path | None,
        typer.Option("--app", metavar="FOLDER", help="Look at the files of this Flower app too."),
    ] = None,
    given: Mapping[str, object],
) -> None:
    """Check that a run would work."""
    from fedstrategies.experiment.families import config_from_mapping

    config = config_from_mapping({**given, "algorithm": algorithm})
    from fedstrategies.cli.doctor import print_diagnosis
    from fedstrategies.experiment.doctor import examine

    diagnosis = examine(config, app=flower_app)
    print_diagnosis(diagnosis)
    if diagnosis.problems:
        raise typer.Exit(1)


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point: run the command line and exit with its code."""
    sys.exit(_exit_code(arguments))


def _exit_code(arguments: Sequence[str] | None) -> int:
    from fedstrategies.cli.errors import is_unwritten, is_wrong_input

    try:
        code = app(args=arguments, prog_name="fedstrategies", standalone_mode=False)
    except click.ClickException as error:
        # Empty where no command was given and the help was shown in its place.
        if message := error.format_message():
            _complain(message)
        return 2
    except (KeyboardInterrupt, click.Abort):
        code = _INTERRUPTED
    except Exception as error:
        wrong = is_wrong_input(error)
        if not wrong and not is_unwritten(error):
            raise
        _complain(str(error))
        return 2 if wrong else 1
    # Typer turns Ctrl-C into this code itself.
    return _leave_interrupted() if code == _INTERRUPTED else code or 0


def _leave_interrupted() -> int:
    """Flower's server thread may still wait for clients that are gone: do not wait for it."""
    _complain("interrupted; the records so far are kept")
    others = [thread for thread in threading.enumerate() if not thread.daemon]
    if len(others) > 1:
        if "ray" in sys.modules:
            sys.modules["ray"].shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(_INTERRUPTED)
    return _INTERRUPTED


def _complain(message: str) -> None:
    print(f"fedstrategies: {' '.join(message.split())}", file=sys.stderr)


def _progress(name: str, config: ExperimentConfig) -> AbstractContextManager[list[Observer]]:
    from fedstrategies.experiment.progress import progress

    return progress(name, config.rounds, quiet=config.quiet)


def _quieten_flower(quiet: bool) -> None:
    """Flower logs every round; the progress display says the same in less.

    To be called once Flower is imported: importing it sets the level.
    """
    logging.getLogger("flwr").setLevel(logging.ERROR if quiet else logging.WARNING)
