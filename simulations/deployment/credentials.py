"""Certificates and node keys for a Flower deployment with TLS and SuperNode authentication.

    python simulations/deployment/credentials.py FOLDER --host superlink.example.org --nodes 4

FOLDER then holds

- ``ca.crt``, which every machine gets, and ``ca.key``, which stays where it was made;
- ``server.crt`` and ``server.key`` for the SuperLink, valid for every ``--host`` and for this
  machine itself, since the SuperLink's own ServerApp processes connect to it as well;
- ``node-0``, ``node-0.pub``, ...: the key pair of each SuperNode. The private half goes to its
  machine and nowhere else, the public half to whoever registers the nodes.

Nothing that exists is overwritten.
"""

from __future__ import annotations

import argparse
import ipaddress
import os
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

HERE = ("localhost", "127.0.0.1", "::1")
"""Names of this machine, for processes that run beside the SuperLink."""


def write(path: Path, content: bytes, *, secret: bool) -> None:
    """Write a file that is not there yet; a secret one is readable by its owner alone.

    Raises
    ------
    FileExistsError
        If it is there.
    """
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600 if secret else 0o644)
    with open(handle, "wb") as file:
        file.write(content)


def write_key(path: Path, key: ec.EllipticCurvePrivateKey, form: PrivateFormat) -> None:
    """Write a private key without a passphrase: services start unattended."""
    write(path, key.private_bytes(Encoding.PEM, form, NoEncryption()), secret=True)


def named(common_name: str) -> x509.Name:
    """A subject that has a common name and nothing else."""
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def alternative(host: str) -> x509.GeneralName:
    """A host as certificates have it: an address or a name."""
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def usage(*, authority: bool) -> x509.KeyUsage:
    """What a key is for: an authority signs certificates, a server signs handshakes."""
    return x509.KeyUsage(
        digital_signature=not authority,
        key_cert_sign=authority,
        crl_sign=authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def make_certificates(folder: Path, hosts: list[str], days: int) -> None:
    """The authority, and the SuperLink's certificate that it signs."""
    now = datetime.now(UTC) - timedelta(minutes=5)  # clocks of other machines may be slow
    ca_key, server_key = (ec.generate_private_key(ec.SECP384R1()) for _ in range(2))
    authority = named("fedstrategies deployment authority")
    ca = (
        x509.CertificateBuilder()
        .subject_name(authority)
        .issuer_name(authority)
        .public_key(ca_key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now)
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage(authority=True), critical=True)
        .add_extension(
            x509.SubjectKeyIdentifier.from_public_key(ca_key.public_key()), critical=False
        )
        .sign(ca_key, hashes.SHA384())
    )
    names = [alternative(host) for host in dict.fromkeys((*hosts, *HERE))]
    server = (
        x509.CertificateBuilder()
        .subject_name(named((*hosts, *HERE)[0]))
        .issuer_name(authority)
        .public_key(server_key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now)
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(usage(authority=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False
        )
        .sign(ca_key, hashes.SHA384())
    )
    write_key(folder / "ca.key", ca_key, PrivateFormat.PKCS8)
    write_key(folder / "server.key", server_key, PrivateFormat.PKCS8)
    write(folder / "ca.crt", ca.public_bytes(Encoding.PEM), secret=False)
    write(folder / "server.crt", server.public_bytes(Encoding.PEM), secret=False)


def make_node_key(folder: Path, node: int) -> None:
    """A SuperNode's key pair, as ``ssh-keygen -t ecdsa -b 384`` writes it."""
    key = ec.generate_private_key(ec.SECP384R1())
    write_key(folder / f"node-{node}", key, PrivateFormat.OpenSSH)
    public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    write(folder / f"node-{node}.pub", public + b"\n", secret=False)


def main() -> int:
    """Make everything; 2 if something is in the way."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument(
        "--host", action="append", default=[], help="name or address of the SuperLink (repeatable)"
    )
    parser.add_argument("--nodes", type=int, default=0, help="key pairs to make")
    parser.add_argument("--days", type=int, default=365, help="validity of the certificates")
    options = parser.parse_args()
    options.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        make_certificates(options.folder, options.host, options.days)
        for node in range(options.nodes):
            make_node_key(options.folder, node)
    except FileExistsError as error:
        print(f"{error.filename} exists; take another folder", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
