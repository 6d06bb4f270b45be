"""i-Scaffnew and Scaffnew: Scafflix with its weights, or its step sizes too, fixed."""

from __future__ import annotations

from typing import Any

from fedstrategies.scafflix import theory as analysis
from fedstrategies.scafflix.strategy import Scafflix
from fedstrategies.scafflix.theory import Theory

__all__ = ["IScaffnew", "Scaffnew"]


class IScaffnew(Scafflix):
    """i-Scaffnew: Scafflix with alpha_i = 1, individual step sizes and no personalisation.

    Parameters are those of `Scafflix` without alpha.

    Raises
    ------
    ValueError
        For an ``alpha``, and as `Scafflix`.

    References
    ----------
    Yi, Condat, Richtarik, "Explicit Personalization and Local Training: Double Communication
    Acceleration in Federated Learning" (2023); arXiv 2509.08233.

    Examples
    --------
    After the example of `ScafflixClient`:

    >>> from fedstrategies import IScaffnew
    >>> strategy = IScaffnew(stepsize=(0.5, 0.25), local_steps=4)
    >>> result = strategy.start(CohortGrid(app, num_clients=2), x0, num_rounds=3)
    >>> strategy.theory.p
    0.25
    >>> strategy.x
    tensor([ 0.5451, -0.3672,  0.3749,  0.6008], dtype=torch.float64)
    """

    def __init__(self, **settings: Any) -> None:
        if settings.pop("alpha", None) is not None:
            raise ValueError(f"{type(self).__name__} has alpha = 1; use Scafflix to choose it")
        super().__init__(alpha=1.0, **settings)


class Scaffnew(IScaffnew):
    """Scaffnew (ProxSkip): one step size 1/L_max for all clients, p = sqrt(min mu_i / L_max).

    Parameters are those of `Scafflix` without alpha.

    Raises
    ------
    ValueError
        For an ``alpha``, and as `Scafflix`.

    References
    ----------
    Mishchenko, Malinovsky, Stich, Richtárik (2022), who call it ProxSkip.

    Examples
    --------
    After the example of `ScafflixClient`, at the theory's step size:

    >>> from fedstrategies import Scaffnew, logistic_smoothness
    >>> known = logistic_smoothness(LogisticRegression.stack(f))
    >>> strategy = Scaffnew(smoothness=known)
    >>> result = strategy.start(CohortGrid(app, num_clients=2), x0, num_rounds=3)
    >>> round(strategy.theory.p, 4), round(strategy.theory.gamma[0], 4)
    (0.2857, 0.8163)
    >>> strategy.x
    tensor([ 0.6472, -0.4741,  0.4741,  0.6647], dtype=torch.float64)
    """

    def analyse(self) -> Theory:
        """The method's constants with the same step everywhere."""
        known = self.smoothness
        common = self.stepsizes((1 / known.L_max,) * self.clients if known else None)
        return analysis.scaffnew(known, gamma=common, p=self._p)
