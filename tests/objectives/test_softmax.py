import math

import pytest
import torch
from torch import nn

from fedstrategies.objectives import (
    SquaredL2,
    TorchObjective,
    linear_classifier,
    minimise_softmax,
    softmax_smoothness,
)
from tests.objectives.clients import normal

SIZES = (3, 11, 6)
DIMENSION = 4


def client(index, classes=3, l2=0.05):
    size = SIZES[index]
    return TorchObjective(
        module=linear_classifier(DIMENSION, classes, dtype=torch.float64),
        loss=nn.CrossEntropyLoss(),
        data=(normal(size, DIMENSION, seed=index), (torch.arange(size) + index) % classes),
        l2=l2,
    )


ROWS = [normal(size, DIMENSION, seed=index) for index, size in enumerate(SIZES)]


def hessian(objective, x):
    """Central differences of the gradient, symmetrised."""
    step = 1e-5
    columns = [
        (objective.value_and_gradient(x + e)[1] - objective.value_and_gradient(x - e)[1])
        / (2 * step)
        for e in step * torch.eye(len(x), dtype=x.dtype)
    ]
    found = torch.stack(columns)
    return (found + found.T) / 2


def worst_point(classes):
    """W = 0 and two equal biases far above the others: p = (1/2, 1/2, 0, ...) in every row."""
    bias = torch.zeros(classes, dtype=torch.float64)
    bias[:2] = 0.0 if classes == 2 else 40.0
    return torch.cat([torch.zeros(classes * DIMENSION, dtype=torch.float64), bias])


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_constants_are_the_largest_curvature_and_it_is_reached(classes):
    constants = softmax_smoothness(ROWS, l2=0.05)
    worst = [hessian(client(i, classes), worst_point(classes)) for i in range(3)]
    elsewhere = normal(classes * (DIMENSION + 1), seed=7)
    for index, curvature in enumerate(worst):
        found = torch.linalg.eigvalsh(curvature)
        assert float(found[-1]) == pytest.approx(constants.L_i[index], rel=1e-8)
        assert float(found[0]) == pytest.approx(constants.mu_i[index], abs=1e-8)
        mild = torch.linalg.eigvalsh(hessian(client(index, classes), elsewhere))
        assert float(mild[-1]) < constants.L_i[index]
        assert float(mild[0]) == pytest.approx(0.05, abs=1e-8)
    mean = torch.linalg.eigvalsh(torch.stack(worst).mean(dim=0))
    assert float(mean[-1]) == pytest.approx(constants.L, rel=1e-8)
    assert constants.mu == 0.05
    assert constants.L_max == max(constants.L_i)
    assert constants.L_tilde == pytest.approx(
        math.sqrt(sum(c * c for c in constants.L_i) / 3), rel=1e-14
    )


def test_constants_by_either_gram_matrix_are_those_of_the_rows():
    wide = [normal(2, 30, seed=1), normal(3, 30, seed=2)]
    constants = softmax_smoothness(wide)
    ones = [torch.cat([rows, torch.ones(len(rows), 1).double()], dim=1) for rows in wide]
    mean = sum(rows.T @ rows / (2 * len(rows)) for rows in ones) / 2
    assert pytest.approx(float(torch.linalg.eigvalsh(mean)[-1]), rel=1e-12) == constants.L
    for rows, constant in zip(ones, constants.L_i, strict=True):
        norm = float(torch.linalg.matrix_norm(rows, 2))
        assert constant == pytest.approx(norm * norm / (2 * len(rows)), rel=1e-12)
    with pytest.raises(ValueError, match="no client"):
        softmax_smoothness([])


@pytest.mark.parametrize("prox", [None, SquaredL2(lam=0.2)])
def test_the_minimiser_is_that_of_the_mean_of_the_clients(prox):
    clients = [client(i) for i in range(3)]
    rows = torch.cat([*ROWS, normal(1, DIMENSION, seed=99)])
    labels = torch.cat(
        [*((torch.arange(m) + i) % 3 for i, m in enumerate(SIZES)), torch.tensor([1])]
    )
    # The last row is nobody's.
    weights = torch.cat(
        [
            *(torch.full((m,), 1 / (3 * m), dtype=torch.float64) for m in SIZES),
            torch.zeros(1).double(),
        ]
    )
    solution = minimise_softmax(
        features=rows,
        labels=labels,
        weights=weights,
        classes=3,
        l2=0.05,
        smoothness=softmax_smoothness(ROWS, l2=0.05).L,
        prox=prox,
    )
    found = [one.value_and_gradient(solution.x) for one in clients]
    curvature = 0.0 if prox is None else prox.lam
    gradient = sum(gradient for _, gradient in found) / 3 + curvature * solution.x
    assert float(gradient.abs().max()) < 1e-11
    value = float(sum(value for value, _ in found)) / 3
    value += curvature / 2 * float(solution.x @ solution.x)
    assert solution.value == pytest.approx(value, abs=1e-13)
