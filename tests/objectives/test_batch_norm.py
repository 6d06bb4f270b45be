"""Batch normalisation in `TorchObjective`: by the batch in training, by fixed statistics after."""

import pytest
import torch
from torch import nn

from fedstrategies.objectives import TorchObjective
from fedstrategies.objectives import batch_norm as room
from fedstrategies.random import sample_without_replacement
from tests.objectives.clients import normal

ROWS, LABELS = normal(30, 6, seed=2), torch.arange(30) % 3


def module(**options):
    made = nn.Sequential(
        nn.Linear(6, 4),
        nn.BatchNorm1d(4, **options),
        nn.Tanh(),
        nn.Linear(4, 5),
        nn.BatchNorm1d(5, **options),
        nn.Linear(5, 3),
    )
    return made.double()


def objective_of(made, rows=slice(None), **options):
    data = ROWS[rows], LABELS[rows]
    return TorchObjective(module=made, loss=nn.CrossEntropyLoss(), data=data, **options)


def point_of(objective):
    return normal(objective.dimension, seed=3)


def by_hand(made, objective, x, statistics_rows, rows):
    """Scores of ``rows``, each layer normalised by what ``statistics_rows`` give it."""
    parts = objective.layout.unflatten(x)
    inside, scores = ROWS[statistics_rows], ROWS[rows]
    for name, layer in made.named_children():
        if isinstance(layer, nn.BatchNorm1d):
            mean, variance = inside.mean(0), inside.var(0, correction=0)
            weight, bias = parts[f"{name}.weight"], parts[f"{name}.bias"]
            inside, scores = (
                (signal - mean) / (variance + layer.eps).sqrt() * weight + bias
                for signal in (inside, scores)
            )
        elif isinstance(layer, nn.Linear):
            inside, scores = (
                signal @ parts[f"{name}.weight"].T + parts[f"{name}.bias"]
                for signal in (inside, scores)
            )
        else:
            inside, scores = layer(inside), layer(scores)
    return scores


@pytest.mark.parametrize("options", [{}, {"track_running_stats": False}])
def test_evaluation_normalises_by_all_of_the_clients_examples(options):
    made = module(**options)
    objective = objective_of(made)
    x, everything = point_of(objective), slice(None)
    scores = by_hand(made, objective, x, everything, everything)
    expected = nn.functional.cross_entropy(scores, LABELS)
    torch.testing.assert_close(objective.value(x), expected, rtol=0, atol=1e-13)
    hits = (scores.argmax(1) == LABELS).double().mean()
    assert float(objective.accuracy(x)) == pytest.approx(float(hits))


def test_evaluation_does_not_depend_on_what_is_evaluated_together():
    made = module()
    whole = objective_of(made)
    x = point_of(whole)
    for size in (1, 7, 29):
        chunked = objective_of(made, chunk_size=size)
        torch.testing.assert_close(chunked.value(x), whole.value(x), rtol=0, atol=1e-13)
        assert chunked.accuracy(x) == whole.accuracy(x)
    alone = [float(objective_of(made, [row], statistics_from=whole).value(x)) for row in range(30)]
    assert sum(alone) / 30 == pytest.approx(float(whole.value(x)), abs=1e-13)
    # The same rows in another order, and everything once more: the same bits.
    assert whole.value(x) == whole.value(x)
    order = torch.arange(29, -1, -1)
    torch.testing.assert_close(objective_of(made, order).value(x), whole.value(x))


def test_held_out_rows_are_normalised_by_the_training_rows():
    made = module()
    training, rest = slice(0, 20), slice(20, 30)
    known = objective_of(made, training)
    measured = objective_of(made, rest, statistics_from=known)
    x = point_of(known)
    scores = by_hand(made, known, x, training, rest)
    expected = nn.functional.cross_entropy(scores, LABELS[rest])
    torch.testing.assert_close(measured.value(x), expected, rtol=0, atol=1e-13)
    assert not torch.isclose(measured.value(x), objective_of(made, rest).value(x))


def test_gradients_are_of_the_mini_batch_normalised_by_itself():
    made = module()
    objective = objective_of(made, batch_size=8)
    x, key = point_of(objective), torch.tensor([5])
    rows = sample_without_replacement(key, 30, 8)[0]
    expected = nn.functional.cross_entropy(by_hand(made, objective, x, rows, rows), LABELS[rows])
    value, gradient = objective.value_and_gradient(x, key=key)
    torch.testing.assert_close(value, expected, rtol=0, atol=1e-13)
    at_rows = objective.at_rows(x, rows)
    torch.testing.assert_close(at_rows, (value, gradient))
    # The gradient sees through the statistics: finite differences of the batch's loss.
    alone = objective_of(made, rows)
    way = normal(len(x), seed=4)
    measured = (alone.value(x + 1e-6 * way) - alone.value(x - 1e-6 * way)) / 2e-6
    assert float(gradient @ way) == pytest.approx(float(measured), rel=1e-5)


def test_gradient_steps_on_mini_batches_lower_the_evaluated_loss():
    objective = objective_of(module(), batch_size=10)
    x = point_of(objective)
    before, hits = float(objective.value(x)), float(objective.accuracy(x))
    for step in range(300):
        x = x - 0.2 * objective.value_and_gradient(x, key=torch.tensor([step]))[1]
    assert float(objective.value(x)) < 0.5 * before
    assert float(objective.accuracy(x)) > hits


def test_nothing_is_left_in_the_module():
    made = module()
    before = {name: buffer.clone() for name, buffer in made.named_buffers()}
    objective = objective_of(made)
    x = point_of(objective)
    objective.value(x)
    objective.accuracy(x)
    assert all(torch.equal(before[name], buffer) for name, buffer in made.named_buffers())
    assert all(layer.training for layer in made.modules())
    assert all(not layer._forward_pre_hooks for layer in made.modules())

    failing = TorchObjective(module=made, loss=lambda output, target: 1 / 0, data=(ROWS, LABELS))
    with pytest.raises(ZeroDivisionError):
        failing.value(x)
    assert all(layer.training for layer in made.modules())


def test_frozen_layers_keep_the_running_statistics():
    made = module()
    made[1].running_mean += 1.0
    made.eval()
    objective = objective_of(made)
    x = point_of(objective)
    made.load_state_dict({**made.state_dict(), **objective.layout.unflatten(x)})
    expected = nn.functional.cross_entropy(made(ROWS), LABELS)
    torch.testing.assert_close(objective.value(x), expected.detach())
    torch.testing.assert_close(objective.value_and_gradient(x)[0], expected.detach())


def test_many_examples_are_pooled_and_the_first_layer_exactly(monkeypatch):
    made = module()
    objective = objective_of(made)
    x = point_of(objective)
    whole = objective._statistics(x)
    sizes = []
    monkeypatch.setattr(room, "_BATCH", 8)
    handle = made[0].register_forward_hook(lambda layer, given, output: sizes.append(len(output)))
    pooled = objective._statistics(x)
    handle.remove()
    assert sizes == [8, 8, 7, 7]
    for leaf in ("running_mean", "running_var"):
        torch.testing.assert_close(pooled[f"1.{leaf}"], whole[f"1.{leaf}"], rtol=0, atol=1e-13)
        torch.testing.assert_close(pooled[f"4.{leaf}"], whole[f"4.{leaf}"], rtol=0.5, atol=0.5)


def test_without_batch_normalisation_there_is_no_further_pass():
    made = nn.Sequential(nn.Linear(6, 4), nn.LayerNorm(4), nn.Linear(4, 3)).double()
    calls = []
    made.register_forward_hook(lambda *_: calls.append(1))
    known = objective_of(made)
    objective = objective_of(made, slice(0, 5), statistics_from=known)
    x = point_of(objective)
    assert torch.equal(objective.value(x), objective.value_and_gradient(x)[0])
    objective.accuracy(x)
    assert len(calls) == 3


def test_statistics_of_another_model_are_refused():
    with pytest.raises(ValueError, match="layout"):
        objective_of(module(), statistics_from=objective_of(nn.Linear(6, 3).double()))
