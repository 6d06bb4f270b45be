"""Seconds of each round, and what a system's processes took of memory."""

from __future__ import annotations

import os
import time
from pathlib import Path

__all__ = ["Clock", "peak_resident_bytes"]


class Clock:
    """Stopped after each round; looks at the memory after the last.

    Parameters
    ----------
    rounds : int
        T.
    """

    def __init__(self, rounds: int) -> None:
        self.rounds = rounds
        self.seconds: list[float] = []
        self.first_round_ended = 0.0
        """Unix time, to be compared with the start of the process."""
        self.peak = 0
        """`peak_resident_bytes` after the last round."""
        self._last = 0.0

    def start(self) -> None:
        """Call right before the first round begins."""
        self._last = time.perf_counter()

    def lap(self) -> None:
        """Call when a round's new model is there."""
        now = time.perf_counter()
        self.seconds.append(now - self._last)
        if len(self.seconds) == 1:
            self.first_round_ended = time.time()
        if len(self.seconds) == self.rounds:
            self.peak = peak_resident_bytes()
        self._last = time.perf_counter()


def peak_resident_bytes() -> int:
    """Sum of the largest resident sizes of this process and its living descendants.

    Pages that processes share count once in each. 0 where there is no ``/proc``.
    """
    parents, peaks = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = dict(
                line.split(":", 1)
                for line in (folder / "status").read_text(encoding="utf-8").splitlines()
            )
        except OSError:
            continue
        parents[int(folder.name)] = int(fields["PPid"])
        peaks[int(folder.name)] = int(fields.get("VmHWM", "0 kB").split()[0]) * 1024
    return sum(peak for process, peak in peaks.items() if _descends(process, parents))


def _descends(process: int, parents: dict[int, int]) -> bool:
    while process != os.getpid():
        if process not in parents:
            return False
        process = parents[process]
    return True
