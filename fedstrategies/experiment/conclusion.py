"""What a run leaves at its end: its summary, what its clients have spent, its picture."""

from __future__ import annotations

import logging
from math import isfinite
from pathlib import Path
from typing import cast

from fedstrategies.experiment.drawing import why_no_pictures
from fedstrategies.experiment.history import HistoryRecord
from fedstrategies.experiment.preparation import Prepared
from fedstrategies.experiment.recorder import Recorder
from fedstrategies.experiment.results import Status, Summary, peak_memory_bytes
from fedstrategies.privacy import Accountant

__all__ = ["draw_picture", "spent", "summary_of"]

logger = logging.getLogger("flwr")


def spent(prepared: Prepared) -> dict[str, float]:
    """The largest and the mean epsilon over the clients, as the server knows of them."""
    config, accounts = prepared.config, prepared.strategy.accounts
    epsilons = accounts.epsilons(config.delta, accountant=cast(Accountant, config.accountant))
    if not len(epsilons):
        return {"epsilon_max": 0.0, "epsilon_mean": 0.0}
    return {"epsilon_max": float(epsilons.max()), "epsilon_mean": float(epsilons.mean())}


def summary_of(
    prepared: Prepared, recorder: Recorder | None, *, status: Status, out: str, error: str | None
) -> Summary:
    """The summary of a run that has ended.

    Parameters
    ----------
    prepared : Prepared
        What was run.
    recorder : Recorder or None
        Who measured it; None if it did not come to that.
    status : str
        How it ended.
    out : str
        Its folder.
    error : str or None
        Why it did not end well.
    """
    config, smoothness = prepared.config, prepared.problem.smoothness
    last: HistoryRecord = {} if recorder is None else recorder.last
    constants = ("L", "L_tilde", "L_max", "mu")
    return Summary(
        status=status,
        algorithm=config.algorithm,
        dataset=config.dataset_name,
        backend=config.backend,
        clients=config.clients,
        dimension=prepared.problem.dimension,
        out=out,
        last=last,
        reached={} if recorder is None else recorder.reached,
        fstar=prepared.fstar,
        stepsize=prepared.stepsize,
        theory=prepared.theory,
        smoothness={}
        if smoothness is None
        else {name: getattr(smoothness, name) for name in constants},
        local_solve=prepared.method.local_solve() if recorder is not None else {},
        incidents=dict(prepared.strategy.incidents),
        privacy=_privacy(prepared),
        seconds=float(last.get("seconds", 0.0)),
        peak_memory_bytes=peak_memory_bytes(),
        error=error,
    )


def _privacy(prepared: Prepared) -> dict[str, float | str]:
    """What the summary says of privacy, if there is any."""
    config, privacy = prepared.config, prepared.method.privacy
    if privacy is None:
        return {}
    finite = {key: value for key, value in spent(prepared).items() if isfinite(value)}
    return {
        **finite,
        "delta": config.delta,
        "noise_multiplier": privacy.noise_multiplier,
        "max_grad_norm": privacy.max_grad_norm,
        "accountant": config.accountant,
        "neighbours": "zero-out of one record; shard sizes are public",
        "simulated": "the noise is a function of the seed; losses, gaps and accuracies are "
        "measured outside of epsilon",
    }


def draw_picture(directory: Path) -> None:
    """The run's picture, where matplotlib is installed and there is something to draw.

    Raises
    ------
    OSError
        If it cannot be written.
    """
    if why_no_pictures() is not None:
        return
    from fedstrategies.experiment.plots import draw_run

    try:
        draw_run(directory, directory / "curve.png")
    except ValueError as error:
        # E.g. a run that diverged at once. How the run ended is what the caller must learn.
        logger.info("no curve.png: %s", error)
