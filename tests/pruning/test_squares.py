"""Sums of squares of activations, example by example, against loops over windows and tokens."""

from __future__ import annotations

from collections.abc import Callable
from math import inf

import pytest
import torch
from torch import Tensor, nn

from fedstrategies.pruning import (
    RIA,
    ActivationStatistics,
    LayerCriterion,
    SquaredActivations,
    StochRIA,
    SymWanda,
    Unstructured,
    Wanda,
    layer_groups,
    parse_method,
)

CRITERIA: tuple[LayerCriterion, ...] = (
    Wanda(),
    SymWanda(),
    SymWanda(side="output"),
    RIA(),
    StochRIA(),
)


def seeded(build: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return build().double()


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def watched(module: nn.Module, features: Tensor) -> Tensor:
    statistic = SquaredActivations(groups=layer_groups(module))
    with torch.no_grad(), statistic.watching(module) as rows:
        module(features)
        return rows()


class Twice(nn.Module):
    """Calls its layer two times, and one not at all."""

    def __init__(self) -> None:
        super().__init__()
        self.again = nn.Linear(3, 3)
        self.idle = nn.Linear(3, 2)
        self.head = nn.Linear(3, 2)

    def forward(self, features: Tensor) -> Tensor:
        out: Tensor = self.head(self.again(self.again(features)))
        return out


@pytest.mark.parametrize("shape", [(5, 4), (5, 3, 4), (5, 2, 3, 4)])
def test_a_linear_layer_adds_up_over_an_examples_tokens(shape: tuple[int, ...]) -> None:
    module = seeded(lambda: nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2)))
    features = drawn(*shape)
    found = watched(module, features)
    weight = next(module.parameters()).detach()
    for example, row in zip(features, found, strict=True):
        tokens = example.reshape(-1, 4)
        expected = torch.cat([tokens.square().sum(0), (tokens @ weight.T).square().sum(0)])
        torch.testing.assert_close(row, expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "dilation"),
    [(3, 1, 0, 1), ((2, 3), (2, 1), (1, 2), 1), (3, 2, 1, 2), (2, 3, 2, (1, 2)), (1, 1, 0, 1)],
)
@pytest.mark.parametrize("bias", [True, False])
def test_a_convolution_adds_up_over_the_places_of_its_window(
    kernel: int, stride: int, padding: int, dilation: int, bias: bool
) -> None:
    convolution = seeded(lambda: nn.Conv2d(2, 5, kernel, stride, padding, dilation, bias=bias))
    module = nn.Sequential(convolution, nn.Flatten(), nn.LazyLinear(2).double())
    features = drawn(4, 2, 7, 8)
    module(features)
    found = watched(module, features)
    windows = nn.functional.unfold(features, convolution.kernel_size, dilation, padding, stride)  # type: ignore[arg-type]
    weight = convolution.weight.detach().flatten(1)
    expected = torch.cat([windows.square().sum(2), (weight @ windows).square().sum(2)], 1)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_calls_add_up_and_layers_out_of_reach_give_zeros() -> None:
    module = seeded(Twice)
    features = drawn(4, 3)
    with torch.no_grad():
        first = module.again(features)  # type: ignore[operator]
        second = module.again(first)  # type: ignore[operator]
    bias = module.again.bias.detach()  # type: ignore[union-attr]
    found = watched(module, features)
    assert found.shape == (4, 3 + 3 + 3 + 2)
    torch.testing.assert_close(found[:, :3], features.square() + first.square())
    torch.testing.assert_close(
        found[:, 3:6],
        (first - bias).square() + (second - bias).square(),  # type: ignore[operator]
    )
    assert not found[:, 6:].any()


@pytest.mark.parametrize("criterion", CRITERIA, ids=lambda criterion: criterion.spec)
def test_criteria_score_by_what_was_told_as_by_the_activations_themselves(
    criterion: LayerCriterion,
) -> None:
    module = seeded(lambda: nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 2)))
    features = drawn(30, 6)
    statistic = SquaredActivations(groups=layer_groups(module))
    told = statistic.statistics(watched(module, features).mean(0))
    assert list(told) == ["0.weight"]
    weight = next(module.parameters()).detach()
    scores = criterion.scores(weight, name="0.weight", statistics=told["0.weight"])
    known = ActivationStatistics.of(features, weight)
    expected = criterion.scores(weight, name="0.weight", statistics=known)
    torch.testing.assert_close(scores, expected)
    with pytest.raises(ValueError, match="clients tell sums of squares alone"):
        parse_method("dsnot").mask(
            weight, Unstructured(sparsity=0.5), name="0.weight", statistics=told["0.weight"]
        )


@pytest.mark.parametrize("criterion", CRITERIA, ids=lambda criterion: criterion.spec)
def test_a_convolution_is_scored_as_the_matrix_of_its_windows(criterion: LayerCriterion) -> None:
    module = seeded(lambda: nn.Sequential(nn.Conv2d(2, 3, 2), nn.Flatten(), nn.Linear(48, 2)))
    features = drawn(6, 2, 5, 5)
    groups = layer_groups(module)
    told = SquaredActivations(groups=groups).statistics(watched(module, features).mean(0))
    weight = next(module.parameters()).detach()
    scores = criterion.scores(weight, name="0.weight", statistics=told["0.weight"])
    windows = nn.functional.unfold(features, 2).transpose(1, 2)
    known = ActivationStatistics.of(windows, weight.flatten(1), samples=6)
    expected = criterion.scores(weight.flatten(1), name="0.weight", statistics=known)
    torch.testing.assert_close(scores, expected.view(weight.shape))


class ByKeyword(nn.Module):
    """Calls its layers as ``layer(input=...)``."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 3)
        self.head = nn.Linear(3, 2)

    def forward(self, features: Tensor) -> Tensor:
        out: Tensor = self.head(input=self.first(input=features))
        return out


def test_layers_that_are_called_by_keyword_are_seen_as_any() -> None:
    module, features = seeded(ByKeyword), drawn(5, 4)
    torch.testing.assert_close(watched(module, features)[:, :4], features.square())


def test_squares_of_half_precision_do_not_overflow() -> None:
    module = seeded(lambda: nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))).half()
    features = torch.full((3, 2), 1000.0, dtype=torch.float16)
    found = watched(module, features)
    assert found.dtype == torch.float64
    assert found[:, :2].tolist() == [[1e6, 1e6]] * 3


def test_what_noise_made_negative_counts_as_zero() -> None:
    module = seeded(lambda: nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)))
    statistic = SquaredActivations(groups=layer_groups(module))
    told = statistic.statistics(torch.tensor([-1.0, 4.0, 9.0, -2.0]))["0.weight"]
    assert told.input_norms.tolist() == [0.0, 2.0]
    assert told.output_norms.tolist() == [3.0, 0.0]


def test_what_can_be_watched_is_known_from_the_module() -> None:
    tied = nn.Linear(3, 3)
    module = nn.ModuleDict(
        {
            "table": nn.Embedding(4, 3),
            "grouped": nn.Conv2d(4, 4, 3, groups=2),
            "reflecting": nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"),
            "same": nn.Conv2d(4, 4, 3, padding="same"),
            "up": nn.ConvTranspose2d(4, 4, 3),
            "recurrent": nn.LSTM(3, 3),
            "tied": tied,
            "tied-again": tied,
            "plain": nn.Conv2d(4, 4, 3, stride=2, padding=1, dilation=2),
            "linear": nn.Linear(3, 3),
            "head": nn.Linear(3, 2),
        }
    )
    groups = layer_groups(module)
    assert [entry.name for entry in groups.entries if entry.watchable] == [
        *("plain.weight", "linear.weight", "head.weight")
    ]
    statistic = SquaredActivations(groups=groups)
    assert [entry.name for entry in statistic.entries] == ["plain.weight", "linear.weight"]
    assert statistic.dimension == 36 + 4 + 3 + 3


def test_what_makes_no_sense_is_refused() -> None:
    groups = layer_groups(seeded(lambda: nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))))
    for norm in (0.0, -1.0, 1e-320, float("nan")):
        with pytest.raises(ValueError, match="is below 1e-100"):
            SquaredActivations(groups=groups, max_norm=norm)
    assert SquaredActivations(groups=groups).max_norm == inf
    with pytest.raises(ValueError, match="beside its classifier"):
        SquaredActivations(groups=layer_groups(nn.Linear(2, 2)))
    module = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    with (
        SquaredActivations(groups=groups).watching(module) as rows,
        pytest.raises(ValueError, match="calls none of its layers"),
    ):
        rows()


class Unbatched(nn.Module):
    """Gives its first layer one vector, whatever comes."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(2, 2)
        self.head = nn.Linear(2, 2)

    def forward(self, features: Tensor) -> Tensor:
        out: Tensor = self.head(features + self.first(features[0]))
        return out


def test_a_layer_that_is_not_given_examples_is_named() -> None:
    with pytest.raises(ValueError, match=r"'first' is given \(2,\), where the first axis"):
        watched(seeded(Unbatched), drawn(3, 2))


def test_no_hook_stays_behind() -> None:
    module = seeded(lambda: nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)))
    watched(module, drawn(3, 2))
    assert not any(layer._forward_hooks for layer in module.modules())
