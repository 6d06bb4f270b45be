"""What this room's strategies share: weights alpha_i, personal evaluation, the server's step."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from fedstrategies.flower import BaseStrategy, Update
from fedstrategies.flower.personal_metrics import personal_metrics
from fedstrategies.objectives import Smoothness
from fedstrategies.server_optimizer import ServerOptimizer
from fedstrategies.stepsize import parse_stepsize

__all__ = ["PersonalStrategy", "Stepsize", "per_client"]

logger = logging.getLogger("flwr")

Stepsize = float | Sequence[float] | str | None


class PersonalStrategy(BaseStrategy):
    """Base of the strategies on ``min_x (1/n) sum_i f_i(alpha_i x + (1 - alpha_i) x_i*)``.

    A client with alpha_i = 0 is purely local: it is never asked to train, no constant depends
    on it, and its deployed model is x_i*.

    Parameters
    ----------
    alpha : float or sequence of float
        alpha_i in [0, 1], one for all or one per partition.
    smoothness : Smoothness or None
        L_i and mu_i of the f_i; needed for what is left to the theory.
    stepsize : float, sequence of float, str or None
        A number, one per partition, ``"theory"`` (None) or ``"theory*2"``.
    server_optimizer : ServerOptimizer or None
        What the server does with the direction ``x - mean``; None: x becomes the mean.
    **base
        See `fedstrategies.flower.BaseStrategy`.

    Raises
    ------
    ValueError
        For a weight outside [0, 1], or settings that contradict each other.
    """

    no_downlink = (
        "its clients go on from the mean itself: control variates are settled by it, and where "
        "there are none local steps would carry the downlink's error into the next mean"
    )

    def __init__(
        self,
        *,
        alpha: float | Sequence[float],
        smoothness: Smoothness | None = None,
        stepsize: Stepsize = None,
        server_optimizer: ServerOptimizer | None = None,
        **base: Any,
    ) -> None:
        for weight in [alpha] if isinstance(alpha, int | float) else alpha:
            if not 0 <= weight <= 1:
                raise ValueError(f"alpha = {weight} is outside [0, 1]")
        if base.get("evaluate_metrics_aggr_fn") is None:
            base["evaluate_metrics_aggr_fn"] = personal_metrics
        self._factor, self._relative = _checked_stepsize(stepsize)
        super().__init__(**base)
        self._alpha = alpha
        self._alphas: tuple[float, ...] | None = None
        self.smoothness = smoothness
        self.server_optimizer = server_optimizer
        self._optimizer_state: Mapping[str, Tensor] = {}

    @property
    def alpha(self) -> tuple[float, ...]:
        """alpha_i of each partition; known once the first round begins."""
        if self._alphas is None:
            self._alphas = per_client("alpha", self._alpha, self.clients)
        return self._alphas

    def prepare(self, x: Tensor) -> None:
        """Check the weights against n, and start the server's optimiser."""
        self._active = torch.tensor([i for i, a in enumerate(self.alpha) if a > 0])
        if not len(self._active):
            raise ValueError(
                "alpha is 0 for every client: all are purely local and there is nothing to train "
                "together; give at least one client a positive weight"
            )
        self.sampling_of(len(self._active)).size(len(self._active))
        if self.server_optimizer is not None:
            self._optimizer_state = self.server_optimizer.init(x)

    def method_state(self) -> Mapping[str, object]:
        """The state of the server's optimiser."""
        return {"optimizer": dict(self._optimizer_state)}

    def set_method_state(self, state: Mapping[str, Any]) -> None:
        """The state of the server's optimiser."""
        self._optimizer_state = state["optimizer"]

    def cohort(self, round: int) -> Tensor:
        """The round's cohort among the clients that are not purely local."""
        law = self.sampling_of(len(self._active))
        return self._active[law.draw(len(self._active), seed=self.seed, round=round)]

    def evaluation_constants(self, partition: int) -> tuple[float, ...]:
        """(alpha_i)."""
        return (self.alpha[partition],)

    def descended(
        self,
        x: Tensor,
        direction: Tensor,
        *,
        settlement: Tensor | None = None,
        follow: Callable[[], None] = lambda: None,
    ) -> Update:
        """The round's update where the server's optimiser moves x against ``direction``."""
        assert self.server_optimizer is not None
        moved, state = self.server_optimizer.step(x, direction, self._optimizer_state)

        def both() -> None:
            self._optimizer_state = state
            follow()

        return Update(x=moved, follow=both, settlement=settlement)

    def stepsizes(self, theory: Sequence[float] | None) -> tuple[float, ...]:
        """gamma_i of each client, from what the theory says or from the user's numbers.

        Raises
        ------
        ValueError
            If the theory is to say and does not, or the numbers are not one per client.
        """
        if not self._relative:
            return per_client("stepsize", self._factor, self.clients)
        if theory is None:
            raise ValueError(
                "the theory's step sizes need smoothness=Smoothness(...) with L_i (and mu_i); "
                "give it, or numbers as stepsize"
            )
        assert isinstance(self._factor, float)
        return tuple(self._factor * step for step in theory)

    def summary(self) -> None:
        """Log what was chosen and from what."""
        logger.info("\t├──> %s", type(self).__name__)
        for name, value in {**self.constants, "stepsize": self.gamma}.items():
            logger.info("\t│\t├── %s = %.10g", name, value)
        known = "the user's numbers" if self.smoothness is None else "the clients' L_i and mu_i"
        logger.info("\t└──> from %s", known)


def per_client(name: str, value: float | Sequence[float], clients: int) -> tuple[float, ...]:
    """One number for each client.

    Raises
    ------
    ValueError
        If a sequence has another length than n.
    """
    if isinstance(value, int | float):
        return (float(value),) * clients
    if len(value) != clients:
        raise ValueError(f"{name}: {len(value)} values for {clients} clients")
    return tuple(map(float, value))


def _checked_stepsize(setting: Stepsize) -> tuple[float | tuple[float, ...], bool]:
    try:
        if setting is None or isinstance(setting, int | float | str):
            return parse_stepsize(setting)
        return tuple(parse_stepsize(float(step))[0] for step in setting), False
    except ValueError as error:
        raise ValueError(f"stepsize: {error}") from None
