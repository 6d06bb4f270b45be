"""Means of what examples give on their way through a module, over all kinds of objectives."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from fedstrategies.objectives import LastPoint, TorchObjective
from fedstrategies.pruning import SquaredActivations, layer_groups


class Folding(nn.Module):
    """Makes two rows of each example, as if they were others."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 4)
        self.head = nn.Linear(4, 2)

    def forward(self, features: Tensor) -> Tensor:
        scores: Tensor = self.head(self.first(features.reshape(-1, 3)))
        return scores.view(len(features), 2, 2).sum(1)


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def objectives(
    module: nn.Module, sizes: tuple[int, ...], **options: object
) -> list[TorchObjective]:
    features, targets = drawn(sum(sizes), 6), torch.arange(sum(sizes)) % 2
    loss = nn.CrossEntropyLoss()
    return [
        TorchObjective(
            module=module.double(),
            loss=loss,
            data=(features[end - size : end], targets[end - size : end]),
            **options,  # type: ignore[arg-type]
        )
        for size, end in zip(sizes, torch.tensor(sizes).cumsum(0).tolist(), strict=True)
    ]


def dense() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 2))


def point(one: TorchObjective) -> Tensor:
    return one.layout.flatten(one.initial_arrays()) + 0.5


@pytest.mark.parametrize("vectorized", [False, True])
def test_every_stack_has_the_bits_of_the_client_alone(vectorized: bool) -> None:
    clients = objectives(dense(), (5, 300, 7), vectorized=vectorized)
    statistic = SquaredActivations(groups=layer_groups(clients[0].module))
    x = point(clients[0])
    alone = torch.stack([one.mean_statistic(x, statistic) for one in clients])
    assert alone.dtype == torch.float64
    stacked = TorchObjective.stack(clients)
    for batch in (stacked, LastPoint(stacked)):
        assert torch.equal(batch.mean_statistics(x, statistic), alone)
        some = torch.tensor([0, 2])
        assert torch.equal(batch.mean_statistics(x, statistic, clients=some), alone[some])
        none = torch.tensor([], dtype=torch.int64)
        assert batch.mean_statistics(x, statistic, clients=none).shape == (0, statistic.dimension)


@pytest.mark.parametrize("chunk_size", [1, 7, None])
def test_chunks_change_nothing(chunk_size: int | None) -> None:
    (one,) = objectives(dense(), (300,), chunk_size=chunk_size)
    statistic = SquaredActivations(groups=layer_groups(one.module))
    x = point(one)
    weight, features = one.layout.unflatten(x)["0.weight"], drawn(300, 6)
    expected = torch.cat([features.square().mean(0), (features @ weight.T).square().mean(0)])
    torch.testing.assert_close(one.mean_statistic(x, statistic), expected, rtol=1e-12, atol=0)


def test_batch_normalisation_is_by_the_clients_statistics_as_in_value() -> None:
    module = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Linear(4, 3), nn.Linear(3, 2))
    (one,) = objectives(module, (40,), chunk_size=9)
    statistic = SquaredActivations(groups=layer_groups(module))
    found = one.mean_statistic(point(one), statistic)
    arrays = one.layout.unflatten(point(one))
    values = drawn(40, 6) @ arrays["0.weight"].T + arrays["0.bias"]
    normal = (values - values.mean(0)) / (values.var(0, unbiased=False) + 1e-5).sqrt()
    inputs = normal * arrays["1.weight"] + arrays["1.bias"]
    torch.testing.assert_close(found[10:14], inputs.square().mean(0))


def test_nothing_is_left_on_the_module_or_its_replica() -> None:
    (one,) = objectives(dense(), (5,))
    statistic = SquaredActivations(groups=layer_groups(one.module))
    x = point(one)
    before = one.value(x)
    one.mean_statistic(x, statistic)
    assert not any(layer._forward_hooks for layer in one.module.modules())
    run = one.autograd.passes.used(None, lambda run: run)
    assert not any(layer._forward_hooks for layer in run.replica.module.modules())
    assert torch.equal(one.value(x), before)


def test_rows_that_are_not_its_examples_are_refused() -> None:
    (one,) = objectives(Folding(), (5,))
    statistic = SquaredActivations(groups=layer_groups(one.module))
    with pytest.raises(ValueError, match="5 examples gave 10 rows of activations: Folding"):
        one.mean_statistic(point(one), statistic)
