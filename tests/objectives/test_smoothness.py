import time

import pytest
import torch

from fedstrategies.objectives import (
    LastPoint,
    LogisticRegression,
    LoopedObjectives,
    Smoothness,
    logistic_smoothness,
)
from tests.objectives.clients import random_client


@pytest.mark.parametrize(("sizes", "dimension"), [((3, 1, 20, 5), 8), ((2, 1, 3), 50)])
def test_constants_by_brute_force(sizes, dimension):
    clients = [random_client(m, dimension, seed=s, l2=0.1 * (s + 1)) for s, m in enumerate(sizes)]
    found = logistic_smoothness(LastPoint(LogisticRegression.stack(clients)))
    eye = torch.eye(dimension, dtype=torch.float64)
    hessians = [c.features.T @ c.features / (4 * c.num_examples) + c.l2 * eye for c in clients]
    local = [float(torch.linalg.eigvalsh(hessian)[-1]) for hessian in hessians]
    mean = torch.stack(hessians).mean(dim=0)
    l2 = [c.l2 for c in clients]
    assert found.L_i == pytest.approx(local, rel=1e-13)
    smoothness = found.L
    assert smoothness == pytest.approx(float(torch.linalg.eigvalsh(mean)[-1]), rel=1e-13)
    assert found.L_max == max(found.L_i)
    assert found.L_tilde == pytest.approx((sum(L * L for L in local) / len(l2)) ** 0.5, rel=1e-13)
    assert found.mu_i == pytest.approx(l2, rel=1e-15)
    assert found.mu == pytest.approx(sum(l2) / len(l2), rel=1e-15)


def test_constants_are_attained_by_the_hessian_at_zero():
    """At x = 0 the log-loss has curvature 1/4, so L_i is tight, not only a bound."""
    client = random_client(6, 4, seed=3, l2=0.2)
    found = logistic_smoothness(LogisticRegression.stack([client]))
    step = 1e-5
    ends = [
        (client.value_and_gradient(along)[1], client.value_and_gradient(-along)[1])
        for along in step * torch.eye(4, dtype=torch.float64)
    ]
    hessian = torch.stack([(ahead - behind) / (2 * step) for ahead, behind in ends])
    top = float(torch.linalg.eigvalsh((hessian + hessian.T) / 2)[-1])
    assert found.L == found.L_i[0] == pytest.approx(top, rel=1e-7)


def test_reference_constants_of_mushrooms(mushrooms_clients):
    found = logistic_smoothness(LogisticRegression.stack(mushrooms_clients(20)))
    smoothness = found.L
    assert smoothness == pytest.approx(2.6864126836, abs=5e-11)
    assert found.L_tilde == pytest.approx(3.3938773746, abs=5e-11)
    assert found.mu == 0.1
    assert found.condition_number == pytest.approx(26.864126834, rel=1e-10)


def test_one_row_a_client_takes_milliseconds(mushrooms_clients):
    batched = LogisticRegression.stack(mushrooms_clients(8124))
    start = time.perf_counter()
    found = logistic_smoothness(batched)
    assert time.perf_counter() - start < 1.0
    # Every row has 21 ones.
    assert found.L_i == pytest.approx([21 / 4 + 0.1] * 8124, rel=1e-15)
    smoothness = found.L
    assert smoothness == pytest.approx(2.6862142339, abs=5e-11)


def test_other_objectives_are_refused():
    looped = LoopedObjectives([random_client(3, 2, seed=0)])
    with pytest.raises(ValueError, match="not for LoopedObjectives"):
        logistic_smoothness(looped)


@pytest.mark.parametrize("wrong", [{"L": 0.0}, {"L_tilde": float("nan")}, {"mu": -1.0}])
def test_impossible_constants_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Smoothness(**{"L": 1.0, "L_tilde": 1.0, "L_max": 1.0, **wrong})
    assert Smoothness(L=1.0, L_tilde=1.0, L_max=1.0).condition_number == float("inf")
