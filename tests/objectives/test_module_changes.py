"""What a caller changes on a module counts at once; modules must not write to their models."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

from fedstrategies.objectives import TorchObjective
from fedstrategies.objectives.standing import standing_of
from tests.objectives.clients import normal

TARGETS = torch.tensor([0, 1, 2, 0, 0, 1])
TOKENS = torch.tensor([0, 1, 2, 3, 4, 1])


class Attributed(nn.Module):
    def __init__(self):
        self.early = 1.0
        super().__init__()
        self.output = nn.Linear(4, 3)
        self.act, self.shift, self.powers = torch.relu, torch.tensor(1.0), (1.0,)
        self.scales, self.named = [1.0], {"scale": 1.0}
        self.inner = nn.Sequential(nn.Identity())

    def forward(self, rows):
        signal = self.shift * self.inner(self.act(self.output(rows)))
        return self.early * self.scales[0] * self.named["scale"] * signal.exp() ** self.powers[0]


class Tokens(nn.Module):
    def __init__(self, **options):
        super().__init__()
        self.embedding = nn.Embedding(5, 3, **options)
        self.output = nn.Linear(3, 3)

    def forward(self, tokens):
        return self.output(self.embedding(tokens))


class Clamped(nn.Module):
    def __init__(self):
        super().__init__()
        self.output = nn.Linear(3, 3)

    def forward(self, tokens):
        with torch.no_grad():
            self.output.weight.clamp_(-0.1, 0.1)
        return self.output(nn.functional.one_hot(tokens, 5)[:, :3].float())


def objective_of(module, features, **options):
    return TorchObjective(
        module=module, loss=nn.CrossEntropyLoss(), data=(features, TARGETS), **options
    )


def start(objective):
    return objective.layout.flatten(objective.initial_arrays())


CHANGES = [
    lambda module: setattr(module, "act", torch.tanh),
    lambda module: setattr(module, "act", lambda rows: 2 * rows),
    lambda module: setattr(module, "shift", torch.tensor(5.0)),
    lambda module: module.shift.add_(4.0),
    lambda module: setattr(module, "powers", (3.0,)),
    lambda module: module.scales.__setitem__(0, 3.0),
    lambda module: module.named.update(scale=3.0),
    lambda module: setattr(module, "early", 3.0),
    lambda module: module.inner.__setitem__(0, nn.Tanh()),
    lambda module: module.inner.append(nn.Tanh()),
    lambda module: setattr(module, "inner", nn.Tanh()),
    lambda module: setattr(module.inner[0], "forward", torch.tanh),
    lambda module: module.inner[0].register_forward_hook(lambda layer, given, out: 2 * out),
]


@pytest.mark.parametrize("change", CHANGES)
def test_changes_of_any_attribute_count_in_every_thread(change):
    torch.manual_seed(0)
    module, rows = Attributed(), normal(6, 4, dtype=torch.float32)
    objective = objective_of(module, rows)
    x = start(objective)
    with ThreadPoolExecutor(1) as other:
        before = objective.value(x)
        assert other.submit(objective.value, x).result() == before
        change(module)
        expected = nn.functional.cross_entropy(module(rows), TARGETS).detach()
        assert expected != before
        torch.testing.assert_close(objective.value(x), expected)
        assert other.submit(objective.value, x).result() == objective.value(x)


def test_an_unchanged_module_stands_as_it_stood():
    module = Attributed()
    standing = standing_of(module)
    module.early, module.scales[0] = 1.0, module.scales[0]
    module(torch.ones(1, 4))
    assert standing_of(module) is standing


@pytest.mark.parametrize("ask", ["value", "value_and_gradient", "accuracy"])
@pytest.mark.parametrize("make", [lambda: Tokens(max_norm=0.1), Clamped])
def test_modules_that_write_to_their_parameters_are_refused(make, ask):
    module = make()
    objective = objective_of(module, TOKENS)
    with pytest.raises(ValueError, match=f"{type(module).__name__} wrote to a trained parameter"):
        getattr(objective, ask)(start(objective))


def test_modules_that_write_to_frozen_parameters_are_refused():
    objective = objective_of(Tokens(max_norm=0.1), TOKENS, trainable="output.*")
    with pytest.raises(ValueError, match=r"Tokens wrote to the frozen parameter embedding\.weight"):
        objective.value(start(objective))


def test_writes_to_the_models_of_others_meanwhile_are_nobody_s_fault():
    points = torch.zeros(2, 15)

    def loss(output, target):
        points[1] += 1.0
        return nn.functional.cross_entropy(output, target)

    objective = TorchObjective(
        module=nn.Linear(4, 3), loss=loss, data=(normal(6, 4, dtype=torch.float32), TARGETS)
    )
    assert torch.isfinite(objective.value_and_gradient(points[0])[0])


@pytest.mark.parametrize("chunk_size", [None, 4])
def test_sparse_gradients_of_embeddings_are_gradients(chunk_size):
    torch.manual_seed(0)
    module = Tokens(sparse=True)
    objective = objective_of(module, TOKENS, chunk_size=chunk_size)
    found = objective.value_and_gradient(start(objective))[1]
    plain = Tokens()
    plain.load_state_dict(module.state_dict())
    expected = objective_of(plain, TOKENS).value_and_gradient(start(objective))[1]
    torch.testing.assert_close(found, expected)
