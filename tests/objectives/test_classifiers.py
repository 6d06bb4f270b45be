import torch

from fedstrategies.objectives import linear_classifier, mlp_classifier
from tests.objectives.clients import normal


def filled(module):
    for number, parameter in enumerate(module.parameters()):
        parameter.data.copy_(normal(*parameter.shape, seed=number))
    return {name: parameter.detach() for name, parameter in module.named_parameters()}


def test_scores_are_those_of_the_formulas():
    rows = normal(7, 5, seed=9)
    linear = linear_classifier(5, 3, dtype=torch.float64)
    p = filled(linear)
    torch.testing.assert_close(linear(rows), rows @ p["weight"].T + p["bias"])
    mlp = mlp_classifier(5, 3, width=4, dtype=torch.float64)
    p = filled(mlp)
    hidden = torch.tanh(rows @ p["hidden.weight"].T + p["hidden.bias"])
    torch.testing.assert_close(mlp(rows), hidden @ p["output.weight"].T + p["output.bias"])
    assert sum(parameter.numel() for parameter in mlp.parameters()) == 4 * 5 + 4 + 3 * 4 + 3


def test_building_starts_at_zero_and_leaves_the_global_generator_alone():
    before = torch.random.get_rng_state()
    for module in (
        linear_classifier(5, 3, dtype=torch.float32),
        mlp_classifier(5, 3, width=4, dtype=torch.float32),
    ):
        assert all(p.dtype == torch.float32 and not p.any() for p in module.parameters())
        assert all(p.requires_grad for p in module.parameters())
    assert torch.equal(torch.random.get_rng_state(), before)
