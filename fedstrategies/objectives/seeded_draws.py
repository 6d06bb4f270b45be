"""Draws of torch's layers (dropout), which come from torch's global generators."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Condition, local
from typing import TypeVar

import torch

from fedstrategies.objectives.standing import Standing

__all__ = ["seeded_draws", "seeded_if_it_draws"]

_Result = TypeVar("_Result")


def seeded_if_it_draws(
    standing: Standing, seed: Callable[[], int], device: torch.device, work: Callable[[], _Result]
) -> _Result:
    """What ``work`` returns, with the generators seeded if it draws from them.

    A module that has drawn once is seeded from then on. That it has not drawn is believed of no
    other input: work is then done as it is, beside others in other threads, and done again, seeded
    and alone, if the generators have moved. In either case the result is a function of the seed.

    Parameters
    ----------
    standing : Standing
        Of the module that is worked with; learns what is found out.
    seed : callable
        Gives the seed.
    device : torch.device
        On which layers may draw.
    work : callable
        May be called twice.
    """
    if not standing.drew:
        entered = _GENERATORS.enter()
        try:
            before = _states(device)
            result = work()
            moved = _bytes(before) != _bytes(_states(device))
        finally:
            if entered:
                _GENERATORS.leave()
        standing.used = True
        if not moved:
            return result
        standing.drew = True
        with _GENERATORS.alone():
            _restore(before, device)
    with seeded_draws(seed(), device):
        return work()


@contextmanager
def seeded_draws(seed: int, device: torch.device) -> Iterator[None]:
    """The generators that layers on ``device`` draw from: seeded, and restored at the end."""
    # torch.manual_seed would seed every GPU, also those that are not restored.
    if device.type != "cuda":
        with _GENERATORS.alone(), torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            yield
        return
    with (
        _GENERATORS.alone(),
        torch.random.fork_rng(devices=[device]),
        torch.cuda.device(device),
    ):
        torch.default_generator.manual_seed(seed)
        torch.cuda.manual_seed(seed)
        yield


class _Generators:
    """The generators belong to the process: who draws from them keeps other threads out.

    Those who do not mean to draw share them: none of them may move the generators while somebody
    draws. What a thread does inside goes by what it has already.
    """

    def __init__(self) -> None:
        self._changed = Condition()
        self._sharing = 0
        self._taken = False
        self._mine = local()

    def enter(self) -> bool:
        """Share them; whether `leave` is to be called."""
        if getattr(self._mine, "inside", False):
            return False
        with self._changed:
            while self._taken:
                self._changed.wait()
            self._sharing += 1
        self._mine.inside = True
        return True

    def leave(self) -> None:
        self._mine.inside = False
        with self._changed:
            self._sharing -= 1
            if self._taken:
                self._changed.notify_all()

    @contextmanager
    def alone(self) -> Iterator[None]:
        if getattr(self._mine, "inside", False):
            yield
            return
        with self._changed:
            while self._taken:
                self._changed.wait()
            # Nobody comes in from here on; those inside leave.
            self._taken = True
            while self._sharing:
                self._changed.wait()
        self._mine.inside = True
        try:
            yield
        finally:
            self._mine.inside = False
            with self._changed:
                self._taken = False
                self._changed.notify_all()


_GENERATORS = _Generators()


def _states(device: torch.device) -> list[torch.Tensor]:
    states = [torch.default_generator.get_state()]
    if device.type == "cuda":
        states.append(torch.cuda.get_rng_state(device))
    return states


def _bytes(states: list[torch.Tensor]) -> list[bytes]:
    # torch.equal takes three times as long.
    return [state.numpy().tobytes() for state in states]


def _restore(states: list[torch.Tensor], device: torch.device) -> None:
    torch.default_generator.set_state(states[0])
    if device.type == "cuda":
        torch.cuda.set_rng_state(states[1], device)
