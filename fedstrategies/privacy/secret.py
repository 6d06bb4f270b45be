"""The secret of a node, from which its noise and its samples are drawn."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from hashlib import blake2b

from fedstrategies.privacy.errors import PrivacyError

__all__ = ["SECRET_BYTES", "Secret", "fresh_secret", "simulated_secret"]

SECRET_BYTES = 32


@dataclass(frozen=True, kw_only=True)
class Secret:
    """256 bits that nobody but the node knows.

    Attributes
    ----------
    key : bytes
        32 bytes; left out of the printed form.
    simulated : bool
        Derived from the public seed: whoever knows that seed can subtract the noise. For
        simulations, where an experiment must give the same answer twice.

    Raises
    ------
    PrivacyError
        If the key has another length.
    """

    key: bytes = field(repr=False)
    simulated: bool = False

    def __post_init__(self) -> None:
        if len(self.key) != SECRET_BYTES:
            raise PrivacyError(
                f"a secret has {SECRET_BYTES} bytes, got {len(self.key)}; draw one with "
                "privacy.fresh_secret()"
            )


def fresh_secret() -> Secret:
    """A secret from the operating system's generator, to be drawn once a node and kept."""
    return Secret(key=secrets.token_bytes(SECRET_BYTES))


def simulated_secret(seed: int, partition: int) -> Secret:
    """The secret of a simulated client, a function of public numbers: it protects nothing.

    Parameters
    ----------
    seed : int
        The experiment's seed.
    partition : int
        The client's partition id.

    Returns
    -------
    Secret
        Marked ``simulated``.
    """
    text = f"{seed}/{partition}".encode()
    key = blake2b(text, digest_size=SECRET_BYTES, person=b"simulated secret").digest()
    return Secret(key=key, simulated=True)
