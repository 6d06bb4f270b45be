"""Server optimisers: against torch's own, and as text."""

import pytest
import torch

from fedstrategies.server_optimizer import SGD, Adam, parse_server_optimizer


def test_adam_is_torchs() -> None:
    x = torch.linspace(-1, 1, 5, dtype=torch.float64)
    reference = torch.nn.Parameter(x.clone())
    theirs = torch.optim.Adam([reference], lr=0.1, betas=(0.9, 0.99), eps=1e-3)
    ours = Adam(lr=0.1)
    state = ours.init(x)
    for _ in range(20):
        direction = x**3 + 0.1
        reference.grad = direction.clone()
        theirs.step()
        x, state = ours.step(x, direction, state)
        assert torch.allclose(x, reference.detach(), rtol=1e-12, atol=1e-14)


def test_nothing_is_changed_in_place() -> None:
    ours, x = Adam(lr=0.1), torch.ones(3)
    first = ours.init(x)
    moved, second = ours.step(x, torch.ones(3), first)
    again, _ = ours.step(x, torch.ones(3), first)
    assert torch.equal(moved, again)
    assert torch.equal(x, torch.ones(3))
    assert int(first["steps"]) == 0
    assert int(second["steps"]) == 1


def test_sgd_with_a_step_of_one_is_the_proposal() -> None:
    x, mean = torch.tensor([2.0, 3.0]), torch.tensor([1.0, 5.0])
    moved, state = SGD().step(x, x - mean, SGD().init(x))
    assert torch.equal(moved, mean)
    assert state == {}
    assert torch.equal(SGD(lr=0.5).step(x, x - mean, {})[0], (x + mean) / 2)


@pytest.mark.parametrize("found", [SGD(lr=0.5), Adam(lr=0.003), Adam(lr=0.1, beta1=0.5, eps=1e-8)])
def test_the_spec_reads_back(found: SGD | Adam) -> None:
    assert parse_server_optimizer(found.spec) == found


def test_plain_averaging_is_no_optimiser() -> None:
    assert parse_server_optimizer("sgd") is None
    assert parse_server_optimizer("sgd:lr=1") is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "lion:lr=1",
        "adam",
        "adam:lr=fast",
        "adam:lr=0",
        "adam:lr=0.1,beta3=1",
        "adam:lr=0.1,lr=0.2",
        "adam:lr=0.1,beta2=1",
        "sgd:lr=-1",
        "sgd:lr=nan",
    ],
)
def test_what_is_none_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        parse_server_optimizer(text)
    assert "\n" not in str(caught.value)
