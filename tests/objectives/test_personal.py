"""Personal mixtures, their FLIX functions, and the solvers of x_i*."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fedstrategies.objectives import (
    ExactLocalSolver,
    LocalOptimum,
    LocalSGD,
    LogisticRegression,
    PersonalObjective,
    PersonalObjectives,
    SolveError,
    TorchObjective,
    linear_classifier,
    logistic_smoothness,
    minimise,
    minimise_flix,
    mlp_classifier,
    softmax_smoothness,
)
from fedstrategies.random import derived_keys, random_bits

CLIENTS, DIMENSION = 5, 4
ALPHA = torch.tensor([0.0, 0.25, 1.0, 0.6, 1.0], dtype=torch.float64)


def logistic(seed: int = 0, l2: float = 0.2) -> list[LogisticRegression]:
    draw = torch.Generator().manual_seed(seed)
    return [
        LogisticRegression(
            features=torch.randn(6 + i, DIMENSION, generator=draw, dtype=torch.float64) + i / 3,
            labels=torch.sign(torch.randn(6 + i, generator=draw, dtype=torch.float64)),
            l2=l2,
        )
        for i in range(CLIENTS)
    ]


def personal(solver: ExactLocalSolver | LocalSGD | None = None) -> PersonalObjectives:
    return PersonalObjective.stack(
        [
            PersonalObjective(objective=one, solver=solver, key=torch.tensor([i]))
            for i, one in enumerate(logistic())
        ]
    )


def point(seed: int = 1, rows: int | None = None) -> Tensor:
    shape = (DIMENSION,) if rows is None else (rows, DIMENSION)
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_mixture_is_exact_at_both_ends_and_solves_only_where_it_must() -> None:
    several = personal()
    x = point()
    mixed = several.deployed(x, ALPHA)
    assert [member.solved for member in several.members] == [True, True, False, True, False]
    optima = several.local_optima(torch.tensor([0, 1, 3]))
    assert torch.equal(mixed[0], optima[0])
    assert torch.equal(mixed[2], x)
    assert torch.equal(mixed[4], x)
    assert torch.allclose(mixed[1], 0.25 * x + 0.75 * optima[1], rtol=1e-15)


def test_without_personal_clients_x_passes_untouched() -> None:
    several = personal()
    x = point()
    assert several.deployed(x, torch.ones(CLIENTS, dtype=torch.float64)) is x
    assert not any(member.solved for member in several.members)


def test_a_client_alone_gives_the_bits_of_the_batch() -> None:
    several = personal()
    rows = torch.tensor([1, 3])
    points = point(rows=2)
    mixed = several.deployed(points, ALPHA[rows], clients=rows)
    flix = several.flix(ALPHA)
    values, slopes = flix.value_and_gradient(points, clients=rows)
    for place, index in enumerate(rows.tolist()):
        alone = PersonalObjective.stack([several.members[index]])
        weight = ALPHA[index : index + 1]
        assert torch.equal(alone.deployed(points[place], weight)[0], mixed[place])
        value, slope = alone.flix(weight).value_and_gradient(points[place])
        assert torch.equal(value[0], values[place])
        assert torch.equal(slope[0], slopes[place])


def test_the_flix_functions_are_what_autograd_says() -> None:
    several, x = personal(), point().requires_grad_()
    flix = several.flix(ALPHA)
    values, slopes = flix.value_and_gradient(x.detach())
    optima = several.local_optima()
    for index, one in enumerate(logistic()):
        deployed = ALPHA[index] * x + (1 - ALPHA[index]) * optima[index]
        margins = one.labels * (one.features @ deployed)
        value = torch.nn.functional.softplus(-margins).mean() + 0.1 * deployed @ deployed
        (slope,) = torch.autograd.grad(value, x, allow_unused=True)
        slope = torch.zeros_like(x) if slope is None else slope
        assert torch.allclose(values[index], value.detach(), rtol=1e-12)
        assert torch.allclose(slopes[index], slope, rtol=1e-10, atol=1e-13)
        assert float(flix.values(x.detach())[index]) == pytest.approx(float(value.detach()))
        assert float(flix.accuracy(x.detach())[index]) == float(one.accuracy(deployed.detach()))


def test_the_pieces_delegate_to_the_clients_own_functions() -> None:
    several, x = personal(), point()
    plain = LogisticRegression.stack(logistic())
    for ours, theirs in zip(
        several.value_and_gradient(x), plain.value_and_gradient(x), strict=True
    ):
        assert torch.equal(ours, theirs)
    assert torch.equal(several.values(x), plain.values(x))
    assert torch.equal(several.accuracy(x), plain.accuracy(x))
    assert torch.equal(several.num_examples, plain.num_examples)
    assert (len(several), several.dimension, several.dtype) == (CLIENTS, DIMENSION, torch.float64)
    assert several.remembering() is several
    assert logistic_smoothness(several.inner) == logistic_smoothness(plain)
    one = several.members[1]
    assert torch.equal(one.value(x), logistic()[1].value(x))
    assert one.num_examples == 7
    assert list(one.initial_arrays()) == ["weight"]


def test_a_stored_optimum_takes_the_place_of_solving() -> None:
    several = personal()
    stored = LocalOptimum(x=point(), residual=0.0, passes=3.0)
    several.members[0].restore(stored)
    assert torch.equal(several.local_optima(torch.tensor([0]))[0], stored.x)
    with pytest.raises(ValueError, match="shape"):
        several.members[1].restore(LocalOptimum(x=torch.zeros(3), residual=0.0, passes=0.0))


def test_what_cannot_be_stacked_is_refused() -> None:
    with pytest.raises(ValueError, match="each other"):
        PersonalObjective.stack([])
    with pytest.raises(ValueError, match="each other"):
        PersonalObjective.stack([personal().members[0], logistic()[0]])
    with pytest.raises(ValueError, match="5 weights"):
        personal().flix(torch.ones(2))


def test_the_exact_solver_reaches_its_tolerance() -> None:
    for one in logistic():
        found = ExactLocalSolver(tolerance=1e-12).solve(
            one, start=torch.zeros(DIMENSION).double(), key=torch.zeros(1).long()
        )
        slope = one.value_and_gradient(found.x)[1]
        assert float(slope.norm()) <= 1e-12
        assert found.residual == pytest.approx(float(slope.norm()))
        assert 1 < found.passes < 30


def test_the_exact_solver_takes_softmax_regression_with_its_constant() -> None:
    draw = torch.Generator().manual_seed(0)
    rows = torch.randn(20, 3, generator=draw, dtype=torch.float64)
    f_i = TorchObjective(
        module=linear_classifier(3, 4, dtype=torch.float64),
        loss=torch.nn.CrossEntropyLoss(),
        data=(rows, torch.randint(4, (20,), generator=draw)),
        l2=0.1,
    )
    known = softmax_smoothness([rows], l2=0.1).L
    start = torch.zeros(f_i.dimension, dtype=torch.float64)
    key = torch.zeros(1, dtype=torch.int64)
    found = ExactLocalSolver(tolerance=1e-8, smoothness=known).solve(f_i, start=start, key=key)
    assert float(f_i.value_and_gradient(found.x)[1].norm()) <= 1e-8
    with pytest.raises(ValueError, match="L"):
        ExactLocalSolver().solve(f_i, start=start, key=key)


def test_a_tolerance_out_of_reach_is_an_error() -> None:
    one = logistic()[0]
    coarse = LogisticRegression(features=one.features.float(), labels=one.labels.float(), l2=one.l2)
    with pytest.raises(SolveError, match="residual"):
        ExactLocalSolver(tolerance=1e-14).solve(
            coarse, start=torch.zeros(DIMENSION), key=torch.zeros(1).long()
        )


def test_local_sgd_is_the_plain_loop_over_shuffled_batches() -> None:
    one, key = logistic()[4], torch.tensor([11])
    start = point()
    found = LocalSGD(epochs=3, stepsize=0.2, batch_size=4).solve(one, start=start, key=key)
    x = start.clone()
    for epoch in range(3):
        order = random_bits(derived_keys(key, epoch), 10)[0].argsort(stable=True)
        for rows in (order[:4], order[4:8], order[8:]):
            features, labels = one.features[rows], one.labels[rows]
            weights = torch.sigmoid(-labels * (features @ x)) * labels / len(rows)
            x = x - 0.2 * (one.l2 * x - features.T @ weights)
    assert torch.allclose(found.x, x, rtol=1e-12, atol=1e-14)
    assert torch.equal(
        found.x, LocalSGD(epochs=3, stepsize=0.2, batch_size=4).solve(one, start=start, key=key).x
    )
    other = LocalSGD(epochs=3, stepsize=0.2, batch_size=4).solve(one, start=start, key=key + 1)
    assert not torch.equal(found.x, other.x)
    assert found.passes == 4
    assert found.residual == pytest.approx(float(one.value_and_gradient(found.x)[1].norm()))


def test_local_sgd_trains_a_network_on_its_rows() -> None:
    draw = torch.Generator().manual_seed(0)
    rows, labels = torch.randn(30, 3, generator=draw), torch.randint(2, (30,), generator=draw)
    f_i = TorchObjective(
        module=mlp_classifier(3, 2, width=4, dtype=torch.float32),
        loss=torch.nn.CrossEntropyLoss(),
        data=(rows, labels),
    )
    start = torch.randn(f_i.dimension, generator=draw)
    found = LocalSGD(epochs=20, stepsize=0.5, batch_size=8).solve(
        f_i, start=start, key=torch.tensor([0])
    )
    assert float(f_i.value(found.x)) < 0.8 * float(f_i.value(start))
    everything, slope = f_i.at_rows(start, torch.arange(30))
    assert torch.allclose(everything, f_i.value(start))
    assert torch.allclose(slope, f_i.value_and_gradient(start)[1])


def test_the_settings_are_checked_and_say_what_they_are() -> None:
    assert LocalSGD(epochs=2, stepsize=0.5).spec == "sgd:epochs=2,stepsize=0.5"
    assert LocalSGD(epochs=2, stepsize=0.5, batch_size=8).spec.endswith(",batch_size=8")
    assert ExactLocalSolver().spec == "exact:tolerance=1e-12"
    for wrong in ({"epochs": 0, "stepsize": 1.0}, {"epochs": 1, "stepsize": 0.0}):
        with pytest.raises(ValueError, match=r"epochs|stepsize"):
            LocalSGD(**wrong)  # type: ignore[arg-type]


def test_the_flix_minimiser_has_no_gradient_left() -> None:
    several = personal()
    for alpha in (ALPHA, torch.full((CLIENTS,), 0.3, dtype=torch.float64)):
        flix = several.flix(alpha)
        found = minimise_flix(flix, tolerance=1e-12)
        values, slopes = flix.value_and_gradient(found.x)
        assert float(slopes.mean(dim=0).norm()) <= 1e-12
        assert found.value == pytest.approx(float(values.mean()))
    ones = torch.ones(CLIENTS, dtype=torch.float64)
    plain = minimise(LogisticRegression.stack(logistic()))
    assert torch.allclose(minimise_flix(several.flix(ones)).x, plain.x, atol=1e-9)


def test_the_flix_minimiser_of_other_functions_needs_their_constant() -> None:
    draw = torch.Generator().manual_seed(0)
    rows = [torch.randn(12, 2, generator=draw, dtype=torch.float64) for _ in range(3)]
    members = [
        PersonalObjective(
            objective=TorchObjective(
                module=linear_classifier(2, 3, dtype=torch.float64),
                loss=torch.nn.CrossEntropyLoss(),
                data=(part, torch.randint(3, (12,), generator=draw)),
                l2=0.2,
            ),
            solver=ExactLocalSolver(
                tolerance=1e-9, smoothness=softmax_smoothness([part], l2=0.2).L
            ),
            key=torch.zeros(1, dtype=torch.int64),
        )
        for part in rows
    ]
    flix = PersonalObjective.stack(members).flix(torch.full((3,), 0.5, dtype=torch.float64))
    with pytest.raises(ValueError, match="state it"):
        minimise_flix(flix)
    found = minimise_flix(
        flix, smoothness=0.25 * softmax_smoothness(rows, l2=0.2).L_max, tolerance=1e-8
    )
    assert float(flix.value_and_gradient(found.x)[1].mean(dim=0).norm()) <= 1e-8
