"""What the cases of a deployment share: configurations, waiting, comparing."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.soak.deployment_bytes import Traffic
from tests.soak.deployment_federation import ROOT, Federation, FlowerError
from tests.soak.deployment_replay import History, Requests, history

__all__ = [
    "APPS",
    "NODES",
    "PATIENCE",
    "Outcome",
    "Skipped",
    "agreement",
    "deployed",
    "difference",
    "ended_well",
    "missing_uploads",
    "rounds_done",
    "settings_of",
    "told",
    "traffic",
    "wait_for",
]

NODES = 4
PATIENCE = 1800.0
APPS: dict[str, dict[str, object]] = {
    "efbv": {"algorithm": "ef21", "compressor": "top-k:k=5", "rounds": 3},
    "scafflix": {"algorithm": "scafflix", "alpha": "0.3", "rounds": 3},
    "sppm": {
        **{"algorithm": "sppm", "sampling": "nice", "cohort-size": 3, "inner-rounds": 2},
        "rounds": 4,
    },
    "fedp3": {
        **{"algorithm": "fedp3", "dataset": "digits", "model": "mlp", "width": 16, "l2": 0.0},
        **{"stepsize": 0.2, "layers": "capacity:3000", "keep": 0.5, "batch-size": 64, "rounds": 3},
    },
}
"""Each app's run configuration, small."""


class Skipped(Exception):
    """A case that cannot be run here; the text says why."""


@dataclass
class Outcome:
    """How a case ended.

    Attributes
    ----------
    passed : bool or None
        None: it was skipped.
    result : str
        One line with the figures.
    facts : dict
        More of them.
    """

    passed: bool | None
    result: str
    facts: dict[str, Any] = field(default_factory=dict)


def told(extra: str = "") -> list[str]:
    """--node-config of nodes that know their partition."""
    return [f"partition-id={i} num-partitions={NODES}{extra}" for i in range(NODES)]


def settings_of(app: str, out: Path, **more: object) -> dict[str, object]:
    """A run configuration that writes to ``out``."""
    return {"clients": NODES, **APPS[app], **more, "output-dir": str(out), "quiet": True}


def deployed(federation: Federation, app: str, settings: Mapping[str, object]) -> dict[str, Any]:
    """Submit an app unchanged and wait; what `flwr ls` says at the end.

    Raises
    ------
    FlowerError
        If the run failed.
    """
    run = federation.submit(ROOT / "simulations" / app, settings)
    return ended_well(federation, run)


def ended_well(federation: Federation, run: str) -> dict[str, Any]:
    """Wait for a run that must succeed."""
    found = federation.finish(run, seconds=PATIENCE)
    if found["status"] != "finished:completed":
        raise FlowerError(f"the run ended as {found['status']}: {found['status-details']}")
    return found


def traffic(records: History, requests: Requests, found: Mapping[str, Any]) -> Traffic:
    """Both counts of a run in which nothing failed."""
    last, counted = records[-1], found["network-traffic"]
    return Traffic(
        nodes=NODES,
        exchanges=requests.messages,
        frames=requests.frames,
        uplink=last["uplink_bytes"],
        downlink=last["downlink_bytes"] + last["recovery_bytes"],
        inbound=counted["inbound-bytes"],
        outbound=counted["outbound-bytes"],
    )


def difference(one: History, other: History, *, bytes_too: bool = True) -> float:
    """Largest relative difference of losses; infinite if rounds, participants or uplinks differ.

    Without ``bytes_too`` uplinks may: a client that answers *lost* sends some bytes.
    """
    keys = ["round", "participants", *(["uplink_bytes"] if bytes_too else [])]
    if [[r[k] for k in keys] for r in one] != [[r[k] for k in keys] for r in other]:
        return float("inf")
    return max(abs(a["loss"] / b["loss"] - 1.0) for a, b in zip(one, other, strict=True))


def agreement(gap: float) -> str:
    """A difference in words."""
    return "losses bit-equal" if gap == 0.0 else f"losses equal to {gap:.1e}"


def wait_for(condition: Callable[[], bool], what: str, *, pause: float = 0.5) -> None:
    """Until something happened."""
    patience = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > patience:
            raise FlowerError(f"waited {PATIENCE:.0f} s for {what}")
        time.sleep(pause)


def rounds_done(out: Path) -> int:
    """Rounds that a run has written."""
    return len(history(out)) - 1 if (out / "history.jsonl").exists() else -1


def missing_uploads(log: str) -> dict[int, set[int]]:
    """Round -> partitions whose uploads the server did not use, by a ServerApp's log."""
    found: dict[int, set[int]] = {}
    for match in re.finditer(r"round (\d+): partition (\d+)(?: \(node \d+\))?:", log):
        found.setdefault(int(match[1]), set()).add(int(match[2]))
    return found
