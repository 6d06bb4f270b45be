"""Where the records of a run go besides its history: ``--log``."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from fedstrategies.experiment.history import HistoryRecord, read_history, total_bytes
from fedstrategies.experiment.options import ConfigError
from fedstrategies.experiment.progress import Observer
from fedstrategies.experiment.results import HISTORY, TENSORBOARD, remove_event_files
from fedstrategies.experiment.writing import writing
from fedstrategies.extras import install_hint

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

    from fedstrategies.experiment.config import ExperimentConfig

__all__ = ["TensorBoardLog", "check_log", "opened_logs"]

_FLUSH_SECONDS = 5


def check_log(config: ExperimentConfig) -> None:
    """Refuse a log whose package is not installed.

    Raises
    ------
    ConfigError
        Naming the extra.
    """
    if config.log == "tensorboard" and importlib.util.find_spec("tensorboard") is None:
        raise ConfigError(f"log: tensorboard is not installed; {install_hint('tensorboard')}")


@contextmanager
def opened_logs(config: ExperimentConfig, directory: Path) -> Iterator[list[Observer]]:
    """Observers that write the logs a configuration asks for; they are complete at the end.

    Parameters
    ----------
    config : ExperimentConfig
        Its ``log``.
    directory : Path
        The run's folder.

    Raises
    ------
    WriteError
        If the last of it cannot be written.
    """
    if config.log is None:
        yield []
        return
    log = TensorBoardLog(directory)
    try:
        yield [log]
    finally:
        log.close()


class TensorBoardLog:
    """An observer that writes each record's values as scalars, by their names in the history.

    A run that goes on from a checkpoint has its log written anew from its history, so that the
    two never differ: rounds that are done again are there once, and what an earlier process had
    not written out yet is there too. ``total_bytes`` is added: up, down and recovery.

    Scalars are float32, as TensorBoard has them; the history has all digits.

    Parameters
    ----------
    directory : Path
        The run's folder, with the history; events go to ``tensorboard`` in it.
    """

    def __init__(self, directory: Path) -> None:
        self._history = directory / HISTORY
        self._folder = directory / TENSORBOARD
        self._writer: SummaryWriter | None = None

    def __call__(self, record: HistoryRecord) -> None:
        """Write one record; the first call also those before it.

        Raises
        ------
        WriteError
            If it cannot be written.
        """
        with writing(self._folder):
            if self._writer is None:
                self._begin(record)
            self._add(record, time.time())

    def _begin(self, record: HistoryRecord) -> None:
        # Takes seconds to load, and nobody else needs it.
        from torch.utils.tensorboard import SummaryWriter

        remove_event_files(self._folder.parent)
        self._writer = SummaryWriter(str(self._folder), flush_secs=_FLUSH_SECONDS)
        if record["round"] == 0:
            return
        start = time.time() - record["seconds"]
        for earlier in read_history(self._history):
            if earlier["round"] < record["round"]:
                self._add(earlier, start + earlier["seconds"])

    def _add(self, record: HistoryRecord, wall_time: float) -> None:
        assert self._writer is not None
        total = total_bytes(record)
        values = record if total is None else {**record, "total_bytes": total}
        for name, value in values.items():
            if name != "round":
                self._writer.add_scalar(name, value, record["round"], wall_time)

    def close(self) -> None:
        """Write out what is still in memory.

        Raises
        ------
        WriteError
            If it cannot be written.
        """
        if self._writer is not None:
            with writing(self._folder):
                self._writer.close()
