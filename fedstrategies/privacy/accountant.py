"""Epsilon of a composition of subsampled Gaussian mechanisms, by Opacus's accountants."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import lru_cache
from importlib import import_module
from types import ModuleType
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from fedstrategies.extras import install_hint
from fedstrategies.privacy.errors import PrivacyError

__all__ = ["Accountant", "composed_epsilon", "opacus_module"]

Accountant: TypeAlias = Literal["rdp", "prv"]

# Opacus stops at order 63, where small epsilons (0.3 at delta = 1e-5) have their optimum beyond.
# Every order gives a valid bound, so more of them can only tighten the minimum.
_FAR_ORDERS = (64, 72, 80, 96, 112, 128, 160, 192, 256, 384, 512)
_PRV_ERROR = 0.01
# Orders that are no whole numbers take Opacus a second or more where sigma is large, and are
# wanted where epsilon is: there the orders around them give nearly the same.
_FINE_SIGMA, _FINE_MECHANISMS = 10.0, 4
_PRV_POINTS = 2**23


def opacus_module(name: str) -> ModuleType:
    """A module of the optional dependency Opacus.

    Raises
    ------
    PrivacyError
        If Opacus is not installed.
    """
    try:
        return import_module(f"opacus.{name}")
    except ImportError as error:
        raise PrivacyError(
            "accounts of privacy and per-sample gradients of modules need Opacus; "
            + install_hint("privacy")
        ) from error


@lru_cache(maxsize=4096)
def composed_epsilon(
    segments: tuple[tuple[float, float, int], ...], delta: float, accountant: Accountant = "rdp"
) -> float:
    """Epsilon at delta of all releases together; an upper bound.

    The neighbouring relation is the zero-out of one record with Poisson sampling, the mechanism
    a sum of vectors clipped to norm C plus N(0, sigma^2 C^2 I).

    Parameters
    ----------
    segments : tuple of (float, float, int)
        (noise multiplier sigma, sample rate q, number of releases), in any order.
    delta : float
        In (0, 1).
    accountant : str
        ``rdp``: Renyi differential privacy (Mironov et al. 2019), fast. ``prv``: numerical
        composition of privacy loss random variables (Gopi et al. 2021), tighter by 5 to 15
        percent, 0.1 to 0.5 seconds; the upper end of its error interval, which is 0.01 wide,
        below epsilon 1 a hundredth of epsilon. Its grid grows with epsilon and the square root of
        the releases, and is refused beyond 2^23 points.

    Returns
    -------
    float
        0 without releases; infinity if one had no noise.

    Raises
    ------
    PrivacyError
        If delta or the accountant's name is wrong, the PRV accountant cannot cope with the
        composition, or Opacus is not installed.
    """
    if not 0.0 < delta < 1.0:
        raise PrivacyError(f"delta must lie between 0 and 1, got {delta}")
    if accountant not in ("rdp", "prv"):
        raise PrivacyError(f"no accountant {accountant!r}; there are 'rdp' and 'prv'")
    released = tuple(segment for segment in segments if segment[1] > 0.0 and segment[2] > 0)
    if not released:
        return 0.0
    if any(sigma == 0.0 for sigma, _, _ in released):
        return float("inf")
    found = _by_rdp(released, delta) if accountant == "rdp" else _by_prv(released, delta)
    return max(found, 0.0) if found == found else float("inf")


def _by_rdp(segments: Sequence[tuple[float, float, int]], delta: float) -> float:
    analysis = opacus_module("accountants.analysis.rdp")
    few = len(segments) <= _FINE_MECHANISMS
    curve = sum(
        steps * _rdp_of_one(sigma, rate, few and sigma <= _FINE_SIGMA)
        for sigma, rate, steps in segments
    )
    with warnings.catch_warnings():
        # An optimum at the last order is a valid bound, and there is no further one to try.
        warnings.simplefilter("ignore")
        epsilon, _ = analysis.get_privacy_spent(orders=_orders(), rdp=curve, delta=delta)
    return float(epsilon)


def _orders() -> list[float]:
    return [*opacus_module("accountants").RDPAccountant.DEFAULT_ALPHAS, *_FAR_ORDERS]


@lru_cache(maxsize=1024)
def _rdp_of_one(sigma: float, rate: float, fine: bool) -> npt.NDArray[np.float64]:
    """The Renyi divergences of one release at all orders (most of the cost, hence kept).

    Infinite at orders that are no whole numbers unless ``fine``, or everything is sampled.
    """
    analysis = opacus_module("accountants.analysis.rdp")
    orders = np.array(_orders())
    asked = (orders % 1 == 0) | fine | (rate == 1.0)
    curve = np.full(len(orders), np.inf)
    curve[asked] = analysis.compute_rdp(
        q=rate, noise_multiplier=sigma, steps=1, orders=orders[asked].tolist()
    )
    return curve


def _by_prv(segments: Sequence[tuple[float, float, int]], delta: float) -> float:
    accountant: Any = opacus_module("accountants").PRVAccountant()
    accountant.history = list(segments)

    def within(error: float) -> float:
        points = _prv_points(segments, delta, error)
        if not points <= _PRV_POINTS:
            raise ValueError(f"its grid would have {points:.2g} points")
        return float(accountant.get_epsilon(delta, eps_error=error))

    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            rough = within(_PRV_ERROR)
            if not 0.0 < rough < 1.0:
                return rough
            # The interval's width is part of the bound: below 1 it is to be a hundredth of it.
            return within(_PRV_ERROR * rough)
    except (ArithmeticError, MemoryError, RuntimeError, ValueError) as error:
        raise PrivacyError(
            f"the prv accountant cannot compose {list(segments)} at delta {delta:g} "
            f"({error}); use the rdp accountant"
        ) from error


def _prv_points(segments: Sequence[tuple[float, float, int]], delta: float, error: float) -> float:
    """Points of the accountant's grid: what it covers (remark 5.6 of Gopi et al.) by its mesh."""
    releases, slack = sum(steps for *_, steps in segments), delta / 1000
    reach = [_by_rdp(segments, slack / 4)]
    reach += [_by_rdp([(*one[:2], 1)], slack / (8 * releases)) for one in segments]
    mesh = error / np.sqrt(releases * np.log(12 / slack) / 2)
    return float(2 * (max(*reach, error) + 3) / mesh)
