"""The systems that are compared: which script, in which environment, on how many cores."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["BASELINE", "RATIOS", "SYSTEMS", "Ratio", "System"]


@dataclass(frozen=True, kw_only=True)
class System:
    """One row of the table.

    Attributes
    ----------
    key : str
        Short name, for ``--systems`` and result files.
    label : str
        What the table calls it.
    module : str
        The script, below ``benchmarks.simulation.systems``.
    arguments : tuple of str
        What the script is told besides the task.
    peer : bool
        Whether it runs in the environment of ``make bench-peers``.
    cores : int
        Processes or threads that train at once; 0: as many as there are cores.
    """

    key: str
    label: str
    module: str
    arguments: tuple[str, ...] = ()
    peer: bool = False
    cores: int = 1


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """A target: seconds a round of one system against another's, in the same repeat.

    Attributes
    ----------
    model, system, against : str
        Keys.
    at_most : float
        The target.
    """

    model: str
    system: str
    against: str
    at_most: float


BASELINE = "raw"

SYSTEMS = (
    System(key=BASELINE, label="plain PyTorch loop", module="raw_loop"),
    System(
        key="cohort-1",
        label="`CohortGrid`, one worker",
        module="cohort_grid",
        arguments=("--workers", "1"),
    ),
    System(key="cohort", label="`CohortGrid`, all cores", module="cohort_grid", cores=0),
    System(
        key="ray-grid",
        label="`RayGrid`, two actors",
        module="ray_grid",
        arguments=("--actors", "2"),
        cores=2,
    ),
    System(
        key="flower-suite",
        label="`FedAvg` of this suite on Flower's Ray runtime, two actors",
        module="flower_suite",
        cores=2,
    ),
    System(
        key="flower",
        label="Flower's own `FedAvg` on its Ray runtime, two actors",
        module="flower_fedavg",
        cores=2,
    ),
    System(key="pfl", label="pfl", module="pfl_simulation", peer=True),
    System(key="fedlab", label="FedLab, standalone", module="fedlab_standalone", peer=True),
    System(key="fluke", label="fluke", module="fluke_server", peer=True),
)

RATIOS = (
    Ratio(model="linear", system="cohort-1", against=BASELINE, at_most=1.0),
    Ratio(model="cnn", system="cohort", against="pfl", at_most=0.6),
    Ratio(model="linear", system="ray-grid", against="flower", at_most=0.05),
    Ratio(model="cnn", system="ray-grid", against="flower", at_most=0.6),
)
