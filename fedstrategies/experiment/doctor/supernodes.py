"""SuperNodes that run on this machine: what they were told, and whether it fits the run."""

from __future__ import annotations

import argparse
import shlex
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from fedstrategies.experiment.config import ExperimentConfig
from fedstrategies.experiment.doctor.finding import Finding, note, ok

__all__ = ["SuperNode", "check_supernodes", "running_supernodes"]

_SUBJECT = "SuperNodes"


@dataclass(frozen=True)
class SuperNode:
    """A ``flower-supernode`` that runs here.

    Attributes
    ----------
    pid : int
        Its process.
    superlink : str
        What it is connected to.
    insecure : bool
        Whether without TLS.
    config : dict of str to str
        Its ``--node-config``.
    """

    pid: int
    superlink: str
    insecure: bool
    config: dict[str, str]


def running_supernodes(processes: Path = Path("/proc")) -> list[SuperNode]:
    """Those of this machine, by their command lines; none where there is no /proc (not Linux)."""
    found = []
    for entry in sorted(processes.glob("[0-9]*"), key=lambda path: int(path.name)):
        try:
            words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue  # it ended meanwhile, or is somebody else's
        places = [i for i, word in enumerate(words) if Path(word).name == "flower-supernode"]
        # The program itself, or what Python runs: not an editor that has it among its files.
        if places and places[0] <= 1:
            found.append(_parsed(int(entry.name), words[places[0] + 1 :]))
    return found


def _parsed(pid: int, arguments: Sequence[str]) -> SuperNode:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--superlink", default="127.0.0.1:8000")
    parser.add_argument("--node-config", default="")
    parser.add_argument("--insecure", action="store_true")
    known, _ = parser.parse_known_args([word for word in arguments if word])
    try:
        pairs = [word.partition("=") for word in shlex.split(known.node_config)]
    except ValueError:  # a quotation mark without its other half: Flower does not read it either
        pairs = []
    config = {key: value for key, _, value in pairs}
    return SuperNode(pid, known.superlink, known.insecure, config)


def check_supernodes(config: ExperimentConfig, nodes: Sequence[SuperNode]) -> Iterator[Finding]:
    """Partitions that nobody named, or several have; the number of clients; directories; TLS.

    All of it are notes: nobody knows whether the run that is asked about is to go to these nodes.
    """
    if not nodes:
        return
    troubles = [*_look(config, nodes)]
    yield from troubles
    if not troubles:
        yield ok(_SUBJECT, f"{len(nodes)} on this machine, each with a partition of its own")


def _look(config: ExperimentConfig, nodes: Sequence[SuperNode]) -> Iterator[Finding]:
    nameless = [node for node in nodes if "partition-id" not in node.config]
    if nameless:
        yield note(
            _SUBJECT,
            f"{_some(nameless)} of {len(nodes)} here without a partition-id: the server ranks them "
            "by order of contact, so that a run cannot be repeated",
            f'--node-config "partition-id=I num-partitions={config.clients}", I from 0',
        )
    if forgetful := [node for node in nameless if "state-dir" not in node.config]:
        yield note(
            _SUBJECT,
            f"{_some(forgetful)} without partition-id and state-dir: after a restart such a node "
            "is taken for any that is missing",
            "give it a partition-id, or a state-dir of its own, where it writes down its rank",
        )
    places = Counter((node.superlink, node.config.get("partition-id")) for node in nodes)
    for (superlink, partition), number in sorted(places.items(), key=str):
        if partition is not None and number > 1:
            yield note(
                _SUBJECT,
                f"{number} claim partition {partition} of {superlink}: the newest is asked, and "
                "a run that waits for all its clients waits for ever",
                "give each its own partition-id",
            )
    shared = Counter(node.config["state-dir"] for node in nameless if "state-dir" in node.config)
    for directory, number in sorted(shared.items()):
        if number > 1:
            yield note(
                _SUBJECT,
                f"{number} without partition-id share state-dir {directory}: they remember one "
                "rank among them",
                "give each a state-dir of its own",
            )
    told = {node.config["num-partitions"] for node in nodes if "num-partitions" in node.config}
    for other in sorted(told - {str(config.clients)}):
        yield note(
            _SUBJECT,
            f"started with num-partitions={other}, but --clients is {config.clients}: apps of "
            "this suite refuse that",
            f"run with --clients {other}, or start them with num-partitions={config.clients}",
        )
    if bare := [node for node in nodes if node.insecure]:
        yield note(
            _SUBJECT,
            f"{_some(bare)} without TLS: whoever sees the network sees the messages",
            "see docs/guides/deployment.md; on one machine alone it does not matter",
        )


def _some(nodes: Sequence[SuperNode]) -> str:
    """How many, and which if they are few."""
    if len(nodes) > 4:
        return str(len(nodes))
    pids = ", ".join(str(node.pid) for node in nodes)
    return f"{len(nodes)} (process {pids})" if len(nodes) == 1 else f"{len(nodes)} ({pids})"
