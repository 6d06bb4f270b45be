"""The pieces of a deployment that need no SuperLink; tests/soak/deployment.py has the rest.

A run on SuperLink and SuperNodes takes half a minute on two idle cores, most of it imports.
"""

from __future__ import annotations

import socket
import ssl
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import (
    load_ssh_private_key,
    load_ssh_public_key,
)

from tests.soak.deployment_bytes import Overhead, Traffic
from tests.soak.deployment_common import missing_uploads
from tests.soak.deployment_federation import SCRIPTS, Credentials
from tests.soak.deployment_replay import replay, simulate

SETTINGS = {"algorithm": "ef21", "clients": 4, "rounds": 4, "compressor": "top-k:k=5"}


@pytest.fixture(scope="module")
def credentials(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Credentials.make(tmp_path_factory.mktemp("tls") / "made", nodes=1).folder


def greeting(credentials: Path, trusted: Path, name: str) -> bytes:
    """What a client that trusts ``trusted`` gets from a server of that name."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(credentials / "server.crt", credentials / "server.key")
    client = ssl.create_default_context(cafile=str(trusted))
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            connection, _ = listening.accept()
            with connection:
                try:
                    with server.wrap_socket(connection, server_side=True) as secure:
                        secure.sendall(b"hello")
                except (ssl.SSLError, OSError):
                    return  # refused by the client, which says why

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            with (
                socket.create_connection(listening.getsockname(), timeout=10) as plain,
                client.wrap_socket(plain, server_hostname=name) as secure,
            ):
                return secure.recv(5)
        finally:
            thread.join()


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost"])
def test_the_certificate_is_this_machine_s(credentials: Path, name: str) -> None:
    assert greeting(credentials, credentials / "ca.crt", name) == b"hello"


def test_nobody_else_is_believed(credentials: Path, tmp_path: Path) -> None:
    with pytest.raises(ssl.SSLCertVerificationError, match=r"(?i)hostname"):
        greeting(credentials, credentials / "ca.crt", "elsewhere.example.org")
    other = Credentials.make(tmp_path / "other", nodes=0).folder
    with pytest.raises(ssl.SSLCertVerificationError):
        greeting(credentials, other / "ca.crt", "127.0.0.1")


def test_secrets_are_their_owner_s_and_keys_are_pairs(credentials: Path) -> None:
    for name in ("ca.key", "server.key", "node-0"):
        assert stat.S_IMODE((credentials / name).stat().st_mode) == 0o600
    private = load_ssh_private_key((credentials / "node-0").read_bytes(), None)
    public = load_ssh_public_key((credentials / "node-0.pub").read_bytes())
    assert private.public_key() == public


def test_what_exists_is_not_overwritten(credentials: Path) -> None:
    before = {path: path.read_bytes() for path in credentials.iterdir()}
    call = [sys.executable, str(SCRIPTS / "credentials.py"), str(credentials)]
    done = subprocess.run(call, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "ca.key exists" in done.stderr
    assert {path: path.read_bytes() for path in credentials.iterdir()} == before


@pytest.mark.parametrize("script", ["superlink.sh", "supernode.sh"])
def test_scripts_parse_and_say_what_they_need(script: str) -> None:
    subprocess.run(["sh", "-n", str(SCRIPTS / script)], check=True)
    done = subprocess.run(["sh", str(SCRIPTS / script)], capture_output=True, check=False)
    assert done.returncode == 2
    assert f"usage: {script}".encode() in done.stderr


def test_a_simulation_that_lacks_uploads_differs_and_one_that_lacks_none_does_not(
    tmp_path: Path,
) -> None:
    whole = simulate(SETTINGS, tmp_path / "whole")
    same, requests = replay(SETTINGS, tmp_path / "same", {})
    assert [record["loss"] for record in same] == [record["loss"] for record in whole]
    assert (requests.messages, requests.frames) == (16, 16)
    lacking, _ = replay(SETTINGS, tmp_path / "lacking", {2: {1}})
    assert [r["participants"] for r in lacking] == [0, 4, 3, 4, 4]
    assert lacking[1]["loss"] == whole[1]["loss"]
    assert lacking[2]["loss"] != whole[2]["loss"]


def test_missing_uploads_are_read_from_the_server_s_log() -> None:
    log = (
        "\x1b[93mWARNING \x1b[0m:   round 2: partition 1 (node 77): no reply\n"
        "WARNING: round 3: partition 1 (node 78): its memory is lost\n"
        "WARNING: round 3: partition 0: not connected\n"
        "round 4: loss 0.5\n"
    )
    assert missing_uploads(log) == {2: {1}, 3: {0, 1}}


def test_both_counts_of_bytes() -> None:
    overhead = Overhead(request=10, reply=20, frame=3, query_down=1, query_up=2)
    both = Traffic(
        nodes=4, exchanges=8, frames=24, uplink=800, downlink=1600, inbound=968, outbound=1800
    )
    assert both.expected(overhead) == (800 + 160 + 8, 1600 + 80 + 48 + 4)
    up, down = both.deviations(overhead)
    assert up == 0.0
    assert down == pytest.approx(1732 / 1800 - 1)
