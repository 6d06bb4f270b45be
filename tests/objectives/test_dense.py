"""Dense networks in closed form: right, with bits of their own, and recognised only if they are."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import Dataset

from fedstrategies.objectives import LoopedObjectives, TorchObjective, dense_client
from fedstrategies.objectives.dense import DenseObjectives
from fedstrategies.random import sample_without_replacement
from fedstrategies.threads import single_threaded
from tests.objectives.clients import normal

TOLERANCE = {torch.float32: 2e-6, torch.float64: 1e-13}
FUNCTIONS = (nn.ReLU, nn.Tanh, nn.Sigmoid, nn.GELU, nn.Identity)


@pytest.fixture(autouse=True)
def one_thread():
    with single_threaded():
        yield


def chain(widths, function=nn.Tanh, *, dtype=torch.float64, bias=True, seed=0):
    layers = [nn.Flatten()]
    for inputs, outputs in pairwise(widths):
        layers += [nn.Linear(inputs, outputs, bias=bias, dtype=dtype), function()]
    module = nn.Sequential(*layers[:-1])
    for number, parameter in enumerate(module.parameters()):
        parameter.data = normal(*parameter.shape, seed=seed + number, dtype=dtype) / 3
    return module


def examples(size, shape, outputs, *, seed, dtype=torch.float64, squares=False):
    features = normal(size, *shape, seed=seed, dtype=dtype)
    if squares:
        return features, normal(size, outputs, seed=seed + 1, dtype=dtype)
    return features, (torch.arange(size) * 7 + seed) % outputs


def client(module, size=23, shape=(6,), outputs=3, *, seed=1, dtype=torch.float64, **options):
    squares = isinstance(options.get("loss"), nn.MSELoss)
    data = examples(size, shape, outputs, seed=seed, dtype=dtype, squares=squares)
    return TorchObjective(
        **{"module": module, "loss": nn.CrossEntropyLoss(), "data": data} | options
    )


def start(objective):
    return objective.layout.flatten(objective.initial_arrays())


def by_autograd(module, loss, data, l2=0.0, trained=None):
    chosen = [p for name, p in module.named_parameters() if trained is None or name in trained]
    value = loss(module(data[0]), data[1]) + l2 / 2 * sum(p.square().sum() for p in chosen)
    slopes = torch.autograd.grad(value, chosen)
    return value.detach(), torch.cat([slope.reshape(-1) for slope in slopes])


def assert_same_bits(found, expected):
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("loss", [nn.CrossEntropyLoss(), nn.MSELoss()], ids=["entropy", "squares"])
@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("bias", [True, False])
def test_values_and_gradients_are_autograds(dtype, loss, function, bias):
    module = chain((12, 7, 5, 3), function, dtype=dtype, bias=bias)
    objective = client(module, shape=(3, 2, 2), loss=loss, dtype=dtype, l2=0.3, batch_size=9)
    assert isinstance(TorchObjective.stack([objective]), DenseObjectives)
    data = examples(23, (3, 2, 2), 3, seed=1, dtype=dtype, squares=isinstance(loss, nn.MSELoss))
    near = {"rtol": TOLERANCE[dtype], "atol": TOLERANCE[dtype]}
    x, expected = start(objective), by_autograd(module, loss, data, l2=0.3)
    found = objective.value_and_gradient(x)
    torch.testing.assert_close(found, expected, **near)
    assert torch.equal(objective.value(x), found[0])

    rows = sample_without_replacement(torch.tensor([4]), 23, 9)[0]
    expected = by_autograd(module, loss, (data[0][rows], data[1][rows]), l2=0.3)
    for some in (
        objective.value_and_gradient(x, key=torch.tensor([4])),
        objective.at_rows(x, rows),
    ):
        torch.testing.assert_close(some, expected, **near)
    if isinstance(loss, nn.CrossEntropyLoss):
        hits = module(data[0]).argmax(dim=1) == data[1]
        assert float(objective.accuracy(x)) == pytest.approx(float(hits.double().mean()))


@pytest.mark.parametrize(
    "trainable", ["*", "1.*", "3.*", "5.*", "*.bias", "*.weight", "3.weight", "1.bias"]
)
def test_frozen_parameters_are_used_and_have_no_gradient(trainable):
    module = chain((6, 4, 5, 3))
    objective = client(module, trainable=trainable, l2=0.1)
    assert isinstance(objective.as_batch, DenseObjectives)
    data = examples(23, (6,), 3, seed=1)
    expected = by_autograd(module, nn.CrossEntropyLoss(), data, 0.1, objective.layout.names)
    torch.testing.assert_close(objective.value_and_gradient(start(objective)), expected)


def test_large_scores_do_not_overflow():
    objective = client(nn.Linear(6, 3).double())
    x = 1e4 * normal(objective.dimension, seed=3)
    module = nn.Linear(6, 3).double()
    module.load_state_dict(objective.layout.unflatten(x))
    expected = by_autograd(module, nn.CrossEntropyLoss(), examples(23, (6,), 3, seed=1))
    torch.testing.assert_close(objective.value_and_gradient(x), expected)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(
    "widths", [(1, 2), (7, 1), (5, 3), (33, 17, 10), (67, 40, 9, 4), (257, 10)]
)
@pytest.mark.parametrize("batch_size", [None, 1, 2, 5, 10, 16])
def test_alone_in_a_batch_and_in_subsets(dtype, widths, batch_size):
    loss = nn.MSELoss() if widths[-1] == 1 else nn.CrossEntropyLoss()
    function = FUNCTIONS[sum(widths) % 4]
    # Odd dimensions make the clients' models begin at all alignments; sizes are ragged.
    clients = [
        client(
            chain(widths, function, dtype=dtype),
            *(size, widths[:1], widths[-1]),
            **{"seed": seed, "dtype": dtype, "batch_size": batch_size, "loss": loss, "l2": 0.1},
        )
        for seed, size in enumerate((20, 3, 20, 11, 20, 1, 11, 20, 40, 20, 20, 3, 20))
    ]
    batched = TorchObjective.stack(clients)
    assert isinstance(batched, DenseObjectives)
    everyone = torch.arange(len(clients))
    keys = None if batch_size is None else 100 + everyone
    points = normal(len(clients), batched.dimension, seed=5, dtype=dtype)
    for x in (points, points[2]):
        values, gradients = batched.value_and_gradient(x, keys=keys)
        full = batched.values(x)
        for row, one in enumerate(clients):
            key = None if keys is None else keys[row : row + 1]
            own = x if x.ndim == 1 else x[row]
            assert_same_bits(
                one.value_and_gradient(own.clone(), key=key), (values[row], gradients[row])
            )
            assert torch.equal(one.value(own), full[row])
        for chosen in ([], [5], [0, 2], [1, 3, 8, 11], [0, 2, 4, 7, 9], list(everyone)):
            rows = torch.tensor(chosen, dtype=torch.int64)
            some = batched.value_and_gradient(
                x if x.ndim == 1 else x[rows],
                clients=rows,
                keys=None if keys is None else keys[rows],
            )
            assert_same_bits(some, (values[rows], gradients[rows]))


def test_block_sizes_do_not_matter(monkeypatch):
    clients = [client(chain((6, 4, 3)), 12 - 9 * (seed % 5 == 0), seed=seed) for seed in range(30)]
    batched = TorchObjective.stack(clients)
    x = normal(30, batched.dimension, seed=3)
    expected = batched.value_and_gradient(x)
    for bytes_ in (1, 4000):
        monkeypatch.setattr(dense_client, "_BLOCK_BYTES", bytes_)
        assert_same_bits(batched.value_and_gradient(x), expected)
    monkeypatch.setattr(dense_client, "_COPIED_BYTES", 0)
    assert_same_bits(batched.value_and_gradient(x), expected)


def test_clients_may_differ_in_l2_chunks_and_batches():
    options = ({}, {"l2": 0.5}, {"chunk_size": 5}, {"batch_size": 4}, {"l2": 0.1, "chunk_size": 5})
    clients = [client(chain((6, 3)), seed=3, **option) for option in options]
    batched, x = TorchObjective.stack(clients), normal(21, seed=4)
    assert isinstance(batched, DenseObjectives)
    values, gradients = batched.value_and_gradient(x, keys=torch.arange(5))
    plain = gradients[0]
    for row in (2, 4):
        own = gradients[row] - clients[row].l2 * x
        torch.testing.assert_close(own, plain, rtol=0, atol=1e-14)
    torch.testing.assert_close(gradients[1], plain + 0.5 * x, rtol=0, atol=1e-14)
    assert not torch.allclose(gradients[3], plain)
    assert values[1] > values[0]


def test_clients_with_modules_of_their_own_are_stacked_unless_frozen_parts_may_differ():
    modules = [chain((6, 4, 3), seed=seed) for seed in (0, 50)]
    assert isinstance(TorchObjective.stack([client(m) for m in modules]), DenseObjectives)
    heads = TorchObjective.stack([client(m, trainable="3.*") for m in modules])
    assert type(heads) is LoopedObjectives
    x = normal(heads.dimension, seed=2)
    values = heads.value_and_gradient(x)[0]
    assert values[0] != values[1]
    shared = [client(modules[0], seed=seed, trainable="3.*") for seed in (1, 2)]
    assert isinstance(TorchObjective.stack(shared), DenseObjectives)


def test_results_are_the_callers():
    batched = TorchObjective.stack([client(chain((6, 3)), seed=seed) for seed in (1, 2)])
    x = normal(batched.dimension, seed=1)
    first = batched.value_and_gradient(x)
    kept = [part.clone() for part in first]
    batched.value_and_gradient(2 * x)
    assert_same_bits(first, kept)


class Scaled(nn.Sequential):
    def forward(self, rows):
        return 2 * super().forward(rows)


class Pairs(Dataset):
    def __len__(self):
        return 23

    def __getitem__(self, row):
        data = examples(23, (6,), 3, seed=1)
        return data[0][row], data[1][row]


def tied():
    layer = nn.Linear(6, 6)
    return nn.Sequential(layer, nn.ReLU(), layer, nn.Linear(6, 3))


def listened_to():
    module = chain((6, 3))
    module[1].register_forward_hook(lambda layer, given, output: 3 * output)
    return module


def listened_to_on_the_way_back():
    module = chain((6, 4, 3))
    module[2].register_full_backward_hook(lambda layer, given, slopes: (3 * given[0],))
    return module


def replaced_forward():
    module = chain((6, 4, 3))
    module[2].forward = torch.sin
    return module


def doubled_loss():
    loss = nn.CrossEntropyLoss()
    loss.register_forward_hook(lambda layer, given, output: 2 * output)
    return loss


@pytest.mark.parametrize(
    "options",
    [
        {"module": Scaled(nn.Linear(6, 3))},
        {"module": tied()},
        {"module": listened_to()},
        {"module": nn.Sequential(nn.Linear(6, 3), nn.Dropout(0.5)).eval()},
        {"module": nn.Sequential(nn.Linear(6, 3), nn.GELU(approximate="tanh"))},
        {"module": nn.utils.parametrizations.weight_norm(nn.Linear(6, 3))},
        {"loss": nn.CrossEntropyLoss(label_smoothing=0.1)},
        {"loss": nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 3.0]).double())},
        {"loss": nn.CrossEntropyLoss(reduction="sum")},
        {"loss": nn.CrossEntropyLoss(ignore_index=1)},
        {"loss": doubled_loss()},
        {"module": listened_to_on_the_way_back()},
        {"module": replaced_forward()},
        {"data": Pairs()},
        {"data": (normal(4, 6), torch.tensor([0, 1, -100, 2]))},
        {"data": (normal(4, 6).T.contiguous().T, torch.tensor([0, 1, 1, 2]))},
    ],
)
def test_what_is_anything_else_is_left_to_autograd(options):
    options = {"module": chain((6, 3)), "loss": nn.CrossEntropyLoss()} | options
    module, loss = options["module"].double(), options["loss"]
    objective = client(**options)
    assert type(objective.as_batch) is LoopedObjectives
    rows = objective.examples.take(None, objective.device)
    expected = by_autograd(module, loss, rows)
    torch.testing.assert_close(objective.value_and_gradient(start(objective)), expected)


def test_a_function_used_twice_acts_twice():
    twice = nn.Tanh()
    module = nn.Sequential(nn.Linear(6, 3, dtype=torch.float64), twice, twice)
    objective = client(module)
    expected = by_autograd(module, nn.CrossEntropyLoss(), examples(23, (6,), 3, seed=1))
    torch.testing.assert_close(objective.value_and_gradient(start(objective)), expected)


def test_a_subclass_keeps_its_own_way():
    class Doubled(TorchObjective):
        def value_and_gradient(self, x, *, key=None):
            value, gradient = super().value_and_gradient(x, key=key)
            return 2 * value, 2 * gradient

    data = examples(23, (6,), 3, seed=1)
    one = Doubled(module=chain((6, 3)), loss=nn.CrossEntropyLoss(), data=data)
    x = normal(one.dimension, seed=2)
    assert_same_bits([p[0] for p in one.as_batch.value_and_gradient(x)], one.value_and_gradient(x))


def test_points_of_another_dtype_or_length_are_refused():
    objective = client(chain((6, 3)))
    with pytest.raises(RuntimeError, match="dtype"):
        objective.value_and_gradient(normal(21, dtype=torch.float32))
    with pytest.raises(ValueError, match="20"):
        objective.value_and_gradient(normal(20))
    with pytest.raises(ValueError, match=r"expected \(21,\)"):
        objective.as_batch.value_and_gradient(normal(20))


def test_users_examples_are_not_copied():
    data = examples(23, (2, 3), 3, seed=1)
    objective = client(chain((6, 3)), data=data)
    assert objective.dense is not None
    assert np.shares_memory(objective.dense.features, data[0].numpy())


def test_another_loss_counts_where_the_clients_are_stacked_already():
    clients = [client(chain((6, 3)), seed=seed) for seed in (1, 2)]
    batched, x = TorchObjective.stack(clients), normal(21, seed=2)
    values, gradients = batched.value_and_gradient(x)
    clients[1].loss = lambda output, target: 2 * nn.functional.cross_entropy(output, target)
    found = batched.value_and_gradient(x)
    near = {"rtol": 1e-13, "atol": 1e-14}
    torch.testing.assert_close(found[0], values * torch.tensor([1, 2]), **near)
    torch.testing.assert_close(found[1], gradients * torch.tensor([[1], [2]]), **near)


def smoothed(module, loss, targets):
    loss.label_smoothing = 0.5


def ignoring(module, loss, targets):
    loss.ignore_index = 1


def weighted(module, loss, targets):
    loss.weight = torch.tensor([1.0, 2.0, 3.0]).double()


def heard(module, loss, targets):
    module[1].register_forward_hook(lambda layer, given, output: 3 * output)


def heard_backwards(module, loss, targets):
    module[2].register_full_backward_hook(lambda layer, given, slopes: (3 * given[0],))


def another_function(module, loss, targets):
    module[2] = nn.Sigmoid()


def another_forward(module, loss, targets):
    module[2].forward = lambda rows: 2 * rows


def one_more_layer(module, loss, targets):
    module.append(nn.Tanh())


def relabelled(module, loss, targets):
    targets[3] = -100


@pytest.mark.parametrize(
    "change",
    [
        *(smoothed, ignoring, weighted, heard, heard_backwards, another_function),
        *(another_forward, one_more_layer, relabelled),
    ],
)
@pytest.mark.parametrize("own", [True, False])
def test_what_is_changed_later_on_module_loss_or_targets_counts(change, own):
    features, targets = examples(23, (6,), 3, seed=1)
    module, loss = chain((6, 4, 3)), nn.CrossEntropyLoss()
    other = chain((6, 4, 3)) if own else module
    clients = [
        client(other, seed=2, loss=nn.CrossEntropyLoss() if own else loss),
        client(module, data=(features, targets), loss=loss),
    ]
    batched, x = TorchObjective.stack(clients), start(clients[1])
    assert isinstance(batched, DenseObjectives)
    batched.value_and_gradient(x)
    change(module, loss, targets)
    expected = by_autograd(module, loss, (features, targets))
    torch.testing.assert_close(clients[1].value_and_gradient(x), expected)
    torch.testing.assert_close(clients[1].value(x), expected[0])
    values, gradients = batched.value_and_gradient(x)
    torch.testing.assert_close((values[1], gradients[1]), expected)
    torch.testing.assert_close(batched.values(x)[1], expected[0])
    assert clients[1].concurrent


def test_a_parameter_that_is_new_is_named():
    objective = client(chain((6, 4, 3)))
    x = start(objective)
    objective.value(x)
    nn.utils.parametrizations.weight_norm(objective.module[1])
    with pytest.raises(ValueError, match=r"got or lost parameters .*1\.weight"):
        objective.value(x)


def test_flatten_needs_a_second_axis_as_in_torch():
    module = nn.Sequential(nn.Flatten(), nn.Linear(1, 3, dtype=torch.float64))
    objective = client(module, data=(normal(4), torch.tensor([0, 1, 1, 2])))
    with pytest.raises(IndexError):
        objective.value(start(objective))


def test_rows_may_be_named_more_than_once():
    rows = torch.tensor([3, 3, 0, 3, 3, 3])
    data = normal(6, 6, seed=1), torch.arange(6) % 3
    for function in (nn.Tanh, nn.LeakyReLU):
        module = chain((6, 4, 3), function)
        objective = client(module, data=data)
        assert (objective.dense is None) == (function is nn.LeakyReLU)
        expected = by_autograd(module, nn.CrossEntropyLoss(), (data[0][rows], data[1][rows]))
        torch.testing.assert_close(objective.at_rows(start(objective), rows), expected)
