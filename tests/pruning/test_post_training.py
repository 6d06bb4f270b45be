"""Calibration by hooks against activations at hand, and what pruning a module leaves behind."""

from __future__ import annotations

import gc
from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn

from fedstrategies.pruning import (
    PRUNING_METHODS,
    ActivationStatistics,
    PrunedLayer,
    SemiStructured,
    Unstructured,
    calibrate,
    linear_blocks,
    parse_method,
    parse_pattern,
    prune_module,
)
from tests.pruning.networks import small_cnn
from tests.pruning.transformer import Tower, token_batches

HALF = Unstructured(sparsity=0.5)
STATISTICS = ("input_sum", "input_squares", "output_squares")


def forward(module: nn.Module, batch: Tensor) -> object:
    return module(batch)


def assert_same(found: ActivationStatistics, expected: ActivationStatistics) -> None:
    assert (found.samples, found.tokens) == (expected.samples, expected.tokens)
    for name in STATISTICS:
        torch.testing.assert_close(getattr(found, name), getattr(expected, name))


# ------------------------------------------------------------------------------ calibration


def test_hooks_see_what_passes_through_a_layer() -> None:
    tower, batches = Tower(), token_batches()
    found = calibrate(tower, ["blocks.0.up"], batches, forward=forward, samples=len)
    inputs = tower.embedding(torch.cat(batches)).detach()
    layer = tower.blocks[0].up
    assert_same(
        found["blocks.0.up"], ActivationStatistics.of(inputs, layer.weight.detach(), samples=6)
    )


def test_batches_may_be_cut_in_any_way() -> None:
    tower, batches = Tower(), token_batches()
    names = [name for block in linear_blocks(tower) for name in block.layers]
    whole = calibrate(tower, names, [torch.cat(batches)], forward=forward, samples=len)
    parts = calibrate(tower, names, iter(batches), forward=forward, samples=len)
    for name in names:
        assert_same(parts[name], whole[name])


def test_hooks_are_gone_after_an_error_too() -> None:
    tower = Tower()
    with pytest.raises(IndexError):
        calibrate(tower, ["head"], [torch.tensor([[99]])], forward=forward, samples=len)
    assert not tower.head._forward_hooks
    with pytest.raises(ValueError, match="there is no batch"):
        calibrate(tower, ["head"], [], forward=forward, samples=len)
    tower.embedding.weight.data[0] = float("inf")
    with pytest.raises(ValueError, match="'head': an activation is not finite"):
        calibrate(tower, ["head"], [torch.tensor([[0]])], forward=forward, samples=len)


def test_single_precision_is_summed_in_double() -> None:
    layer = nn.Linear(1, 1, bias=False)
    ones = torch.ones(1, 2**24 + 2, 1)
    found = calibrate(layer, [""], [ones], forward=forward, samples=len)[""]
    assert float(found.input_sum) == 2**24 + 2


# ----------------------------------------------------------------------------------- blocks


def test_blocks_are_members_of_containers() -> None:
    blocks = linear_blocks(Tower())
    assert [block.name for block in blocks] == ["blocks.0", "blocks.1", "blocks.2"]
    assert blocks[1].layers == ("blocks.1.up", "blocks.1.down")
    kept = linear_blocks(Tower(), skip=["*.down", "blocks.0.*"])
    assert [block.layers for block in kept] == [("blocks.1.up",), ("blocks.2.up",)]


def test_without_containers_each_layer_is_a_block() -> None:
    names = ("first", "second")
    module = nn.Module()
    for name in names:
        setattr(module, name, nn.Linear(2, 2))
    assert [block.layers for block in linear_blocks(module)] == [("first",), ("second",)]
    assert [block.name for block in linear_blocks(small_cnn())] == ["6", "8", "9"]


def test_nothing_to_prune_is_said() -> None:
    with pytest.raises(ValueError, match="no linear layer"):
        linear_blocks(nn.Conv2d(1, 1, 1))
    with pytest.raises(
        ValueError, match=r"no linear layer is called 'mlp'; there are blocks\.0\.up"
    ):
        linear_blocks(Tower(), skip=["mlp"])


# ---------------------------------------------------------------------------------- pruning


def by_hand(tower: Tower, batches: list[Tensor], name: str) -> None:
    """Each block's masks from activations that the pruned blocks before it give."""
    method = parse_method(name)
    x = tower.embedding(torch.cat(batches)).detach()
    for at, block in enumerate(tower.blocks):
        hidden = torch.relu(block.up(x)).detach()
        masks = []
        for leaf, inputs in (("up", x), ("down", hidden)):
            weight = getattr(block, leaf).weight.detach()
            known = ActivationStatistics.of(inputs, weight, samples=len(x))
            masks.append(method.mask(weight, HALF, name=f"blocks.{at}.{leaf}", statistics=known))
        for leaf, mask in zip(("up", "down"), masks, strict=True):
            getattr(block, leaf).weight.data *= mask
        x = block(x).detach()


@pytest.mark.parametrize("name", PRUNING_METHODS)
def test_every_block_is_calibrated_behind_pruned_ones(name: str) -> None:
    expected, found, batches = Tower(), Tower(), token_batches()
    by_hand(expected, batches, name)
    layers = prune_module(found, batches, method=parse_method(name), pattern=HALF)
    for (key, one), other in zip(
        found.state_dict().items(), expected.state_dict().values(), strict=True
    ):
        assert torch.equal(one, other), key
    assert [layer.name for layer in layers][:2] == ["blocks.0.up", "blocks.0.down"]
    assert all(layer.kept == layer.size // 2 for layer in layers)


def test_what_is_not_pruned_stays() -> None:
    dense, pruned = Tower(), Tower()
    prune_module(pruned, token_batches(), method=parse_method("wanda"), pattern=HALF, skip=["*.up"])
    for (name, before), after in zip(
        dense.state_dict().items(), pruned.state_dict().values(), strict=True
    ):
        if name.endswith("down.weight"):
            kept = after != 0
            assert torch.equal(after[kept], before[kept])
            assert int(kept.sum()) == before.numel() // 2
        else:
            assert torch.equal(after, before), name


def test_only_one_blocks_statistics_are_alive() -> None:
    alive: list[int] = []

    def held() -> int:
        gc.collect()
        return sum(type(thing) is ActivationStatistics for thing in gc.get_objects())

    def observe(layer: PrunedLayer) -> None:
        alive.append(held())

    before = held()
    prune_module(
        Tower(), token_batches(), method=parse_method("ria"), pattern=HALF, observe=observe
    )
    assert [count - before for count in alive] == [2] * 6


def test_a_pass_ends_at_the_block_it_is_for() -> None:
    tower, batches = Tower(), token_batches()
    prune_module(tower, batches, method=parse_method("wanda"), pattern=HALF)
    # One whole pass to see what is called, then one, two and three blocks for each batch.
    assert tower.entered == 3 + len(batches) * (1 + 2 + 3)


def test_blocks_are_taken_as_they_are_called() -> None:
    class Backwards(Tower):
        def forward(self, tokens: Tensor) -> Tensor:
            x = self.embedding(tokens)
            for block in reversed(self.blocks):
                x = block(x)
            return x

    layers = prune_module(Backwards(), token_batches(), method=parse_method("wanda"), pattern=HALF)
    assert [layer.name for layer in layers][::2] == ["blocks.2.up", "blocks.1.up", "blocks.0.up"]


def test_a_layer_called_twice_is_calibrated_on_both_calls() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4, dtype=torch.float64)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.layer(input=self.layer(x))
            return y

    module = Twice()
    x = torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    inputs = torch.cat([x, module.layer(x)]).detach()
    weight = module.layer.weight.detach().clone()
    known = ActivationStatistics.of(inputs, weight, samples=3)
    expected = parse_method("ria").mask(weight, HALF, name="layer", statistics=known)
    prune_module(module, [x], method=parse_method("ria"), pattern=HALF)
    assert torch.equal(module.layer.weight != 0, expected)


def test_data_free_methods_need_no_batch() -> None:
    for name in ("magnitude", "symmetric", "ri", "stochri"):
        tower = Tower()
        prune_module(tower, [], method=parse_method(name), pattern=SemiStructured())
        groups = (tower.blocks[0].up.weight != 0).view(-1, 4)
        assert groups.sum(1).unique().tolist() == [2]
        assert tower.entered == 0


def test_modes_are_restored() -> None:
    tower = Tower()
    tower.blocks[1].eval()
    before = {name: part.training for name, part in tower.named_modules()}
    assert len(set(before.values())) == 2
    prune_module(tower, token_batches(), method=parse_method("wanda"), pattern=HALF)
    assert {name: part.training for name, part in tower.named_modules()} == before


def test_errors_come_before_anything_is_pruned() -> None:
    tied = Tower()
    tied.blocks[2].up.weight = tied.blocks[0].up.weight
    unreached = Tower()
    unreached.spare = nn.ModuleList([nn.Linear(4, 4).double()])
    cases = (
        (Tower(), parse_pattern("4:6"), r"'blocks.0.up': 8 inputs are no multiple of 6", None),
        (tied, HALF, "'blocks.2.up' shares its weight with 'blocks.0.up'", None),
        (unreached, HALF, r"'spare.0': the first calibration batch does not reach", None),
        (Tower(), HALF, "there is no batch", []),
    )
    for module, pattern, message, batches in cases:
        before = deepcopy(module.state_dict())
        with pytest.raises(ValueError, match=message):
            prune_module(
                module,
                token_batches() if batches is None else batches,
                method=parse_method("wanda"),
                pattern=pattern,
            )
        assert all(torch.equal(one, before[name]) for name, one in module.state_dict().items())


def test_layers_may_keep_their_first_mask() -> None:
    def zeros(method: str) -> dict[str, Tensor]:
        tower = Tower()
        prune_module(tower, token_batches(), method=parse_method(method), pattern=HALF)
        state: dict[str, Tensor] = tower.state_dict()
        return {name: value == 0 for name, value in state.items()}

    first, all_swapped = zeros("wanda"), zeros("dsnot")
    kept, swapped = zeros("dsnot:fixed=*.up"), "blocks.0.down.weight"
    assert torch.equal(kept["blocks.0.up.weight"], first["blocks.0.up.weight"])
    assert not torch.equal(all_swapped["blocks.0.up.weight"], first["blocks.0.up.weight"])
    assert torch.equal(kept[swapped], all_swapped[swapped])
    assert not torch.equal(kept[swapped], first[swapped])


# ------------------------------------------------------------------------------------ specs


def test_methods_and_patterns_as_they_are_written() -> None:
    assert parse_method("ria:exponent=1,p=2,per=row").criterion.spec == "ria:exponent=1.0,p=2.0"
    assert parse_method("stochria:share=0.5,seed=3,shared=yes").criterion.spec == (
        "stochria:share=0.5,seed=3,shared=yes,exponent=0.5,p=1.0"
    )
    plain = parse_method("r2-dsnot:reweigh=none,exponent=1,gamma_grow=0,gamma_prune=0")
    assert plain == parse_method("dsnot")
    assert parse_method("dsnot:initial=ria").criterion == parse_method("ria").criterion
    assert parse_pattern("4:8") == SemiStructured(kept=4, of=8)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sparsegpt", "the pruning methods are magnitude, wanda"),
        ("wanda:p=1", "wanda has no option 'p'; it has per"),
        ("ria:p=1,p=2", "p is given twice"),
        ("ria:p=x", "p = 'x' is not a number"),
        ("ria:p=0.5", "a norm's p is at least 1"),
        ("stochria:seed=1.5", "seed = '1.5' is not a whole number"),
        ("stochria:shared=1", "shared = '1' is not one of yes, no"),
        ("ri:per=column", "per = 'column' is not one of row, matrix"),
        ("dsnot:initial=dsnot", "initial = 'dsnot' is not one of"),
        ("r2-dsnot:reweigh=both", "reweigh = 'both' is not one of"),
    ],
)
def test_unknown_methods_and_options_are_named(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_method(text)


@pytest.mark.parametrize("text", ["2", "2:x", "4:4", "0:4", ""])
def test_unknown_patterns_are_named(text: str) -> None:
    with pytest.raises(ValueError, match="pattern"):
        parse_pattern(text)
