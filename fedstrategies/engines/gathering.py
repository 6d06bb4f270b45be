"""Messages that come in any order, put where they belong in one batch."""

from __future__ import annotations

from dataclasses import fields, replace
from threading import Lock
from typing import Any

import torch
from torch import Tensor

from fedstrategies.compressors import Payload

__all__ = ["Gathering"]


class Gathering:
    """One payload of C messages, filled piece by piece, from several threads if need be.

    Stacking the pieces at the end would hold all of them twice. Here each is copied once, while
    it is in its worker's cache.

    Parameters
    ----------
    clients : int
        C.
    """

    def __init__(self, clients: int) -> None:
        self._clients = clients
        self._lock = Lock()
        self._payload: Payload | None = None
        self._losses = torch.empty(0)
        self._keyed = True

    def put(self, start: int, payload: Payload, losses: Tensor) -> None:
        """Place the messages and losses of clients ``start``, ``start + 1``, ... of the batch.

        Raises
        ------
        ValueError
            If the messages are of another kind or size than the first that came.
        """
        with self._lock:
            if self._payload is None:
                self._payload = _room_for(self._clients, payload)
                self._losses = losses.new_empty(self._clients)
            whole = self._payload
            self._keyed = self._keyed and payload.keys is not None
        if payload.kind != whole.kind:
            raise ValueError("payloads of different kinds cannot be stacked")
        here = slice(start, start + len(payload))
        for name, part in _tensors(payload.values).items():
            getattr(whole.values, name)[here] = part
        if whole.indices is not None and payload.indices is not None:
            whole.indices[here] = payload.indices
        if whole.keys is not None and payload.keys is not None:
            whole.keys[here] = payload.keys
        self._losses[here] = losses

    def result(self) -> tuple[Payload, Tensor]:
        """All messages and losses, once every place is filled."""
        assert self._payload is not None
        payload = self._payload if self._keyed else replace(self._payload, keys=None)
        return payload, self._losses


def _room_for(clients: int, payload: Payload) -> Payload:
    """An empty payload of C messages like the given ones."""

    def room(part: Tensor) -> Tensor:
        return part.new_empty((clients, *part.shape[1:]))

    empty: dict[str, Any] = {name: room(part) for name, part in _tensors(payload.values).items()}
    return replace(
        payload,
        values=replace(payload.values, **empty),
        indices=None if payload.indices is None else room(payload.indices),
        keys=None if payload.keys is None else room(payload.keys),
    )


def _tensors(values: Any) -> dict[str, Tensor]:
    """The parts of coded values that have a row for each message."""
    named = {field.name: getattr(values, field.name) for field in fields(values)}
    return {name: part for name, part in named.items() if isinstance(part, Tensor)}
