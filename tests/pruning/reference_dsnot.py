"""DSnoT of one output row in plain Python, from its description, to compare with."""

from __future__ import annotations


def dsnot_row(
    gains: list[float],
    variances: list[float],
    losses: list[float],
    kept: list[bool],
    *,
    cycles: int = 50,
    threshold: float = 0.1,
    same_sign: bool = False,
    group: int | None = None,
) -> tuple[list[bool], float]:
    """The mask and the error at the end."""
    kept, free = list(kept), [True] * len(gains)
    error = sum(gain for gain, keep in zip(gains, kept, strict=True) if not keep)
    positive_first = error > 0
    for _ in range(cycles):
        if abs(error) <= threshold:
            break
        sign = 1.0 if error > 0 else -1.0
        growable = [r for r in range(len(gains)) if not kept[r] and free[r] and sign * gains[r] > 0]
        if not growable:
            break
        grown = max(growable, key=lambda r: (sign * gains[r] / variances[r], -r))
        prunable = [
            r
            for r in range(len(gains))
            if kept[r]
            and free[r]
            and (sign * gains[r] < 0 if group is None else r // group == grown // group)
        ]
        if not prunable:
            break
        pruned = min(prunable, key=lambda r: (losses[r], r))
        after = error + gains[pruned] - gains[grown]
        if (same_sign or group is not None) and (after > 0) != positive_first:
            break
        kept[grown], kept[pruned] = True, False
        free[grown] = free[pruned] = False
        error = after
    return kept, error
