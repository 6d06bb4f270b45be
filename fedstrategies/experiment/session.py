"""One run and its folder, from the claim to the last file."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable, Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

from safetensors.torch import save_file
from torch import Tensor

from fedstrategies.checkpoint import CheckpointError
from fedstrategies.experiment.continuation import checkpoints_of, write_config
from fedstrategies.experiment.history import HistoryRecord
from fedstrategies.experiment.options import ConfigError
from fedstrategies.experiment.preparation import Prepared
from fedstrategies.experiment.progress import Observer
from fedstrategies.experiment.recorder import Recorder
from fedstrategies.experiment.results import (
    CHECKPOINTS,
    PERSONAL,
    Status,
    Summary,
    open_directory,
    peak_memory_bytes,
)
from fedstrategies.flower.app import FedApp
from fedstrategies.flower.errors import AllClientsFailed, Diverged
from fedstrategies.objectives import BatchedObjective, LastPoint
from fedstrategies.privacy import Accountant
from fedstrategies.saved_model import save_model
from fedstrategies.threads import single_threaded

if TYPE_CHECKING:
    from flwr.app import ArrayRecord
    from flwr.serverapp import Grid

__all__ = ["Session"]

logger = logging.getLogger("flwr")


class Session:
    """A run in progress; the folder is claimed on construction.

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
        If the folder holds something or cannot be written.
    """

    def __init__(
        self, prepared: Prepared, observers: Sequence[Observer], *, picture: bool = True
    ) -> None:
        self.prepared = prepared
        self._picture = picture
        config = prepared.config
        self._observers = observers
        self._directory = open_directory(
            Path(config.out or "."), overwrite=config.overwrite, resume=config.resume
        )
        write_config(config, self._directory)
        self._recorder: Recorder | None = None

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
        self._recorder = Recorder(
            config=config,
            problem=problem,
            objectives=measured,
            fstar=self.prepared.fstar,
            minimiser=self.prepared.minimiser,
            accuracies=self.prepared.method.accuracies,
            spending=self._spending if config.private else None,
            path=self._directory / "history.jsonl",
            observers=self._observers,
        )
        every = config.checkpoint_every
        with single_threaded():
            result = self.prepared.strategy.start(
                grid,
                problem.initial_arrays(),
                num_rounds=config.rounds,
                callbacks=[self._recorder],
                checkpoints=None if every is None else self._directory / CHECKPOINTS,
                checkpoint_every=every or 0,
                resume=checkpoints_of(self._directory) if config.resume else None,
            )
        return result.arrays

    def _spending(self) -> dict[str, float]:
        config, accounts = self.prepared.config, self.prepared.strategy.accounts
        epsilons = accounts.epsilons(config.delta, accountant=cast(Accountant, config.accountant))
        if not len(epsilons):
            return {"epsilon_max": 0.0, "epsilon_mean": 0.0}
        return {"epsilon_max": float(epsilons.max()), "epsilon_mean": float(epsilons.mean())}

    def _privacy(self) -> dict[str, float | str]:
        """What the summary says of privacy, if there is any."""
        config, privacy = self.prepared.config, self.prepared.method.privacy
        if privacy is None:
            return {}
        spent = {key: value for key, value in self._spending().items() if isfinite(value)}
        return {
            **spent,
            "delta": config.delta,
            "noise_multiplier": privacy.noise_multiplier,
            "max_grad_norm": privacy.max_grad_norm,
            "accountant": config.accountant,
            "neighbours": "zero-out of one record; shard sizes are public",
            "simulated": "the noise is a function of the seed; losses, gaps and accuracies are "
            "measured outside of epsilon",
        }

    def guarded(self, body: Callable[[], ArrayRecord]) -> Summary:
        """Run ``body`` and write the folder's other files, however it ends."""
        try:
            arrays = body()
        except Diverged as error:
            return self._conclude("diverged", error=str(error))
        except AllClientsFailed as error:
            return self._conclude("failed", error=f"failed in round {self._next_round}: {error}")
        except CheckpointError as error:  # nothing was run, and what is there stays
            raise ConfigError(f"resume: {error}") from None
        except KeyboardInterrupt:
            self._conclude("interrupted", error="interrupted")
            raise
        except BaseException as error:
            self._conclude("failed", error=f"{type(error).__name__}: {error}")
            raise
        return self._conclude("done", model=arrays.to_torch_state_dict())

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
        config, smoothness = prepared.config, prepared.problem.smoothness
        last: HistoryRecord = {}
        if recorder is not None:
            recorder.on_end()
            last = recorder.last
            if model is None and recorder.x is not None:
                model = prepared.problem.named(recorder.x)
        summary = Summary(
            status=status,
            algorithm=config.algorithm,
            dataset=config.dataset_name,
            backend=config.backend,
            clients=config.clients,
            dimension=prepared.problem.dimension,
            out=str(self._directory),
            last=last,
            reached={} if recorder is None else recorder.reached,
            fstar=prepared.fstar,
            stepsize=prepared.stepsize,
            theory=prepared.theory,
            smoothness={}
            if smoothness is None
            else {name: getattr(smoothness, name) for name in ("L", "L_tilde", "L_max", "mu")},
            local_solve=prepared.method.local_solve() if recorder is not None else {},
            incidents=dict(prepared.strategy.incidents),
            privacy=self._privacy(),
            seconds=float(last.get("seconds", 0.0)),
            peak_memory_bytes=peak_memory_bytes(),
            error=error,
        )
        if model is not None:
            save_file(dict(model), self._directory / "model.safetensors")
        if status == "done" and recorder is not None and recorder.x is not None:
            for index, personal in enumerate(prepared.method.personal_models(recorder.x)):
                save_model(personal, self._directory / PERSONAL / f"client-{index:05d}.safetensors")
        (self._directory / "summary.json").write_text(summary.to_json(), encoding="utf-8")
        if last and self._picture:
            _draw(self._directory)
        return summary


def _draw(directory: Path) -> None:
    """The run's picture, where matplotlib is installed and there is something to draw."""
    if importlib.util.find_spec("matplotlib") is None:
        logger.info("no curve.png: pip install 'fedstrategies[plots]'")
        return
    from fedstrategies.experiment.plots import draw_run

    try:
        draw_run(directory, directory / "curve.png")
    except ValueError as error:
        # E.g. a run that diverged at once. How the run ended is what the caller must learn.
        logger.info("no curve.png: %s", error)
