"""SPPM-AS through Flower: identities, every path the same, and what happens when clients drop."""

from __future__ import annotations

import logging
from math import log
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord
from flwr.serverapp.strategy import Strategy

from fedstrategies.engines import CohortGrid
from fedstrategies.flower import AllClientsFailed, BaseStrategy, Diverged
from fedstrategies.objectives import L1, LogisticRegression, Smoothness, SquaredL2
from fedstrategies.sampling import (
    BlockSampling,
    FullParticipation,
    NiceSampling,
    NonuniformSampling,
    Sampling,
    StratifiedSampling,
)
from fedstrategies.sppm import (
    LBFGS,
    SPPM,
    AdamSolver,
    ConjugateGradient,
    FedProx,
    LocalGD,
    LocalGDSolver,
    ProxGD,
)
from tests.flower.faults import Faults, FaultyGrid
from tests.quadratics import Quadratic
from tests.sppm.problem import (
    CLIENTS,
    LAWS,
    Quadratics,
    Setting,
    logistic_setting,
    quadratic_setting,
)

EVERYONE = (tuple(range(CLIENTS)),)
SINGLETONS = tuple((i,) for i in range(CLIENTS))


def run(
    setting: Setting,
    strategy: BaseStrategy,
    rounds: int,
    fast: Any = "require",
    evaluate: float = 0.0,
) -> CohortGrid:
    strategy.fraction_evaluate = evaluate
    grid = CohortGrid(setting.app, num_clients=CLIENTS, fast=fast, serialize=fast == "never")
    strategy.start(grid, setting.start, num_rounds=rounds)
    return grid


SEVERAL = {
    "gd": lambda s: SPPM(solver=ProxGD(), inner_rounds=3, smoothness=s, sampling=LAWS["nice"]),
    "gd-l1": lambda s: SPPM(
        solver=ProxGD(), inner_rounds=3, prox=L1(0.01), smoothness=s, sampling=LAWS["block"]
    ),
    "cg": lambda s: SPPM(
        solver=ConjugateGradient(), inner_rounds=4, smoothness=s, sampling=LAWS["stratified"]
    ),
    "lbfgs": lambda s: SPPM(inner_rounds=5, sampling=LAWS["nonuniform"]),
    "local-gd": lambda s: SPPM(
        solver=LocalGDSolver(steps=3), inner_rounds=3, smoothness=s, sampling=LAWS["block"]
    ),
    "local-gd-l2": lambda s: SPPM(
        solver=LocalGDSolver(steps=2),
        inner_rounds=2,
        prox=SquaredL2(0.3),
        smoothness=s,
        sampling=LAWS["nice"],
    ),
    "adam": lambda s: SPPM(solver=AdamSolver(lr=0.1), inner_rounds=3, sampling=LAWS["nice"]),
    "tolerance": lambda s: SPPM(
        solver=ProxGD(), inner_rounds=50, tolerance=1e-3, smoothness=s, sampling=LAWS["nice"]
    ),
    "localgd": lambda s: LocalGD(local_steps=3, smoothness=s, sampling=LAWS["block"]),
    "fedprox": lambda s: FedProx(
        local_steps=3, prox_stepsize=2.0, smoothness=s, sampling=LAWS["stratified"]
    ),
}


@pytest.mark.parametrize("make", SEVERAL.values(), ids=SEVERAL)
def test_the_fast_path_and_messages_give_the_same_bits_and_bytes(make: Any) -> None:
    setting = logistic_setting()
    batched, by_message = make(setting.smoothness), make(setting.smoothness)
    # What an evaluation costs does not depend on the method: one of them shows it.
    evaluate = float(make is SEVERAL["gd"])
    run(setting, batched, 12, evaluate=evaluate)
    run(setting, by_message, 12, fast="never", evaluate=evaluate)
    assert torch.equal(batched.x, by_message.x)
    assert batched.bytes == by_message.bytes
    assert batched.outer_round == by_message.outer_round
    assert batched.bytes.recovery == 0


@pytest.mark.parametrize("make", SEVERAL.values(), ids=SEVERAL)
def test_upstreams_own_loop_drives_it_to_the_same_bits(make: Any) -> None:
    setting = logistic_setting()
    ours, theirs = make(setting.smoothness), make(setting.smoothness)
    run(setting, ours, 9)
    theirs.fraction_evaluate = 0.0
    grid = CohortGrid(setting.app, num_clients=CLIENTS, fast="never")
    result = Strategy.start(theirs, grid, setting.start, num_rounds=9)
    assert torch.equal(ours.x, theirs.x)
    assert np.array_equal(result.arrays["x"].numpy(), ours.x.numpy())


@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)
@pytest.mark.parametrize("solver", [ProxGD(), ConjugateGradient(), LBFGS()], ids=lambda s: s.spec)
def test_outer_steps_are_exact_proxes_in_the_limit(law: Sampling, solver: Any) -> None:
    setting, quadratics = quadratic_setting(), Quadratics()
    strategy = SPPM(
        prox_stepsize=0.7,
        solver=solver,
        inner_rounds=400,
        tolerance=1e-13,
        smoothness=setting.smoothness,
        sampling=law,
        seed=4,
    )
    x = torch.zeros(4).double()
    steps = 3

    class StopAfter:
        def on_start(self, x: torch.Tensor) -> None: ...
        def on_end(self) -> None: ...
        def on_round(self, record: Any) -> bool:
            return bool(record.outer_round == steps)

    grid = CohortGrid(setting.app, num_clients=CLIENTS)
    strategy.start(grid, setting.start, num_rounds=3000, callbacks=[StopAfter()])
    assert strategy.outer_round == steps
    for step in range(1, steps + 1):
        members = law.draw(CLIENTS, seed=4, round=step)
        x = quadratics.prox(x, law, members, 0.7)
    torch.testing.assert_close(strategy.x, x, rtol=0, atol=1e-11)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (NiceSampling(cohort_size=CLIENTS), FullParticipation()),
        (BlockSampling(blocks=EVERYONE), FullParticipation()),
        (StratifiedSampling(strata=SINGLETONS), FullParticipation()),
        (
            BlockSampling(blocks=SINGLETONS, probabilities=LAWS["nonuniform"].probabilities),  # type: ignore[attr-defined]
            LAWS["nonuniform"],
        ),
    ],
    ids=["nice-n", "one-block", "singleton-strata", "singleton-blocks"],
)
def test_corner_samplings_give_the_same_run(one: Sampling, other: Sampling) -> None:
    found = []
    for law in (one, other):
        setting = quadratic_setting()
        strategy = SPPM(sampling=law, inner_rounds=4, smoothness=setting.smoothness)
        run(setting, strategy, 40)
        found.append(strategy.x)
    torch.testing.assert_close(found[0], found[1], rtol=1e-12, atol=1e-12)


def test_one_inner_round_is_a_gradient_step_to_second_order() -> None:
    """``x+ = x - gamma grad f_C(x) + O(gamma^2)``: slope 2 on a log-log scale."""
    gammas = [1e-2, 1e-3, 1e-4, 1e-5]
    for solver in (ProxGD(), ConjugateGradient(), LBFGS(), LocalGDSolver(steps=1)):
        for law in LAWS.values():
            errors = []
            for gamma in gammas:
                setting, quadratics = quadratic_setting(), Quadratics()
                strategy = SPPM(
                    prox_stepsize=gamma,
                    inner_rounds=1,
                    solver=solver,
                    smoothness=setting.smoothness,
                    sampling=law,
                )
                run(setting, strategy, 1)
                members = law.draw(CLIENTS, seed=0, round=1)
                weights = quadratics.weights(law, members)
                gradient = -(weights.unsqueeze(1) * quadratics.linear[members]).sum(0)
                errors.append(float((strategy.x + gamma * gradient).norm()))
            slope = log(errors[0] / errors[-1]) / log(gammas[0] / gammas[-1])
            assert slope == pytest.approx(2.0, abs=0.02), (solver.spec, law)


def test_full_participation_is_the_deterministic_proximal_point_method() -> None:
    setting = logistic_setting()
    strategy = SPPM(
        prox_stepsize=100.0, inner_rounds=15, smoothness=setting.smoothness, fraction_train=1.0
    )
    run(setting, strategy, 90)
    gradient = LogisticRegression.stack(setting.objectives).value_and_gradient(strategy.x)[1]
    assert float(gradient.mean(0).norm()) < 1e-10


def test_the_anchor_travels_only_where_it_differs_from_the_point() -> None:
    setting = quadratic_setting()
    plain = SPPM(solver=ProxGD(), inner_rounds=3, smoothness=setting.smoothness)
    local = SPPM(solver=LocalGDSolver(steps=2), inner_rounds=3, smoothness=setting.smoothness)
    run(setting, plain, 3)
    run(setting, local, 3)
    vector = 8 * 4  # d = 4 in float64
    constants = 4 * 8 + len("local-prox") - len("gradient")
    extra = local.bytes.downlink - plain.bytes.downlink
    assert extra == CLIENTS * (3 * constants + 2 * vector)
    assert local.bytes.uplink == plain.bytes.uplink


def test_one_local_step_is_gradient_descent_on_the_prox_problem() -> None:
    """eta local steps of length 1 move by eta/W times grad phi."""
    setting = quadratic_setting()
    law = LAWS["block"]
    local = SPPM(
        solver=LocalGDSolver(steps=1, stepsize=0.05),
        inner_rounds=5,
        sampling=law,
        prox_stepsize=2.0,
    )
    run(setting, local, 5)
    members = law.draw(CLIENTS, seed=0, round=1)
    weight = float(Quadratics().weights(law, members).sum())
    plain = SPPM(
        solver=ProxGD(stepsize=0.05 / weight), inner_rounds=5, sampling=law, prox_stepsize=2.0
    )
    run(setting, plain, 5)
    torch.testing.assert_close(local.x, plain.x, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)
def test_local_gd_with_one_step_is_mini_batch_gradient_descent(law: Sampling) -> None:
    setting, quadratics = quadratic_setting(), Quadratics()
    strategy = LocalGD(stepsize=0.01, sampling=law, seed=2)
    run(setting, strategy, 6)
    x = torch.zeros(4).double()
    for round in range(1, 7):
        members = law.draw(CLIENTS, seed=2, round=round)
        gradients = (quadratics.hessians @ x - quadratics.linear)[members]
        x = x - 0.01 * (quadratics.weights(law, members).unsqueeze(1) * gradients).sum(0)
    torch.testing.assert_close(strategy.x, x, rtol=1e-12, atol=1e-13)


def test_fedprox_is_the_exact_prox_for_a_single_client_only() -> None:
    setting, quadratics = quadratic_setting(), Quadratics()
    gamma, members = 0.8, torch.arange(CLIENTS)
    law = NonuniformSampling.uniform(CLIENTS)
    single = FedProx(
        local_steps=3000, prox_stepsize=gamma, smoothness=setting.smoothness, sampling=law
    )
    run(setting, single, 1)
    member = law.draw(CLIENTS, seed=0, round=1)
    exact = quadratics.prox(torch.zeros(4).double(), law, member, gamma)
    torch.testing.assert_close(single.x, exact, rtol=0, atol=1e-10)
    everyone = FedProx(local_steps=3000, prox_stepsize=gamma, smoothness=setting.smoothness)
    run(setting, everyone, 1)
    prox = quadratics.prox(torch.zeros(4).double(), FullParticipation(), members, gamma)
    assert float((everyone.x - prox).norm()) > 1e-2


# ---------------------------------------------------------------- clients that drop


LOSSES = Faults(lose_reply=0.2, lose_request=0.05, wipe_state=0.1)


def faulty(setting: Setting, faults: Faults, seed: int = 0) -> FaultyGrid:
    return FaultyGrid(setting.app, num_clients=CLIENTS, faults=faults, seed=seed)


def test_a_cohort_with_lost_messages_computes_what_it_would_have() -> None:
    """Answers stay, the silent are asked again, the same cohort goes on to the same bits."""
    setting = logistic_setting()
    settings: dict[str, Any] = {"inner_rounds": 4, "sampling": NiceSampling(cohort_size=3)}
    undisturbed, disturbed = SPPM(**settings), SPPM(**settings)
    run(setting, undisturbed, 40)
    grid = faulty(setting, LOSSES)
    disturbed.start(grid, setting.start, num_rounds=1)
    while disturbed.outer_round < 10:
        disturbed.start(grid, disturbed.arrays, num_rounds=1)
    assert disturbed.incidents["biased_redraws"] == 0
    assert disturbed.incidents["asked_again"] > 5
    assert disturbed.round == 40 + disturbed.incidents["asked_again"]
    assert torch.equal(disturbed.x, undisturbed.x)


class Silent(CohortGrid):
    """A grid on which some partitions never answer."""

    def __init__(self, *args: Any, silent: tuple[int, ...], **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.silent = silent
        self.asked: list[list[int]] = []

    def send_and_receive(self, messages: Any, *, timeout: float | None = None) -> Any:
        sent = list(messages)
        partitions = [self.partitions[m.metadata.dst_node_id] for m in sent]
        self.asked.append(partitions)
        heard = [m for m, p in zip(sent, partitions, strict=True) if p not in self.silent]
        return super().send_and_receive(heard, timeout=timeout)


def test_a_silent_client_is_asked_three_times_then_a_fresh_cohort_is_drawn(
    caplog: pytest.LogCaptureFixture,
) -> None:
    setting = quadratic_setting()
    law = BlockSampling(blocks=((0, 1, 2, 3), (4, 5, 6, 7)))
    draws = [law.draw(CLIENTS, seed=2, round=r).tolist() for r in range(1, 20)]
    assert draws[0] != draws[1]
    first = draws[0]
    grid = Silent(setting.app, num_clients=CLIENTS, silent=(first[1],))
    strategy = SPPM(
        sampling=law, inner_rounds=2, smoothness=setting.smoothness, fraction_evaluate=0.0, seed=2
    )
    with caplog.at_level(logging.WARNING, logger="flwr"):
        strategy.start(grid, setting.start, num_rounds=4)
    assert grid.asked == [first, [first[1]], [first[1]], [first[1]]]
    assert torch.equal(strategy.x, torch.zeros(4).double())
    assert strategy.incidents == {
        "asked_again": 3,
        "biased_redraws": 1,
        "frozen_cohorts": 0,
        "restarts": 0,
    }
    assert strategy.outer_round == 1
    assert f"partitions {first[1]} do not answer; a fresh cohort is drawn" in caplog.text
    strategy.start(grid, strategy.arrays, num_rounds=1)
    assert grid.asked[-1] == draws[1]


def test_nobody_answering_is_a_round_like_any() -> None:
    setting = quadratic_setting()
    grid = Silent(setting.app, num_clients=CLIENTS, silent=tuple(range(CLIENTS)))
    strategy = SPPM(sampling=LAWS["nice"], smoothness=setting.smoothness, fraction_evaluate=0.0)
    strategy.start(grid, setting.start, num_rounds=8)
    assert strategy.round == 8
    assert strategy.incidents["biased_redraws"] == 2
    assert torch.equal(strategy.x, torch.zeros(4).double())


def test_freezing_goes_on_with_those_who_answered_first() -> None:
    setting, quadratics = quadratic_setting(), Quadratics()
    grid = Silent(setting.app, num_clients=CLIENTS, silent=(1, 6))
    strategy = SPPM(
        prox_stepsize=0.7,
        inner_rounds=60,
        tolerance=1e-12,
        dropouts="freeze",
        smoothness=setting.smoothness,
        fraction_evaluate=0.0,
    )
    while strategy.outer_round < 1:
        arrays = setting.start if strategy.round == 0 else strategy.arrays
        strategy.start(grid, arrays, num_rounds=1)
    present = torch.tensor([0, 2, 3, 4, 5, 7])
    assert all(sorted(asked) == present.tolist() for asked in grid.asked[1:])
    # The responders' own mean objective: full participation of those six.
    expected = torch.linalg.solve(
        torch.eye(4).double() + 0.7 * quadratics.hessians[present].mean(0),
        0.7 * quadratics.linear[present].mean(0),
    )
    torch.testing.assert_close(strategy.x, expected, rtol=0, atol=1e-10)
    assert strategy.incidents == {
        "asked_again": 0,
        "biased_redraws": 0,
        "frozen_cohorts": 1,
        "restarts": 0,
    }


def test_a_wiped_client_answers_at_once() -> None:
    setting = logistic_setting()
    plain, wiped = SPPM(inner_rounds=3), SPPM(inner_rounds=3)
    run(setting, plain, 9)
    wiped.start(faulty(setting, Faults(wipe_state=0.5)), setting.start, num_rounds=9)
    assert wiped.incidents["asked_again"] == 0
    assert torch.equal(plain.x, wiped.x)


def test_if_every_client_raises_the_run_ends_with_the_reason() -> None:
    setting = quadratic_setting()

    def broken(context: Any) -> Any:
        raise RuntimeError("no such file: rows.csv")

    setting.app = type(setting.app)(broken)
    grid = CohortGrid(setting.app, num_clients=CLIENTS, fast="never")
    with pytest.raises(AllClientsFailed, match=r"rows\.csv"):
        SPPM(smoothness=setting.smoothness).start(grid, setting.start, num_rounds=20)
    once = SPPM(smoothness=setting.smoothness, fraction_evaluate=0.0)
    once.start(grid, setting.start, num_rounds=3)  # asked three times, not given up yet
    assert once.incidents["asked_again"] == 3


def test_a_model_changed_from_outside_starts_the_same_cohort_anew() -> None:
    setting = quadratic_setting()
    strategy = SPPM(inner_rounds=5, sampling=LAWS["nice"], smoothness=setting.smoothness)
    grid = CohortGrid(setting.app, num_clients=CLIENTS, fast="never")
    strategy.start(grid, setting.start, num_rounds=2)
    other = ArrayRecord({"x": Array(np.ones(4))})
    strategy.start(grid, other, num_rounds=5)
    fresh = SPPM(inner_rounds=5, sampling=LAWS["nice"], smoothness=setting.smoothness)
    fresh.start(CohortGrid(setting.app, num_clients=CLIENTS), other, num_rounds=5)
    assert torch.equal(strategy.x, fresh.x)


def test_an_inner_step_that_is_too_large_is_a_divergence() -> None:
    setting = quadratic_setting()
    strategy = SPPM(solver=ProxGD(stepsize=1e200), inner_rounds=10)
    with pytest.raises(Diverged, match="left the finite numbers"):
        run(setting, strategy, 10)


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"prox_stepsize": 0.0}, "prox_stepsize = 0.0 is not positive"),
        ({"inner_rounds": 0}, "at least one is needed"),
        ({"tolerance": -1.0}, "tolerance = -1.0"),
        ({"dropouts": "ignore"}, "neither 'retry' nor 'freeze'"),
        ({"on_failure": "redo"}, "asks silent clients again"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        SPPM(**settings)


def test_what_the_solver_cannot_do_is_said_before_the_first_round() -> None:
    setting = quadratic_setting()
    for strategy, why in (
        (SPPM(solver=ProxGD()), "needs L_i for its step size"),
        (SPPM(solver=LocalGDSolver()), "needs L_i for its step size"),
        (SPPM(prox=L1(0.1)), "use gd, which takes proximal steps"),
        (LocalGD(), "LocalGD needs L_i"),
        (SPPM(sampling=NonuniformSampling.uniform(3)), "is for 3 clients, there are 8"),
    ):
        with pytest.raises(ValueError, match=why):
            run(setting, strategy, 1)


def test_a_frozen_cohort_takes_steps_of_its_own_smoothness() -> None:
    """The reliable clients' L_C, scaled up, can be far above the whole cohort's."""
    objectives = [
        Quadratic(torch.eye(1).double() * steep, torch.ones(1).double())
        for steep in (1, 1, 1, 1, 1, 1, 1, 100.0)
    ]
    known = Smoothness(L=14, L_tilde=36, L_max=100, L_i=(1.0,) * 7 + (100.0,), mu_i=(1.0,) * 8)
    setting = Setting(list(objectives), known)
    grid = Silent(setting.app, num_clients=CLIENTS, silent=tuple(range(6)))
    strategy = SPPM(
        solver=ProxGD(),
        dropouts="freeze",
        inner_rounds=60,
        prox_stepsize=10.0,
        smoothness=known,
        fraction_evaluate=0.0,
    )
    strategy.start(grid, setting.start, num_rounds=60)
    assert strategy.outer_round > 0
    assert 0.9 < float(strategy.x[0]) < 1.0 + 1e-12


def test_what_is_returned_meets_the_tolerance() -> None:
    """Not the next trial, at which nobody has looked."""
    setting, quadratics = quadratic_setting(), Quadratics()
    for solver in (ProxGD(stepsize=0.2), ConjugateGradient(), LBFGS()):
        strategy = SPPM(
            solver=solver, inner_rounds=500, tolerance=1e-3, prox_stepsize=1000.0, sampling=None
        )
        grid = CohortGrid(setting.app, num_clients=CLIENTS)
        while strategy.outer_round < 1:
            arrays = setting.start if strategy.round == 0 else strategy.arrays
            strategy.start(grid, arrays, num_rounds=1)
        z = strategy.x
        gradient = (quadratics.hessians @ z - quadratics.linear).mean(0) + z / 1000.0
        assert float(gradient.norm()) <= 1e-3, solver.spec


def test_one_blind_inner_round_is_refused() -> None:
    setting = quadratic_setting()
    with pytest.raises(ValueError, match="one inner round teaches it no curvature"):
        run(setting, SPPM(inner_rounds=1), 1)
    two = SPPM(inner_rounds=2, prox_stepsize=1e6)
    run(setting, two, 20)
    assert float(two.x.norm()) < 100


def test_arrays_that_were_copied_are_the_same_model() -> None:
    setting = quadratic_setting()
    plain = SPPM(inner_rounds=4, smoothness=setting.smoothness, fraction_evaluate=0.0)
    run(setting, plain, 12)
    copied = SPPM(inner_rounds=4, smoothness=setting.smoothness, fraction_evaluate=0.0)
    grid = CohortGrid(setting.app, num_clients=CLIENTS, fast="never")
    arrays = setting.start
    for _ in range(12):
        copied.start(grid, arrays, num_rounds=1)
        arrays = ArrayRecord({"x": Array(copied.arrays["x"].numpy().copy())})
    assert copied.outer_round == 3
    assert torch.equal(copied.x, plain.x)


def test_a_wrapper_that_moves_the_model_is_told_what_it_does(
    caplog: pytest.LogCaptureFixture,
) -> None:
    setting = quadratic_setting()
    strategy = SPPM(inner_rounds=4, smoothness=setting.smoothness, fraction_evaluate=0.0)
    grid = CohortGrid(setting.app, num_clients=CLIENTS, fast="never")
    with caplog.at_level(logging.WARNING, logger="flwr"):
        for number in range(3):
            arrays = ArrayRecord({"x": Array(np.full(4, float(number)))})
            strategy.start(grid, arrays, num_rounds=1)
    assert strategy.incidents["restarts"] == 2
    assert "begins anew: the model was changed from outside" in caplog.text
    assert "rounds do not complete a cohort" in caplog.text


def test_the_default_local_step_is_safe_for_uneven_laws() -> None:
    """Its mean move is multiplied by up to W = 1/(n min p_i)."""
    draw = torch.Generator().manual_seed(0)
    objectives = [
        Quadratic(torch.eye(2).double() * 10, torch.randn(2, generator=draw).double())
        for _ in range(8)
    ]
    known = Smoothness(L=10, L_tilde=10, L_max=10, L_i=(10.0,) * 8, mu_i=(10.0,) * 8)
    law = NonuniformSampling.for_strong_convexity(torch.tensor([9.0] + 7 * [0.5]))
    for method in (LocalGD, FedProx):
        setting = Setting(list(objectives), known)
        strategy = method(sampling=law, smoothness=known)
        run(setting, strategy, 200)
        assert float(strategy.x.norm()) < 20
    even = LocalGD(sampling=LAWS["stratified"], smoothness=known)
    run(Setting(list(objectives), known), even, 1)
    assert even.gamma == pytest.approx(0.1)
