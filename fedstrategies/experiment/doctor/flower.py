"""Flower's environment: what it sends, installs and keeps, and what is left of earlier runs."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path

from fedstrategies.experiment.config import ExperimentConfig
from fedstrategies.experiment.doctor.finding import Finding, note, ok, problem

__all__ = ["check_flower"]

_PORT = "FLWR_LOCAL_SUPERLINK_HTTP_API_PORT"
_DEFAULT_PORT = "39091"
_OF_A_NETWORK = ("nfs", "cifs", "smb", "lustre", "gpfs", "beegfs", "ceph", "afs", "fuse.sshfs")
_INSTALL = "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION"


def check_flower(
    config: ExperimentConfig,
    environment: Mapping[str, str] = os.environ,
    mounts: Path = Path("/proc/mounts"),
) -> Iterator[Finding]:
    """Telemetry, runtime installation, FLWR_HOME and a local SuperLink that still listens."""
    # This suite's commands set what is unset to 0.
    if environment.get("FLWR_TELEMETRY_ENABLED", "0") == "1":
        yield note(
            "telemetry", "FLWR_TELEMETRY_ENABLED=1: Flower calls home", "unset it, or set it to 0"
        )
    else:
        yield ok("telemetry", "off")
    if environment.get(_INSTALL) != "1":
        yield note(
            "flwr run",
            "installs an app's dependencies at run time, from the network",
            f"export {_INSTALL}=1 before the first `flwr run` (this command is not concerned)",
        )
    home = Path(environment.get("FLWR_HOME") or Path.home() / ".flwr")
    folder = home
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    if not os.access(folder, os.W_OK):
        say = problem if config.backend == "flower" else note
        yield say("FLWR_HOME", f"{home} cannot be written", "set FLWR_HOME to a folder of yours")
    elif (kind := _network_filesystem(folder, mounts)) is not None:
        yield note(
            "FLWR_HOME",
            f"{home} lies on {kind}: the local SuperLink keeps a database there, which is often "
            "locked on a network's file system",
            "set FLWR_HOME to a folder on a disk of this machine",
        )
    else:
        yield ok("FLWR_HOME", str(home))
    port = environment.get(_PORT, _DEFAULT_PORT)
    if _listening(port):
        yield note(
            "SuperLink",
            f"something listens on port {port}: a local SuperLink of an earlier `flwr run`, which "
            "keeps the environment it was started with",
            f"end it before the next `flwr run` if its environment is old, or set {_PORT}",
        )
    else:
        yield ok("SuperLink", f"none left on port {port}")


def _network_filesystem(folder: Path, mounts: Path) -> str | None:
    """The kind of the file system that holds a folder, if it is one of a network (Linux)."""
    if not mounts.is_file():
        return None
    depth, held = -1, ""
    for line in mounts.read_text(encoding="utf-8", errors="replace").splitlines():
        _, point, kind, *_ = line.split(" ")
        # A blank in a path is written as an octal number there.
        place = Path(point.replace("\\040", " "))
        # Of several on one place the last is on top.
        if folder.resolve().is_relative_to(place) and len(place.parts) >= depth:
            depth, held = len(place.parts), kind
    return held if held.startswith(_OF_A_NETWORK) else None


def _listening(port: str) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", int(port)), timeout=0.5):
            return True
    except (OSError, ValueError, OverflowError):
        return False
