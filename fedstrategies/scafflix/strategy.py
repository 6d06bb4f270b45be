"""Scafflix, i-Scaffnew and Scaffnew as Flower strategies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from fedstrategies.compressors import Compressor, Floats, Identity
from fedstrategies.flower import Assignment, Delivery, Update
from fedstrategies.objectives import Smoothness
from fedstrategies.scafflix import theory as analysis
from fedstrategies.scafflix.algorithm import ScafflixRule, draw_local_steps, weighted_mean
from fedstrategies.scafflix.personal_strategy import PersonalStrategy, Stepsize
from fedstrategies.scafflix.theory import Theory
from fedstrategies.server_optimizer import ServerOptimizer

__all__ = ["Scafflix"]


class Scafflix(PersonalStrategy):
    """Scafflix: explicit personalisation and accelerated local training.

    A round: every client of the cohort settles its last used upload, takes K steps
    ``x_i <- x_i - (gamma_i/alpha_i)(grad f_i(x~_i) - h_i)`` at
    ``x~_i = alpha_i x_i + (1 - alpha_i) x_i*``, and sends x_i; the server takes the mean with
    weights ``alpha_i^2/gamma_i``. The control variate h_i learns grad f_i at the solution, so
    that local steps do not drift. K is drawn from Geometric(p), the same for all, or fixed.

    Parameters
    ----------
    alpha : float or sequence of float
        alpha_i in [0, 1]: 1 is ordinary training, small weights stay near the local model.
    smoothness : Smoothness or None
        L_i and mu_i; needed for the theory's step sizes and p.
    stepsize : float, sequence of float, str or None
        gamma_i; the theory's are 1/L_i.
    local_steps : int or None
        A fixed K in place of the draw; then p = 1/K.
    p : float or None
        Communication probability in (0, 1]; None: the theory's 1/sqrt(kappa_max).
    server_optimizer : ServerOptimizer or None
        None: x becomes the mean, as the theory wants. Otherwise the mean must be sent along
        with the next model, as the control variates are settled by it: twice the downlink.
    compressor : Compressor or None
        The identity. Anything else is refused.
    **base
        See `fedstrategies.flower.BaseStrategy`.

    Raises
    ------
    ValueError
        For settings that are impossible; some are known only when n is (first round).

    References
    ----------
    Yi, Condat, Richtarik, "Explicit Personalization and Local Training: Double Communication
    Acceleration in Federated Learning" (2023); arXiv 2509.08233.

    Examples
    --------
    After the example of `ScafflixClient`, with the theory's step sizes and p = 1/sqrt(kappa_max):

    >>> from fedstrategies import Scafflix, logistic_smoothness
    >>> known = logistic_smoothness(LogisticRegression.stack(f))
    >>> strategy = Scafflix(alpha=0.5, smoothness=known)
    >>> result = strategy.start(CohortGrid(app, num_clients=2), x0, num_rounds=3)
    >>> round(strategy.theory.p, 4), round(strategy.gamma, 4)
    (0.2857, 4.3836)
    >>> strategy.x
    tensor([ 0.6392, -0.5200,  0.5609,  0.6669], dtype=torch.float64)
    """

    no_message_privacy = (
        "its control variates add up what clipping took from the messages, so that no bound on a "
        "client's part remains"
    )
    no_aggregator = (
        "its control variates are settled by the weighted mean of just the uploads that were used: "
        "settled by anything else, sum alpha_i h_i = 0 does not hold"
    )

    def __init__(
        self,
        *,
        alpha: float | Sequence[float] = 0.1,
        smoothness: Smoothness | None = None,
        stepsize: Stepsize = None,
        local_steps: int | None = None,
        p: float | None = None,
        server_optimizer: ServerOptimizer | None = None,
        compressor: Compressor | None = None,
        **base: Any,
    ) -> None:
        if compressor is not None and not isinstance(compressor, Identity):
            raise ValueError(
                f"compressor {compressor.spec}: there is no theory for compressed uploads in "
                "Scafflix (its control variates need the whole model; TAMUNA and "
                "CompressedScaffnew are methods for that); leave it out, or use EF-BV"
            )
        if local_steps is not None and (p is not None or local_steps < 1):
            raise ValueError(
                f"local_steps = {local_steps} and p = {p}: give a whole number >= 1, which sets "
                "p = 1/local_steps, or p alone"
            )
        if p is not None and not 0 < p <= 1:
            raise ValueError(f"p = {p} is outside (0, 1]")
        super().__init__(
            alpha=alpha,
            smoothness=smoothness,
            stepsize=stepsize,
            server_optimizer=server_optimizer,
            **base,
        )
        self.local_steps = local_steps
        self._p = p if local_steps is None else 1 / local_steps
        self._theory: Theory | None = None
        self._last_used: dict[int, int] = {}
        self._means: dict[int, Tensor] = {}

    @property
    def theory(self) -> Theory:
        """Step sizes, p and rate; known once the first round begins, RuntimeError before."""
        if self._theory is None:
            raise RuntimeError("the constants are known once the first round begins")
        return self._theory

    @property
    def constants(self) -> dict[str, float]:
        """p, the server's gamma, the range of the gamma_i, and where known kappa_max and zeta."""
        return {} if self._theory is None else self._theory.numbers()

    def analyse(self) -> Theory:
        """The method's constants for these weights and clients."""
        known = self.smoothness
        steps = self.stepsizes(
            analysis.individual_steps(known) if known and self._relative else None
        )
        return analysis.scafflix(known, alpha=self.alpha, gamma=steps, p=self._p)

    def prepare(self, x: Tensor) -> None:
        """Fix gamma_i and p."""
        super().prepare(x)
        self._theory = self.analyse()
        self.gamma = self._theory.server_gamma

    def plan(self, round: int) -> list[Assignment]:
        """Everyone in the cohort takes the same number of local steps."""
        theory, alpha = self.theory, self.alpha
        steps = self.local_steps or draw_local_steps(theory.p, seed=self.seed, round=round)
        cohort = self.cohort(round)
        members = cohort.tolist()
        return [
            Assignment(
                partition_ids=cohort,
                rule=ScafflixRule(local_steps=steps, p=theory.p, gamma=theory.gamma, alpha=alpha),
                constants=(float(steps), theory.p),
                individual=tuple((theory.gamma[i], alpha[i]) for i in members),
                spec="scafflix",
                settlements=self._unsettled(members),
            )
        ]

    def _unsettled(self, members: list[int]) -> dict[int, Tensor]:
        """The mean that each client must settle by, where it is not the model it is sent now."""
        wanted = {self._last_used[i] for i in members if i in self._last_used}
        arriving = {round: torch.equal(self._means[round], self.x) for round in wanted}
        return {
            i: self._means[self._last_used[i]]
            for i in members
            if i in self._last_used and not arriving[self._last_used[i]]
        }

    def server_update(self, x: Tensor, deliveries: Sequence[Delivery]) -> Update:
        """The mean of the used uploads with weights alpha_i^2/gamma_i, and the server's step."""
        (delivery,) = deliveries
        values = delivery.payload.values
        assert isinstance(values, Floats)
        members = delivery.partition_ids.tolist()
        weights = [self.alpha[i] ** 2 / self.theory.gamma[i] for i in members]
        mean = weighted_mean(
            values.to_tensor(), torch.tensor(weights, dtype=torch.float64), delivery.partition_ids
        )

        def follow() -> None:
            now = self.round + 1
            self._last_used.update(dict.fromkeys(members, now))
            still = set(self._last_used.values())
            self._means = {r: m for r, m in self._means.items() if r in still} | {now: mean}

        if self.server_optimizer is None:
            return Update(x=mean, follow=follow)
        return self.descended(x, x - mean, settlement=mean, follow=follow)

    def method_state(self) -> Mapping[str, object]:
        """Who has which mean to settle by, and those means."""
        own = {"last_used": self._last_used, "means": self._means}
        return {**super().method_state(), **own}

    def set_method_state(self, state: Mapping[str, Any]) -> None:
        """Who has which mean to settle by, and those means."""
        super().set_method_state(state)
        self._last_used, self._means = dict(state["last_used"]), dict(state["means"])

    def forget(self) -> None:
        """All h_i are zero again: nobody has anything to settle."""
        self._last_used, self._means = {}, {}
