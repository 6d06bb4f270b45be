"""One run and its folder, from the claim to the last file."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

from torch import Tensor

from fedstrategies.checkpoint import CheckpointError
from fedstrategies.durable import make_directory, sync, write_durably
from fedstrategies.experiment.conclusion import draw_picture, spent, summary_of
from fedstrategies.experiment.continuation import (
    Beginning,
    check_same_data,
    check_same_run,
    checkpoints_of,
    warn_of_versions,
    write_config,
)
from fedstrategies.experiment.datasets import digest_of_data
from fedstrategies.experiment.folder_lock import FolderLock
from fedstrategies.experiment.logs import opened_logs
from fedstrategies.experiment.options import ConfigError
from fedstrategies.experiment.preparation import Prepared
from fedstrategies.experiment.progress import Observer
from fedstrategies.experiment.recorder import Recorder
from fedstrategies.experiment.results import (
    CHECKPOINTS,
    HISTORY,
    PERSONAL,
    SUMMARY,
    Status,
    Summary,
    open_directory,
)
from fedstrategies.experiment.writing import WriteError, as_write_error, writing
from fedstrategies.flower.app import FedApp
from fedstrategies.flower.errors import AllClientsFailed, Diverged
from fedstrategies.objectives import BatchedObjective, LastPoint
from fedstrategies.saved_model import save_model
from fedstrategies.threads import single_threaded

if TYPE_CHECKING:
    from flwr.app import ArrayRecord
    from flwr.serverapp import Grid

__all__ = ["Session"]

logger = logging.getLogger("flwr")


class Session:
    """A run in progress; it holds its folder from construction until `guarded` has ended.

    Parameters
    ----------
    prepared : Prepared
        What is run.
    observers : sequence of callable
        Called with each history record; one that returns True stops the run.
    picture : bool
        Whether to draw curve.png.

    Raises
    ------
    ConfigError
        If the folder holds something, another process writes it, or it cannot be written; with
        ``resume``, if it holds another run, or the data have changed.
    """

    def __init__(
        self, prepared: Prepared, observers: Sequence[Observer], *, picture: bool = True
    ) -> None:
        self.prepared = prepared
        self._picture = picture
        config = prepared.config
        self._observers = observers
        self._directory = Path(config.out or ".")
        self._recorder: Recorder | None = None
        self._begun = False
        # The data are looked at again only where there is something to go on from.
        resumable = config.resume or config.checkpoint_every is not None
        self._data = digest_of_data(config.problem) if resumable else None
        self._lock = FolderLock(self._directory)
        try:
            open_directory(self._directory, overwrite=config.overwrite, resume=config.resume)
            if config.resume:
                # Once more: by now another process may have been here.
                check_same_run(config, self._directory)
                check_same_data(config, self._directory, self._data)
            else:
                self._begin()
        except BaseException:
            self._lock.release()
            raise

    def _begin(self) -> None:
        """Make the folder that of this run. Before, a run that is refused has changed nothing."""
        config = self.prepared.config
        self._begun = True
        if config.resume:
            warn_of_versions(self._directory)
        with writing(self._directory / SUMMARY):  # how an earlier process ended it is over
            (self._directory / SUMMARY).unlink(missing_ok=True)
        if config.checkpoint_every is not None:
            with writing(self._directory / CHECKPOINTS):
                make_directory(self._directory / CHECKPOINTS)
        write_config(config, self._directory, data=self._data)

    def run_in_process(self, app: FedApp) -> ArrayRecord:
        """All rounds on the in-process grid."""
        from fedstrategies.engines import CohortGrid

        config = self.prepared.config
        fast = cast(Literal["auto", "never", "require"], config.fast)
        grid = CohortGrid(app, num_clients=config.clients, fast=fast)
        if config.private:  # the grid's own objective charges for every look at it
            return self.run_on(grid)
        # The grid's own objective, so that measuring f(x^t) is the first half of round t+1.
        return self.run_on(grid, grid.objective)

    def run_on(self, grid: Grid, objectives: BatchedObjective | None = None) -> ArrayRecord:
        """All rounds on ``grid``; the final model."""
        config, problem = self.prepared.config, self.prepared.problem
        known = LastPoint(problem.objectives) if objectives is None else objectives
        with single_threaded():
            measured = self.prepared.method.measured(known)
        every = config.checkpoint_every
        with opened_logs(config, self._directory) as logs, single_threaded():
            self._recorder = Recorder(
                config=config,
                problem=problem,
                objectives=measured,
                fstar=self.prepared.fstar,
                minimiser=self.prepared.minimiser,
                accuracies=self.prepared.method.accuracies,
                spending=partial(spent, self.prepared) if config.private else None,
                path=self._directory / HISTORY,
                observers=[*self._observers, *logs],
            )
            result = self.prepared.strategy.start(
                grid,
                problem.initial_arrays(),
                num_rounds=config.rounds,
                callbacks=[*([] if self._begun else [Beginning(self._begin)]), self._recorder],
                checkpoints=None if every is None else self._directory / CHECKPOINTS,
                checkpoint_every=every or 0,
                resume=checkpoints_of(self._directory) if config.resume else None,
            )
        return result.arrays

    def guarded(self, body: Callable[[], ArrayRecord]) -> Summary:
        """Run ``body`` and write the folder's other files, however it ends; then let it go.

        Raises
        ------
        ConfigError
            If there is no checkpoint that can be used; the folder is as it was.
        WriteError
            If the results cannot be written. Without a summary.json the run has not ended.
        """
        try:
            return self._guarded(body)
        finally:
            self._lock.release()

    def _guarded(self, body: Callable[[], ArrayRecord]) -> Summary:
        try:
            arrays = body()
        except Diverged as error:
            return self._conclude("diverged", error=str(error))
        except AllClientsFailed as error:
            return self._conclude("failed", error=f"failed in round {self._next_round}: {error}")
        except CheckpointError as error:  # nothing was run, and what is there stays
            raise ConfigError(f"resume: {error}") from None
        except KeyboardInterrupt:
            self._conclude_for(None, "interrupted", error="interrupted")
            raise
        except BaseException as error:
            unwritten = as_write_error(error, self._directory)
            told = str(unwritten) if unwritten else f"{type(error).__name__}: {error}"
            self._conclude_for(unwritten, "failed", error=told)
            if unwritten is None:
                raise
            raise unwritten from None
        return self._conclude("done", model=arrays.to_torch_state_dict())

    def _conclude_for(self, known: WriteError | None, status: Status, *, error: str) -> None:
        """Conclude a run whose own end must not be hidden by one of the writing."""
        if not self._begun:  # what an earlier process left is still how the run stands
            return
        try:
            self._conclude(status, error=error)
        except WriteError as unwritten:
            # On a full disc nothing else can be written either, which then is no news.
            logger.log(logging.ERROR if known is None else logging.INFO, "%s", unwritten)

    @property
    def _next_round(self) -> int:
        last = {} if self._recorder is None else self._recorder.last
        return int(last.get("round", -1)) + 1

    def _conclude(
        self,
        status: Status,
        *,
        error: str | None = None,
        model: Mapping[str, Tensor] | None = None,
    ) -> Summary:
        prepared, recorder = self.prepared, self._recorder
        if recorder is not None:
            recorder.on_end()
            if model is None and recorder.x is not None:
                model = prepared.problem.named(recorder.x)
        summary = summary_of(
            prepared, recorder, status=status, out=str(self._directory), error=error
        )
        if model is not None:
            path = self._directory / "model.safetensors"
            with writing(path):
                save_model(model, path)
                sync(path)  # before there is a summary that says the run has ended
        if status == "done" and recorder is not None and recorder.x is not None:
            for index, personal in enumerate(prepared.method.personal_models(recorder.x)):
                path = self._directory / PERSONAL / f"client-{index:05d}.safetensors"
                with writing(path):
                    save_model(personal, path)
        with writing(self._directory / SUMMARY):
            write_durably(self._directory / SUMMARY, summary.to_json().encode())
        if summary.last and self._picture:
            with writing(self._directory / "curve.png"):
                draw_picture(self._directory)
        return summary
