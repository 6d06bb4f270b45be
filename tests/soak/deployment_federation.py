"""A Flower federation on loopback: one SuperLink and its SuperNodes, each a process of its own."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.soak.deployment_processes import descendants, send_signal, title

__all__ = ["Credentials", "Federation", "FlowerError"]

ROOT = Path(__file__).parents[2]
SCRIPTS = ROOT / "simulations" / "deployment"
CONNECTION = "loopback"
_START_SECONDS = 120.0


class FlowerError(RuntimeError):
    """A process of Flower's did not do what it was asked; the message has its last words."""


@dataclass(frozen=True)
class Credentials:
    """A folder of `simulations/deployment/credentials.py`."""

    folder: Path

    @classmethod
    def make(cls, folder: Path, *, nodes: int) -> Self:
        """Certificates for this machine, and a key pair for each node."""
        call = [sys.executable, str(SCRIPTS / "credentials.py"), str(folder), "--nodes", str(nodes)]
        subprocess.run(call, check=True)
        return cls(folder)


class Federation:
    """SuperLink and SuperNodes with their logs under one folder; ended when the block is left.

    Parameters
    ----------
    folder : Path
        For logs, FLWR_HOME and the SuperLink's database.
    port : int
        The SuperLink's; SuperNode i takes port + 1 + i.
    node_configs : list of str
        One for each SuperNode, as ``--node-config`` has it.
    credentials : Credentials or None
        TLS and registered nodes, by the scripts that users have; None: ``--insecure``.
    """

    def __init__(
        self,
        folder: Path,
        *,
        port: int,
        node_configs: list[str],
        credentials: Credentials | None = None,
    ) -> None:
        self.folder, self.port = folder, port
        self.node_configs, self.credentials = node_configs, credentials
        self.address = f"127.0.0.1:{port}"
        self.nodes: dict[int, subprocess.Popen[bytes]] = {}
        self._all: list[subprocess.Popen[bytes]] = []
        # Every message starts a process: what one of them has compiled, the next need not.
        inherited = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
        self.environment = inherited | {
            "FLWR_HOME": str(folder / "flwr"),
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
            "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
            "RAY_USAGE_STATS_ENABLED": "0",
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
        }

    # ---------------------------------------------------------------- life

    def __enter__(self) -> Self:
        for port in range(self.port, self.port + 1 + len(self.node_configs)):
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind(("127.0.0.1", port))
                except OSError:
                    raise FlowerError(f"port {port} is taken; give another --port") from None
        (self.folder / "flwr").mkdir(parents=True)
        (self.folder / "flwr" / "config.toml").write_text(self._connection(), encoding="utf-8")
        try:
            self._start_superlink()
            for node in range(len(self.node_configs)):
                if self.credentials is not None:
                    key = self.credentials.folder / f"node-{node}.pub"
                    self.flwr("supernode", "register", str(key), CONNECTION)
                self.start_node(node)
            self._await(
                lambda: len(self.online()) >= len(self.node_configs), "the SuperNodes to connect"
            )
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end()

    def _connection(self) -> str:
        lines = ["[superlink]", f'default = "{CONNECTION}"', "", f"[superlink.{CONNECTION}]"]
        lines.append(f'address = "{self.address}"')
        if self.credentials is None:
            lines.append("insecure = true")
        else:
            lines.append(f'root-certificates = "{self.credentials.folder / "ca.crt"}"')
        return "\n".join(lines) + "\n"

    def _start_superlink(self) -> None:
        if self.credentials is None:
            call = ["flower-superlink", "--insecure", "--host", "127.0.0.1"]
            call += ["--port", str(self.port), "--disable-runtime-dependency-installation"]
        else:
            call = [str(SCRIPTS / "superlink.sh"), str(self.credentials.folder), "127.0.0.1"]
            call += [str(self.port), str(self.folder / "superlink.db")]
        self.superlink = self._start(call, "superlink")
        self._await(self._listening, "the SuperLink to listen")

    def start_node(self, node: int) -> None:
        """Start SuperNode ``node``, again if it was there before."""
        port, config = str(self.port + 1 + node), self.node_configs[node]
        if self.credentials is None:
            call = ["flower-supernode", "--insecure", "--superlink", self.address]
            call += ["--port", port, "--node-config", config]
        else:
            folder = self.credentials.folder
            call = [str(SCRIPTS / "supernode.sh"), self.address, str(folder / "ca.crt")]
            call += [str(folder / f"node-{node}"), config, port]
        self.nodes[node] = self._start(call, f"supernode-{node}")

    def kill_node(self, node: int) -> None:
        """SIGKILL to SuperNode ``node`` and at once to what it started, as if it lost power."""
        process = self.nodes[node]
        # Stopped first, so that none of them starts another one meanwhile.
        send_signal(process.pid, signal.SIGSTOP)
        for pid in (process.pid, *descendants(process.pid)):
            send_signal(pid, signal.SIGKILL)
        process.wait()

    def kill_server_app(self) -> None:
        """SIGKILL to the process of the ServerApp, and nothing else."""
        found = [pid for pid in descendants(self.superlink.pid) if "flwr-serverapp" in title(pid)]
        if not found:
            raise FlowerError("no ServerApp is running")
        for pid in found:
            send_signal(pid, signal.SIGKILL)

    def _start(self, call: list[str], name: str) -> subprocess.Popen[bytes]:
        with open(self.folder / f"{name}.log", "ab") as log:
            process = subprocess.Popen(
                call,
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env=self.environment,
                cwd=self.folder,
                start_new_session=True,
            )
        self._all.append(process)
        return process

    def _end(self) -> None:
        """Ask everything that was started to end, SuperNodes first, and then see to it."""
        everything = {pid for p in self._all for pid in (p.pid, *descendants(p.pid))}
        for process in reversed(self._all):
            send_signal(process.pid, signal.SIGTERM)
        patience = time.monotonic() + 15.0
        for process in self._all:
            try:
                process.wait(max(0.1, patience - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for pid in everything:
            send_signal(pid, signal.SIGKILL)

    # ---------------------------------------------------------------- what users type

    def flwr(self, *arguments: str) -> dict[str, Any]:
        """A command of Flower's command line with its answer in JSON.

        Raises
        ------
        FlowerError
            If it fails.
        """
        done = subprocess.run(
            ["flwr", *arguments, "--format", "json"],
            capture_output=True,
            text=True,
            env=self.environment,
            cwd=self.folder,
            timeout=120,
            check=False,
        )
        start = done.stdout.find("{")
        answer = json.loads(done.stdout[start:]) if start >= 0 else {}
        if done.returncode != 0 or not answer.get("success"):
            raise FlowerError(f"flwr {' '.join(arguments)}: {done.stdout}{done.stderr}")
        return dict(answer)

    def online(self) -> list[int]:
        """Ids of the SuperNodes that the SuperLink believes to be connected."""
        nodes = self.flwr("supernode", "list", CONNECTION)["nodes"]
        return [int(node["node-id"]) for node in nodes if node["status"] == "online"]

    def submit(self, app: Path, settings: Mapping[str, object]) -> str:
        """`flwr run` of an app; the run's id."""
        pairs = " ".join(f"{key}={json.dumps(value)}" for key, value in settings.items())
        return str(self.flwr("run", str(app), CONNECTION, "--run-config", pairs)["run-id"])

    def state(self, run: str) -> dict[str, Any]:
        """What `flwr ls` says of a run."""
        (found,) = self.flwr("ls", CONNECTION, "--run-id", run)["runs"]
        return dict(found)

    def log(self, run: str) -> str:
        """What a run's ServerApp has logged, also kept beside the other logs."""
        done = subprocess.run(
            ["flwr", "log", run, CONNECTION, "--show"],
            capture_output=True,
            text=True,
            env=self.environment,
            cwd=self.folder,
            timeout=120,
            check=True,
        )
        (self.folder / f"serverapp-{run}.log").write_text(done.stdout, encoding="utf-8")
        return done.stdout

    def finish(self, run: str, *, seconds: float) -> dict[str, Any]:
        """Wait for the end of a run and the processes it had; what `flwr ls` says then.

        Raises
        ------
        FlowerError
            If it has not ended in time.
        """
        patience = time.monotonic() + seconds
        while time.monotonic() < patience:
            found = self.state(run)
            if str(found["status"]).startswith("finished"):
                return found
            time.sleep(3.0)
        raise FlowerError(f"run {run} has not ended within {seconds:.0f} s; see {self.folder}")

    # ---------------------------------------------------------------- waiting

    def _listening(self) -> bool:
        if self.superlink.poll() is not None:
            raise FlowerError(f"the SuperLink ended at once; see {self.folder}/superlink.log")
        with socket.socket() as probe:
            probe.settimeout(1.0)
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def _await(self, condition: Any, what: str) -> None:
        patience = time.monotonic() + _START_SECONDS
        while not condition():
            if time.monotonic() > patience:
                raise FlowerError(f"waited {_START_SECONDS:.0f} s for {what}; see {self.folder}")
            time.sleep(0.5)
