"""Regularisers R with a closed proximal operator, ``prox_{gamma R}``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from math import inf

from torch import Tensor

__all__ = ["L1", "Box", "NoProx", "Prox", "SquaredL2", "parse_prox"]


class Prox(ABC):
    """A proper closed convex R: R^d -> R u {inf}, the same for all clients.

    Implementations are frozen dataclasses.
    """

    @property
    @abstractmethod
    def spec(self) -> str:
        """R as the command line writes it, e.g. ``l1:0.01``; `parse_prox` reads it back."""

    @abstractmethod
    def value(self, x: Tensor) -> float:
        """R(x) for x of shape (d,)."""

    @abstractmethod
    def prox(self, x: Tensor, step: float) -> Tensor:
        """``argmin_u R(u) + ||u - x||^2 / (2 step)``: shape of ``x``, any leading axes."""


@dataclass(frozen=True)
class NoProx(Prox):
    """R = 0."""

    @property
    def spec(self) -> str:
        """``none``."""
        return "none"

    def value(self, x: Tensor) -> float:
        """Zero."""
        return 0.0

    def prox(self, x: Tensor, step: float) -> Tensor:
        """The point itself."""
        return x


@dataclass(frozen=True)
class L1(Prox):
    """``R(x) = lam ||x||_1``; the prox is soft thresholding at ``step lam``.

    Parameters
    ----------
    lam : float
        Weight of the norm, > 0.

    Raises
    ------
    ValueError
        If it is not positive and finite.

    References
    ----------
    Parikh, Boyd, "Proximal Algorithms" (2014).

    Examples
    --------
    >>> import torch
    >>> from fedstrategies import L1
    >>> L1(1.0).prox(torch.tensor([3.0, -0.5, 0.0]), step=0.5)
    tensor([2.5000, 0.0000, 0.0000])
    >>> L1(1.0).value(torch.tensor([3.0, -0.5, 0.0]))
    3.5
    """

    lam: float

    def __post_init__(self) -> None:
        _check_positive("l1", self.lam)

    @property
    def spec(self) -> str:
        """``l1:LAM``."""
        return f"l1:{self.lam!r}"

    def value(self, x: Tensor) -> float:
        """``lam ||x||_1``."""
        return self.lam * float(x.abs().sum())

    def prox(self, x: Tensor, step: float) -> Tensor:
        """``sign(x) max(|x| - step lam, 0)``."""
        reach = step * self.lam
        return x - x.clamp(min=-reach, max=reach)


@dataclass(frozen=True)
class SquaredL2(Prox):
    """``R(x) = (lam/2) ||x||^2``; the prox is a scaling.

    Parameters
    ----------
    lam : float
        Weight of half the squared norm, > 0.

    Raises
    ------
    ValueError
        If it is not positive and finite.

    References
    ----------
    Parikh, Boyd, "Proximal Algorithms" (2014).

    Examples
    --------
    >>> import torch
    >>> from fedstrategies import SquaredL2
    >>> SquaredL2(1.0).prox(torch.tensor([3.0, -0.5, 0.0]), step=0.5)
    tensor([ 2.0000, -0.3333,  0.0000])
    >>> SquaredL2(1.0).value(torch.tensor([3.0, -0.5, 0.0]))
    4.625
    """

    lam: float

    def __post_init__(self) -> None:
        _check_positive("l2sq", self.lam)

    @property
    def spec(self) -> str:
        """``l2sq:LAM``."""
        return f"l2sq:{self.lam!r}"

    def value(self, x: Tensor) -> float:
        """``(lam/2) ||x||^2``."""
        return 0.5 * self.lam * float((x * x).sum())

    def prox(self, x: Tensor, step: float) -> Tensor:
        """``x / (1 + step lam)``."""
        return x / (1.0 + step * self.lam)


@dataclass(frozen=True)
class Box(Prox):
    """The indicator of ``[-radius, radius]^d``; the prox is the projection.

    Parameters
    ----------
    radius : float
        Largest magnitude of a coordinate, > 0.

    Raises
    ------
    ValueError
        If it is not positive and finite.

    References
    ----------
    Parikh, Boyd, "Proximal Algorithms" (2014).

    Examples
    --------
    >>> import torch
    >>> from fedstrategies import Box
    >>> Box(1.0).prox(torch.tensor([3.0, -0.5, 0.0]), step=0.5)
    tensor([ 1.0000, -0.5000,  0.0000])
    >>> Box(1.0).value(torch.tensor([3.0, -0.5, 0.0]))
    inf
    """

    radius: float

    def __post_init__(self) -> None:
        _check_positive("box", self.radius)

    @property
    def spec(self) -> str:
        """``box:RADIUS``."""
        return f"box:{self.radius!r}"

    def value(self, x: Tensor) -> float:
        """0 inside the box, infinity outside."""
        return 0.0 if bool((x.abs() <= self.radius).all()) else inf

    def prox(self, x: Tensor, step: float) -> Tensor:
        """Each coordinate clipped to the box."""
        return x.clamp(min=-self.radius, max=self.radius)


_WITH_NUMBER: dict[str, Callable[[float], Prox]] = {"l1": L1, "l2sq": SquaredL2, "box": Box}
_KNOWN = "none, l1:LAM, l2sq:LAM, box:RADIUS"


def parse_prox(spec: str) -> Prox:
    """Read ``none``, ``l1:LAM``, ``l2sq:LAM`` or ``box:RADIUS``.

    Parameters
    ----------
    spec : str
        One of these, as `Prox.spec` gives it.

    Raises
    ------
    ValueError
        If the name is unknown or the number is missing, malformed or not positive.
    """
    name, _, argument = spec.strip().partition(":")
    if name == "none" and not argument:
        return NoProx()
    if name not in _WITH_NUMBER:
        raise ValueError(f"unknown prox {spec!r}; known: {_KNOWN}")
    try:
        number = float(argument)
    except ValueError:
        raise ValueError(f"prox {spec!r} needs a number after the colon; known: {_KNOWN}") from None
    return _WITH_NUMBER[name](number)


def _check_positive(name: str, number: float) -> None:
    if not 0.0 < number < inf:
        raise ValueError(f"prox {name} needs a positive finite number, got {number}")
