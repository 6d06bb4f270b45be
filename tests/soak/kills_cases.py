"""The runs that are killed, and how two of them are compared."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass, field
from pathlib import Path

# Imported here so that a run which is forked from a process with this module finds them there.
import opacus.accountants  # noqa: F401
import sklearn.datasets  # noqa: F401
from safetensors.torch import load_file

import fedstrategies.engines
import fedstrategies.privacy  # noqa: F401
from fedstrategies.experiment import read_history, run
from fedstrategies.experiment.families import config_from_mapping

__all__ = ["CASES", "RAY_PORT", "Case", "difference", "experiment"]

RAY_PORT = 19400
"""Of the Ray cluster that outlives the drivers which are killed."""

_DIGITS = {"dataset": "digits", "clients": 6, "l2": 0.1, "model": "linear"}
_NETWORK = {
    **{"dataset": "digits", "clients": 6, "model": "mlp", "width": 8, "l2": 0.0},
    **{"stepsize": 0.05, "layers": "opu2", "keep": 0.7, "batch-size": 64},
}
_PRIVATE = {"epsilon": 8.0, "delta": 1e-3, "max-grad-norm": 1.0, "stepsize": 0.05}
_METHODS: dict[str, tuple[str, dict[str, object]]] = {
    "efbv": ("EF-BV, rand-k, 3 of 6 clients", {**_DIGITS, "algorithm": "efbv"}),
    "ef21": ("EF21, top-k both ways", {**_DIGITS, "algorithm": "ef21"}),
    "diana": ("DIANA, natural", {**_DIGITS, "algorithm": "diana", "compressor": "natural"}),
    "scafflix": (
        "Scafflix, 3 of 6 clients",
        {**_DIGITS, "algorithm": "scafflix", "alpha": 0.3, "p": 0.5, "participation": 3},
    ),
    "sppm": (
        "SPPM-AS, L-BFGS, 3 of 6 clients",
        {**_DIGITS, "algorithm": "sppm", "participation": 3, "inner-rounds": 7},
    ),
    "fedprox": ("FedProx", {**_DIGITS, "algorithm": "fedprox", "participation": 3}),
    "fedp3": ("FedP3, OPU2", {**_NETWORK, "algorithm": "fedp3"}),
    "private": (
        "private EF-BV",
        {**_DIGITS, **_PRIVATE, "algorithm": "efbv", "compressor": "rand-k:k=20"},
    ),
}
_METHODS["efbv"][1].update({"compressor": "rand-k:k=20", "participation": 3})
_METHODS["ef21"][1].update({"compressor": "top-k:k=20", "downlink-compressor": "top-k:k=20"})

_ENGINES: dict[str, tuple[str, dict[str, object], int]] = {
    "fast": ("in process", {"backend": "cohort"}, 300),
    "messages": ("in process, by messages", {"backend": "cohort", "fast": "never"}, 150),
    "ray": (
        "RayGrid",
        {"backend": "ray", "actors": 2, "ray-address": f"127.0.0.1:{RAY_PORT}"},
        150,
    ),
}
_ON_RAY = ("efbv", "scafflix", "sppm", "fedp3")
"""One of each family: starting a driver takes seconds."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One experiment on one engine.

    Attributes
    ----------
    name, title, engine : str
        For results and tables.
    rounds : int
        T.
    options : mapping
        Of the experiment.
    """

    name: str
    title: str
    engine: str
    rounds: int
    options: dict[str, object] = field(default_factory=dict)

    @property
    def on_ray(self) -> bool:
        """Whether it needs the cluster."""
        return self.options["backend"] == "ray"


CASES = tuple(
    Case(
        name=f"{method}-{engine}",
        title=title,
        engine=described,
        rounds=rounds,
        options={**options, **where},
    )
    for engine, (described, where, rounds) in _ENGINES.items()
    for method, (title, options) in _METHODS.items()
    if engine != "ray" or method in _ON_RAY
)


def experiment(case: Case, out: str, resume: bool) -> None:
    """Run it, from its last checkpoint if there is one; the body of a process."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    logging.getLogger("flwr").setLevel(logging.ERROR)
    config = config_from_mapping(
        {
            **case.options,
            "rounds": case.rounds,
            "checkpoint-every": 5,
            "resume": resume,
            "quiet": True,
            "out": out,
        }
    )
    summary = run(config, picture=False)
    if summary.status != "done":
        raise RuntimeError(f"{case.name}: {summary.status}: {summary.error}")


def difference(whole: Path, other: Path) -> list[str]:
    """In what the records and models of two runs differ, recovery and time apart."""
    found = []
    here, there = (read_history(folder / "history.jsonl") for folder in (whole, other))
    if len(here) != len(there):
        found.append(f"{len(there)} records, not {len(here)}")
    for expected, record in zip(here, there, strict=False):
        wrong = [
            key
            for key in expected.keys() | record.keys()
            if key not in ("seconds", "recovery_bytes") and expected.get(key) != record.get(key)
        ]
        if wrong:
            found.append(f"round {expected['round']}: {', '.join(sorted(wrong))}")
            break
    one, two = (load_file(folder / "model.safetensors") for folder in (whole, other))
    if one.keys() != two.keys() or not all(one[key].equal(two[key]) for key in one):
        found.append("other weights")
    return found
