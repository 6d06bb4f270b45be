"""How much noise a target (epsilon, delta) takes."""

from __future__ import annotations

from collections.abc import Iterable
from math import isfinite, log, sqrt

from fedstrategies.privacy.accountant import Accountant
from fedstrategies.privacy.budget import Budget
from fedstrategies.privacy.errors import PrivacyError
from fedstrategies.privacy.ledger import Ledger, Segment

__all__ = ["calibrate_noise", "zcdp_epsilon", "zcdp_noise_multiplier"]

_TIGHT = 0.999
_LARGEST = 2.0**40


def calibrate_noise(
    plans: Iterable[Ledger], *, epsilon: float, delta: float, accountant: Accountant = "rdp"
) -> float:
    """The smallest noise multiplier with which no client's plan exceeds (epsilon, delta).

    Found by bisection on the accountant: epsilon of the worst client ends between 0.999 times
    the target and the target.

    Parameters
    ----------
    plans : iterable of Ledger
        What each client is going to release, with noise multipliers relative to the one looked
        for: ``Ledger().charge(noise_multiplier=1.0, sample_rate=q, steps=T)`` is T releases with
        it. A plan may hold several mechanisms, such as a local optimum trained before.
    epsilon, delta : float
        The target.
    accountant : str
        ``rdp`` or ``prv``; see `composed_epsilon`.

    Returns
    -------
    float
        Factor of the relative noise multipliers.

    Raises
    ------
    PrivacyError
        If there is nothing to release, a plan has no noise at all, the accountant cannot reach
        the target with any noise, or an argument is impossible.
    """
    budget = Budget(epsilon=epsilon, delta=delta, accountant=accountant)
    worst = _undominated(plans)
    if not worst:
        raise PrivacyError("no release is planned, so there is no noise to calibrate")
    if any(one.noise_multiplier == 0.0 for plan in worst for one in plan.segments):
        raise PrivacyError("a plan without noise has no epsilon; plan with multipliers above 0")

    def spent(sigma: float) -> float:
        return max(plan.scaled(sigma).epsilon(delta, accountant=accountant) for plan in worst)

    low, high, above = 0.0, 1.0, float("inf")
    while not (found := spent(high)) <= budget.epsilon:
        low, high, above = high, 2.0 * high, found
        if high > _LARGEST:
            raise PrivacyError(
                f"epsilon {epsilon:g} at delta {delta:g} cannot be reached with any noise by the "
                f"{accountant} accountant; use a larger epsilon or another accountant"
            )
    guess = False
    while found < _TIGHT * budget.epsilon and high - low > 1e-9 * high:
        # Epsilon is nearly a power of sigma: the chord of its logarithm halves nothing, but hits.
        guess = not guess and low > 0.0 and above < float("inf") and found > 0.0
        middle = 0.5 * (low + high)
        if guess:
            power = log(above / found) / log(high / low)
            middle = high * (found / (sqrt(_TIGHT) * budget.epsilon)) ** (1.0 / power)
        if not low < middle < high:
            middle = 0.5 * (low + high)
        if (there := spent(middle)) <= budget.epsilon:
            high, found = middle, there
        else:
            low, above = middle, there
    return high


def zcdp_epsilon(noise_multiplier: float, steps: int, delta: float) -> float:
    """Epsilon of T full-batch Gaussian releases by concentrated differential privacy.

    ``rho = T / (2 sigma^2)`` and ``epsilon = rho + 2 sqrt(rho log(1/delta))`` (Bun and Steinke
    2016), for the zero-out of one record. A cross-check in closed form: at epsilon 8 it is one
    sixth above what the accountants find.

    Parameters
    ----------
    noise_multiplier : float
        sigma > 0.
    steps : int
        T >= 1, the number of releases.
    delta : float
        In (0, 1).
    """
    rho = steps / (2.0 * noise_multiplier**2)
    return rho + 2.0 * sqrt(rho * log(1.0 / delta))


def zcdp_noise_multiplier(epsilon: float, delta: float, steps: int) -> float:
    """The noise multiplier at which `zcdp_epsilon` equals epsilon.

    ``sqrt(rho) = sqrt(log(1/delta) + epsilon) - sqrt(log(1/delta))``, ``sigma^2 = T / (2 rho)``.

    Parameters
    ----------
    epsilon : float
        The target, > 0.
    delta : float
        In (0, 1).
    steps : int
        T >= 1, the number of releases.

    Raises
    ------
    PrivacyError
        If epsilon, delta or T is not positive, or delta not below 1.
    """
    if not (isfinite(epsilon) and epsilon > 0.0 and 0.0 < delta < 1.0 and steps >= 1):
        raise PrivacyError(
            f"epsilon > 0, 0 < delta < 1 and a release are needed, got {epsilon}, {delta}, {steps}"
        )
    tail = log(1.0 / delta)
    root = epsilon / (sqrt(tail + epsilon) + sqrt(tail))
    return sqrt(steps / 2.0) / root


def _undominated(plans: Iterable[Ledger]) -> list[Ledger]:
    """The plans that may be the worst.

    Among plans of one mechanism, less noise, a larger rate and more releases are each worse;
    only those that no other exceeds in all three have to be asked about. A thousand clients of
    different sizes come down to one.
    """
    different = {plan for plan in plans if plan.segments}
    single = [plan.segments[0] for plan in different if len(plan.segments) == 1]
    front: list[Segment] = []
    for one in sorted(single, key=lambda s: (s.noise_multiplier, -s.sample_rate, -s.steps)):
        if not any(o.sample_rate >= one.sample_rate and o.steps >= one.steps for o in front):
            front.append(one)
    several = [plan for plan in different if len(plan.segments) > 1]
    return [Ledger((one,)) for one in front] + several
