"""The kernels for other devices, run here on the one device every machine has."""

import pytest
import torch

from fedstrategies.objectives import LogisticRegression, logistic_kernels
from tests.objectives.clients import normal, random_clients


class Elsewhere(torch.Tensor):
    """A CPU tensor that claims to live on another device."""

    device = torch.device("meta")


@pytest.mark.parametrize("own_points", [False, True])
def test_device_kernels_agree_with_the_cpu_kernels(own_points):
    batched = LogisticRegression.stack(random_clients())
    for places, block in batched.shards.blocks():
        x = normal(len(block), 113, seed=5) if own_points else normal(113, seed=5)
        there = logistic_kernels.Block(
            rows=block.rows.as_subclass(Elsewhere),
            labels=block.labels,
            sizes=block.sizes,
            padded=block.padded,
        )
        here_gradients, there_gradients = (torch.empty(len(block), 113).double() for _ in "ab")
        values = logistic_kernels.block_values_and_gradients(block, x, here_gradients)
        moved = logistic_kernels.block_values_and_gradients(there, x, there_gradients)
        plain = {"rtol": 1e-12, "atol": 1e-13}
        torch.testing.assert_close(moved.as_subclass(torch.Tensor), values, **plain)
        torch.testing.assert_close(there_gradients, here_gradients, **plain)
        again = logistic_kernels.block_values(there, x).as_subclass(torch.Tensor)
        torch.testing.assert_close(again, logistic_kernels.block_values(block, x), **plain)
        assert torch.equal(logistic_kernels.block_values(block, x), values)
        hits = logistic_kernels.block_correct(there, x).as_subclass(torch.Tensor)
        assert torch.equal(hits, logistic_kernels.block_correct(block, x))
        assert places is not None
