"""When a run writes checkpoints, and how it goes on from one."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flwr.serverapp import Grid

from fedstrategies.checkpoint import CheckpointError, Checkpoints, read_checkpoint
from fedstrategies.flower.callbacks import Callback, ResumableCallback
from fedstrategies.flower.request_log import RequestLog
from fedstrategies.flower.resumption import check_snapshot, resume, snapshot

if TYPE_CHECKING:
    from fedstrategies.flower.strategy import BaseStrategy

__all__ = ["Checkpointing"]

logger = logging.getLogger("flwr")


@dataclass(frozen=True, kw_only=True)
class Checkpointing:
    """Where a run's checkpoints go, and which one it begins from.

    Attributes
    ----------
    kept : Checkpoints or None
        Where; None: none are written.
    every : int
        Rounds between two of them.
    source : Path or None
        A checkpoint, or a folder of them, to go on from; None: the run begins anew.
    """

    kept: Checkpoints | None = None
    every: int = 0
    source: Path | None = None

    @classmethod
    def of(
        cls, folder: str | Path | None, *, every: int, resume: str | Path | None
    ) -> Checkpointing:
        """From the arguments of ``start``.

        Raises
        ------
        ValueError
            If there is a folder and no number of rounds, or the reverse.
        """
        if every < 0 or (folder is None) != (every == 0):
            raise ValueError(
                f"checkpoints = {folder}, checkpoint_every = {every}: give a folder and a number "
                "of rounds >= 1, or neither"
            )
        source = None if resume is None else Path(resume)
        kept = None if folder is None else Checkpoints(Path(folder))
        if source is None and kept is not None and kept.found():
            raise ValueError(
                f"checkpoints = {folder}: there are checkpoints of a run; give resume = "
                f"{str(folder)!r} to go on with it, or another folder"
            )
        return cls(kept=kept, every=every, source=source)

    def resume(
        self,
        strategy: BaseStrategy,
        callbacks: Sequence[Callback],
        grid: Grid,
        *,
        num_rounds: int,
    ) -> bool:
        """Let a strategy that is set up, and its callbacks, go on from the source.

        Requests that an earlier server sent after it are charged (`charge_requests`).

        Returns
        -------
        bool
            Whether a callback says that nothing is left to do.

        Raises
        ------
        CheckpointError
            If there is none that can be read, or it is of another run.
        """
        assert self.source is not None
        classes, followers = strategy.state_classes, _resumable(callbacks)

        def check(tree: Any) -> None:
            if not isinstance(tree, dict) or tree.keys() != {"strategy", "callbacks"}:
                raise ValueError("not the checkpoint of a strategy's run")
            check_snapshot(strategy, tree["strategy"])
            known, here = [name for name, _ in tree["callbacks"]], [_name(one) for one in followers]
            if known != here:
                raise ValueError(f"written with callbacks {known}, this run has {here}")

        if self.source.is_dir():
            tree = Checkpoints(self.source).latest(classes=classes, check=check)
        else:
            tree = read_checkpoint(self.source, classes=classes, check=check)
        if (done := tree["strategy"]["round"]) > num_rounds:
            # The one before it would be of fewer, and the run would lose what is done.
            raise CheckpointError(
                f"{self.source}: of round {done}, and the run is to have {num_rounds} rounds"
            )
        try:
            resume(strategy, tree["strategy"])
            self.charge_requests(strategy, grid)
            stops = [
                callback.on_resume(state, strategy.x)
                for callback, (_, state) in zip(followers, tree["callbacks"], strict=True)
            ]
        except ValueError as error:
            raise CheckpointError(f"{self.source}: {error}") from None
        logger.info("goes on after round %d (%s)", strategy.round, self.source)
        return any(stops)

    def charge_requests(self, strategy: BaseStrategy, grid: Grid) -> None:
        """Count as unanswered what an earlier server asked for after the strategy's round.

        Not where what is in no checkpoint is done again by the same bits, and charged then.

        Raises
        ------
        CheckpointError, OSError
            If it cannot be read, or is of another run.
        """
        if _repeats(grid):
            return
        folders = [] if self.kept is None else [self.kept.directory]
        if self.source is not None:
            folders.append(self.source if self.source.is_dir() else self.source.parent)
        logs = {folder.absolute(): RequestLog(folder) for folder in folders}
        for log in logs.values():
            owed = log.work(strategy.round)
            if owed and max(owed) >= strategy.clients:
                raise CheckpointError(
                    f"{log.directory}: requests to partition {max(owed)} were written down there, "
                    f"and this run has {strategy.clients} clients; take another folder"
                )
            for partition, work in owed.items():
                strategy.accounts.asked_before(partition, work)
            if owed:
                logger.warning(
                    "%d clients were asked for work after round %d, which nothing was kept of: "
                    "what they may have released is charged if they are private",
                    len(owed),
                    strategy.round,
                )

    def requests_on(self, strategy: BaseStrategy, grid: Grid) -> RequestLog | None:
        """Where requests from now on are written down; None: nowhere.

        Raises
        ------
        CheckpointError, OSError
            As `charge_requests`.
        """
        if self.kept is None or _repeats(grid):
            return None
        log = RequestLog(self.kept.directory)
        log.go_on(strategy.round)
        return log

    def after_round(
        self,
        strategy: BaseStrategy,
        callbacks: Sequence[Callback],
        requests: RequestLog | None,
        *,
        last: bool,
    ) -> None:
        """Write a checkpoint if it is time; the callbacks have been told of the round.

        Raises
        ------
        OSError
            If it cannot be written.
        """
        if self.kept is None or not (last or strategy.round % self.every == 0):
            return
        followers = [(_name(one), one.state()) for one in _resumable(callbacks)]
        self.kept.write(strategy.round, {"strategy": snapshot(strategy), "callbacks": followers})
        if requests is not None:
            requests.checkpointed(strategy.round, oldest=self.kept.rounds()[-1])


def _repeats(grid: Grid) -> bool:
    """Whether nodes that begin anew release the same bits again."""
    return bool(getattr(grid, "repeats_releases", False))


def _resumable(callbacks: Sequence[Callback]) -> list[ResumableCallback]:
    return [callback for callback in callbacks if isinstance(callback, ResumableCallback)]


def _name(callback: Callback) -> str:
    return type(callback).__name__
