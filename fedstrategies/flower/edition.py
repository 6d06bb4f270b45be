"""A version of the model as clients know it, and the way to it from earlier ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import Tensor

from fedstrategies.compressors import Floats, Payload
from fedstrategies.flower.replica import MOST_STEPS, Route, checksum
from fedstrategies.wire import decode, encode, encode_vector, encoded_size

__all__ = ["Edition", "Step"]


@dataclass(frozen=True, kw_only=True)
class Step:
    """The difference between two versions of w.

    Attributes
    ----------
    base, number : int
        From which version to which.
    payload : Payload
        C(x - w), C = 1.
    """

    base: int
    number: int
    payload: Payload

    @cached_property
    def size(self) -> int:
        """Bytes of its frame."""
        return encoded_size(self.payload)

    @cached_property
    def frame(self) -> bytes:
        """Its frame."""
        return encode(self.payload)

    def applied(self, w: Tensor, scale: float) -> Tensor:
        """``w + scale * C(x - w)``, shape (d,), as the clients compute it."""
        after = w.clone()
        self.payload.add_to_(after.unsqueeze(0), scale)
        return after


@dataclass(frozen=True, kw_only=True)
class Edition:
    """One version of w and the last steps that led to it.

    Attributes
    ----------
    number : int
        The version, from 1.
    w : Tensor
        Shape (d,).
    scale : float
        Factor of the differences.
    oldest : Tensor
        w where ``steps`` begin, shape (d,).
    steps : tuple of Step
        Oldest first; together shorter than w.
    """

    number: int
    w: Tensor
    scale: float
    oldest: Tensor
    steps: tuple[Step, ...] = ()

    @classmethod
    def whole(cls, number: int, w: Tensor, scale: float) -> Edition:
        """A version to which no steps lead."""
        return cls(number=number, w=w, scale=scale, oldest=w)

    def next(self, number: int, payload: Payload) -> Edition:
        """The version one difference later; the oldest steps go once w is no longer than all."""
        step = Step(base=self.number, number=number, payload=payload)
        steps, oldest = (*self.steps, step), self.oldest
        while steps and (
            len(steps) > MOST_STEPS or self._length(steps) >= self.frame_size + Route.size(0)
        ):
            oldest, steps = steps[0].applied(oldest, self.scale), steps[1:]
        w = step.applied(self.w, self.scale)
        return Edition(number=number, w=w, scale=self.scale, oldest=oldest, steps=steps)

    @staticmethod
    def _length(steps: tuple[Step, ...]) -> int:
        return sum(step.size for step in steps) + Route.size(len(steps))

    @cached_property
    def frame_size(self) -> int:
        """Bytes of w as one dense frame."""
        return encoded_size(Payload(dimension=len(self.w), values=Floats(self.w[None])))

    def steps_from(self, held: int) -> tuple[Step, ...] | None:
        """The steps a client at version ``held`` lacks; None if w must be sent whole."""
        if held == self.number:
            return ()
        bases = [step.base for step in self.steps]
        return self.steps[bases.index(held) :] if held in bases else None

    def sizes(self, held: int) -> tuple[int, int]:
        """Bytes of the control fields and of the frames for a client at version ``held``."""
        steps = self.steps_from(held)
        if steps is None:
            return Route.size(0), self.frame_size
        return Route.size(len(steps)), sum(step.size for step in steps)

    def parcel(self, held: int) -> tuple[bytes, list[bytes]]:
        """The control fields and the frames themselves."""
        steps = self.steps_from(held)
        numbers = (self.number,) if not steps else (held, *(step.number for step in steps))
        route = Route(
            numbers=numbers, checksum=self._checksum, scale=self.scale, whole=steps is None
        )
        return route.to_bytes(), [self._frame] if steps is None else [s.frame for s in steps]

    @cached_property
    def _checksum(self) -> int:
        return checksum(self.w)

    @cached_property
    def _frame(self) -> bytes:
        return encode_vector(self.w)

    def snapshot(self) -> dict[str, object]:
        """Everything of it, the steps as their frames."""
        steps = [(step.base, step.number, step.frame) for step in self.steps]
        held = {"number": self.number, "w": self.w, "scale": self.scale, "oldest": self.oldest}
        return {**held, "steps": steps}

    @classmethod
    def resumed(cls, kept: Mapping[str, Any]) -> Edition:
        """The edition of which `snapshot` gave ``kept``."""
        steps = tuple(
            Step(base=base, number=number, payload=decode(frame, dimension=len(kept["w"])))
            for base, number, frame in kept["steps"]
        )
        return cls(**{**kept, "steps": steps})

    def versions(self) -> dict[int, Tensor]:
        """The versions on its path by number, this one included: shape (d,) each."""
        w, found = self.oldest, {}
        for step in self.steps:
            found[step.base] = w
            w = step.applied(w, self.scale)
        return {**found, self.number: self.w}
