"""What the paper shows, read off its figures (error about 0.02 units of the axis)."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["PUBLISHED", "PublishedPair"]


@dataclass(frozen=True, kw_only=True)
class PublishedPair:
    """Two gaps of a convex curve at one number of bits, with k = 1 and n = N.

    Attributes
    ----------
    dataset, xi : str, int
        Which curve.
    bits_per_client : float
        Abscissa.
    ef21, efbv : float
        f - f* of the two methods.
    """

    dataset: str
    xi: int
    bits_per_client: float
    ef21: float
    efbv: float

    @property
    def ratio(self) -> float:
        """EF21's gap over EF-BV's."""
        return self.ef21 / self.efbv


PUBLISHED = (
    PublishedPair(dataset="mushrooms", xi=1, bits_per_client=1.6e6, ef21=12.0, efbv=8.0),
    PublishedPair(dataset="phishing", xi=1, bits_per_client=1.44e6, ef21=2.2e-3, efbv=1.3e-4),
)
"""The pairs that could be read off with certainty."""
