"""What is shown of the deployment, case by case."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.soak.deployment_common import (
    APPS,
    NODES,
    Outcome,
    agreement,
    deployed,
    difference,
    settings_of,
    told,
    traffic,
    wait_for,
)
from tests.soak.deployment_faults import directories, killed_node, killed_server, readmission
from tests.soak.deployment_federation import ROOT, Credentials, Federation
from tests.soak.deployment_replay import history, replay, simulate

__all__ = ["CASES", "Case"]


@dataclass(frozen=True)
class Case:
    """One row of the table."""

    name: str
    shows: str
    body: Callable[[Path, int], Outcome]


def bundles(folder: Path, port: int) -> Outcome:
    """`flwr build` of each app: its size, and that there are no data in it."""
    sizes = {}
    federation = Federation(folder, port=port, node_configs=[])
    for app in APPS:
        source = folder / app
        subprocess.run(["cp", "-r", str(ROOT / "simulations" / app), str(source)], check=True)
        subprocess.run(
            ["flwr", "build", "--app", str(source)],
            env=federation.environment,
            cwd=folder,
            check=True,
            capture_output=True,
        )
        (bundle,) = folder.glob(f"*.{app}.*.fab")
        sizes[app] = bundle.stat().st_size
    text = ", ".join(f"{app} {size / 1000:.0f} kB" for app, size in sizes.items())
    return Outcome(max(sizes.values()) < 10_000_000, text, {"bytes": sizes})


def simulated(app: str) -> Callable[[Path, int], Outcome]:
    """An app, unchanged, against the simulation of the same configuration."""

    def body(folder: Path, port: int) -> Outcome:
        settings = settings_of(app, folder / "run")
        with Federation(folder, port=port, node_configs=told()) as federation:
            found = deployed(federation, app, settings)
        return compared(settings, folder, found)

    return body


def compared(settings: Mapping[str, object], folder: Path, found: Mapping[str, Any]) -> Outcome:
    """A run that has ended, against its simulation, and both counts of its bytes."""
    records = history(folder / "run")
    gap = difference(records, simulate(settings, folder / "simulated"))
    _, requests = replay(settings, folder / "messages", {})
    both = traffic(records, requests, found)
    up, down = both.deviations()
    text = (
        f"{agreement(gap)} over {records[-1]['round']} rounds; bytes against `flwr ls`: "
        f"{100 * up:+.2f} % up, {100 * down:+.2f} % down with the stated overhead"
    )
    return Outcome(gap < 1e-9 and max(abs(up), abs(down)) < 0.01, text, {"traffic": vars(both)})


def authenticated(folder: Path, port: int) -> Outcome:
    """TLS and registered nodes, by the scripts of simulations/deployment."""
    credentials = Credentials.make(folder / "credentials", nodes=NODES + 1)
    settings = settings_of("scafflix", folder / "run", rounds=2)
    with Federation(folder, port=port, node_configs=told(), credentials=credentials) as federation:
        known = set(federation.online())
        federation.node_configs.append("partition-id=0")
        federation.start_node(NODES)  # has a key that nobody registered
        wait_for(lambda: federation.nodes[NODES].poll() is not None, "the stranger to be refused")
        refused = set(federation.online()) == known
        deployed(federation, "scafflix", settings)
        refusals, seconds = readmission(federation)
        same = set(federation.online()) == known
    gap = difference(history(folder / "run"), simulate(settings, folder / "simulated"))
    text = (
        f"{agreement(gap)}; a SuperNode with an unregistered key is refused: {refused}; one that "
        f"is killed is back after {seconds:.0f} s and {refusals} refusals, with the same node "
        f"id: {same}"
    )
    return Outcome(gap < 1e-9 and refused and same, text, {"readmission": seconds})


def reconciled(folder: Path, port: int) -> Outcome:
    """Our byte counters against `flwr ls`, on a model of some size."""
    settings = settings_of(
        "efbv",
        folder / "run",
        **{"dataset": "digits", "model": "mlp", "width": 2000, "l2": 0.0, "stepsize": 0.1},
        **{"compressor": "top-k:fraction=0.05", "rounds": 2},
    )
    with Federation(folder, port=port, node_configs=told()) as federation:
        found = deployed(federation, "efbv", settings)
    _, requests = replay(settings, folder / "messages", {})
    both = traffic(history(folder / "run"), requests, found)
    up, down = both.deviations()
    bare_up, bare_down = both.uplink / both.inbound - 1.0, both.downlink / both.outbound - 1.0
    text = (
        f"uplink {both.uplink:,} B against {both.inbound:,}, downlink {both.downlink:,} against "
        f"{both.outbound:,}: {100 * up:+.3f} % and {100 * down:+.3f} % with the stated overhead, "
        f"{100 * bare_up:+.2f} % and {100 * bare_down:+.2f} % without"
    )
    return Outcome(max(abs(up), abs(down)) < 0.01, text, {"traffic": vars(both)})


CASES = (
    Case("bundles", "`flwr build` of each app, below 10 MB", bundles),
    *(
        Case(app, f"`flwr run simulations/{app}` against the simulation", simulated(app))
        for app in APPS
    ),
    Case("bytes", "our counters against `flwr ls`", reconciled),
    Case("killed-node", "kill -9 of a SuperNode at work, state in memory", killed_node),
    Case("directories", "nodes without partition-id, state on disk, two killed", directories),
    Case("killed-server", "kill -9 of the ServerApp, then `resume=true`", killed_server),
    Case("tls", "TLS, registered SuperNodes, by the scripts", authenticated),
)
"""In the order of the table."""
