"""What a client is sent becomes the model to work at and the memory to work from."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fedstrategies.flower.control import MemoryCommand, Request
from fedstrategies.flower.receipts import Decision, Receipts
from fedstrategies.flower.records import DOWNLINK, bytes_under, load_memory, load_replica
from fedstrategies.flower.replica import Replica, Route, rebuild
from fedstrategies.flower.rules import AssembledRule, ClientRule, GuidedRule
from fedstrategies.flower.working import WorkingClient
from fedstrategies.wire import decode, decode_vector

__all__ = ["Arrays", "ReceivingClient", "Scalar"]

Scalar: TypeAlias = bool | bytes | float | int | str
Arrays: TypeAlias = list[npt.NDArray[np.uint8]]


class ReceivingClient(WorkingClient):
    """The half of a client that reads requests; parameters are those of `WorkingClient`."""

    @abstractmethod
    def rule(self, constants: tuple[float, ...], spec: str) -> ClientRule:
        """The algorithm's client half, from what the server sent.

        Raises
        ------
        ValueError
            If this client cannot follow (an unknown compressor, say).
        """

    def _received(
        self, arrays: Arrays, rule: ClientRule, request: Request, config: Mapping[str, Scalar]
    ) -> tuple[Tensor, Arrays, Replica | None] | None:
        """What to work at, what came behind it, and the version to keep; None: not to be had.

        That is the model (d,), sent as it is or to be rebuilt, or all vectors of a `GuidedRule`
        (r, d). A version is kept only where the downlink is compressed.
        """
        if DOWNLINK not in config:
            return *self._decoded(arrays, rule), None
        packed = config[DOWNLINK]
        route = Route.from_bytes(packed if isinstance(packed, bytes) else b"")
        if len(arrays) < route.frames:
            raise ValueError(f"{len(arrays)} frames came, the model alone has {route.frames}")
        replica = rebuild(
            load_replica(self.context.state),
            route,
            [bytes_under(blob) for blob in arrays[: route.frames]],
            session=request.session,
            dimension=self.objective.dimension,
        )
        return None if replica is None else (replica.w, arrays[route.frames :], replica)

    def _decoded(self, arrays: Arrays, rule: ClientRule) -> tuple[Tensor, Arrays]:
        """The model or the rule's vectors from their frames, and what came behind them."""
        dimension = self.objective.dimension
        if isinstance(rule, AssembledRule):
            count = len(rule.lengths)
            parts = [
                decode(bytes_under(blob), dimension=length, name=f"frame {place} of the model")
                for place, (blob, length) in enumerate(
                    zip(arrays[:count], rule.lengths, strict=True)
                )
            ]
            return rule.assemble(parts), arrays[count:]
        blob, extra = bytes_under(arrays[0]), arrays[1:]
        if not isinstance(rule, GuidedRule):
            return decode_vector(blob, dimension=dimension), extra
        return decode_vector(blob, dimension=rule.vectors * dimension).view(-1, dimension), extra

    def _settle(
        self,
        decision: Decision,
        receipts: Receipts,
        request: Request,
        x: Tensor,
        extra: Arrays,
        rule: ClientRule,
    ) -> tuple[Mapping[str, Tensor], bool]:
        """The memory from which the new upload is computed, and whether it must be stored."""
        dimension = self.objective.dimension

        def newborn(device: str) -> dict[str, Tensor]:
            where = torch.device(device)
            return rule.initial_memory(1, dimension, self.objective.dtype, where)

        if decision is Decision.REPLACE:
            if request.memory is MemoryCommand.ZERO:
                return newborn("cpu"), True
            return {
                name: decode_vector(bytes_under(blob), dimension=dimension).unsqueeze(0)
                for name, blob in zip(newborn("meta"), extra, strict=True)
            }, True
        stored = load_memory(self.context.state)
        memory = newborn("cpu") if stored is None else stored
        if decision is Decision.ROLL_BACK:
            return memory, False
        pending = receipts.pending
        assert pending is not None
        settled = decode(pending.blob, dimension=dimension, name="pending upload")
        settlement = (
            decode_vector(bytes_under(extra[-1]), dimension=dimension) if request.settlement else x
        )
        self.rule(pending.constants, pending.spec).commit_(memory, settled, settlement=settlement)
        return memory, True
