"""Decoding the uploads of an attempt, and putting those of an assignment together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from fedstrategies.compressors import Floats, Payload
from fedstrategies.flower.contract import Assignment, Delivery
from fedstrategies.wire import decode

__all__ = ["Uploads"]


def _empty(shape: tuple[int, int], dtype: torch.dtype) -> Tensor:
    """Memory from numpy, which asks for large pages: their first use takes a fifth of the time."""
    size = shape[0] * shape[1] * dtype.itemsize
    return torch.from_numpy(np.empty(size, dtype=np.uint8)).view(dtype).view(shape)


class Uploads:
    """What the clients of a plan may send.

    Dense messages of floats are decoded side by side, each into its client's row of one tensor.
    If everybody answers, that tensor is their payload, and nothing is copied to put it together.

    Parameters
    ----------
    plan : sequence of Assignment
        Who was asked for what.
    x : Tensor
        The server's model, shape (d,).
    """

    def __init__(self, plan: Sequence[Assignment], x: Tensor) -> None:
        self._plan = plan
        self._templates = [one.rule.template(len(x), x.dtype) for one in plan]
        self._rows: list[Tensor | None] = [None] * len(plan)
        self._place = {
            partition: (number, position)
            for number, assignment in enumerate(plan)
            for position, partition in enumerate(assignment.partition_ids.tolist())
        }

    def decode(self, partition: int, blob: bytes) -> Payload:
        """The message of a client, if it is of the kind that its rule sends.

        Raises
        ------
        ValueError
            If it is not, or no frame at all.
        """
        number, _ = self._place[partition]
        expected = self._templates[number]
        payload = decode(
            blob,
            dimension=expected.dimension,
            name=f"upload of partition {partition}",
            out=self._row(partition),
        )
        if payload.kind != expected.kind:
            raise ValueError(f"upload is of kind {payload.kind}, expected {expected.kind}")
        return payload

    def assignment_of(self, partition: int) -> Assignment:
        """What a client was asked."""
        return self._plan[self._place[partition][0]]

    def deliveries(self, payloads: Mapping[int, Payload]) -> list[Delivery]:
        """The messages in use, an entry for each assignment that has any."""
        found = []
        for assignment in self._plan:
            present = [p for p in assignment.partition_ids.tolist() if p in payloads]
            if present:
                delivery = Delivery(
                    assignment=assignment,
                    partition_ids=torch.tensor(present),
                    payload=Payload.stack([payloads[p] for p in present]),
                )
                found.append(delivery)
        return found

    def _row(self, partition: int) -> Tensor | None:
        """Where a dense message goes, shape (1, k); None if such are not expected."""
        number, position = self._place[partition]
        expected = self._templates[number]
        if expected.indices is not None or not isinstance(expected.values, Floats):
            return None
        rows = self._rows[number]
        if rows is None:
            shape = len(self._plan[number].partition_ids), expected.values.data.shape[1]
            rows = self._rows[number] = _empty(shape, expected.values.data.dtype)
        return rows[position : position + 1]
