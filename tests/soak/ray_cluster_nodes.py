"""Ray nodes started by hand on one machine, each with an address, ports and processes of its own.

A node's processes are those that descend from its ``ray start --block``: no other Ray on the
machine is looked at or ended (``ray stop`` would end them all).
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

__all__ = ["Node", "RayCluster", "executing", "strike"]

_STORE = 100 * 2**20
_PORTS_A_NODE = 30
_START_SECONDS = 120.0


@dataclass(frozen=True, kw_only=True)
class Node:
    """One Ray node.

    Attributes
    ----------
    name : str
        As tables call it.
    ip : str
        Its address, by which Ray tells where a task ran: 127.0.0.1, 127.0.0.2, ...
    first_port : int
        Of those it was given.
    process : Popen
        ``ray start --block``.
    """

    name: str
    ip: str
    first_port: int
    process: subprocess.Popen[bytes]

    @property
    def processes(self) -> list[int]:
        """Process ids of everything that runs on the node, children before their parents."""
        return [*descendants(self.process.pid), self.process.pid]

    def workers(self) -> list[int]:
        """Process ids of the workers, which hold actors or wait for work."""
        return [pid for pid in descendants(self.process.pid) if title(pid).startswith("ray::")]

    def end(self) -> None:
        """Kill everything that runs on the node at once, as if the machine had lost its power."""
        doomed = self.processes
        for pid in reversed(doomed):
            _send(pid, signal.SIGKILL)
        self.process.wait()


class RayCluster:
    """A head and further nodes on this machine; a context manager that leaves no process.

    Parameters
    ----------
    folder : Path
        For Ray's sessions and the nodes' output. Ray refuses a long one: sockets lie in it.
    port : int
        The head's; each node takes 30 ports from there on, those of nodes that have ended again.
    """

    def __init__(self, folder: Path, port: int) -> None:
        self.folder, self.port = folder, port
        self.nodes: list[Node] = []

    @property
    def address(self) -> str:
        """What ``--ray-address`` and ``RAY_ADDRESS`` are given."""
        return f"127.0.0.1:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        """The environment of whatever is to find the cluster by itself."""
        return dict(os.environ) | {"RAY_ADDRESS": self.address}

    def start(self, name: str, *, cpus: int) -> Node:
        """Start a node, the first one as the head, and wait until Ray lists it.

        Raises
        ------
        RuntimeError
            If it does not come up within two minutes.
        """
        alive = [node.first_port for node in self.nodes if node.process.poll() is None]
        slots = range(self.port, self.port + _PORTS_A_NODE * (len(alive) + 1), _PORTS_A_NODE)
        first = next(port for port in slots if port not in alive)
        ports = iter(range(first + 1, first + 6))
        # Never that of a node before it: Ray's records go on telling of the dead ones.
        ip = f"127.0.0.{len(self.nodes) + 1}"
        where = ["--address", self.address]
        if not self.nodes:
            where = ["--head", "--port", str(self.port), "--include-dashboard=false"]
            where += ["--ray-client-server-port", str(self.port + 29)]
        home = self.folder / name
        home.mkdir(parents=True, exist_ok=True)
        command = [str(Path(sys.executable).with_name("ray")), "start", *where, "--block"]
        command += [f"--node-ip-address={ip}", f"--num-cpus={cpus}", "--num-gpus=0"]
        command += [f"--object-store-memory={_STORE}", f"--temp-dir={home}"]
        command += [f"--node-manager-port={next(ports)}", f"--object-manager-port={next(ports)}"]
        command += [f"--metrics-export-port={next(ports)}"]
        command += [f"--runtime-env-agent-port={next(ports)}"]
        command += [f"--min-worker-port={first + 8}", f"--max-worker-port={first + 28}"]
        # A variable that some shells export would send `ray start --head` elsewhere.
        environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
        with (home / "output.txt").open("wb") as output:
            process = subprocess.Popen(
                command, stdout=output, stderr=subprocess.STDOUT, env=environment
            )
        node = Node(name=name, ip=ip, first_port=first, process=process)
        self.nodes.append(node)
        self._wait_for(node, home / "output.txt")
        return node

    def _wait_for(self, node: Node, output: Path) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline and node.process.poll() is None:
            if "Ray runtime started" in output.read_text(errors="replace"):
                return
            time.sleep(0.2)
        raise RuntimeError(f"node {node.name} did not start:\n{output.read_text(errors='replace')}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for node in reversed(self.nodes):
            if node.process.poll() is None:
                node.end()
        shutil.rmtree(self.folder, ignore_errors=True)


def title(pid: int) -> str:
    """A process's command line; Ray's workers write there what they execute."""
    try:
        line = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return ""  # it has ended
    return line.replace(b"\0", b" ").decode(errors="replace").strip()


def executing(pid: int, method: str) -> bool:
    """Whether a worker executes this method of an actor now."""
    return f".{method}" in title(pid)


def strike(node: Node, method: str, *, within: float, patience: float = 0.0) -> int:
    """SIGKILL a worker of the node while it executes a method, and say which one it was.

    It is stopped first and looked at again, so that it surely was at work when it died.

    Parameters
    ----------
    node : Node
        Where.
    method : str
        Of the actor.
    within : float
        Seconds to wait for the occasion.
    patience : float
        Seconds for which it is let work before.

    Raises
    ------
    TimeoutError
        If no worker of the node executed it.
    """
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        # Looking for children takes long; a round of a small model does not.
        for pid in node.workers() * 50:
            if not executing(pid, method):
                continue
            time.sleep(patience)
            _send(pid, signal.SIGSTOP)
            if executing(pid, method):
                _send(pid, signal.SIGKILL)
                return pid
            _send(pid, signal.SIGCONT)
    raise TimeoutError(f"no worker of {node.name} executed {method} within {within:g} s")


def descendants(pid: int) -> list[int]:
    """Children of a process and theirs, the youngest generation first."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            # The name in parentheses may hold anything, also spaces and parentheses.
            fields = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()
        except OSError:
            continue  # it has ended
        parents.setdefault(int(fields[1]), []).append(int(entry.name))
    return list(_below(pid, parents))


def _below(pid: int, parents: dict[int, list[int]]) -> Iterator[int]:
    for child in parents.get(pid, []):
        yield from _below(child, parents)
        yield child


def _send(pid: int, number: int) -> None:
    with suppress(ProcessLookupError):  # it has ended by itself
        os.kill(pid, number)
