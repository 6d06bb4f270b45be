"""What Ray raises where an actor fails, and how it is told."""

from __future__ import annotations

from ray.exceptions import NodeDiedError, ObjectLostError, OutOfMemoryError, RayActorError

__all__ = ["DEATHS", "PLACING_SECONDS", "not_placed", "reason_of"]

DEATHS = (RayActorError, OutOfMemoryError, ObjectLostError, NodeDiedError)
"""What is raised where an actor died, or an answer did with the machine it lay on. An actor that is
unreachable for a moment is among them: what it has done of its work cannot be known."""

PLACING_SECONDS = 120.0
"""How long Ray may take to start actors."""


def not_placed(what: str) -> str:
    """The text for actors that Ray does not start."""
    return (
        f"Ray has not started {what} within {PLACING_SECONDS:g} s: its CPUs or GPUs may be taken "
        "by others, or gone with a machine (`ray status` tells); give it more machines, or ask for "
        "fewer actors or smaller shares"
    )


def reason_of(error: Exception) -> str:
    """Ray's account of an error in one line; of a traceback, what was raised."""
    lines = str(error).splitlines()
    if isinstance(error, RayActorError) and error.actor_init_failed:
        # A traceback's own lines are indented; what follows the last of them was raised.
        inside = [place for place, line in enumerate(lines) if line.startswith("  ")]
        lines = (lines[inside[-1] + 1 :] if inside else []) or lines
    return " ".join(" ".join(lines).split())
