from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from fedstrategies.layout import Layout
from fedstrategies.pruning import Entry, LayerGroup, LayerGroups, layer_groups
from tests.pruning.networks import MLP, BasicBlock, LeNet, ResNet18, on_meta, small_cnn


def members(groups: LayerGroups) -> dict[str, list[str]]:
    return {group.name: [entry.name for entry in group.entries] for group in groups}


def test_the_authors_cnn() -> None:
    groups = layer_groups(on_meta(LeNet))
    assert groups.names == ("conv1", "conv2", "fc1", "fc2", "fc3")
    assert groups.sizes.tolist() == [4_864, 102_464, 1_639_424, 1_049_600, 10_250]
    assert groups.dimension == 2_806_602
    assert groups.groups[2].bytes == 4 * 1_639_424
    assert groups.classifier == 4
    assert groups.shared == (0, 1, 2, 3)
    assert layer_groups(on_meta(LeNet, classes=100)).dimension == 2_898_852
    assert layer_groups(on_meta(MLP)).dimension == 1_863_690


def test_slices_find_the_entries_in_the_flat_vector() -> None:
    module = small_cnn()
    groups = layer_groups(module)
    x = groups.layout.flatten(dict(module.named_parameters()))
    for group in groups:
        for entry in group.entries:
            expected = module.get_parameter(entry.name)
            assert torch.equal(x[entry.span].view(entry.shape), expected)
    covered = torch.zeros(groups.dimension, dtype=torch.int64)
    for group in groups:
        for part in group.slices:
            covered[part] += 1
        assert sum(part.stop - part.start for part in group.slices) == group.size
    assert bool((covered == 1).all())


def test_norms_and_vectors_join_the_layer_before() -> None:
    groups = layer_groups(small_cnn())
    assert members(groups) == {
        "0": ["0.weight", "0.bias", "1.weight", "1.bias"],
        "3": ["3.weight", "3.bias", "4.weight"],
        "6": ["6.weight", "6.bias", "7.weight", "7.bias"],
        "8": ["8.weight", "8.bias"],
        "9": ["9.weight", "9.bias"],
    }
    weights = [entry.name for entry in groups.entries if entry.is_weight]
    assert weights == ["0.weight", "3.weight", "6.weight", "8.weight", "9.weight"]


def test_a_norm_before_all_weights_joins_the_first() -> None:
    groups = layer_groups(nn.Sequential(nn.LayerNorm((3, 4)), nn.Flatten(), nn.Linear(12, 2)))
    assert members(groups) == {"2": ["0.weight", "0.bias", "2.weight", "2.bias"]}
    assert [entry.is_weight for entry in groups.entries] == [False, False, True, False]


def test_a_model_of_vectors_is_one_group() -> None:
    groups = layer_groups(nn.Sequential(nn.PReLU(3), nn.BatchNorm1d(3)))
    assert members(groups) == {"0": ["0.weight", "1.weight", "1.bias"]}
    assert groups.classifier == 0
    assert groups.shared == ()


def test_resnet18() -> None:
    groups = layer_groups(on_meta(ResNet18))
    assert groups.dimension == 11_173_962
    blocks = [f"layer{stage}.{block}" for stage in range(1, 5) for block in range(2)]
    assert groups.names == ("conv1", *blocks, "linear")
    assert members(groups)["conv1"] == ["conv1.weight", "bn1.weight", "bn1.bias"]
    assert len(members(groups)["layer2.0"]) == 9
    assert groups.classifier == 9


def test_blocks_by_glob_and_by_predicate() -> None:
    module = on_meta(ResNet18, width=2)
    stages = layer_groups(module, blocks=("layer[1-4]",))
    assert stages.names == ("conv1", "layer1", "layer2", "layer3", "layer4", "linear")
    nested = layer_groups(module, blocks=("layer3", "BasicBlock"))
    assert "layer3" in nested.names
    assert "layer3.0" not in nested.names
    assert "layer2.0" in nested.names
    chosen = layer_groups(module, blocks=lambda name, sub: isinstance(sub, BasicBlock))
    assert chosen == layer_groups(module)
    layers = layer_groups(module, blocks=())
    assert "layer1.0.conv2" in layers.names


def test_a_subclass_of_a_block_is_a_block() -> None:
    class Wider(BasicBlock):
        pass

    model = nn.Sequential(nn.Linear(2, 3), Wider(3, 3), nn.Linear(3, 2))
    assert layer_groups(model).names == ("0", "1", "2")


def test_all_before_the_first_block_is_the_stem() -> None:
    class Transformer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.position = nn.Parameter(torch.zeros(1, 5, 8))
            self.embedding = nn.Linear(3, 8)
            self.encoder = nn.Sequential(
                nn.TransformerEncoderLayer(8, 2, 16), nn.TransformerEncoderLayer(8, 2, 16)
            )
            self.norm = nn.LayerNorm(8)
            self.head = nn.Linear(8, 4)

    groups = layer_groups(Transformer())
    assert groups.names == ("position", "encoder.0", "encoder.1", "head")
    assert members(groups)["position"] == ["position", "embedding.weight", "embedding.bias"]
    assert members(groups)["encoder.1"][-2:] == ["norm.weight", "norm.bias"]
    cut = {entry.name: entry.cut_axes for entry in groups.entries}
    assert cut["embedding.weight"] == ((0, 1),)
    assert cut["encoder.0.self_attn.in_proj_weight"] == ((0, 3), (1, 1))
    assert cut["head.weight"] == ((1, 1),)


def test_tied_parameters_join_their_groups() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(11, 4)
            self.middle = nn.Linear(4, 4)
            self.output = nn.Linear(4, 11)
            self.output.weight = self.table.weight

    module = Tied()
    groups = layer_groups(module)
    assert members(groups) == {
        "table": ["table.weight", "output.bias"],
        "middle": ["middle.weight", "middle.bias"],
    }
    assert groups.classifier == 0
    assert groups.groups[0].slices == (slice(0, 44), slice(64, 75))
    # The table's rows are the data's characters and the classes; its columns may be cut.
    assert groups.entries[0].cut_axes == ((1, 1),)
    both = Layout.of_arrays(module.state_dict())
    assert members(layer_groups(module, layout=both))["table"] == [
        "table.weight",
        "output.weight",
        "output.bias",
    ]


def test_a_chain_of_ties_is_one_group() -> None:
    a, b, c = nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2)
    c.weight, c.bias = a.weight, b.bias
    groups = layer_groups(nn.Sequential(a, b, nn.Linear(2, 5), c))
    assert groups.names == ("0", "2")
    assert groups.classifier == 0
    # The first layer's inputs and the classifier's outputs are axes of one weight.
    assert groups.entries[0].cut_axes == ()


def test_a_module_used_twice_is_one_group() -> None:
    layer = nn.Linear(3, 3)
    assert layer_groups(nn.Sequential(layer, layer, nn.Linear(3, 2))).names == ("0", "2")


def test_weight_normalisation_stays_with_its_layer() -> None:
    model = nn.Sequential(nn.Linear(2, 3), weight_norm(nn.Linear(3, 4)), nn.Linear(4, 2))
    groups = layer_groups(model)
    assert groups.names == ("0", "1", "2")
    assert len(groups.groups[1].entries) == 3


def test_frozen_parameters_are_in_no_group() -> None:
    module = small_cnn()
    layout = Layout.of_module(module, trainable="[36].*")
    groups = layer_groups(module, layout=layout)
    assert members(groups) == {"3": ["3.weight", "3.bias"], "6": ["6.weight", "6.bias"]}
    assert groups.classifier == 1


def test_the_classifier_can_be_named() -> None:
    groups = layer_groups(small_cnn(), classifier="6")
    assert groups.classifier == 2
    cut = {entry.name: entry.cut_axes for entry in groups.entries}
    assert cut["6.weight"] == ((1, 1),)
    assert cut["9.weight"] == ((0, 1), (1, 1))
    with pytest.raises(ValueError, match=r"no layer group is called 'fc'; the groups are 0, 3, 6"):
        layer_groups(small_cnn(), classifier="fc")


def test_which_axes_ordered_pruning_cuts() -> None:
    def cut(module: nn.Module) -> dict[str, tuple[tuple[int, int], ...]]:
        return {e.name: e.cut_axes for e in layer_groups(module).entries if e.is_weight}

    assert cut(small_cnn()) == {
        "0.weight": ((0, 1),),
        "3.weight": ((0, 1), (1, 1)),
        "6.weight": ((0, 1), (1, 1)),
        "8.weight": ((0, 1), (1, 1)),
        "9.weight": ((1, 1),),
    }
    assert cut(nn.Linear(3, 2)) == {"weight": ()}
    text = nn.Sequential(
        nn.Embedding(9, 4), nn.LSTM(4, 6, num_layers=2, bidirectional=True), nn.Linear(12, 9)
    )
    found = cut(text)
    assert found["0.weight"] == ((1, 1),)
    assert found["1.weight_ih_l0"] == ((0, 4), (1, 1))
    assert found["1.weight_hh_l0_reverse"] == ((0, 4), (1, 1))
    assert found["1.weight_ih_l1"] == ((0, 4), (1, 2))
    first = cut(nn.Sequential(nn.GRU(4, 6, num_layers=2), nn.Linear(6, 9)))
    assert first["0.weight_ih_l0"] == ((0, 3),)
    assert first["0.weight_hh_l0"] == ((0, 3), (1, 1))
    assert first["0.weight_ih_l1"] == ((0, 3), (1, 1))
    cell = cut(nn.Sequential(nn.LSTMCell(4, 6), nn.Linear(6, 2)))
    assert cell["0.weight_ih"] == ((0, 4),)
    assert cell["0.weight_hh"] == ((0, 4), (1, 1))
    upwards = cut(
        nn.Sequential(nn.Conv2d(1, 4, 3), nn.ConvTranspose2d(4, 6, 3), nn.Conv2d(6, 1, 1))
    )
    assert upwards["1.weight"] == ((0, 1), (1, 1))
    first_up = cut(nn.Sequential(nn.ConvTranspose2d(4, 6, 3), nn.Conv2d(6, 1, 1)))
    assert first_up["0.weight"] == ((1, 1),)
    projected = cut(nn.Sequential(nn.LSTM(4, 6, proj_size=2), nn.Linear(2, 3)))
    assert projected["0.weight_hr_l0"] == ((0, 1), (1, 1))


def test_a_layout_of_another_model_is_refused() -> None:
    module = small_cnn()
    with pytest.raises(ValueError, match=r"entry 'fc1.weight' is no parameter of the module"):
        layer_groups(module, layout=Layout.of_module(on_meta(LeNet), trainable="fc1.*"))
    other = Layout(names=("9.bias",), shapes=((4,),), dtype=torch.float32)
    with pytest.raises(ValueError, match=r"'9.bias' has shape \(4,\) in the layout and \(3,\)"):
        layer_groups(module, layout=other)


def test_groups_that_are_no_partition_are_refused() -> None:
    layout = Layout(names=("a", "b"), shapes=((2,), (3,)), dtype=torch.float64)
    a = Entry(name="a", shape=(2,), start=0, is_weight=False)
    b = Entry(name="b", shape=(3,), start=2, is_weight=False)
    one = LayerGroup(name="one", entries=(a,), itemsize=8)
    with pytest.raises(ValueError, match=r"each must be in exactly one group"):
        LayerGroups(layout=layout, groups=(one,), classifier=0)
    two = LayerGroup(name="one", entries=(b,), itemsize=8)
    with pytest.raises(ValueError, match=r"same name"):
        LayerGroups(layout=layout, groups=(one, two), classifier=0)
    two = LayerGroup(name="two", entries=(b,), itemsize=8)
    with pytest.raises(ValueError, match=r"classifier 2 is none of 2 groups"):
        LayerGroups(layout=layout, groups=(one, two), classifier=2)


def test_expand_gives_each_coordinate_its_groups_value() -> None:
    groups = layer_groups(small_cnn())
    values = torch.arange(2 * len(groups)).view(2, -1)
    expanded = groups.expand(values)
    assert expanded.shape == (2, groups.dimension)
    for position, group in enumerate(groups):
        for part in group.slices:
            assert bool((expanded[:, part] == values[:, position : position + 1]).all())
    with pytest.raises(ValueError, match=r"one value for each of the 5 layer groups"):
        groups.expand(torch.ones(2, 4))
