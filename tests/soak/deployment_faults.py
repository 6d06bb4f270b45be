"""What is killed in a deployment, and what becomes of the run."""

from __future__ import annotations

import time
import tomllib
from collections.abc import Iterable
from pathlib import Path

import torch
from flwr.app import Context, RecordDict

from fedstrategies.checkpoint import Checkpoints, read_checkpoint
from fedstrategies.experiment.results import CHECKPOINTS
from fedstrategies.flower import DirectoryStore
from fedstrategies.flower.records import load_memory
from fedstrategies.flower.state_head import HEAD
from tests.soak.deployment_common import (
    NODES,
    PATIENCE,
    Outcome,
    Skipped,
    agreement,
    difference,
    ended_well,
    missing_uploads,
    rounds_done,
    settings_of,
    told,
    wait_for,
)
from tests.soak.deployment_federation import ROOT, Federation, FlowerError
from tests.soak.deployment_replay import history, replay, simulate

__all__ = ["directories", "killed_node", "killed_server", "readmission"]


def killed_node(folder: Path, port: int) -> Outcome:
    """A SuperNode is killed while it computes, and started again with nothing."""
    victim, out = 1, folder / "run"
    settings = settings_of("efbv", out, rounds=4)
    with Federation(folder, port=port, node_configs=told()) as federation:
        run = federation.submit(ROOT / "simulations" / "efbv", settings)
        log = folder / f"supernode-{victim}.log"
        wait_for(lambda: log.read_text().count("Receiving: train") >= 2, "the second round")
        federation.kill_node(victim)
        federation.start_node(victim)
        ended_well(federation, run)
        missing = missing_uploads(federation.log(run))
    records = history(out)
    replayed, _ = replay(settings, folder / "replayed", missing)
    gap = difference(records, replayed, bytes_too=False)
    recovered = int(records[-1]["recovery_bytes"])
    lost = sum(len(partitions) for partitions in missing.values())
    whole = records[-1]["participants"] == NODES
    passed = gap < 1e-12 and recovered > 0 and whole and set().union(*missing.values()) == {victim}
    text = (
        f"{lost} uploads of the killed node missing, memory restored by {recovered} recovery "
        f"bytes, all {NODES} in the last round; {agreement(gap)} with a simulation that lacks "
        "the same uploads"
    )
    return Outcome(passed, text, {"missing": {t: sorted(p) for t, p in missing.items()}})


def directories(folder: Path, port: int) -> Outcome:
    """Nodes without partition-id, state on disk: two are killed as they have written it."""
    out, victims = folder / "run", (1, 2)
    configs = [f"state-dir='{folder / f'states-{i}'}'" for i in range(NODES)]
    settings = settings_of("efbv", out, rounds=4, **checkpointing())
    with Federation(folder, port=port, node_configs=configs) as federation:
        run = federation.submit(ROOT / "simulations" / "efbv", settings)
        wait_for(lambda: rounds_done(out) >= 1, "the first round")
        before = ranks(folder)
        strike(federation, folder, victims)
        for victim in reversed(victims):
            federation.start_node(victim)
        ended_well(federation, run)
        missing = missing_uploads(federation.log(run))
    records = history(out)
    replayed, _ = replay(settings, folder / "replayed", missing)
    gap = difference(records, replayed, bytes_too=False)
    same = ranks(folder) == before and sorted(before.values()) == list(range(NODES))
    recovered = int(records[-1]["recovery_bytes"])
    drift = invariant(folder, run)
    expected = {before[victim] for victim in victims}
    passed = gap < 1e-12 and same and recovered == 0 and set().union(*missing.values()) <= expected
    text = (
        f"2 nodes killed with their state written and the reply not sent: ranks "
        f"{'kept' if same else 'CHANGED'}, {recovered} recovery bytes; {agreement(gap)} with a "
        f"simulation that lacks the same {sum(map(len, missing.values()))} uploads{drift}"
    )
    return Outcome(
        passed, text, {"ranks": before, "missing": {t: [*p] for t, p in missing.items()}}
    )


def strike(federation: Federation, folder: Path, victims: Iterable[int]) -> None:
    """Kill each victim the moment its state of the current round is on the disk."""
    left = {victim: written(folder, victim) for victim in victims}
    patience = time.monotonic() + PATIENCE
    while left and time.monotonic() < patience:
        for victim, before in list(left.items()):
            if written(folder, victim) != before:
                federation.kill_node(victim)
                del left[victim]
        time.sleep(0.005)
    if left:
        raise FlowerError(f"nodes {sorted(left)} wrote nothing")


def written(folder: Path, node: int) -> int:
    """When a node's state was replaced last."""
    heads = (folder / f"states-{node}").glob(f"run-*/partition-*/{HEAD}")
    return max((head.stat().st_mtime_ns for head in heads), default=0)


def ranks(folder: Path) -> dict[int, int]:
    """Node -> the rank it wrote down."""
    return {i: int((folder / f"states-{i}" / "rank").read_text().split()[0]) for i in range(NODES)}


def checkpointing() -> dict[str, object]:
    """The run-config keys of checkpoints, where the app has them."""
    return {"checkpoint-every": 1} if has_checkpoints() else {}


def has_checkpoints() -> bool:
    """Whether the apps can be resumed."""
    text = (ROOT / "simulations" / "efbv" / "pyproject.toml").read_text(encoding="utf-8")
    known = tomllib.loads(text)["tool"]["flwr"]["app"]["config"]
    return {"checkpoint-every", "resume"} <= known.keys()


def invariant(folder: Path, run: str) -> str:
    """h of the last checkpoint but one against the memories that the nodes have on their disks.

    Memories are committed up to the round before the last: of the last upload the nodes do not know
    yet that it was used.
    """
    if not has_checkpoints():
        return ""
    _, before_last, *_ = Checkpoints(folder / "run" / CHECKPOINTS).found()
    kept = read_checkpoint(before_last)["strategy"]
    if kept["round"] != rounds_done(folder / "run") - 1:
        raise FlowerError(f"{before_last} is of round {kept['round']}")
    memories = [torch.empty(0)] * NODES
    for node, rank in ranks(folder).items():
        context = Context(int(run), node, {"partition-id": rank}, RecordDict(), {})
        with DirectoryStore(folder / f"states-{node}").opened(context) as own:
            memory = load_memory(own.state)
        assert memory is not None
        (memories[rank],) = memory.values()
    on_disk, h = torch.cat(memories), kept["method"]["h"].reshape(-1)
    (copy,) = kept["memory"].values()
    gap = float((on_disk.mean(dim=0) - h).abs().max())
    if gap > 1e-12 or not torch.equal(on_disk, copy):
        raise FlowerError(f"max-abs(h - mean h_i) = {gap:.1e} with the h_i of the nodes' disks")
    return f"; max-abs(h - mean h_i) = {gap:.0e} with the h_i of the nodes' disks"


def killed_server(folder: Path, port: int) -> Outcome:
    """The ServerApp's process is killed, and `flwr run` goes on with the run."""
    if not has_checkpoints():
        raise Skipped("the apps have no checkpoint-every and resume yet")
    out = folder / "run"
    settings = settings_of("efbv", out, rounds=3, **{"checkpoint-every": 1})
    with Federation(folder, port=port, node_configs=told()) as federation:
        first = federation.submit(ROOT / "simulations" / "efbv", settings)
        wait_for(lambda: rounds_done(out) >= 1, "the first round")
        federation.kill_server_app()
        again = federation.submit(ROOT / "simulations" / "efbv", {**settings, "resume": True})
        ended_well(federation, again)
        before = federation.state(first)["status"]
    records = history(out)
    gap = difference(records, simulate(settings, folder / "simulated"))
    recovered = int(records[-1]["recovery_bytes"])
    text = (
        f"{agreement(gap)} with an uninterrupted simulation, {recovered} recovery bytes; the "
        f"killed run is {before}"
    )
    return Outcome(gap == 0.0, text, {"killed": before})


def readmission(federation: Federation) -> tuple[int, float]:
    """Kill a registered SuperNode and start it until it is let in: refusals, and seconds."""
    federation.kill_node(0)
    began, refusals = time.monotonic(), 0
    log = federation.folder / "supernode-0.log"
    activated = log.read_text().count("SuperNode ID")
    federation.start_node(0)

    def back() -> bool:
        nonlocal refusals
        if federation.nodes[0].poll() is not None:
            refusals += 1
            federation.start_node(0)
        return log.read_text().count("SuperNode ID") > activated

    wait_for(back, "the registered SuperNode to be let in again")
    return refusals, time.monotonic() - began
