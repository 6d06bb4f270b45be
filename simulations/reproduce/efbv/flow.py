"""What the start point and a multiple of the theory's step do to the published pair of gaps.

The theory's steps are so small (gamma L of order 1e-4) that both methods follow the gradient
flow dx/dt = -grad f(x): after T rounds x is close to x(gamma T). The flow is computed in
seconds, and so are the gaps that other start points and multiples of the step would have led
to. These numbers are reckoned, not measured; at factor 1 the curves check them.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from fedstrategies.objectives import LogisticRegression
from simulations.reproduce.efbv.instance import Instance, load_instance

__all__ = ["FlowGap", "compute_flow", "read_flow", "write_flow"]

_STARTS = ("normal:loc=10", "normal:loc=0")
_FACTORS = (1, 2, 4, 8, 16)
# In units of 1/L: Euler's method is then within a percent of the flow.
_EULER_STEP = 0.05


@dataclass(frozen=True, kw_only=True)
class FlowGap:
    """Gaps on the flow from one start point.

    Attributes
    ----------
    x0 : str
        Start point, as the command line writes it.
    factor : int
        Multiple of the theory's step size.
    rounds : int
        T.
    ef21, efbv : float
        f - f* at time ``factor gamma T`` for each method's gamma.
    """

    x0: str
    factor: int
    rounds: int
    ef21: float
    efbv: float


def compute_flow(dataset: str | Path, *, rounds: int) -> list[FlowGap]:
    """The gaps of `FlowGap` for all starts and factors, one row a client (xi = 1)."""
    return [gap for x0 in _STARTS for gap in _from_start(load_instance(dataset, x0=x0), x0, rounds)]


def _from_start(instance: Instance, x0: str, rounds: int) -> list[FlowGap]:
    problem = instance.problem
    mean = LogisticRegression(
        features=problem.features, labels=problem.labels, l2=problem.config.l2
    )
    step = _EULER_STEP / instance.smoothness.L
    gammas = {name: instance.theory(name).gamma for name in ("ef21", "efbv")}
    longest = max(gammas.values()) * rounds * max(_FACTORS)
    x, gaps = problem.start_point, []
    for _ in range(int(longest / step) + 2):
        value, gradient = mean.value_and_gradient(x)
        gaps.append(float(value) - instance.fstar)
        x = x - step * gradient

    def at(time: float) -> float:
        position, share = divmod(time / step, 1.0)
        before, after = gaps[int(position)], gaps[int(position) + 1]
        return (1.0 - share) * before + share * after

    return [
        FlowGap(
            x0=x0,
            factor=factor,
            rounds=rounds,
            ef21=at(factor * gammas["ef21"] * rounds),
            efbv=at(factor * gammas["efbv"] * rounds),
        )
        for factor in _FACTORS
    ]


def write_flow(path: Path, gaps: list[FlowGap]) -> None:
    """One JSON object a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(asdict(gap)) + "\n" for gap in gaps), encoding="utf-8")


def read_flow(path: Path) -> list[FlowGap]:
    """What `write_flow` wrote; empty if there is no such file."""
    if not path.exists():
        return []
    return [FlowGap(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]
