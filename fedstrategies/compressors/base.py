"""The contract of a compression operator, and the constants the theory needs of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from math import sqrt

from torch import Tensor

from fedstrategies.compressors.payload import Payload

__all__ = ["Compressor", "Constants", "GroupConstants"]


@dataclass(frozen=True, kw_only=True)
class GroupConstants:
    """Constants of n clients' operators taken together (EF-BV, class C(eta, omega)).

    Attributes
    ----------
    eta : float
        Relative bias: ``||E C(x) - x|| <= eta ||x||``.
    omega : float
        Relative variance: ``E||C(x) - E C(x)||^2 <= omega ||x||^2``.
    omega_av : float
        ``E||(1/n) sum_i (C_i(x_i) - E C_i(x_i))||^2 <= (omega_av/n) sum_i ||x_i||^2``.
    """

    eta: float
    omega: float
    omega_av: float


@dataclass(frozen=True, kw_only=True)
class Constants:
    """Constants of one operator in dimension d.

    Attributes
    ----------
    eta, omega : float
        As in `GroupConstants`.
    mean_gain : float
        B = sup ||E C(x)||^2 / ||x||^2.
    second_moment : float
        M = sup E||C(x)||^2 / ||x||^2 <= B + omega.
    residual : float or None
        sup E||C(x) - x||^2 / ||x||^2, where it is known to be below ``eta^2 + omega``.
    selects : bool
        Whether C keeps some entries of x unchanged and drops the others.
    """

    eta: float
    omega: float
    mean_gain: float = 1.0
    second_moment: float
    residual: float | None = None
    selects: bool = False

    @property
    def unbiased(self) -> bool:
        """Whether E C(x) = x."""
        return self.eta == 0.0

    @property
    def error(self) -> float:
        """sup E||C(x) - x||^2 / ||x||^2, at most ``eta^2 + omega``.

        Below 1 the operator is contractive, with ``a = 1 - error``.
        """
        bound = self.eta**2 + self.omega
        return bound if self.residual is None else min(bound, self.residual)

    def group(
        self, clients: int, *, cohort: int | None = None, shared_randomness: bool = False
    ) -> GroupConstants:
        """Constants of ``clients`` such operators, of which ``cohort`` take part a round.

        Participation of m of n is itself an operator, ``C_i = (n/m) 1_{i in S} C`` with a
        uniform m-subset S: ``omega = (n/m) omega_C + B (n-m)/m`` and
        ``omega_av = omega_C/m + B (n-m)/(m (n-1))`` with independent randomness; with shared
        randomness (every client draws the same) omega_C takes the place of omega_C/m.

        Raises
        ------
        ValueError
            If not 1 <= cohort <= clients.
        """
        n, m = clients, clients if cohort is None else cohort
        if not 1 <= m <= n:
            raise ValueError(f"a cohort of {m} out of {n} clients is impossible")
        absent = (n - m) / m
        return GroupConstants(
            eta=self.eta,
            omega=(n / m) * self.omega + self.mean_gain * absent,
            omega_av=(self.omega if shared_randomness else self.omega / m)
            + (self.mean_gain * absent / (n - 1) if m < n else 0.0),
        )

    def then(self, outer: Constants) -> Constants:
        """Constants of ``outer`` after this operator, with independent randomness.

        For an unbiased outer operator: ``eta = eta_1, omega = omega_1 + omega_2 M_1,
        M = M_2 M_1``. A biased one (rounding) adds its bias by the triangle inequality in L2,
        which is an upper bound.

        Where this operator selects, ``C_2(C_1 x) - C_1 x`` is orthogonal to ``C_1 x - x``, and
        ``E||C_1 x||^2 = q ||x||^2`` with q from 1 - e_1 to M_1, e the `error`. Hence
        ``E||C_2(C_1 x) - x||^2 <= (1 - q + q e_2) ||x||^2``, largest at one end. Squared bias
        and variance sum to that error, so neither exceeds it.
        """
        drift = outer.eta * sqrt(self.second_moment)
        eta = self.eta + drift
        omega = outer.omega * self.second_moment + (sqrt(self.omega) + drift) ** 2
        second_moment = outer.second_moment * self.second_moment
        residual = None
        if self.selects:
            kept = 1.0 - self.error if outer.error <= 1.0 else self.second_moment
            residual = 1.0 - kept * (1.0 - outer.error)
            eta, omega = min(eta, sqrt(residual)), min(omega, residual)
        return Constants(
            eta=eta,
            omega=omega,
            mean_gain=min((sqrt(self.mean_gain) + drift) ** 2, second_moment),
            second_moment=second_moment,
            residual=residual,
            selects=self.selects and outer.selects,
        )


class Compressor(ABC):
    """An operator C: R^d -> R^d applied to C vectors at once.

    It knows nothing of rounds, clients or bytes. Implementations are frozen dataclasses.
    """

    @property
    @abstractmethod
    def spec(self) -> str:
        """The operator as the command line writes it, e.g. ``top-k:k=5``."""

    @abstractmethod
    def constants(self, dimension: int) -> Constants:
        """The theory's constants in dimension d.

        Raises
        ------
        ValueError
            If the operator is impossible in this dimension (k > d).
        """

    def kept(self, dimension: int) -> int:
        """k, the number of values sent of a vector of dimension d.

        Raises
        ------
        ValueError
            If the operator is impossible in this dimension.
        """
        return dimension

    @abstractmethod
    def compress(self, vectors: Tensor, keys: Tensor) -> Payload:
        """Compress each row.

        Parameters
        ----------
        vectors : Tensor
            Shape (C, d).
        keys : Tensor
            int64, shape (C,): the random stream of each row (`fedstrategies.random`).
            Equal keys give equal draws, which is how randomness is shared.
        """
