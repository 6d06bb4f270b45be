"""Flat vector <-> named arrays."""

import pytest
import torch
from torch import nn

from fedstrategies.layout import Layout


@pytest.fixture
def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.ReLU(), nn.Linear(3, 2))


def test_a_module_round_trips_exactly(net):
    layout = Layout.of_module(net)
    assert layout.names == tuple(name for name, _ in net.named_parameters())
    assert layout.dimension == sum(parameter.numel() for parameter in net.parameters())
    assert layout.dtype == torch.float32
    flat = layout.flatten(net.state_dict())
    assert flat.shape == (layout.dimension,)
    for name, parameter in layout.unflatten(flat).items():
        assert torch.equal(parameter, net.state_dict()[name])


def test_arrays_of_a_model_leave_out_its_buffers(net):
    by_arrays = Layout.of_arrays(net.state_dict())
    assert by_arrays == Layout.of_module(net)
    assert not any("running" in name or "tracked" in name for name in by_arrays.names)


def test_flatten_copies_and_detaches_and_unflatten_views(net):
    layout = Layout.of_module(net)
    parameters = dict(net.named_parameters())
    flat = layout.flatten(parameters)
    assert not flat.requires_grad
    first = layout.names[0]
    before = parameters[first].detach().clone()
    layout.unflatten(flat)[first][0, 0] = 7.0
    assert flat[0] == 7.0
    assert torch.equal(parameters[first].detach(), before)


def test_order_is_the_users():
    arrays = {"z": torch.ones(2), "a": torch.zeros(1, 3)}
    layout = Layout.of_arrays(arrays)
    assert layout.names == ("z", "a")
    assert layout.shapes == ((2,), (1, 3))
    assert list(layout.sizes) == [2, 3]
    assert layout.flatten(arrays).tolist() == [1, 1, 0, 0, 0]
    assert layout.flatten(dict(reversed(arrays.items()))).tolist() == [1, 1, 0, 0, 0]


def test_only_floating_entries_and_those_asked_for(net):
    arrays = {"step": torch.tensor(3), "head.w": torch.ones(2), "body.w": torch.ones(3)}
    assert Layout.of_arrays(arrays).names == ("head.w", "body.w")
    assert Layout.of_arrays(arrays, trainable="head.*").names == ("head.w",)
    assert Layout.of_module(net, trainable="3.*").names == ("3.weight", "3.bias")


def test_scalars_have_one_coordinate():
    layout = Layout.of_arrays({"s": torch.tensor(2.0), "e": torch.zeros(0)})
    assert layout.dimension == 1
    back = layout.unflatten(torch.tensor([5.0]))
    assert back["s"].shape == ()
    assert back["e"].shape == (0,)


def test_float64_is_kept():
    layout = Layout.of_arrays({"w": torch.ones(2, dtype=torch.float64)})
    assert layout.dtype == torch.float64
    assert layout.flatten({"w": torch.ones(2, dtype=torch.float64)}).dtype == torch.float64


def test_nothing_trainable_and_mixed_dtypes_are_refused():
    with pytest.raises(ValueError, match=r"no floating-point parameter matches trainable='x\.\*'"):
        Layout.of_arrays({"w": torch.ones(2)}, trainable="x.*")
    with pytest.raises(ValueError, match=r"several dtypes.*float32.*float64"):
        Layout.of_arrays({"w": torch.ones(2), "v": torch.ones(2).double()})


def test_wrong_arrays_and_vectors_are_refused():
    layout = Layout.of_arrays({"w": torch.ones(2), "v": torch.ones(3)})
    with pytest.raises(ValueError, match="entry 'v' is missing"):
        layout.flatten({"w": torch.ones(2)})
    with pytest.raises(ValueError, match=r"entry 'v' has shape \(2,\), expected \(3,\)"):
        layout.flatten({"w": torch.ones(2), "v": torch.ones(2)})
    for wrong in (torch.ones(4), torch.ones(5, 1), torch.ones(1, 5)):
        with pytest.raises(ValueError, match=r"expected \(5,\)"):
            layout.unflatten(wrong)
