"""What becomes of messages and clients under faults: broken bytes, other answers, other bits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from torch import Tensor

from fedstrategies.flower import BaseClient
from fedstrategies.flower.control import Request
from fedstrategies.flower.private import identify
from fedstrategies.flower.records import CONTROL
from tests.flower.released import Counting


def corrupted(message: Message, draw: np.random.Generator) -> Message:
    """The message with one bit of each of its arrays turned over."""
    content = RecordDict(dict(message.content))
    for name, record in message.content.array_records.items():
        arrays = {}
        for key, array in record.items():
            data = bytearray(array.data)
            data[int(draw.integers(len(data)))] ^= 1 << int(draw.integers(8))
            arrays[key] = Array(
                dtype=array.dtype, shape=array.shape, stype=array.stype, data=bytes(data)
            )
        content[name] = ArrayRecord(arrays)
    return Message(content, metadata=message.metadata)


def of_another_run(message: Message) -> Message:
    """The same request as the server of an earlier run would have sent it."""
    content = RecordDict(dict(message.content))
    for name, record in message.content.config_records.items():
        control = record.get(CONTROL)
        assert isinstance(control, bytes)
        request = Request.from_bytes(control)
        other = replace(request, session=request.session - 1)
        content[name] = ConfigRecord({**record, CONTROL: other.to_bytes()})
    other_message = Message(content, metadata=message.metadata)
    identify(other_message)
    return other_message


class Disturbance:
    """By how much a client's arithmetic is off at the moment.

    Parameters
    ----------
    seed : int
        Of the errors.
    """

    def __init__(self, seed: int = 0) -> None:
        self.scale = 0.0
        self._draw = torch.Generator().manual_seed(seed)

    @contextmanager
    def at(self, scale: float) -> Iterator[None]:
        """Relative errors of this size (NaN: all is lost) until the block is left."""
        self.scale = scale
        try:
            yield
        finally:
            self.scale = 0.0

    def applied(self, x: Tensor) -> Tensor:
        """The point at which the client really computes."""
        if self.scale == 0.0:
            return x
        errors = torch.randn(x.shape, generator=self._draw, dtype=torch.float64)
        return (x * (1.0 + self.scale * errors)).to(x.dtype)


def unsteady(kind: type[BaseClient], disturbance: Disturbance) -> type[Any]:
    """The same clients with arithmetic that is off where ``disturbance`` says so.

    Private ones count what they really release, see `tests.flower.released`.
    """

    class Unsteady(Counting, kind):  # type: ignore[misc, valid-type]
        def _step(self, rule: Any, memory: Any, x: Tensor, *rest: Any) -> Any:
            return super()._step(rule, memory, disturbance.applied(x), *rest)

    return Unsteady
