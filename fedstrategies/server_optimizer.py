"""What the server does with a direction of descent: a plain step, or Adam.

State is passed in and returned, never kept: a round is committed as a whole or not at all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from math import isfinite
from typing import Protocol

import torch
from torch import Tensor

__all__ = ["SGD", "Adam", "ServerOptimizer", "parse_server_optimizer"]


class ServerOptimizer(Protocol):
    """A first-order method on the server's model."""

    @property
    def spec(self) -> str:
        """Its settings as `parse_server_optimizer` reads them."""

    def init(self, x: Tensor) -> Mapping[str, Tensor]:
        """The state before the first step on a model of shape (d,)."""

    def step(
        self, x: Tensor, direction: Tensor, state: Mapping[str, Tensor]
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        """The next model and state; the arguments stay as they are.

        Parameters
        ----------
        x : Tensor
            Shape (d,).
        direction : Tensor
            A gradient, or x minus what the clients propose: shape (d,).
        state : mapping
            From `init` or the last step.
        """


@dataclass(frozen=True, kw_only=True)
class SGD:
    """``x <- x - lr direction``.

    Attributes
    ----------
    lr : float
        Step size; 1 with ``direction = x - mean`` is plain averaging.

    Raises
    ------
    ValueError
        If ``lr`` is not positive and finite.

    References
    ----------
    Reddi et al., "Adaptive Federated Optimization" (2021).

    Examples
    --------
    >>> import torch
    >>> from fedstrategies import SGD
    >>> x, state = SGD(lr=0.5).step(torch.ones(2), torch.tensor([1.0, -2.0]), state={})
    >>> x
    tensor([0.5000, 2.0000])
    """

    lr: float = 1.0

    def __post_init__(self) -> None:
        _positive(self, "lr")

    @property
    def spec(self) -> str:
        """``sgd:lr=...``."""
        return f"sgd:lr={self.lr!r}"

    def init(self, x: Tensor) -> Mapping[str, Tensor]:
        """No state."""
        return {}

    def step(
        self, x: Tensor, direction: Tensor, state: Mapping[str, Tensor]
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        """See `ServerOptimizer.step`."""
        return x - self.lr * direction, {}


@dataclass(frozen=True, kw_only=True)
class Adam:
    """Adam with bias correction; the defaults are those of FedAdam.

    Attributes
    ----------
    lr : float
        Step size.
    beta1, beta2 : float
        Decay of the two moments, in [0, 1).
    eps : float
        Added to the root of the second moment: how small an entry is noise.

    Raises
    ------
    ValueError
        If ``lr`` or ``eps`` is not positive and finite, or a decay is outside [0, 1).

    References
    ----------
    Kingma, Ba (2015); Reddi et al., "Adaptive Federated Optimization" (2021).

    Examples
    --------
    The first step moves each coordinate by almost lr.

    >>> import torch
    >>> from fedstrategies import Adam
    >>> adam, x = Adam(lr=0.1), torch.ones(2)
    >>> x, state = adam.step(x, torch.tensor([1.0, -2.0]), adam.init(x))
    >>> x
    tensor([0.9001, 1.1000])
    >>> int(state["steps"])
    1
    """

    lr: float
    beta1: float = 0.9
    beta2: float = 0.99
    eps: float = 1e-3

    def __post_init__(self) -> None:
        _positive(self, "lr", "eps")
        for name in ("beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"adam: {name} = {getattr(self, name)} is outside [0, 1)")

    @property
    def spec(self) -> str:
        """``adam:lr=...,beta1=...,beta2=...,eps=...``."""
        return "adam:" + ",".join(f"{f.name}={getattr(self, f.name)!r}" for f in fields(self))

    def init(self, x: Tensor) -> Mapping[str, Tensor]:
        """Both moments zero, no step taken."""
        zero = torch.zeros_like(x)
        return {"first": zero, "second": zero, "steps": torch.zeros((), dtype=torch.int64)}

    def step(
        self, x: Tensor, direction: Tensor, state: Mapping[str, Tensor]
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        """See `ServerOptimizer.step`."""
        first = self.beta1 * state["first"] + (1 - self.beta1) * direction
        second = self.beta2 * state["second"] + (1 - self.beta2) * direction.square()
        steps = state["steps"] + 1
        count = int(steps)
        scale = (second / (1 - self.beta2**count)).sqrt() + self.eps
        moved = x - self.lr * (first / (1 - self.beta1**count)) / scale
        return moved, {"first": first, "second": second, "steps": steps}


def parse_server_optimizer(text: str) -> ServerOptimizer | None:
    """``sgd``, ``sgd:lr=0.5`` or ``adam:lr=0.003[,beta1=..,beta2=..,eps=..]``.

    ``sgd`` with a step of 1 is None: the server takes the mean itself, to the last bit.

    Parameters
    ----------
    text : str
        One of these.

    Raises
    ------
    ValueError
        If the text is none of these, or a value is out of range.
    """
    name, _, rest = text.partition(":")
    kinds: dict[str, type[SGD] | type[Adam]] = {"sgd": SGD, "adam": Adam}
    kind = kinds.get(name.strip())
    if kind is None:
        raise ValueError(f"{text!r} is not sgd, sgd:lr=0.5 or adam:lr=0.003")
    known = [entry.name for entry in fields(kind)]
    settings: dict[str, float] = {}
    for part in filter(None, (piece.strip() for piece in rest.split(","))):
        key, _, value = (piece.strip() for piece in part.partition("="))
        if key not in known or key in settings:
            raise ValueError(f"{text!r}: {part!r}; {name} knows {', '.join(known)}, once each")
        try:
            settings[key] = float(value)
        except ValueError:
            raise ValueError(f"{text!r}: {key} = {value!r} is not a number") from None
    if kind is Adam and "lr" not in settings:
        raise ValueError(f"{text!r}: adam needs lr, e.g. adam:lr=0.003")
    found = kind(**settings)
    return None if found == SGD(lr=1.0) else found


def _positive(settings: SGD | Adam, *names: str) -> None:
    for name in names:
        value = getattr(settings, name)
        if not (isfinite(value) and value > 0):
            raise ValueError(f"{name} = {value} is not positive and finite")
