"""Quadratics f_i(x) = (x - c_i)^T A_i (x - c_i)/2, whose constants and optima are known."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fedstrategies.layout import Layout
from fedstrategies.objectives import (
    LocalOptimum,
    Objective,
    PersonalObjective,
    PersonalObjectives,
    Smoothness,
)


@dataclass(frozen=True, eq=False)
class Quadratic(Objective):
    matrix: Tensor
    centre: Tensor

    @property
    def layout(self) -> Layout:
        return Layout(names=("x",), shapes=(tuple(self.centre.shape),), dtype=torch.float64)

    @property
    def num_examples(self) -> int:
        return 1

    def initial_arrays(self) -> dict[str, Tensor]:
        return {"x": torch.zeros_like(self.centre)}

    def value_and_gradient(self, x: Tensor, *, key: Tensor | None = None) -> tuple[Tensor, Tensor]:
        slope = self.matrix @ (x - self.centre)
        return 0.5 * (x - self.centre) @ slope, slope

    def value(self, x: Tensor) -> Tensor:
        return self.value_and_gradient(x)[0]

    def accuracy(self, x: Tensor) -> Tensor:
        return torch.full((), float("nan"))


def quadratics(
    clients: int = 4, dimension: int = 3, seed: int = 0
) -> tuple[PersonalObjectives, Smoothness]:
    draw = torch.Generator().manual_seed(seed)
    members, local, convexity = [], [], []
    for _ in range(clients):
        basis = torch.linalg.qr(torch.randn(dimension, dimension, generator=draw).double())[0]
        spectrum = 0.5 + 4 * torch.rand(dimension, generator=draw).double()
        matrix = basis @ torch.diag(spectrum) @ basis.T
        centre = 3 * torch.randn(dimension, generator=draw).double()
        member = PersonalObjective(objective=Quadratic(matrix, centre), key=torch.zeros(1).long())
        member.restore(LocalOptimum(x=centre, residual=0.0, passes=0.0))
        members.append(member)
        local.append(float(spectrum.max()))
        convexity.append(float(spectrum.min()))
    known = Smoothness(
        L=max(local),
        L_tilde=max(local),
        L_max=max(local),
        mu=min(convexity),
        L_i=tuple(local),
        mu_i=tuple(convexity),
    )
    return PersonalObjective.stack(members), known


def flix_minimiser(personal: PersonalObjectives, alpha: Tensor) -> Tensor:
    """Solves ``sum_i alpha_i A_i (alpha_i x + (1 - alpha_i) c_i - c_i) = 0`` for x."""
    left, right = 0.0, 0.0
    for member, weight in zip(personal.members, alpha, strict=True):
        one = member.objective
        assert isinstance(one, Quadratic)
        left = left + weight**2 * one.matrix
        right = right + weight**2 * one.matrix @ one.centre
    assert isinstance(left, Tensor)
    return torch.linalg.solve(left, right)
