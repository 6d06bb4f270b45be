"""EF21 and EF-BV on one problem, compared at equal bits."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from simulations.reproduce.efbv.curve import Curve, read_curve
from simulations.reproduce.efbv.race import curve_path

__all__ = ["Pair", "read_pairs"]


@dataclass(frozen=True, kw_only=True)
class Pair:
    """EF21 and EF-BV on one problem, both up to the same round."""

    ef21: Curve
    efbv: Curve

    @property
    def title(self) -> tuple[str, int]:
        """Data set and xi."""
        return self.ef21.header.dataset, self.ef21.header.xi

    @property
    def rounds(self) -> int:
        """Rounds both have done."""
        return self.ef21.last.round

    @property
    def gap_ratio(self) -> float:
        """EF21's last gap over EF-BV's: above 1 where EF-BV wins."""
        return self.ef21.last.gap / self.efbv.last.gap

    @property
    def decrease_ratio(self) -> float:
        """EF-BV's decrease of f over EF21's at equal bits."""
        drops = [curve.points[0].gap - curve.last.gap for curve in (self.efbv, self.ef21)]
        return drops[0] / drops[1]

    @property
    def gamma_ratio(self) -> float:
        """EF-BV's step over EF21's."""
        return self.efbv.header.gamma / self.ef21.header.gamma

    @property
    def rounds_saved(self) -> float:
        """Rounds EF21 needed for its last gap over those EF-BV needs for it."""
        goal = self.ef21.last.gap
        needed = next((p.round for p in self.efbv.points if p.gap <= goal), None)
        return float("nan") if not needed else self.rounds / needed

    def at_bits(self, bits: float) -> Pair | None:
        """The pair cut at a number of bits a client; None if it does not reach so far."""
        reached = [p.round for p in self.ef21.points if p.bits_per_client <= bits]
        if not reached or (reached[-1] == self.rounds and self.ef21.last.bits_per_client < bits):
            return None
        return Pair(ef21=self.ef21.until(reached[-1]), efbv=self.efbv.until(reached[-1]))


def read_pairs(folder: Path) -> list[Pair]:
    """The pairs in a folder, each cut at the last round that both methods have reached."""
    found = []
    for path in sorted(folder.glob("*-ef21.jsonl")):
        slow = read_curve(path)
        other = curve_path(folder, slow.header.dataset, slow.header.xi, "efbv")
        if not other.exists():
            continue
        fast = read_curve(other)
        level = min(curve.last.round if curve.points else 0 for curve in (slow, fast))
        if level > 0:
            found.append(Pair(ef21=slow.until(level), efbv=fast.until(level)))
    order = {"mushrooms": 0, "a9a": 1, "w8a": 2}
    return sorted(found, key=lambda pair: (order.get(pair.title[0], 3), pair.title))
