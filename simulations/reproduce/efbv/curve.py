"""A curve on disk: one JSON line that says what was run, then one for each point."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

__all__ = ["Curve", "Header", "Point", "append_point", "read_curve", "write_curve"]


@dataclass(frozen=True, kw_only=True)
class Header:
    """What was run; two curves with equal identities are one experiment.

    Attributes
    ----------
    dataset, xi, method : str, int, str
        Which curve it is.
    clients, dimension : int
        n and d.
    compressor, x0, shift_init : str
        As the command line writes them.
    l2 : float
        Weight of the quadratic term in every f_i.
    seed : int
        Of x^0 and of the compressors.
    x0_norm, initial_gap : float
        ||x^0|| and f(x^0) - f*.
    L, L_tilde, fstar : float
        Constants of the problem.
    lam, nu, r, r_av, gamma : float
        What the theory chose.
    device, torch : str
        Where it was computed, and torch's version.
    """

    dataset: str
    xi: int
    method: str
    clients: int
    dimension: int
    compressor: str
    l2: float
    x0: str
    shift_init: str
    seed: int
    x0_norm: float
    initial_gap: float
    L: float
    L_tilde: float
    fstar: float
    lam: float
    nu: float
    r: float
    r_av: float
    gamma: float
    device: str
    torch: str

    @property
    def identity(self) -> str:
        """What a checkpoint must agree on to be continued, as text."""
        return json.dumps(asdict(self), sort_keys=True)


@dataclass(frozen=True, kw_only=True)
class Point:
    """Where a run stands after ``round`` rounds.

    Attributes
    ----------
    round : int
        Communication rounds so far.
    bits_per_client : int
        Uploaded by one client by the paper's count: 32 bits a number, positions free.
    uplink_bytes : int
        Length of what all clients have really sent (`fedstrategies.wire`).
    gap, grad_norm_sq : float
        f(x) - f* and ||grad f(x)||^2.
    seconds : float
        Time spent in the rounds, measurements left out.
    """

    round: int
    bits_per_client: int
    uplink_bytes: int
    gap: float
    grad_norm_sq: float
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Curve:
    """A header and its points by ascending round."""

    header: Header
    points: tuple[Point, ...]

    @property
    def last(self) -> Point:
        """The furthest point."""
        return self.points[-1]

    def until(self, round: int) -> Curve:
        """The points up to a round."""
        kept = tuple(point for point in self.points if point.round <= round)
        return Curve(header=self.header, points=kept)


def read_curve(path: Path) -> Curve:
    """The curve in a file; a last line cut short by a crash is left out.

    Raises
    ------
    ValueError
        If the file is missing or another line is not what it should be.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror})") from None
    items: list[dict[str, Any]] = []
    for number, line in enumerate(lines, start=1):
        try:
            items.append(json.loads(line))
        except json.JSONDecodeError:
            if number < len(lines):
                raise ValueError(f"{path}: line {number} is not JSON; delete the file") from None
    try:
        header = Header(**items[0])
        points = tuple(Point(**item) for item in items[1:])
    except (IndexError, TypeError) as error:
        raise ValueError(f"{path}: is not a curve ({error}); delete the file") from None
    return Curve(header=header, points=points)


def write_curve(path: Path, header: Header, points: Sequence[Point]) -> None:
    """Replace the file by this header and these points, all at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(asdict(header)), *(json.dumps(asdict(point)) for point in points)]
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
    os.replace(temporary, path)


def append_point(path: Path, point: Point) -> None:
    """Add one point at the end of the file."""
    with path.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(asdict(point)) + "\n")
