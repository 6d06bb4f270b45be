"""Ways to compute a round: all give the mean of the clients' models after their local steps."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from benchmarks.gpu.task import STEPSIZE, Task
from fedstrategies.engines.execution import Execution as Engine
from fedstrategies.objectives import TorchObjective
from fedstrategies.scafflix.baseline_rules import FedAvgRule
from fedstrategies.threads import single_threaded

__all__ = ["CHUNKS", "EXECUTIONS", "Execution", "Graphed", "Looped", "Suite", "Vmapped", "make"]

CHUNKS = (8, 16, 32)
_WARM_UPS = 3


class Execution(ABC):
    """One way; set up once, then asked for rounds.

    Parameters
    ----------
    task : Task
        What is computed.
    """

    def __init__(self, task: Task) -> None:
        self.task = task

    @abstractmethod
    def round(self, x: Tensor, round: int) -> Tensor:
        """The mean of the cohort's models, from x (d,), both on the device."""


class Looped(Execution):
    """One client after the other, one eager step after the other: the loop anybody writes.

    The parameters are views of one flat vector, so that a client begins with one copy.
    """

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self.module = task.module()
        self.flat = task.start.clone()
        for parameter, view in zip(
            self.module.parameters(), task.layout.unflatten(self.flat).values(), strict=True
        ):
            parameter.data = view
        self.parameters: list[Tensor] = list(self.module.parameters())
        self.loss = nn.CrossEntropyLoss()

    def step(self, images: Tensor, labels: Tensor) -> None:
        """One step of SGD on a batch."""
        loss = self.loss(self.module(images), labels)
        gradients = torch.autograd.grad(loss, self.parameters)
        with torch.no_grad():
            torch._foreach_add_(self.parameters, gradients, alpha=-STEPSIZE)

    def round(self, x: Tensor, round: int) -> Tensor:
        """See `Execution.round`."""
        task, total = self.task, torch.zeros_like(x)
        rows = task.rows(round)
        for place, client in enumerate(task.cohort(round).tolist()):
            self.flat.copy_(x)
            for batch in rows[place]:
                self.step(task.images[client][batch], task.labels[client][batch])
            total += self.flat
        return total / task.scale.cohort


class Graphed(Looped):
    """The same step, recorded once as a CUDA graph and replayed on static inputs.

    What is left of a step on the CPU's side is two copies and one launch.
    """

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self.batch_images = task.images[0, : task.scale.batch].clone()
        self.batch_labels = task.labels[0, : task.scale.batch].clone()
        # Libraries choose algorithms and workspaces in first calls, which must not be recorded.
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(_WARM_UPS):
                self.step(self.batch_images, self.batch_labels)
        torch.cuda.current_stream().wait_stream(stream)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.step(self.batch_images, self.batch_labels)

    def round(self, x: Tensor, round: int) -> Tensor:
        """See `Execution.round`."""
        task, total = self.task, torch.zeros_like(x)
        rows = task.rows(round)
        for place, client in enumerate(task.cohort(round).tolist()):
            self.flat.copy_(x)
            for batch in rows[place]:
                torch.index_select(task.images[client], 0, batch, out=self.batch_images)
                torch.index_select(task.labels[client], 0, batch, out=self.batch_labels)
                self.graph.replay()
            total += self.flat
        return total / task.scale.cohort


class Vmapped(Execution):
    """Steps of several clients at once: their weights stacked, the gradient mapped over them.

    Parameters
    ----------
    task : Task
        What is computed.
    chunk : int
        Clients at a time.
    """

    def __init__(self, task: Task, chunk: int) -> None:
        super().__init__(task)
        self.chunk = chunk
        self.module = task.module()
        loss = nn.CrossEntropyLoss()

        def value(parameters: dict[str, Tensor], images: Tensor, labels: Tensor) -> Tensor:
            scores: Tensor = functional_call(self.module, parameters, (images,))
            found: Tensor = loss(scores, labels)
            return found

        self.gradients = vmap(grad(value))

    def round(self, x: Tensor, round: int) -> Tensor:
        """See `Execution.round`."""
        task, total = self.task, torch.zeros_like(x)
        cohort, rows = task.cohort(round).to(task.device), task.rows(round)
        for start in range(0, task.scale.cohort, self.chunk):
            clients = cohort[start : start + self.chunk]
            stacked = {
                name: part.expand(len(clients), *part.shape).clone()
                for name, part in task.layout.unflatten(x).items()
            }
            for step in range(task.scale.steps):
                batch = rows[start : start + self.chunk, step]
                images = task.images[clients.unsqueeze(1), batch]
                labels = task.labels[clients.unsqueeze(1), batch]
                found = self.gradients(stacked, images, labels)
                torch._foreach_add_(
                    list(stacked.values()), [found[name] for name in stacked], alpha=-STEPSIZE
                )
            total += torch.cat([part.sum(dim=0).reshape(-1) for part in stacked.values()])
        return total / task.scale.cohort


class Suite(Execution):
    """What this package does: `TorchObjective` on the device, the server on the CPU.

    The model goes to the device once a chunk of clients, all local steps are there, and dense
    uploads come back: what a compressor saves of these is not in this row.
    """

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        module = task.module().cpu()
        members = [
            TorchObjective(
                module=module,
                loss=nn.CrossEntropyLoss(),
                data=(task.images[client], task.labels[client]),
                batch_size=task.scale.batch,
                device=task.device,
            )
            for client in range(task.scale.clients)
        ]
        self.objective = TorchObjective.stack(members)
        self.rule = FedAvgRule(local_steps=task.scale.steps, gamma=(STEPSIZE,) * task.scale.clients)
        self.engine = Engine(workers=1)

    def round(self, x: Tensor, round: int) -> Tensor:
        """See `Execution.round`."""
        cohort = self.task.cohort(round)
        with single_threaded():
            payload, _ = self.engine.run(
                self.rule, {}, x.cpu(), self.objective, self.task.keys(round), clients=cohort
            )
            return (payload.total(cohort) / len(cohort)).to(self.task.device)


EXECUTIONS = ("looped", "graphed", *(f"vmapped {chunk}" for chunk in CHUNKS), "fedstrategies")
"""By name, the one that the others are compared with first."""


def make(name: str, task: Task) -> Execution:
    """The execution of a name, set up.

    Raises
    ------
    ValueError
        If there is no such execution, or it needs CUDA.
    """
    kind, _, chunk = name.partition(" ")
    match kind:
        case "looped":
            return Looped(task)
        case "graphed":
            if task.device.type != "cuda":
                raise ValueError("graphed: CUDA graphs need a CUDA device")
            return Graphed(task)
        case "vmapped":
            return Vmapped(task, int(chunk))
        case "fedstrategies":
            return Suite(task)
    raise ValueError(f"{name!r} is not one of {', '.join(EXECUTIONS)}")
