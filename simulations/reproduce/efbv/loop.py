"""One method on one instance, a round at a time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from time import perf_counter
from typing import Literal

import torch
from torch import Tensor

from fedstrategies.compressors import Payload
from fedstrategies.efbv.algorithm import ClientRule, ServerState, Upload, server_step
from fedstrategies.objectives import NoProx
from fedstrategies.random import Purpose, client_keys
from fedstrategies.wire import encoded_sizes
from simulations.reproduce.efbv.curve import Point
from simulations.reproduce.efbv.instance import Instance

__all__ = ["FLOAT_BITS", "Loop"]

FLOAT_BITS = 32
"""What the paper counts for a number sent; it counts nothing for its position."""


class Loop:
    """EF21 or EF-BV as pure steps on the tensors of all clients.

    With gradient shifts round 1 uploads the dense gradient at x^0 (h_i = grad f_i(x^0)), as the
    authors' code does; it is counted. The state is `tensors` and `counters`; the draws depend on
    the seed and the round alone, so a loop restored from them continues with the same bits.

    Parameters
    ----------
    instance : Instance
        The problem.
    method : {"ef21", "efbv"}
        Which scalings and step size to use.
    shift_init : {"gradient", "zero"}
        h_i^0.
    """

    def __init__(
        self,
        instance: Instance,
        method: str,
        *,
        shift_init: Literal["gradient", "zero"] = "gradient",
    ) -> None:
        self.instance = instance
        self.shift_init = shift_init
        self.method = method
        self.theory = instance.theory(method)
        device = instance.device
        x = instance.problem.start_point.to(device)
        self._server = ServerState(x=x, h=torch.zeros_like(x))
        self._memory = x.new_zeros((instance.clients, instance.dimension))
        self._ids = torch.arange(instance.clients, device=device)
        self._regular = ClientRule(
            compressor=instance.operator, memory_step=self.theory.memory_step
        )
        self._first = self._regular
        if shift_init == "gradient":
            self._first = replace(self._regular, memory_step=1.0, uncompressed=True)
        self.round = 0
        self.uplink_bytes = 0
        self.seconds = 0.0

    @property
    def bits_per_client(self) -> int:
        """What one client has sent by the paper's count: 32 k a round, 32 d where it was dense."""
        kept = self.instance.operator.kept(self.instance.dimension)
        numbers = kept * self.round
        if self._first.uncompressed and self.round > 0:
            numbers += self.instance.dimension - kept
        return FLOAT_BITS * numbers

    def advance(self) -> None:
        """One round; see `fedstrategies.efbv.algorithm`."""
        started = perf_counter()
        rule = self._first if self.round == 0 else self._regular
        payload = self._client_half(rule)
        upload = Upload(
            partition_ids=self._ids,
            payload=payload,
            memory_step=rule.memory_step,
            gradient_step=1.0 if rule.uncompressed else self.theory.gradient_step,
        )
        self._server = server_step(
            self._server,
            [upload],
            clients=self.instance.clients,
            gamma=self.theory.gamma,
            prox=NoProx(),
        )
        self.uplink_bytes += int(encoded_sizes(payload).sum())
        self.round += 1
        self.seconds += perf_counter() - started

    def _client_half(self, rule: ClientRule) -> Payload:
        seed = self.instance.problem.config.seed
        keys = client_keys(seed, self.round + 1, self._ids, Purpose.CLIENT)
        payloads = []
        start = 0
        for objective in self.instance.chunks:
            chunk = slice(start, start + len(objective))
            memory = {"h": self._memory[chunk]}
            payload, _ = rule.step(memory, self._server.x, objective, keys[chunk])
            rule.commit_(memory, payload)
            payloads.append(payload)
            start = chunk.stop
        return Payload.stack(payloads)

    def measure(self) -> Point:
        """Where the server's model stands."""
        x, clients = self._server.x, self.instance.clients
        loss, gradient = 0.0, torch.zeros_like(x)
        for objective in self.instance.chunks:
            values, gradients = objective.value_and_gradient(x)
            loss += float(values.sum()) / clients
            gradient += gradients.sum(dim=0) / clients
        return Point(
            round=self.round,
            bits_per_client=self.bits_per_client,
            uplink_bytes=self.uplink_bytes,
            gap=loss - self.instance.fstar,
            grad_norm_sq=float(gradient @ gradient),
            seconds=round(self.seconds, 3),
        )

    @property
    def tensors(self) -> dict[str, Tensor]:
        """All that moves: x, h and the memories h_i."""
        return {"x": self._server.x, "h": self._server.h, "memory": self._memory}

    @property
    def counters(self) -> dict[str, int | float]:
        """Round, bytes sent so far by all clients, seconds."""
        return {
            "round": self.round,
            "uplink_bytes": self.uplink_bytes,
            "seconds": self.seconds,
        }

    def restore(self, tensors: Mapping[str, Tensor], counters: Mapping[str, float]) -> None:
        """Continue from what `tensors` and `counters` were."""
        device = self.instance.device
        self._server = ServerState(x=tensors["x"].to(device), h=tensors["h"].to(device))
        self._memory = tensors["memory"].to(device)
        self.round = int(counters["round"])
        self.uplink_bytes = int(counters["uplink_bytes"])
        self.seconds = float(counters["seconds"])
