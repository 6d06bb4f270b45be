"""The server half of a Flower app that runs one experiment."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from fedstrategies.experiment.families import config_from_mapping
from fedstrategies.experiment.options import ConfigError
from fedstrategies.experiment.progress import describe_record, progress
from fedstrategies.experiment.runner import run_on_grid

if TYPE_CHECKING:
    from flwr.app import Context
    from flwr.serverapp import Grid

__all__ = ["serve"]

logger = logging.getLogger("flwr")


def serve(grid: Grid, context: Context) -> None:
    """Run the experiment that the run configuration describes; results go to ``output-dir``.

    Raises
    ------
    ConfigError, DataError
        For wrong input; nothing was written.
    RuntimeError
        If the run diverged or every client of a round failed. Flower's command line exits
        with 0 all the same: read ``summary.json``, or ``flwr ls``.
    """
    config = config_from_mapping(context.run_config, app=True)
    if config.out is None:
        raise ConfigError("output-dir: set it, best to an absolute path")
    if not Path(config.out).is_absolute():
        # The working directory is that of whoever started the SuperLink first.
        logger.warning("output-dir is relative; results go to %s", Path(config.out).absolute())
    with progress(config.algorithm, config.rounds, quiet=config.quiet) as observers:
        summary = run_on_grid(config, grid, observers=observers)
    if summary.status != "done":
        raise RuntimeError(f"{summary.error} (records kept in {summary.out})")
    logger.info(
        "round %s: %s; %s", summary.last["round"], describe_record(summary.last), summary.out
    )
