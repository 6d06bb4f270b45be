"""How many coordinates an operator keeps: a count, or a fraction of the dimension."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Size"]


@dataclass(frozen=True, kw_only=True)
class Size:
    """A number of coordinates, given as a count or as a fraction.

    Attributes
    ----------
    name : str
        The paper's symbol, ``k`` or ``k_prime``: the count's parameter.
    fraction_name : str
        The fraction's parameter.
    count : int or None
        Number of coordinates.
    fraction : float or None
        Share of the coordinates, in (0, 1].
    at_least : int
        Smallest count allowed.

    Raises
    ------
    ValueError
        Unless exactly one is given, the count a whole number of at least ``at_least`` and the
        fraction in (0, 1].
    """

    name: str
    fraction_name: str
    count: int | None
    fraction: float | None
    at_least: int = 1

    def __post_init__(self) -> None:
        if (self.count is None) == (self.fraction is None):
            raise ValueError(f"give exactly one of {self.name}= and {self.fraction_name}=")
        if self.count is not None and (
            not isinstance(self.count, int)
            or isinstance(self.count, bool)
            or self.count < self.at_least
        ):
            raise ValueError(
                f"{self.name} must be a whole number of at least {self.at_least}, "
                f"got {self.count!r}"
            )
        if self.fraction is not None and not 0.0 < self.fraction <= 1.0:
            raise ValueError(f"{self.fraction_name} must be in (0, 1], got {self.fraction!r}")

    @property
    def option(self) -> str:
        """As the command line writes it, e.g. ``k=5`` or ``fraction=0.01``."""
        if self.count is not None:
            return f"{self.name}={self.count}"
        return f"{self.fraction_name}={self.fraction!r}"

    def of(self, dimension: int) -> int:
        """The count in dimension d: ``max(1, round(fraction * d))`` for a fraction.

        Raises
        ------
        ValueError
            If it exceeds d.
        """
        if self.fraction is not None:
            return max(1, round(self.fraction * dimension))
        assert self.count is not None
        if self.count > dimension:
            raise ValueError(
                f"{self.name} = {self.count} exceeds the dimension d = {dimension}; "
                f"choose {self.name} <= {dimension} or a {self.fraction_name}="
            )
        return self.count
