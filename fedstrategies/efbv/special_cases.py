"""EF21, DIANA and gradient descent: EF-BV with its constants fixed."""

from __future__ import annotations

from typing import Any

from fedstrategies.compressors import Compressor, Constants, Identity
from fedstrategies.efbv import theory as analysis
from fedstrategies.efbv.constants import Theory
from fedstrategies.efbv.strategy import EFBV
from fedstrategies.flower import Delivery
from fedstrategies.objectives import NoProx, Smoothness

__all__ = ["DIANA", "EF21", "GradientDescent"]


class EF21(EFBV):
    """EF21: EF-BV with lambda = nu = 1 (on lambda* C where C is no contraction).

    Parameters are those of `EFBV` without lam and nu. With m of n participants it is EF21-PP:
    their messages are added unscaled.

    Raises
    ------
    ValueError
        For ``lam`` or ``nu``, and as `EFBV`.

    References
    ----------
    Richtarik, Sokolov, Fatkhullin, "EF21" (2021); as a case of EF-BV: Condat, Yi, Richtarik,
    "EF-BV" (2022); arXiv 2509.08233.

    Examples
    --------
    After the example of `EFBVClient`, at the step size of the theory:

    >>> from fedstrategies import EF21, logistic_smoothness
    >>> known = logistic_smoothness(LogisticRegression.stack(f))
    >>> strategy = EF21(compressor=TopK(k=1), smoothness=known)
    >>> result = strategy.start(CohortGrid(app, num_clients=2), x0, num_rounds=3)
    >>> round(strategy.gamma, 4), strategy.theory.memory_step
    (0.0787, 1.0)
    >>> strategy.h
    tensor([-0.2382,  0.1250, -0.1250, -0.3389], dtype=torch.float64)
    """

    def __init__(self, *, compressor: Compressor, **settings: Any) -> None:
        _refuse(settings, ("lam", "nu"), "EF21 fixes lambda and nu; use EFBV to choose them")
        super().__init__(compressor=compressor, **settings)

    def analyse(self, operator: Constants, smoothness: Smoothness) -> Theory:
        """See `theory.ef21`."""
        return analysis.ef21(
            operator,
            smoothness,
            clients=self.clients,
            cohort=self.cohort_size,
            regularised=not isinstance(self.prox, NoProx),
        )


class DIANA(EFBV):
    """DIANA: nu = 1, lambda = 1/(1 + omega), an unbiased compressor.

    Parameters are those of `EFBV` without lam and nu.

    Raises
    ------
    ValueError
        For ``lam``, ``nu`` or a biased compressor (when d is known), and as `EFBV`.

    References
    ----------
    Mishchenko, Gorbunov, Takáč, Richtárik, "Distributed Learning with Compressed Gradient
    Differences" (2019); as a case of EF-BV: Condat, Yi, Richtarik, "EF-BV" (2022);
    arXiv 2509.08233.

    Examples
    --------
    After the example of `EFBVClient`; rand-k has omega = 3 here:

    >>> from fedstrategies import DIANA, RandK
    >>> strategy = DIANA(compressor=RandK(k=1), stepsize=0.2)
    >>> result = strategy.start(CohortGrid(app, num_clients=2), x0, num_rounds=3)
    >>> strategy.theory.memory_step, strategy.theory.gradient_step
    (0.25, 1.0)
    >>> strategy.x
    tensor([ 0.2500, -0.1500,  0.1000,  0.3750], dtype=torch.float64)
    """

    def __init__(self, *, compressor: Compressor, **settings: Any) -> None:
        _refuse(settings, ("lam", "nu"), "DIANA fixes lambda and nu; use EFBV to choose them")
        super().__init__(compressor=compressor, **settings)

    def analyse(self, operator: Constants, smoothness: Smoothness) -> Theory:
        """See `theory.diana`."""
        return analysis.diana(operator, smoothness, clients=self.clients, cohort=self.cohort_size)


class GradientDescent(EFBV):
    """(Proximal) gradient descent with dense uploads: the baseline that saves nothing.

    Clients keep no memory. Where some do not answer and ``on_failure`` is ``"continue"``, the mean
    gradient of those who did stands in for that of all.

    Parameters are those of `EFBV` without compressor, lam, nu and shift_init.

    Raises
    ------
    ValueError
        For a setting that it does not have, and as `EFBV`.

    References
    ----------
    Condat, Yi, Richtarik, "EF-BV" (2022); arXiv 2509.08233.

    Examples
    --------
    After the example of `EFBVClient`:

    >>> from fedstrategies import GradientDescent
    >>> strategy = GradientDescent(stepsize=0.5)
    >>> result = strategy.start(CohortGrid(app, num_clients=2), x0, num_rounds=3)
    >>> strategy.x
    tensor([ 0.3138, -0.1727,  0.1727,  0.4037], dtype=torch.float64)
    >>> strategy.bytes.uplink  # bytes of all clients and rounds
    402
    """

    def __init__(self, **settings: Any) -> None:
        reason = "gradient descent has no compressor, lambda, nu or shift_init; use EFBV"
        _refuse(settings, ("compressor", "lam", "nu", "shift_init"), reason)
        super().__init__(compressor=Identity(), **settings)

    def analyse(self, operator: Constants, smoothness: Smoothness) -> Theory:
        """See `theory.gradient_descent`."""
        return analysis.gradient_descent(
            operator, smoothness, clients=self.clients, cohort=self.cohort_size
        )

    def gradient_step(self, delivery: Delivery) -> float:
        """1, or n over the number of those who answered."""
        return self.clients / len(delivery.partition_ids)


def _refuse(settings: dict[str, Any], names: tuple[str, ...], reason: str) -> None:
    if any(settings.get(name) is not None for name in names):
        raise ValueError(reason)
    for name in names:
        settings.pop(name, None)
