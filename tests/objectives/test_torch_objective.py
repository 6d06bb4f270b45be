import math

import pytest
import torch
from torch import nn
from torch.utils.data import Dataset, TensorDataset

from fedstrategies.objectives import LogisticRegression, LoopedObjectives, TorchObjective
from fedstrategies.random import sample_without_replacement
from tests.objectives.clients import normal, random_client

CLIENT = random_client(23, 6, seed=1, l2=0.0, batch_size=5)


def log_loss(output, target):
    return nn.functional.softplus(-target * output.squeeze(1)).mean()


def linear():
    return nn.Linear(6, 1, bias=False, dtype=torch.float64)


def network(**options):
    module = nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 3)).double()
    data = normal(23, 6, seed=2), torch.arange(23) % 3
    return module, TorchObjective(module=module, loss=nn.CrossEntropyLoss(), data=data, **options)


class Pairs(Dataset):
    """A data set that hands out items one by one."""

    def __len__(self):
        return 23

    def __getitem__(self, row):
        return CLIENT.features[row], CLIENT.labels[row]


@pytest.mark.parametrize(
    "data",
    [(CLIENT.features, CLIENT.labels), TensorDataset(CLIENT.features, CLIENT.labels), Pairs()],
    ids=["tensors", "TensorDataset", "Dataset"],
)
@pytest.mark.parametrize("chunk_size", [None, 7])
def test_linear_module_equals_logistic_regression(data, chunk_size):
    objective = TorchObjective(
        module=linear(), loss=log_loss, data=data, batch_size=5, chunk_size=chunk_size
    )
    assert (objective.dimension, objective.num_examples, objective.stochastic) == (6, 23, True)
    x, near = normal(6, seed=3), {"rtol": 0, "atol": 1e-12}
    for key in (None, torch.tensor([42]), torch.tensor([-7])):
        value, gradient = objective.value_and_gradient(x, key=key)
        expected = CLIENT.value_and_gradient(x, key=key)
        torch.testing.assert_close(value, expected[0], **near)
        torch.testing.assert_close(gradient, expected[1], **near)
        assert not gradient.requires_grad
    torch.testing.assert_close(objective.value(x), CLIENT.value(x), **near)
    assert torch.equal(objective.accuracy(x), CLIENT.accuracy(x))


def test_gradient_of_a_network_against_finite_differences():
    module, objective = network()
    x = objective.layout.flatten(objective.initial_arrays())
    value, gradient = objective.value_and_gradient(x)
    features, targets = normal(23, 6, seed=2), torch.arange(23) % 3
    assert float(value) == pytest.approx(
        float(nn.functional.cross_entropy(module(features), targets).detach()), abs=1e-14
    )
    step = 1e-4
    for axis, along in enumerate(step * torch.eye(len(x), dtype=torch.float64)):
        near = objective.value(x + along) - objective.value(x - along)
        far = objective.value(x + 2 * along) - objective.value(x - 2 * along)
        assert float(8 * near - far) / (12 * step) == pytest.approx(
            float(gradient[axis]), abs=1e-10
        )
    hits = module(features).argmax(dim=1) == targets
    assert float(objective.accuracy(x)) == pytest.approx(float(hits.double().mean()), abs=1e-15)


def test_only_matching_parameters_are_in_the_vector_and_nothing_is_written():
    module, objective = network(trainable="2.*")
    before = {name: p.detach().clone() for name, p in module.state_dict().items()}
    assert objective.layout.names == ("2.weight", "2.bias")
    assert objective.initial_arrays().keys() == {"2.weight", "2.bias"}
    assert objective.dimension == 15
    x = normal(15, seed=4)
    value, gradient = objective.value_and_gradient(x)
    assert all(torch.equal(before[name], p) for name, p in module.state_dict().items())
    assert all(p.grad is None for p in module.parameters())

    module.load_state_dict({**before, **objective.layout.unflatten(x)})
    expected = nn.functional.cross_entropy(module(normal(23, 6, seed=2)), torch.arange(23) % 3)
    slopes = torch.autograd.grad(expected, list(module[2].parameters()))
    assert float(value) == pytest.approx(float(expected.detach()), abs=1e-14)
    torch.testing.assert_close(gradient, torch.cat([s.reshape(-1) for s in slopes]))


@pytest.mark.parametrize("options", [{}, {"batch_size": 4}, {"chunk_size": 5}])
def test_l2_adds_its_term_to_every_value_and_gradient(options):
    (_, plain), (_, regularised) = network(**options), network(l2=0.3, **options)
    x = normal(plain.dimension, seed=8)
    for key in (None, torch.tensor([5])):
        value, gradient = plain.value_and_gradient(x, key=key)
        found = regularised.value_and_gradient(x, key=key)
        torch.testing.assert_close(found[0], value + 0.15 * (x @ x), rtol=0, atol=1e-14)
        torch.testing.assert_close(found[1], gradient + 0.3 * x, rtol=0, atol=1e-14)
    torch.testing.assert_close(
        regularised.value(x), plain.value(x) + 0.15 * (x @ x), rtol=0, atol=1e-14
    )
    assert regularised.accuracy(x) == plain.accuracy(x)


def test_l2_is_for_trainable_parameters_only():
    (_, plain), (_, regularised) = (network(trainable="2.*", l2=l2) for l2 in (0.0, 0.3))
    origin = torch.zeros(15, dtype=torch.float64)
    assert torch.equal(regularised.value(origin), plain.value(origin))


def test_l2_of_zero_does_not_turn_a_large_point_into_nan():
    _, plain = network()
    x = torch.full((plain.dimension,), 1e200, dtype=torch.float64)
    assert torch.isfinite(plain.value_and_gradient(x)[0])


def test_start_point_is_a_copy():
    module, objective = network()
    objective.initial_arrays()["0.bias"].fill_(7)
    assert not (module[0].bias == 7).any()


def test_mini_batch_is_the_keyed_draw():
    module, objective = network(batch_size=4)
    _, full = network()
    x = normal(objective.dimension, seed=5)
    key = torch.tensor([11])
    draws = sample_without_replacement(key, 23, 4)[0]
    data = normal(23, 6, seed=2)[draws], (torch.arange(23) % 3)[draws]
    alone = TorchObjective(module=module, loss=nn.CrossEntropyLoss(), data=data)
    expected = alone.value_and_gradient(x)
    for found, other in zip(objective.value_and_gradient(x, key=key), expected, strict=True):
        torch.testing.assert_close(found, other, rtol=0, atol=1e-14)
    assert objective.value(x) == full.value(x)


def batch_norm(mode):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 3))
    module[1].running_mean += 1.0
    module.double().train(mode)
    data = normal(23, 6, seed=2), torch.arange(23) % 3
    return module, TorchObjective(module=module, loss=nn.CrossEntropyLoss(), data=data)


@pytest.mark.parametrize("mode", [True, False])
def test_layers_with_state_leave_no_trace(mode):
    module, objective = batch_norm(mode)
    before = {name: b.clone() for name, b in module.named_buffers()}
    x = objective.layout.flatten(objective.initial_arrays())
    generator = torch.random.get_rng_state()
    first = objective.value_and_gradient(x)
    for _ in range(3):
        again = objective.value_and_gradient(x)
        assert torch.equal(first[0], again[0])
        assert torch.equal(first[1], again[1])
    assert torch.equal(objective.value(x), objective.value(x))
    # All examples are one batch: its statistics are those of the evaluation.
    torch.testing.assert_close(objective.value(x), first[0], rtol=0, atol=1e-12)
    objective.accuracy(x)
    assert torch.equal(torch.random.get_rng_state(), generator)
    assert all(torch.equal(before[name], b) for name, b in module.named_buffers())
    assert module.training is mode


def test_the_mode_decides_what_batch_normalisation_and_dropout_do():
    (_, train), (_, evaluate) = batch_norm(True), batch_norm(False)
    x = train.layout.flatten(train.initial_arrays())
    assert train.value(x) != evaluate.value(x)
    keys = torch.tensor([3]), torch.tensor([4])
    values = [train.value_and_gradient(x, key=key)[0] for key in keys]
    assert values[0] != values[1]
    assert values[0] == train.value_and_gradient(x, key=keys[0])[0]
    assert evaluate.value_and_gradient(x, key=keys[0])[0] == evaluate.value(x)


def test_batches_loop_over_clients_bit_for_bit():
    module, _ = network()
    clients = [
        TorchObjective(
            module=module,
            loss=nn.CrossEntropyLoss(),
            data=(normal(m, 6, seed=m), torch.arange(m) % 3),
            batch_size=4,
        )
        for m in (3, 9, 5)
    ]
    batched = TorchObjective.stack(clients)
    assert isinstance(batched, LoopedObjectives)
    assert (len(batched), batched.dimension, batched.stochastic) == (3, 43, True)
    assert batched.num_examples.tolist() == [3, 9, 5]
    x, keys, rows = normal(43, seed=6), torch.tensor([5, 6, 7]), torch.tensor([0, 2])
    values, gradients = batched.value_and_gradient(x, keys=keys)
    for row, client in enumerate(clients):
        value, gradient = client.value_and_gradient(x, key=keys[row : row + 1])
        assert torch.equal(value, values[row])
        assert torch.equal(gradient, gradients[row])
    some = batched.value_and_gradient(x.repeat(2, 1), clients=rows, keys=keys[rows])
    assert torch.equal(some[0], values[rows])
    assert torch.equal(some[1], gradients[rows])
    assert batched.values(x).tolist() == [float(client.value(x)) for client in clients]
    assert batched.accuracy(x, clients=rows).shape == (2,)
    empty = batched.value_and_gradient(x, clients=rows[:0])
    assert (empty[0].shape, empty[1].shape) == ((0,), (0, 43))


def test_stack_of_logistic_regressions_and_of_mixtures():
    with pytest.raises(ValueError, match="cannot be stacked"):
        LogisticRegression.stack([CLIENT, network()[1]])
    with pytest.raises(ValueError, match="one dimension and dtype"):
        TorchObjective.stack([CLIENT, network()[1]])
    with pytest.raises(ValueError, match="none"):
        TorchObjective.stack([])
    looped = LoopedObjectives([CLIENT] * 3)
    with pytest.raises(ValueError, match=r"expected \(6,\) or \(3, 6\)"):
        looped.values(torch.zeros(2, 6, dtype=torch.float64))


@pytest.mark.parametrize(
    ("output", "targets", "expected"),
    [
        ([[1.0, 2.0], [3.0, 0.0]], [1, 1], 0.5),
        ([[1.0], [-1.0]], [1, 0], 1.0),
        ([1.0, -1.0, 0.0], [-1.0, -1.0, -1.0], 2 / 3),
        ([[0.5], [0.5]], [0.25, 1.0], math.nan),
        ([[1.0, 2.0]], [[0.3, 0.7]], math.nan),
    ],
)
def test_accuracy_is_measured_where_the_targets_are_classes(output, targets, expected):
    class Constant(nn.Module):
        def __init__(self):
            super().__init__()
            self.shift = nn.Parameter(torch.zeros(1))

        def forward(self, rows):
            return torch.tensor(output)[rows] + self.shift

    objective = TorchObjective(
        module=Constant(),
        loss=lambda output, target: output.sum(),
        data=(torch.arange(len(output)), torch.tensor(targets)),
    )
    assert float(objective.accuracy(torch.zeros(1))) == pytest.approx(expected, nan_ok=True)


def test_wrong_objectives_are_refused():
    right = {"module": linear(), "loss": log_loss, "data": (CLIENT.features, CLIENT.labels)}
    wrong = [
        ({"data": (CLIENT.features, CLIENT.labels[:3])}, "one length"),
        ({"data": (CLIENT.features[:0], CLIENT.labels[:0])}, "0 examples"),
        ({"data": iter(())}, "map-style"),
        ({"trainable": "head.*"}, "head"),
        ({"batch_size": 0}, "batch_size"),
        ({"chunk_size": -1}, "chunk_size"),
        ({"l2": -0.1}, "l2"),
        ({"l2": math.inf}, "l2"),
    ]
    for change, complaint in wrong:
        with pytest.raises(ValueError, match=complaint):
            TorchObjective(**{**right, **change})
    recurrent = TorchObjective(
        module=nn.LSTM(6, 2).double(), loss=log_loss, data=(CLIENT.features, CLIENT.labels)
    )
    with pytest.raises(ValueError, match="returned tuple"):
        recurrent.value(torch.zeros(recurrent.dimension, dtype=torch.float64))
