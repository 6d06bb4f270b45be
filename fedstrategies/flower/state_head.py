"""The head of a client's state in a directory: what is in force.

A small JSON file that names the place, length and checksum of every record. It is replaced at one
stroke, after the records themselves are written.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

__all__ = ["HEAD", "Head", "Place", "packed_head", "read_head"]

logger = logging.getLogger("flwr")

_FORMAT = "fedstrategies.state/1"

HEAD = "head.json"
"""Its name in a node's folder."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a record lies, and what must be found there."""

    side: int
    size: int
    checksum: int

    def __post_init__(self) -> None:
        if self.side not in (0, 1) or not all(
            isinstance(n, int) for n in (self.size, self.checksum)
        ):
            raise ValueError("no place of a record")


Head = Mapping[str, Place]
"""What is in force, by the key of each record."""


def read_head(folder: Path) -> Head:
    """The committed head; an empty one where there is none, or none that can be used."""
    try:
        packed = (folder / HEAD).read_bytes()
    except FileNotFoundError:
        return {}
    try:
        found = json.loads(packed)
        if any(found[name] != value for name, value in _identity(folder).items()):
            raise ValueError("of another node")
        return {key: Place(**place) for key, place in found["records"].items()}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        path = folder / HEAD
        logger.warning("%s: not this client's, or damaged; its memory is lost", path)
        return {}


def packed_head(folder: Path, places: Head) -> bytes:
    """What a head with these places is as a file."""
    described = {key: asdict(place) for key, place in places.items()}
    return json.dumps({**_identity(folder), "records": described}).encode()


def _identity(folder: Path) -> dict[str, str]:
    """What a head says of itself."""
    return {"format": _FORMAT, "run": folder.parent.name, "node": folder.name}
