"""What is run on the cluster, and what is killed while it runs."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from tests.soak.ray_cluster_nodes import Node, RayCluster, strike
from tests.soak.ray_cluster_runs import ROOT, Run, Settings, difference, start

__all__ = ["CASES", "Case", "Fault", "Found", "perform", "reference"]

Fault: TypeAlias = Literal["none", "worker", "node", "node, another joins"]
Found: TypeAlias = dict[str, Any]

APPS: Mapping[str, Settings] = {
    "efbv": {
        "algorithm": "efbv",
        "clients": 12,
        "compressor": "rand-k:k=5",
        "shift-init": "gradient",
        "participation": 8,
        "rounds": 12,
    },
    "scafflix": {
        "algorithm": "scafflix",
        "clients": 12,
        "alpha": "0.1",
        "local-steps": 60,
        "rounds": 8,
    },
    "sppm": {
        "algorithm": "sppm",
        "clients": 12,
        "sampling": "stratified",
        "cohort-size": 4,
        "inner-rounds": 3,
        "rounds": 12,
    },
    "fedp3": {
        "algorithm": "fedp3",
        "clients": 12,
        "dataset": "digits",
        "model": "mlp",
        "l2": 0.0,
        "stepsize": 0.2,
        "layers": "opu2",
        "keep": 0.6,
        "local-steps": 10,
        "participation": 8,
        "rounds": 8,
    },
}
LONG = 40
"""Rounds of EF-BV where something is killed, so that it may come back before the end."""

_WORKING = {"RayGrid": "step", "flwr run": "run", "run_simulation": "run"}
_STRUCK_AFTER = 3
_WITHIN = {"none": 300.0, "worker": 300.0, "node": 420.0, "node, another joins": 420.0}


@dataclass(frozen=True)
class Case:
    """One experiment on one path, with one fault in the middle of it."""

    app: str
    path: str
    fault: Fault = "none"

    @property
    def name(self) -> str:
        """Of the folder and in the results."""
        return "-".join([self.app, self.path, self.fault]).replace(" ", "").replace(",", "-")

    @property
    def settings(self) -> Settings:
        """Of the experiment."""
        found = APPS[self.app]
        return {**found, "rounds": LONG} if self.app == "efbv" and self.fault != "none" else found


CASES = (
    *(Case(app, path) for app in APPS for path in ("flwr run", "RayGrid")),
    *(Case(app, "RayGrid", "worker") for app in APPS),
    Case("efbv", "run_simulation", "worker"),
    Case("efbv", "flwr run", "worker"),
    Case("efbv", "RayGrid", "node, another joins"),
    Case("efbv", "run_simulation", "node, another joins"),
    Case("efbv", "run_simulation", "node"),
    Case("efbv", "RayGrid", "node"),
)


def reference(case: Case, folder: Path) -> Run:
    """A case's experiment in one process, done.

    Raises
    ------
    RuntimeError
        If it failed.
    """
    run = start("in-process", case.settings, folder, f"{case.app}-{case.settings['rounds']}")
    if not run.wait(within=300.0) or run.summary().get("status") != "done":
        raise RuntimeError(f"{case.app} failed in one process:\n{run.output}")
    return run


def perform(case: Case, alone: Run, cluster: RayCluster, folder: Path, port: int) -> Found:
    """Run a case, and look at what became of it.

    Parameters
    ----------
    case : Case
        What is run.
    alone : Run
        See `reference`.
    cluster : RayCluster
        With a head and one further node alive, of which the latter is the one to suffer.
    folder : Path
        For results and output.
    port : int
        Of the SuperLink.

    Raises
    ------
    RuntimeError
        If nothing was killed and there is no result.
    """
    victim = next(node for node in reversed(cluster.nodes) if node.process.poll() is None)
    run = start(case.path, case.settings, folder, case.name, address=cluster.address, port=port)
    struck = 0
    if case.fault != "none":
        run.wait_for_round(_STRUCK_AFTER)
        struck = _strike(case, cluster, victim, run)
    ended = run.wait(within=_WITHIN[case.fault])
    summary = run.summary()
    if not summary and case.fault == "none":
        raise RuntimeError(f"{case.name} wrote no summary:\n{run.output}")
    return {
        "app": case.app,
        "path": case.path,
        "fault": case.fault,
        "clients": case.settings["clients"],
        "planned rounds": case.settings["rounds"],
        "rounds": run.rounds,
        "struck in round": struck,
        "ended by itself": ended,
        "status": summary.get("status"),
        "error": summary.get("error"),
        "difference": difference(alone, run),
        "failures": run.failures(),
        "recovery bytes": run.last("recovery_bytes") if run.rounds else 0.0,
        "seconds": round(time.time() - run.began, 1),
        "where": _where(cluster, run),
    }


def _strike(case: Case, cluster: RayCluster, victim: Node, run: Run) -> int:
    """Kill it; the round in which that was."""
    if case.fault == "worker":
        strike(victim, _WORKING[case.path], within=120.0)
        return run.rounds + 1
    round = run.rounds + 1
    victim.end()
    if case.fault == "node, another joins":
        cluster.start(f"node{len(cluster.nodes)}", cpus=1)
    return round


def _where(cluster: RayCluster, run: Run) -> dict[str, int]:
    """How much ran on each node: clients built by actors, or messages answered by Flower's.

    Raises
    ------
    RuntimeError
        If rounds were done and nothing tells where.
    """
    found = _looked_up(cluster, run)
    if run.rounds and not found:
        raise RuntimeError(f"{run.out.name}: Ray has no record of where {run.rounds} rounds ran")
    return found


def _looked_up(cluster: RayCluster, run: Run) -> dict[str, int]:
    command = [sys.executable, "-m", "tests.soak.ray_cluster_census", cluster.address]
    asked = subprocess.run(
        [*command, str(run.began)], capture_output=True, text=True, check=True, cwd=ROOT
    )
    census = json.loads(asked.stdout.splitlines()[-1])
    # The head goes by the machine's address, whatever it was told; the others by theirs.
    names = {node.ip: node.name for node in cluster.nodes[1:]}
    found: dict[str, int] = {}
    for ip, node in census["nodes"].items():
        if run.homes.exists():
            notes = run.homes / node
            count = len(notes.read_text().split()) if notes.exists() else 0
        else:
            count = census["calls"][node].get("ClientAppActor.run", 0)
        if count:
            found[names.get(ip, cluster.nodes[0].name)] = count
    return found
