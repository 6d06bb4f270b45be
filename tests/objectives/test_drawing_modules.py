"""Modules that draw only sometimes: a function of x and the key, in any order and any thread."""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
import torch
from torch import nn
from torch.utils.data import Dataset

from fedstrategies.objectives import TorchObjective, lenet_classifier, lstm_classifier
from fedstrategies.objectives.drawless import layers_draw_nothing, loss_draws_nothing
from fedstrategies.threads import single_threaded
from tests.objectives.clients import normal

KEY = torch.tensor([7])


@pytest.fixture(autouse=True)
def one_thread():
    with single_threaded():
        yield


class DropsLarge(nn.Module):
    """Dropout where a feature is large, and in evaluation mode too."""

    def __init__(self, together=None):
        super().__init__()
        self.output = nn.Linear(4, 3)
        self.together = together

    def forward(self, rows):
        if self.together is not None:
            self.together.wait()
        large = bool(rows.abs().max() > 4)
        return self.output(nn.functional.dropout(rows, 0.5, training=large))


class Jitter(Dataset):
    """Examples that are drawn anew each time."""

    def __len__(self):
        return 6

    def __getitem__(self, row):
        return torch.rand(4), row % 3


def objective_of(module, scale=1.0, seed=0, **options):
    features = scale * normal(20, 4, seed=seed, dtype=torch.float32).clamp(-1.5, 1.5)
    data = features, torch.arange(20) % 3
    return TorchObjective(
        **{"module": module, "loss": nn.CrossEntropyLoss(), "data": data} | options
    )


def module_of(kind=DropsLarge):
    torch.manual_seed(0)
    return kind()


def answers(objective, x):
    value, gradient = objective.value_and_gradient(x, key=KEY)
    return [value, objective.value(x), objective.accuracy(x), *gradient]


@pytest.mark.parametrize("training", [True, False])
def test_to_have_not_drawn_says_nothing_of_other_inputs(training):
    alone = objective_of(module_of().train(training), scale=10)
    x = normal(alone.dimension, seed=3, dtype=torch.float32)
    generator = torch.random.get_rng_state()
    expected = answers(alone, x)
    module = module_of().train(training)
    small, large = objective_of(module), objective_of(module, scale=10)
    quiet = answers(small, x)
    assert small.concurrent
    assert answers(large, x) == expected
    assert not large.concurrent
    assert answers(large, x) == expected
    assert answers(small, x) == quiet
    assert large.value_and_gradient(x, key=KEY + 1)[0] != expected[0]
    assert torch.equal(torch.random.get_rng_state(), generator)


def test_threads_in_which_some_draw_give_the_bits_of_one_thread():
    def clients(module):
        return [objective_of(module, 10.0 if row % 3 == 0 else 1.0, row) for row in range(6)]

    x = normal(15, seed=3, dtype=torch.float32)
    expected = [one.value_and_gradient(x, key=KEY) for one in clients(module_of())]
    for _ in range(10):
        fresh = clients(module_of())
        with ThreadPoolExecutor(6) as pool:
            found = list(pool.map(lambda one: one.value_and_gradient(x, key=KEY), fresh))
        for pair, other in zip(found, expected, strict=True):
            assert torch.equal(pair[0], other[0])
            assert torch.equal(pair[1], other[1])


def test_whoever_does_not_draw_shares_the_generators():
    # Each waits in the middle of its pass for the other.
    module = module_of()
    together = Barrier(2)
    one = objective_of(module)
    one.value_and_gradient(torch.zeros(15))
    module.together = together
    type(together).__deepcopy__ = lambda self, memo: self
    try:
        with ThreadPoolExecutor(2) as pool:
            found = list(pool.map(lambda row: one.value(torch.zeros(15)), range(2), timeout=20))
    finally:
        del type(together).__deepcopy__
    assert found[0] == found[1]


def test_losses_and_data_sets_that_draw_are_seeded_too():
    def noisy(output, target):
        return nn.functional.cross_entropy(output + torch.randn_like(output), target)

    module = nn.Sequential(nn.Linear(4, 3), nn.LeakyReLU())
    for options in ({"loss": noisy}, {"data": Jitter()}):
        objective = objective_of(module, **options)
        x = normal(objective.dimension, seed=3, dtype=torch.float32)
        first, second = (answers(objective, x) for _ in range(2))
        assert first == second
        assert objective.value_and_gradient(x, key=KEY + 1)[0] != first[0]


def test_only_known_layers_are_believed_not_to_draw():
    silent = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.LSTM(2, 2), nn.Dropout())
    assert not layers_draw_nothing(silent.modules())
    silent.eval()
    assert layers_draw_nothing(silent.modules())
    assert not layers_draw_nothing([nn.LSTM(2, 2, num_layers=2, dropout=0.5)])
    assert not layers_draw_nothing([nn.RReLU()])
    for unknown in (lstm_classifier(5, width=2, dtype=torch.float32), DropsLarge()):
        assert not layers_draw_nothing([unknown])
    heard = nn.Linear(2, 2)
    heard.register_forward_hook(lambda layer, given, output: torch.rand_like(output))
    assert not layers_draw_nothing([heard])
    assert loss_draws_nothing(nn.functional.cross_entropy)
    assert loss_draws_nothing(nn.MSELoss())
    assert not loss_draws_nothing(lambda output, target: output.sum())


def test_the_package_s_own_networks_run_in_threads():
    module = lenet_classifier(3, image=(1, 16, 16), width=4, dtype=torch.float32)
    data = normal(8, 256, dtype=torch.float32), torch.arange(8) % 3
    assert TorchObjective(module=module, loss=nn.CrossEntropyLoss(), data=data).concurrent


class Narrow(nn.Linear):
    """A layer of the user's, for other features than there are."""


def test_a_module_that_fails_when_it_is_tried_says_so_in_the_log_and_again_in_training(caplog):
    objective = TorchObjective(
        module=Narrow(2, 2),
        loss=nn.CrossEntropyLoss(),
        data=(torch.zeros(4, 3), torch.zeros(4, dtype=torch.int64)),
    )
    with caplog.at_level("DEBUG", logger="fedstrategies"):
        assert not objective.concurrent
    (record,) = caplog.records
    assert "Narrow failed" in record.getMessage()
    assert record.exc_info is not None
    x = objective.layout.flatten(objective.initial_arrays())
    with pytest.raises(RuntimeError):
        objective.value_and_gradient(x)
