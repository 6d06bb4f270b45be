"""Clients that share a module, from several threads: same bits, and the module left alone."""

import gc
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

from fedstrategies.objectives import (
    LogisticRegression,
    PersonalObjective,
    TorchObjective,
    lstm_classifier,
)
from fedstrategies.objectives.replica import Replica, replica_of
from fedstrategies.objectives.standing import standing_of
from fedstrategies.threads import single_threaded
from tests.objectives.clients import normal, random_clients

ROUNDS, THREADS = 6, 4


@pytest.fixture(autouse=True)
def one_thread():
    with single_threaded():
        yield


class Branched(nn.Module):
    """Of the user's own making: tied weights, a plain attribute, a buffer that is replaced."""

    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv2d(1, 2, 3)
        self.norm = nn.BatchNorm2d(2)
        self.first, self.second = nn.Linear(32, 32), nn.Linear(32, 32)
        self.second.weight = self.first.weight
        self.head = nn.Linear(32, 3)
        self.scale = 1.0
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, rows):
        self.calls = self.calls + 1
        signal = self.norm(self.convolution(rows)).relu().flatten(1)
        signal = self.second(self.first(signal).tanh()).tanh()
        return self.scale * self.calls * self.head(signal)


def branched(**options):
    torch.manual_seed(0)
    return shared(Branched().double(), **options)


def shared(module, count=5, shape=(1, 6, 6), **options):
    return [
        TorchObjective(
            **{
                "module": module,
                "loss": nn.CrossEntropyLoss(),
                "data": (normal(20, *shape, seed=seed), torch.arange(20) % 3),
                "batch_size": 8,
            }
            | options
        )
        for seed in range(count)
    ]


def dropping():
    return nn.Sequential(nn.Flatten(), nn.Linear(36, 8), nn.Dropout(0.5), nn.Linear(8, 3)).double()


def hammered(batched, x, keys):
    """Each client's results of several rounds, from threads that take one client at a time."""

    def one(task):
        row, step = task
        rows = torch.tensor([row])
        return batched.value_and_gradient(
            x[row : row + 1] + step, clients=rows, keys=keys[rows] + step
        )

    tasks = [(row, step) for step in range(ROUNDS) for row in range(len(x))]
    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(one, tasks))


@pytest.mark.parametrize("clients", [branched, lambda: shared(dropping()), lambda: dense()])
def test_threads_get_the_bits_of_one_thread(clients):
    made = clients()
    batched = TorchObjective.stack(made)
    x, keys = normal(len(made), batched.dimension, seed=3) / 5, torch.arange(len(made))
    found = iter(hammered(batched, x, keys))
    for step in range(ROUNDS):
        values, gradients = batched.value_and_gradient(x + step, keys=keys + step)
        for row in range(len(made)):
            value, gradient = next(found)
            assert torch.equal(value[0], values[row])
            assert torch.equal(gradient[0], gradients[row])


def dense():
    return shared(nn.Sequential(nn.Flatten(), nn.Linear(36, 3)).double())


def test_gradients_values_and_accuracies_in_threads_do_not_disturb_each_other():
    clients = branched()
    x = normal(clients[0].dimension, seed=3) / 5
    expected = [[f(x) for f in (c.value, c.accuracy)] for c in clients]
    slopes = [c.value_and_gradient(x, key=torch.tensor([1])) for c in clients]

    def both(row):
        own = clients[row]
        return own.value(x), own.accuracy(x), own.value_and_gradient(x, key=torch.tensor([1]))

    with ThreadPoolExecutor(THREADS) as pool:
        for row, (value, accuracy, slope) in zip(
            list(range(5)) * 4, pool.map(both, list(range(5)) * 4), strict=True
        ):
            assert [value, accuracy] == expected[row]
            assert torch.equal(slope[1], slopes[row][1])


def test_gradients_are_those_of_a_plain_module():
    (objective,) = branched(count=1, l2=0.1, batch_size=None)
    module = objective.module
    features, targets = objective.examples.tensors
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    x = objective.layout.flatten(objective.initial_arrays())
    found = [objective.value_and_gradient(x) for _ in range(2)]
    assert torch.equal(found[0][1], found[1][1])
    assert all(torch.equal(before[name], t) for name, t in module.state_dict().items())
    assert all(p.grad is None for p in module.parameters())
    assert module.second.weight is module.first.weight

    value = nn.functional.cross_entropy(module(features), targets)
    slopes = torch.autograd.grad(value, list(module.parameters()))
    expected = torch.cat([slope.reshape(-1) for slope in slopes]) + 0.1 * x
    torch.testing.assert_close(found[0][1], expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(found[0][0], value.detach() + 0.05 * x @ x, rtol=0, atol=1e-12)


def test_results_are_the_callers():
    (objective,) = branched(count=1)
    x, key = normal(objective.dimension, seed=3), torch.tensor([1])
    first = objective.value_and_gradient(x, key=key)
    kept = [part.clone() for part in first]
    objective.value_and_gradient(2 * x, key=key)
    assert all(torch.equal(*pair) for pair in zip(first, kept, strict=True))


def test_parameters_that_play_no_part_have_no_slope():
    module = Branched().double()
    module.unused = nn.Linear(2, 2, dtype=torch.float64)
    objective = shared(module, count=1)[0]
    gradient = objective.value_and_gradient(normal(objective.dimension), key=torch.tensor([1]))[1]
    assert (objective.layout.unflatten(gradient)["unused.weight"] == 0).all()


def test_what_the_caller_changes_on_the_module_counts():
    (objective,) = branched(count=1)
    x, key = normal(objective.dimension, seed=3) / 5, torch.tensor([1])
    module, before = objective.module, objective.value_and_gradient(x, key=key)[0]
    module.scale = 2.0
    assert objective.value_and_gradient(x, key=key)[0] != before
    module.scale = 1.0
    assert objective.value_and_gradient(x, key=key)[0] == before
    module.eval()
    assert objective.value_and_gradient(x, key=key)[0] != before
    module.train()
    seen = []
    handle = module.head.register_forward_hook(lambda layer, *_: seen.append(layer))
    assert objective.value_and_gradient(x, key=key)[0] == before
    handle.remove()
    objective.value_and_gradient(x, key=key)
    assert len(seen) == 1
    assert seen[0] is not module.head


def test_whoever_draws_is_not_for_several_threads_and_whoever_does_not_is():
    module = dropping()
    (objective,) = shared(module, count=1)
    generator = torch.random.get_rng_state()
    assert not objective.concurrent
    assert torch.equal(torch.random.get_rng_state(), generator)
    module.eval()
    assert objective.concurrent
    module.train()
    assert not objective.concurrent
    module[2].p = 0.0
    assert objective.concurrent
    module[2].p = 0.5
    assert not objective.concurrent
    module.eval()
    module[2].train()
    assert not objective.concurrent

    (plain,) = branched(count=1)
    assert plain.concurrent
    assert plain.module.calls == 0
    used = branched(count=1)[0]
    used.value_and_gradient(normal(used.dimension), key=torch.tensor([1]))
    assert used.concurrent


def test_data_sets_of_the_users_are_asked_by_one_thread():
    pairs = [(normal(1, 6, 6, seed=row), row % 3) for row in range(20)]
    (objective,) = branched(count=1, data=pairs)
    assert torch.isfinite(objective.value_and_gradient(normal(objective.dimension))[0])
    assert not objective.concurrent


def test_batches_say_how_they_are_to_be_asked():
    several = TorchObjective.stack(branched())
    assert (several.looped, several.concurrent) == (True, True)
    mixed = TorchObjective.stack(
        [*shared(dropping(), count=1), *shared(dropping().eval(), count=1)]
    )
    assert (mixed.looped, mixed.concurrent) == (True, False)
    kernel = TorchObjective.stack(dense())
    assert (kernel.looped, kernel.concurrent) == (False, True)
    logistic = LogisticRegression.stack(random_clients())
    assert (logistic.looped, logistic.concurrent) == (False, True)
    for inner in (branched(), dense(), random_clients(), shared(dropping())):
        bare = type(inner[0]).stack(inner)
        members = [PersonalObjective(objective=one, key=torch.tensor([0])) for one in inner]
        personal = PersonalObjective.stack(members)
        weights = torch.ones(len(inner), dtype=torch.float64)
        for wrapped in (bare.remembering(), personal, personal.flix(weights)):
            assert (wrapped.looped, wrapped.concurrent) == (bare.looped, bare.concurrent)


def test_small_cohorts_of_logistic_clients_in_threads():
    clients = random_clients()
    batched = LogisticRegression.stack(clients)
    x = normal(113, seed=4)
    expected = batched.value_and_gradient(x)
    cohorts = [torch.tensor([row]) for row in range(len(clients))] * 30
    with ThreadPoolExecutor(THREADS) as pool:
        found = list(pool.map(lambda rows: batched.value_and_gradient(x, clients=rows), cohorts))
    for rows, (values, gradients) in zip(cohorts, found, strict=True):
        assert torch.equal(values, expected[0][rows])
        assert torch.equal(gradients, expected[1][rows])


def test_recurrent_modules_go_by_the_parameters_they_are_given():
    module = lstm_classifier(7, width=4, dtype=torch.float64)
    data = torch.arange(60).reshape(6, 10) % 7, torch.arange(60).reshape(6, 10) % 5
    objective = TorchObjective(module=module, loss=nn.CrossEntropyLoss(), data=data)
    x = normal(objective.dimension, seed=2)
    value, gradient = objective.value_and_gradient(x)
    module.load_state_dict(objective.layout.unflatten(x))
    expected = nn.functional.cross_entropy(module(data[0]), data[1])
    slopes = torch.autograd.grad(expected, list(module.parameters()))
    assert float(value) == pytest.approx(float(expected.detach()), abs=1e-13)
    torch.testing.assert_close(gradient, torch.cat([slope.reshape(-1) for slope in slopes]))


def test_replicas_share_the_tensors_and_are_kept_while_the_module_lives():
    module = Branched()
    # Neither what is bound to the module nor what closes over it keeps it alive.
    module.bound, module.closed = module.forward, lambda: None
    standing = standing_of(module)
    replica = replica_of(module, standing)
    assert standing_of(module) is standing
    assert replica_of(module, standing) is replica
    assert replica.module is not module
    assert replica.module.head.weight is module.head.weight
    held = replica.hold({"head.weight": torch.zeros(3, 32)})
    assert (held.head.weight == 0).all()
    assert (module.head.weight != 0).any()
    replica.let_go()
    assert replica.module.head.weight is module.head.weight
    gone = weakref.ref(module)
    del module, held
    gc.collect()
    assert gone() is None


def test_a_module_that_cannot_be_copied_is_named():
    module = Branched()
    module.log = (line for line in ())
    with pytest.raises(ValueError, match=r"Branched cannot be copied.*generator"):
        Replica(module)
