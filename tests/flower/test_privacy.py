"""Privacy in the shell: charged, kept, told, and never more than the budget."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import Strategy

from fedstrategies.compressors import RandK, TopK
from fedstrategies.efbv import EFBVClient, GradientDescent
from fedstrategies.engines import CohortGrid
from fedstrategies.flower import (
    AllClientsFailed,
    BaseClient,
    BaseStrategy,
    ClientRule,
    weighted_mean,
)
from fedstrategies.flower.metrics import aggregate_metrics
from fedstrategies.flower.records import LEDGER
from fedstrategies.flower.spending import load_spending, say_that_noise_is_simulated
from fedstrategies.objectives import Objective
from fedstrategies.privacy import (
    BudgetSpent,
    NoisePurpose,
    Privacy,
    PrivacyError,
    PrivateObjective,
    simulated_secret,
    stream_key,
)
from fedstrategies.sampling import NiceSampling
from fedstrategies.scafflix import FLIX, FedAvg, Scafflix, ScafflixClient
from fedstrategies.sppm import SPPM, LocalGD, SPPMClient, parse_solver
from tests.flower.conftest import CLIENTS, DIMENSION, Setting
from tests.flower.private_setting import (
    DELTA,
    DEPLOYED,
    SIMULATED,
    app_of,
    efbv,
    follow,
    lasting,
    node_ledger,
    node_releases,
    releases,
    server_releases,
)

pytest.importorskip("opacus", reason="the extra 'privacy' is not installed")

METHODS: dict[str, tuple[type[BaseClient], Any]] = {
    "efbv": (EFBVClient, lambda s: efbv(s)),
    "efbv-top": (EFBVClient, lambda s: efbv(s, compressor=TopK(k=3))),
    "efbv-downlink": (
        EFBVClient,
        lambda s: efbv(
            s,
            compressor=TopK(k=3),
            downlink=TopK(k=2),
            stepsize=0.05,
            sampling=NiceSampling(cohort_size=5),
        ),
    ),
    "gd-downlink": (
        EFBVClient,
        lambda s: GradientDescent(
            downlink=TopK(k=4), smoothness=s.smoothness, stepsize=0.05, fraction_evaluate=0
        ),
    ),
    "efbv-gradient-5-of-8": (
        EFBVClient,
        lambda s: efbv(
            s,
            compressor=RandK(k=3),
            shift_init="gradient",
            sampling=NiceSampling(cohort_size=5),
        ),
    ),
    "scafflix": (
        ScafflixClient,
        lambda s: Scafflix(alpha=1.0, smoothness=s.smoothness, p=0.4, fraction_evaluate=0),
    ),
    "fedavg": (
        ScafflixClient,
        lambda s: FedAvg(local_steps=3, stepsize=0.1, fraction_evaluate=0),
    ),
    "sppm-gd": (
        SPPMClient,
        lambda s: SPPM(
            solver=parse_solver("gd"),
            inner_rounds=4,
            smoothness=s.smoothness,
            sampling=NiceSampling(cohort_size=5),
            fraction_evaluate=0,
        ),
    ),
    "local-gd": (
        SPPMClient,
        lambda s: LocalGD(local_steps=3, stepsize=0.1, fraction_evaluate=0),
    ),
}


@pytest.mark.parametrize("budget", [None, 2], ids=["endless", "ends"])
@pytest.mark.parametrize("method", METHODS)
def test_both_paths_give_the_same_history(
    setting: Setting, method: str, budget: int | None
) -> None:
    kind, make = METHODS[method]

    def privacy(index: int) -> Privacy:
        # Batches of different rates, budgets that end at different times, some half-way.
        own = replace(SIMULATED, expected_batch_size=None if index % 2 else 3)
        return own if budget is None or index % 2 == 0 else lasting(own, budget + index)

    histories = []
    for options in ({"fast": "require"}, {"fast": "never"}, {"fast": "never", "serialize": True}):
        strategy = make(setting)
        grid = CohortGrid(app_of(setting, privacy, kind), num_clients=CLIENTS, **options)
        rounds = 20 if method in ("efbv", "efbv-top") else 8
        histories.append((follow(strategy, grid, setting.start, rounds), strategy, grid))
    fast, strategy, grid = histories[0]
    for other, their_strategy, their_grid in histories[1:]:
        assert fast.records == other.records
        for ours, theirs in zip(fast.points, other.points, strict=True):
            assert torch.equal(ours, theirs)
        assert strategy.accounts == their_strategy.accounts
        assert node_releases(grid) == node_releases(their_grid) == server_releases(strategy)
    failed = any(failures for _, _, failures, *_ in fast.records)
    assert failed == (budget is not None)
    assert not torch.equal(fast.points[0], fast.points[-1])


def test_every_release_is_charged_and_known_on_both_sides(setting: Setting) -> None:
    strategy = METHODS["fedavg"][1](setting)
    grid = CohortGrid(app_of(setting, DEPLOYED, ScafflixClient), num_clients=CLIENTS, fast="never")
    strategy.start(grid, setting.start, num_rounds=4)
    assert node_releases(grid) == server_releases(strategy) == [12] * CLIENTS
    expected = releases(12).epsilon(DELTA)
    assert strategy.accounts.epsilons(DELTA).tolist() == [expected] * CLIENTS
    assert strategy.accounts.largest(DELTA) == expected
    assert strategy.accounts.mean(DELTA) == pytest.approx(expected)


def test_fast_then_messages_then_fast_spends_once_and_repeats_no_release(setting: Setting) -> None:
    straight = efbv(setting)
    straight.start(CohortGrid(app_of(setting, SIMULATED), num_clients=CLIENTS), setting.start, 12)
    strategy = efbv(setting)
    grid = CohortGrid(app_of(setting, SIMULATED), num_clients=CLIENTS)
    arrays = setting.start
    for fast in ("require", "never", "require"):
        grid.fast = fast  # type: ignore[assignment]
        arrays = strategy.start(grid, arrays, num_rounds=4).arrays
    assert server_releases(strategy) == node_releases(grid) == [12] * CLIENTS
    assert torch.equal(strategy.x, straight.x)


def test_a_fresh_secret_lasts_over_messages_and_the_fast_path(setting: Setting) -> None:
    grid = CohortGrid(app_of(setting, DEPLOYED), num_clients=CLIENTS)
    strategy, secrets = efbv(setting), []
    arrays = setting.start
    for fast in ("never", "require", "never", "require"):
        grid.fast = fast  # type: ignore[assignment]
        arrays = strategy.start(grid, arrays, num_rounds=2).arrays
        known = [load_spending(context.state) for context in grid.contexts.values()]
        secrets.append([one[0].key for one in known if one is not None])
    assert secrets[0] == secrets[1] == secrets[2] == secrets[3]
    assert len(set(secrets[0])) == CLIENTS


@pytest.mark.parametrize("fast", ["require", "never"])
def test_the_public_seed_does_not_reproduce_the_noise(setting: Setting, fast: Any) -> None:
    def run(privacy: Privacy) -> tuple[torch.Tensor, CohortGrid]:
        grid = CohortGrid(app_of(setting, privacy), num_clients=CLIENTS, fast=fast)
        strategy = efbv(setting, seed=7)
        strategy.start(grid, setting.start, num_rounds=1)
        return strategy.x, grid

    first, grid = run(DEPLOYED)
    second, _ = run(DEPLOYED)
    assert not torch.equal(first, second)
    for seed in range(20):
        guess, _ = run(replace(SIMULATED, simulated_seed=seed))
        assert not torch.equal(first, guess)
    known = load_spending(next(iter(grid.contexts.values())).state)
    assert known is not None
    streams = {stream_key(simulated_secret(seed, 0), 0, NoisePurpose.NOISE) for seed in range(100)}
    assert stream_key(known[0], 0, NoisePurpose.NOISE) not in streams
    assert torch.equal(run(SIMULATED)[0], run(SIMULATED)[0])


def test_a_simulated_secret_is_not_taken_over_by_a_deployed_client(setting: Setting) -> None:
    grid = CohortGrid(app_of(setting, SIMULATED), num_clients=CLIENTS, fast="never")
    efbv(setting).start(grid, setting.start, num_rounds=2)
    grid.app = app_of(setting, DEPLOYED)
    efbv(setting).start(grid, setting.start, num_rounds=3)
    for index, context in enumerate(grid.contexts.values()):
        known = load_spending(context.state)
        assert known is not None
        assert not known[0].simulated
        assert known[0].key != simulated_secret(0, index).key
    assert min(node_releases(grid)) >= 4


def test_no_message_carries_the_secret(setting: Setting) -> None:
    seen: list[Message] = []

    class Listening(CohortGrid):
        def execute(self, message: Message, node: int) -> Message:
            reply = super().execute(message, node)
            seen.extend([message, reply])
            return reply

    privacy = replace(SIMULATED, budget=lasting(SIMULATED, 3).budget)
    grid = Listening(app_of(setting, privacy), num_clients=CLIENTS)
    with pytest.raises(AllClientsFailed):
        efbv(setting, fraction_evaluate=1.0).start(grid, setting.start, num_rounds=5)
    everything = b"".join(
        value
        for message in seen
        for record in message.content.values()
        for value in _bytes_of(record)
    )
    assert len(everything) > 1000
    for index in range(CLIENTS):
        key = simulated_secret(0, index).key
        assert all(key[start : start + 8] not in everything for start in range(0, 25))
        assert key.hex().encode() not in everything
        assert repr(key) not in repr(grid.contexts[1001 + index].state["fedstrategies"])


def _bytes_of(record: Any) -> list[bytes]:
    if isinstance(record, ArrayRecord):
        return [array.data for array in record.values()]
    return [
        value if isinstance(value, bytes) else repr(value).encode() for value in record.values()
    ]


@pytest.mark.parametrize("fast", ["require", "never"])
def test_clients_whose_budget_is_spent_stop_and_the_run_ends_with_the_last(
    setting: Setting, fast: Any, caplog: pytest.LogCaptureFixture
) -> None:
    logging.getLogger("flwr").propagate = True
    grid = CohortGrid(
        app_of(setting, lambda index: lasting(DEPLOYED, 2 if index == 3 else 4)),
        num_clients=CLIENTS,
        fast=fast,
    )
    strategy = efbv(setting)
    arrays = strategy.start(grid, setting.start, num_rounds=3).arrays
    assert [line for line in strategy.failures if "partition 3" in line]
    assert "its privacy budget is spent; it trains no more" in strategy.failures[0]
    assert (strategy.participants, len(strategy.failures)) == (CLIENTS - 1, 1)
    with pytest.raises(AllClientsFailed, match=r"all 8 clients failed.*budget is spent"):
        strategy.start(grid, arrays, num_rounds=3)
    assert strategy.round == 4
    assert node_releases(grid) == server_releases(strategy) == [4, 4, 4, 2, 4, 4, 4, 4]
    allowed = [lasting(DEPLOYED, 2 if index == 3 else 4).budget for index in range(CLIENTS)]
    for epsilon, budget in zip(strategy.accounts.epsilons(DELTA).tolist(), allowed, strict=True):
        assert budget is not None
        assert epsilon <= budget.epsilon


@pytest.mark.parametrize("fast", ["require", "never"])
def test_a_budget_that_ends_half_way_is_charged_and_nothing_is_sent(
    setting: Setting, fast: Any
) -> None:
    grid = CohortGrid(
        app_of(setting, lambda i: lasting(SIMULATED, 5) if i == 2 else SIMULATED, ScafflixClient),
        num_clients=CLIENTS,
        fast=fast,
    )
    strategy = METHODS["fedavg"][1](setting)
    strategy.start(grid, setting.start, num_rounds=3)
    expected = [9] * CLIENTS
    expected[2] = 5
    assert node_releases(grid) == server_releases(strategy) == expected
    assert strategy.participants == CLIENTS - 1


@pytest.mark.parametrize("fast", ["require", "never"])
def test_rounds_that_need_everybody_end_when_one_budget_does(setting: Setting, fast: Any) -> None:
    privacy = [lasting(DEPLOYED, 2 if index == 3 else 90) for index in range(CLIENTS)]
    grid = CohortGrid(app_of(setting, privacy.__getitem__), num_clients=CLIENTS, fast=fast)
    strategy = efbv(setting, on_failure="redo")
    with pytest.raises(BudgetSpent, match=r"round 3: partition 3: its privacy budget is spent"):
        strategy.start(grid, setting.start, num_rounds=5)
    assert max(server_releases(strategy)) == 3


def test_the_server_needs_not_know_that_its_clients_are_private(setting: Setting) -> None:
    def half(index: int) -> Privacy | None:
        return SIMULATED if index < 4 else None

    strategy = efbv(setting)
    grid = CohortGrid(app_of(setting, half), num_clients=CLIENTS)
    result = strategy.start(grid, setting.start, num_rounds=3)
    assert server_releases(strategy) == [3] * 4 + [0] * 4
    loss = result.train_metrics_clientapp[1]["loss"]
    assert loss == pytest.approx(float(setting.batch.values(torch.zeros(DIMENSION).double())[0]))


def test_the_fast_path_is_not_for_mixtures_nor_for_objectives_of_each_request(
    setting: Setting,
) -> None:
    class Masked(EFBVClient):
        def at_work(self, rule: ClientRule) -> Objective:
            return self.releasing(torch.arange(DIMENSION) < 5)

    for app, reason in (
        (app_of(setting, lambda i: SIMULATED if i else None), "some clients are private"),
        (app_of(setting, SIMULATED, Masked), "client 0 works on another objective"),
    ):
        grid = CohortGrid(app, num_clients=CLIENTS, fast="require")
        with pytest.raises(ValueError, match=reason):
            efbv(setting).start(grid, setting.start, num_rounds=1)
    strategy = efbv(setting)
    grid = CohortGrid(app_of(setting, SIMULATED, Masked), num_clients=CLIENTS)
    strategy.start(grid, setting.start, num_rounds=3)
    assert not strategy.x[5:].any()
    assert bool((strategy.x[:5] != 0).all())
    assert node_releases(grid) == server_releases(strategy) == [3] * CLIENTS


def test_an_override_that_gives_up_privacy_is_refused(setting: Setting) -> None:
    class Leaking(EFBVClient):
        def at_work(self, rule: ClientRule) -> Objective:
            assert self.private is not None
            return self.private.objective

    grid = CohortGrid(app_of(setting, SIMULATED, Leaking), num_clients=CLIENTS)
    with pytest.raises(AllClientsFailed, match="at_work gives up the client's privacy"):
        efbv(setting).start(grid, setting.start, num_rounds=1)


@pytest.mark.parametrize("alpha", [0.5, 1.0])
@pytest.mark.parametrize("fast", ["require", "never"])
def test_scafflix_and_flix_mix_with_no_optimum_that_is_not_paid_for(
    setting: Setting, alpha: float, fast: Any
) -> None:
    strategies: list[BaseStrategy] = [
        Scafflix(alpha=alpha, smoothness=setting.smoothness, p=0.5),
        FLIX(alpha=alpha, smoothness=setting.smoothness),
    ]
    for strategy in strategies:
        app = app_of(setting, SIMULATED, ScafflixClient)
        grid = CohortGrid(app, num_clients=CLIENTS, fast=fast)
        if alpha < 1.0:
            kind = ValueError if fast == "require" else AllClientsFailed
            with pytest.raises(kind, match="x_i\\*, which is trained on private rows"):
                strategy.start(grid, setting.start, num_rounds=2)
            assert node_releases(grid) == [0] * CLIENTS
        else:
            result = strategy.start(grid, setting.start, num_rounds=3)
            assert min(server_releases(strategy)) >= 3
            assert set(result.evaluate_metrics_clientapp[3]) >= {"loss", "accuracy"}


def test_sppm_says_that_its_solver_and_noise_do_not_agree(
    setting: Setting, caplog: pytest.LogCaptureFixture
) -> None:
    logging.getLogger("flwr").propagate = True
    for solver, privacy, warns in (
        ("lbfgs", SIMULATED, True),
        ("gd", SIMULATED, False),
        ("lbfgs", replace(SIMULATED, noise_multiplier=0.0), False),
    ):
        caplog.clear()
        strategy = SPPM(
            solver=parse_solver(solver),
            inner_rounds=3,
            smoothness=setting.smoothness,
            fraction_evaluate=0,
        )
        grid = CohortGrid(app_of(setting, privacy, SPPMClient), num_clients=CLIENTS)
        strategy.start(grid, setting.start, num_rounds=2)
        assert ("infers curvature" in caplog.text) == warns


@pytest.mark.parametrize("method", ["efbv-top", "scafflix", "sppm-gd"])
def test_upstreams_own_start_spends_the_same(setting: Setting, method: str) -> None:
    kind, make = METHODS[method]
    ours, theirs = make(setting), make(setting)
    ours.start(CohortGrid(app_of(setting, SIMULATED, kind), num_clients=CLIENTS), setting.start, 6)
    upstream = Strategy.start(
        theirs,
        CohortGrid(app_of(setting, SIMULATED, kind), num_clients=CLIENTS),
        setting.start,
        num_rounds=6,
    )
    assert torch.equal(ours.x, theirs.x)
    assert ours.accounts == theirs.accounts
    assert all("loss" not in metrics for metrics in upstream.train_metrics_clientapp.values())


@pytest.mark.parametrize("fast", ["require", "never"])
def test_evaluation_tells_nothing_in_deployment(setting: Setting, fast: Any) -> None:
    found = {}
    for name, privacy in (("deployed", DEPLOYED), ("simulated", SIMULATED)):
        grid = CohortGrid(app_of(setting, privacy), num_clients=CLIENTS, fast=fast)
        strategy = efbv(setting, fraction_evaluate=1.0)
        found[name] = (strategy.start(grid, setting.start, num_rounds=2), strategy.x)
        assert server_releases(strategy) == [2] * CLIENTS
    result, _ = found["deployed"]
    assert dict(result.evaluate_metrics_clientapp[2]) == {}
    assert dict(result.train_metrics_clientapp[2]) == {}
    result, x = found["simulated"]
    expected = float(setting.batch.values(x).mean())
    assert result.evaluate_metrics_clientapp[2]["loss"] == pytest.approx(expected)
    assert dict(result.train_metrics_clientapp[2]) == {}


def test_the_reply_holds_the_number_of_examples_alone(setting: Setting) -> None:
    grid = CohortGrid(app_of(setting, DEPLOYED), num_clients=CLIENTS)
    strategy = efbv(setting, fraction_evaluate=1.0)
    messages = list(strategy.configure_train(1, setting.start, ConfigRecord(), grid))
    reply = next(iter(grid.send_and_receive(messages[:1])))
    assert dict(reply.content["metrics"]) == {"num-examples": 6}
    assert set(reply.content["config"]) == {"fedstrategies", LEDGER}
    messages = list(strategy.configure_evaluate(1, setting.start, ConfigRecord(), grid))
    reply = next(iter(grid.send_and_receive(messages[:1])))
    assert set(reply.content) == {"metrics"}
    assert dict(reply.content["metrics"]) == {"num-examples": 6}


def test_nothing_travels_for_clients_without_privacy(setting: Setting) -> None:
    grid = CohortGrid(setting.app, num_clients=CLIENTS)
    strategy = efbv(setting)
    for _ in range(2):
        messages = list(strategy.configure_train(1, setting.start, ConfigRecord(), grid))
        replies = list(grid.send_and_receive(messages))
        for message in (*messages, *replies):
            assert LEDGER not in message.content["config"]
        strategy.aggregate_train(1, replies)
    assert strategy.accounts.epsilons(DELTA).tolist() == [0.0] * CLIENTS


def test_metrics_are_means_over_those_who_tell() -> None:
    def replies(*found: dict[str, float]) -> list[RecordDict]:
        return [RecordDict({"metrics": MetricRecord(one)}) for one in found]

    def mean(*found: dict[str, float]) -> Any:
        got = aggregate_metrics(replies(*found), weighted_mean, "num-examples")
        return None if got is None else dict(got)

    silent = {"num-examples": 5}
    assert mean(silent, silent) == {}
    assert mean(silent, {"num-examples": 1, "loss": 2.0}, silent) == {"loss": 2.0}
    assert mean({"num-examples": 0}) is None
    both = weighted_mean(
        replies({"num-examples": 1, "a": 1.0}, {"num-examples": 3, "a": 2.0, "b": 7.0}),
        "num-examples",
    )
    assert dict(both) == {"a": pytest.approx(1.75), "b": 7.0}


def test_the_log_says_once_that_noise_is_simulated(
    setting: Setting, caplog: pytest.LogCaptureFixture
) -> None:
    logging.getLogger("flwr").propagate = True
    say_that_noise_is_simulated.cache_clear()
    for privacy, times in ((DEPLOYED, 0), (SIMULATED, 1)):
        grid = CohortGrid(app_of(setting, privacy), num_clients=CLIENTS, fast="never")
        efbv(setting).start(grid, setting.start, num_rounds=2)
        assert caplog.text.count("privacy is simulated") == times


def test_settings_are_checked_where_they_are_made(setting: Setting) -> None:
    with pytest.raises(PrivacyError, match="max_grad_norm"):
        Privacy(max_grad_norm=0.0, noise_multiplier=1.0)
    secret = simulated_secret(0, 0)
    made = SIMULATED.private(setting.objectives[0], secret=secret, ledger=releases(2))
    assert isinstance(made, PrivateObjective)
    assert (made.mechanism, made.ledger) == (SIMULATED.mechanism, releases(2))
    (context,) = CohortGrid(setting.app, num_clients=1).contexts.values()
    with pytest.raises(ValueError, match="no releases to restrict"):
        setting.client(context).releasing(torch.ones(DIMENSION, dtype=torch.bool))


def test_without_noise_and_clipping_private_clients_train_as_plain_ones(setting: Setting) -> None:
    exact = Privacy(max_grad_norm=float("inf"), noise_multiplier=0.0)
    plain, private = efbv(setting), efbv(setting)
    plain.start(CohortGrid(setting.app, num_clients=CLIENTS), setting.start, 5)
    grid = CohortGrid(app_of(setting, exact), num_clients=CLIENTS)
    private.start(grid, setting.start, 5)
    assert torch.allclose(plain.x, private.x, rtol=1e-12, atol=1e-14)
    assert private.accounts.largest(DELTA) == float("inf")
    assert node_ledger(grid, 0).releases == 5
