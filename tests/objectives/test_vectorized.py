"""All clients' mini-batches in one vectorised pass: those of the loop, to rounding."""

import pytest
import torch
from torch import nn

from fedstrategies.objectives import TorchObjective
from fedstrategies.objectives.vectorized import VectorizedObjectives
from tests.objectives.clients import normal


def network(*between):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 2, 3), *between, nn.ReLU(), nn.Flatten(), nn.Linear(32, 3)
    ).double()


def clients(module, *, vectorized, sizes=(20, 11, 20, 30), **options):
    return [
        TorchObjective(
            module=module,
            loss=nn.functional.cross_entropy,
            data=(normal(size, 1, 6, 6, seed=seed), torch.arange(size) % 3),
            vectorized=vectorized,
            **{"batch_size": 8} | options,
        )
        for seed, size in enumerate(sizes)
    ]


@pytest.mark.parametrize("between", [(), (nn.BatchNorm2d(2),)], ids=["plain", "batch-norm"])
@pytest.mark.parametrize("options", [{}, {"l2": 0.3}, {"trainable": "0.*"}])
def test_mini_batches_are_those_of_the_loop(between, options):
    module = network(*between)
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    fast, slow = (
        TorchObjective.stack(clients(module, vectorized=way, **options)) for way in (True, False)
    )
    assert isinstance(fast, VectorizedObjectives)
    assert not fast.looped
    keys, rows = torch.arange(4), torch.tensor([0, 2, 3])
    for x in (normal(fast.dimension, seed=3), normal(4, fast.dimension, seed=4)):
        near = {"rtol": 1e-11, "atol": 1e-12}
        expected = slow.value_and_gradient(x, keys=keys)
        torch.testing.assert_close(fast.value_and_gradient(x, keys=keys), expected, **near)
        own = x if x.ndim == 1 else x[rows]
        some = fast.value_and_gradient(own, clients=rows, keys=keys[rows])
        torch.testing.assert_close(some, (expected[0][rows], expected[1][rows]), **near)
        # Full gradients are the loop's.
        for found, other in zip(
            fast.value_and_gradient(x), slow.value_and_gradient(x), strict=True
        ):
            assert torch.equal(found, other)
    assert all(torch.equal(before[name], t) for name, t in module.state_dict().items())


def test_clients_smaller_than_a_batch_are_looped():
    made = clients(network(), vectorized=True, sizes=(20, 5))
    batched, x = TorchObjective.stack(made), normal(made[0].dimension, seed=3)
    found = batched.value_and_gradient(x, keys=torch.arange(2))
    assert torch.equal(found[1][1], made[1].value_and_gradient(x)[1])


def test_what_cannot_be_vectorised_is_refused():
    with pytest.raises(ValueError, match="one module object"):
        TorchObjective.stack(
            clients(network(), vectorized=True) + clients(network(), vectorized=True)
        )
    drawing = TorchObjective.stack(clients(network(nn.Dropout(0.5)), vectorized=True))
    with pytest.raises(ValueError, match="dropout"):
        drawing.value_and_gradient(normal(drawing.dimension), keys=torch.arange(4))
