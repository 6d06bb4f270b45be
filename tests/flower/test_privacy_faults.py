"""What a client has spent is not forgotten: lost replies, wiped nodes, restarts, forgeries."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
import torch
from flwr.app import ConfigRecord, Message, RecordDict

from fedstrategies.compressors import TopK
from fedstrategies.efbv import EFBVClient, GradientDescent
from fedstrategies.engines import CohortGrid
from fedstrategies.flower import Accounts, BaseClient
from fedstrategies.flower.account import Account
from fedstrategies.flower.control import Response, Status
from fedstrategies.flower.records import CONTROL, LEDGER
from fedstrategies.privacy import Ledger as PrivacyLedger
from fedstrategies.privacy import PrivateObjective, Segment, simulated_secret
from fedstrategies.sampling import NiceSampling
from fedstrategies.scafflix import FedAvg, Scafflix, ScafflixClient
from fedstrategies.sppm import SPPM, SPPMClient, parse_solver
from tests.flower.conftest import CLIENTS, Setting
from tests.flower.faults import Faults, FaultyGrid
from tests.flower.private_setting import (
    DELTA,
    SIMULATED,
    app_of,
    efbv,
    lasting,
    node_ledger,
    node_releases,
    one_round,
    releases,
    server_releases,
    wipe,
)

pytest.importorskip("opacus", reason="the extra 'privacy' is not installed")

METHODS: dict[str, tuple[type[BaseClient], Any]] = {
    "efbv": (EFBVClient, lambda s: efbv(s)),
    "efbv-5-of-8": (EFBVClient, lambda s: efbv(s, sampling=NiceSampling(cohort_size=5))),
    "gd-downlink": (
        EFBVClient,
        lambda s: GradientDescent(downlink=TopK(k=4), smoothness=s.smoothness, stepsize=0.05),
    ),
    "scafflix": (ScafflixClient, lambda s: Scafflix(alpha=1.0, smoothness=s.smoothness, p=0.4)),
    "fedavg": (ScafflixClient, lambda s: FedAvg(local_steps=3, stepsize=0.1)),
    "sppm": (
        SPPMClient,
        lambda s: SPPM(solver=parse_solver("gd"), inner_rounds=3, smoothness=s.smoothness),
    ),
}


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Counter[int]:
    """Releases that were computed, by partition, whatever became of them."""
    found: Counter[int] = Counter()
    partitions = {simulated_secret(0, partition).key: partition for partition in range(CLIENTS)}
    charge = PrivateObjective.charge

    def counted(self: PrivateObjective) -> int:
        number = charge(self)
        found[partitions[self.secret.key]] += 1
        return number

    monkeypatch.setattr(PrivateObjective, "charge", counted)
    return found


@pytest.mark.parametrize("method", METHODS)
def test_wiping_a_node_never_lowers_its_epsilon(
    setting: Setting, method: str, made: Counter[int]
) -> None:
    kind, make = METHODS[method]
    faults = Faults(lose_reply=0.3, lose_request=0.05, delay_reply=0.1, duplicate_reply=0.1)
    grid = FaultyGrid(app_of(setting, SIMULATED, kind), num_clients=CLIENTS, faults=faults)
    strategy, arrays = make(setting), setting.start
    arrays = one_round(strategy, grid, arrays)
    grid.faults = replace(faults, wipe_state=0.15)
    seen = strategy.accounts.epsilons(DELTA)
    for _ in range(25):
        arrays = one_round(strategy, grid, arrays)
        now = strategy.accounts.epsilons(DELTA)
        assert bool((now >= seen).all())
        seen = now
    assert grid.happened["wipe_state"] > 10
    assert grid.happened["lose_reply"] > 10
    grid.faults = Faults()
    for _ in range(12):
        arrays = one_round(strategy, grid, arrays)
    for partition in range(CLIENTS):
        assert strategy.accounts.unanswered(partition) == 0
        assert strategy.accounts.ledger(partition).releases >= made[partition] > 5
        assert node_ledger(grid, partition) == strategy.accounts.ledger(partition)


@pytest.mark.parametrize("method", METHODS)
def test_lost_late_doubled_and_redelivered_messages_charge_once(
    setting: Setting, method: str, made: Counter[int]
) -> None:
    kind, make = METHODS[method]
    faults = Faults(
        lose_reply=0.3,
        lose_request=0.1,
        delay_reply=0.1,
        duplicate_reply=0.2,
        redeliver_request=0.3,
        corrupt_reply=0.1,
    )
    grid = FaultyGrid(app_of(setting, SIMULATED, kind), num_clients=CLIENTS, faults=faults)
    strategy, arrays = make(setting), setting.start
    # A node without a record pays for lost requests as well: let each get its first one.
    grid.faults = Faults()
    for _ in range(3):
        arrays = one_round(strategy, grid, arrays)
    grid.faults = faults
    for _ in range(20):
        arrays = one_round(strategy, grid, arrays)
    for name, probability in vars(faults).items():
        assert (grid.happened[name] > 0) == (probability > 0)
    grid.faults = Faults()
    for _ in range(6):
        arrays = one_round(strategy, grid, arrays)
    expected = [made[partition] for partition in range(CLIENTS)]
    assert node_releases(grid) == server_releases(strategy) == expected
    assert all(strategy.accounts.unanswered(partition) == 0 for partition in range(CLIENTS))


def test_sending_again_gives_the_same_bytes_and_charges_nothing(setting: Setting) -> None:
    grid = CohortGrid(app_of(setting, SIMULATED), num_clients=CLIENTS)
    strategy = efbv(setting)
    message = next(iter(strategy.configure_train(1, setting.start, ConfigRecord(), grid)))
    first, second = (grid.execute(message, 1001) for _ in range(2))
    assert first.content["arrays"]["0"].data == second.content["arrays"]["0"].data
    assert dict(first.content["config"]) == dict(second.content["config"])
    assert node_ledger(grid, 0) == releases(1)


@pytest.mark.parametrize("method", ["efbv", "fedavg", "sppm"])
@pytest.mark.parametrize("killed", ["server", "nodes"])
def test_epsilon_after_kill_and_resume_is_that_of_an_uninterrupted_run(
    setting: Setting, method: str, killed: str
) -> None:
    kind, make = METHODS[method]
    app = app_of(setting, SIMULATED, kind)
    straight, whole = make(setting), CohortGrid(app, num_clients=CLIENTS, fast="never")
    straight.start(whole, setting.start, num_rounds=12)
    strategy, grid = make(setting), CohortGrid(app, num_clients=CLIENTS, fast="never")
    arrays = strategy.start(grid, setting.start, num_rounds=6).arrays
    if killed == "server":
        strategy = make(setting)
    else:
        grid = CohortGrid(app, num_clients=CLIENTS, fast="never")
    strategy.start(grid, arrays, num_rounds=6)
    expected = straight.accounts.epsilons(DELTA)
    assert torch.equal(strategy.accounts.epsilons(DELTA), expected)
    assert node_releases(grid) == node_releases(whole)


def test_accounts_saved_and_read_go_on_with_a_new_server_and_new_nodes(setting: Setting) -> None:
    app = app_of(setting, SIMULATED)
    grid = FaultyGrid(app, num_clients=CLIENTS, faults=Faults())
    strategy, arrays = efbv(setting), setting.start
    for lost in (0.0, 0.0, 1.0, 1.0):
        grid.faults = Faults(lose_reply=lost)
        arrays = one_round(strategy, grid, arrays)
    saved = strategy.accounts.to_bytes()
    assert node_releases(grid) == [4] * CLIENTS
    assert server_releases(strategy) == [2] * CLIENTS
    second = efbv(setting)
    second.accounts = Accounts.from_bytes(saved)
    assert [second.accounts.unanswered(i) for i in range(CLIENTS)] == [2] * CLIENTS
    fresh = CohortGrid(app, num_clients=CLIENTS)
    second.start(fresh, arrays, num_rounds=1)
    assert server_releases(second) == [5] * CLIENTS
    assert [second.accounts.unanswered(i) for i in range(CLIENTS)] == [0] * CLIENTS
    third = efbv(setting)
    third.accounts = Accounts.from_bytes(saved)
    with pytest.raises(ValueError, match="8 clients, the run has 3"):
        third.start(CohortGrid(app, num_clients=3), setting.start, num_rounds=1)


def test_a_wiped_node_pays_for_what_it_may_have_released_before_it_sends(setting: Setting) -> None:
    app = app_of(setting, lasting(SIMULATED, 6), SPPMClient)
    grid = FaultyGrid(app, num_clients=CLIENTS, faults=Faults())
    strategy, arrays = METHODS["sppm"][1](setting), setting.start
    arrays = one_round(strategy, grid, arrays)
    grid.faults = Faults(lose_reply=1.0)
    for _ in range(3):
        arrays = one_round(strategy, grid, arrays)
    assert node_releases(grid) == [4] * CLIENTS
    assert server_releases(strategy) == [1] * CLIENTS
    grid.faults = Faults()
    wipe(grid, 3)
    arrays = one_round(strategy, grid, arrays)
    assert server_releases(strategy) == [5] * CLIENTS
    grid.faults = Faults(lose_reply=1.0)
    arrays = one_round(strategy, grid, arrays)
    wipe(grid, 3)
    grid.faults = Faults()
    one_round(strategy, grid, arrays)
    # 5 are known, 1 is unheard of, and 6 are allowed: nothing more may leave the node.
    assert [line for line in strategy.failures if "partition 3" in line and "spent" in line]
    assert node_releases(grid)[3] == server_releases(strategy)[3] == 7


@pytest.mark.parametrize("unheard", [0, 2])
def test_a_node_that_is_behind_pays_for_what_it_released_and_no_more(
    setting: Setting, made: Counter[int], unheard: int
) -> None:
    grid = FaultyGrid(app_of(setting, SIMULATED), num_clients=CLIENTS, faults=Faults())
    strategy, arrays = METHODS["gd-downlink"][1](setting), setting.start
    for _ in range(3):
        arrays = one_round(strategy, grid, arrays)
    grid.faults = Faults(lose_reply=1.0)
    for _ in range(unheard):
        arrays = one_round(strategy, grid, arrays)
    grid.faults = Faults()
    wipe(grid, 3)
    arrays = one_round(strategy, grid, arrays)
    (failure,) = strategy.failures
    assert "partition 3" in failure
    assert "copy of the model is lost" in failure
    # What it did before it was wiped is as unheard of as it was.
    assert strategy.accounts.unanswered(3) == unheard
    for _ in range(4):
        arrays = one_round(strategy, grid, arrays)
        assert strategy.failures == ()
    assert made[3] == 3 + unheard + 4
    expected = [made[partition] for partition in range(CLIENTS)]
    assert node_releases(grid) == server_releases(strategy) == expected


def test_a_late_word_that_nothing_was_computed_is_not_believed(setting: Setting) -> None:
    grid = FaultyGrid(app_of(setting, SIMULATED), num_clients=CLIENTS, faults=Faults())
    strategy, arrays = METHODS["gd-downlink"][1](setting), setting.start
    arrays = one_round(strategy, grid, arrays)
    messages = list(strategy.configure_train(1, arrays, ConfigRecord(), grid))
    # It releases, its reply is lost, it is wiped, and is asked the same again.
    grid.execute(messages[3], 1004)
    wipe(grid, 3)
    again = grid.execute(messages[3], 1004)
    control = again.content["config"][CONTROL]
    assert Response.from_bytes(control).status is Status.BEHIND
    found, _ = strategy.aggregate_train(1, grid.send_and_receive(messages[:3] + messages[4:]))
    assert found is not None
    strategy.configure_train(1, found, ConfigRecord(), grid)
    strategy.aggregate_train(1, [again])
    # Attempt 2 stays unanswered beside attempt 3.
    assert strategy.accounts.unanswered(3) == 2


def test_what_is_unheard_of_is_charged_by_its_own_local_steps(setting: Setting) -> None:
    app = app_of(setting, SIMULATED, ScafflixClient)
    grid = FaultyGrid(app, num_clients=CLIENTS, faults=Faults())
    strategy, arrays = FedAvg(local_steps=5, stepsize=0.1), setting.start
    arrays = one_round(strategy, grid, arrays)
    grid.faults = Faults(lose_reply=1.0)
    arrays = one_round(strategy, grid, arrays)
    wipe(grid, 3)
    grid.faults = Faults()
    strategy.local_steps = 1
    one_round(strategy, grid, arrays)
    assert server_releases(strategy) == [5 + 5 + 1] * CLIENTS


def test_what_is_lost_before_anybody_was_heard_is_charged(setting: Setting) -> None:
    """Not one reply of the first round arrives, and a node forgets what it released in it."""
    app = app_of(setting, SIMULATED, ScafflixClient)
    grid = FaultyGrid(app, num_clients=CLIENTS, faults=Faults(lose_reply=1.0))
    strategy = FedAvg(local_steps=5, stepsize=0.1)
    arrays = one_round(strategy, grid, setting.start)
    assert strategy.round == 0
    wipe(grid, 3)
    grid.faults = Faults()
    one_round(strategy, grid, arrays)
    assert server_releases(strategy) == [5 + 5] * CLIENTS


def test_the_fast_path_waits_until_a_lost_record_is_settled(setting: Setting) -> None:
    app = app_of(setting, SIMULATED, SPPMClient)
    grid = FaultyGrid(app, num_clients=CLIENTS, faults=Faults())
    strategy, arrays = METHODS["sppm"][1](setting), setting.start
    arrays = one_round(strategy, grid, arrays)
    grid.faults = Faults(lose_reply=1.0)
    arrays = one_round(strategy, grid, arrays)
    second = CohortGrid(app, num_clients=CLIENTS, fast="require")
    for mine, theirs in zip(second.contexts.values(), grid.contexts.values(), strict=True):
        mine.state = theirs.state
    known = second.contexts[1004].state
    second.contexts[1004].state = RecordDict(
        {name: record for name, record in known.items() if name != "fedstrategies.privacy"}
    )
    with pytest.raises(ValueError, match="client 3 has lost its record of releases"):
        strategy.start(second, arrays, num_rounds=1)
    second.fast = "never"
    strategy.start(second, arrays, num_rounds=1)
    assert node_releases(second) == server_releases(strategy) == [3] * CLIENTS


def test_a_late_reply_of_a_client_that_is_not_asked_now_informs(setting: Setting) -> None:
    grid = CohortGrid(app_of(setting, SIMULATED), num_clients=CLIENTS)
    strategy, held = efbv(setting, sampling=NiceSampling(cohort_size=4)), []
    arrays = setting.start
    for attempt in range(6):
        messages = list(strategy.configure_train(1, arrays, ConfigRecord(), grid))
        asked = {message.metadata.dst_node_id for message in messages}
        replies = list(grid.send_and_receive(messages))
        if attempt == 0:
            held, replies = replies[:1], replies[1:]
        elif held and held[0].metadata.src_node_id not in asked:
            partition = held[0].metadata.src_node_id - 1001
            assert strategy.accounts.ledger(partition).releases == 0
            found, _ = strategy.aggregate_train(1, [*replies, *held])
            assert strategy.accounts.ledger(partition).releases == 1
            assert strategy.accounts.unanswered(partition) == 0
            assert not strategy.failures
            return
        found, _ = strategy.aggregate_train(1, replies)
        arrays = arrays if found is None else found
    raise AssertionError("no cohort was without the client")


EXTREME = [
    PrivacyLedger((Segment(5e-324, 1.0, 1),)),
    PrivacyLedger((Segment(1e-160, 0.5, 2**53),)),
    PrivacyLedger((Segment(1.7e308, 1.0, 2**53),)),
    PrivacyLedger((Segment(1e160, 0.5, 1),)),
    PrivacyLedger((Segment(1.0, 5e-324, 2**53),)),
    PrivacyLedger((Segment(0.0, 1e-9, 1),)),
]
FORGED: list[Any] = [
    b"",
    b"DPL1" + bytes(23),
    b"DPL1" + bytes(24),
    b"nonsense",
    7,
    "DPL1",
    PrivacyLedger(tuple(Segment(1.0 + i, 1.0, 1) for i in range(17))).to_bytes(),
]


@pytest.mark.parametrize("forged", [*FORGED, *(ledger.to_bytes() for ledger in EXTREME)])
def test_a_forged_ledger_is_its_sender_s_failure_at_most(setting: Setting, forged: Any) -> None:
    class Forging(CohortGrid):
        def execute(self, message: Message, node: int) -> Message:
            reply = super().execute(message, node)
            if node == 1004:
                config = {**reply.content["config"], LEDGER: forged}
                content = RecordDict({**reply.content, "config": ConfigRecord(config)})
                return Message(content, metadata=reply.metadata)
            return reply

    grid = Forging(app_of(setting, SIMULATED), num_clients=CLIENTS)
    strategy = efbv(setting)
    strategy.start(grid, setting.start, num_rounds=2)
    epsilons = strategy.accounts.epsilons(DELTA)
    assert not bool(epsilons.isnan().any())
    assert epsilons[:3].tolist() == [releases(2).epsilon(DELTA)] * 3
    if forged in FORGED:
        assert ["malformed reply" in line for line in strategy.failures] == [True]
        assert strategy.participants == CLIENTS - 1
        assert epsilons[3] == 0.0
    else:
        assert strategy.participants == CLIENTS
        assert epsilons[3] > 0.0


def test_mechanisms_are_counted_over_all_that_a_client_tells() -> None:
    accounts = Accounts(1)
    for number in range(16):
        accounts.heard(0, releases(1, noise_multiplier=1.0 + number), up_to=number)
    accounts.asked(0, 17, 1)
    before = accounts.to_bytes()
    with pytest.raises(ValueError, match="17 mechanisms so far, at most 16"):
        accounts.heard(0, releases(1, noise_multiplier=99.0), up_to=17)
    assert accounts.to_bytes() == before
    accounts.heard(0, releases(2, noise_multiplier=1.0), up_to=17)
    assert accounts.ledger(0).segments[0].steps == 2


def test_a_reply_of_an_earlier_server_covers_nothing() -> None:
    """Whether this one asked the requests itself or has them from a checkpoint."""
    accounts = Accounts(1)
    accounts.heard(0, releases(1), up_to=0)
    accounts.asked(0, 1, 5)
    for _ in range(2):
        accounts.heard(0, releases(1), up_to=0)
        accounts.heard_plain(0, up_to=0)
        assert accounts.unanswered(0) == 5
        accounts = Accounts.from_bytes(accounts.to_bytes())
    accounts.heard(0, releases(6), up_to=2)
    assert accounts.unanswered(0) == 0


def test_joined_accounts_forget_nothing() -> None:
    one, other = Accounts(2), Accounts(2)
    one.heard(0, releases(3), up_to=0)
    other.heard(0, releases(2), up_to=0)
    other.heard(1, releases(1), up_to=0)
    other.asked(1, 0, 4)
    both = one.joined(other)
    assert [both.ledger(p) for p in (0, 1)] == [releases(3), releases(1)]
    assert [both.unanswered(p) for p in (0, 1)] == [0, 4]
    assert both.private
    with pytest.raises(ValueError, match="of 2 clients, the run has 3"):
        one.joined(Accounts(3))


def test_no_ledger_keeps_a_report_of_epsilon_waiting() -> None:
    """Where the tighter accountant cannot cope, the other one's bound is told."""
    large = PrivacyLedger((Segment(0.5, 0.5, 2**50), Segment(0.6, 0.5, 2**50)))
    for ledger in (large, EXTREME[1], EXTREME[2], EXTREME[4]):
        accounts = Accounts(1)
        accounts.heard(0, ledger, up_to=0)
        told = accounts.largest(DELTA, accountant="prv")
        assert 0.0 < told <= accounts.largest(DELTA)


def test_accounts_and_what_is_told_of_them_survive_the_wire() -> None:
    accounts = Accounts(3)
    accounts.asked(1, 1, 4)
    # Nobody knows yet whether this client is private, nor whether it has answered.
    assert accounts.account(1) == Account(unanswered=4)
    assert accounts.account(2) == Account()
    assert Account().to_bytes() == b""
    plain = Accounts(1)
    plain.heard_plain(0, up_to=1)
    plain.asked(0, 2, 3)
    assert plain.account(0) == Account()
    accounts.heard(0, releases(2), up_to=1)
    accounts.asked(0, 2, 3)
    accounts.asked(0, 3, 5)
    accounts.heard(0, releases(1), up_to=2)
    told = accounts.account(0)
    assert told == Account(ledger=releases(2), unanswered=5)
    assert Account.from_bytes(told.to_bytes()) == told
    assert accounts.account(1) == Account(unanswered=4)
    assert accounts.account(2) == Account()
    accounts.released_nothing(0, 3)
    assert accounts.unanswered(0) == 0
    read = Accounts.from_bytes(accounts.to_bytes())
    assert read == accounts
    assert read.private
    assert Accounts.from_bytes(Accounts(2).to_bytes()) == Accounts(2)
    packed = accounts.to_bytes()
    for broken in (b"", packed[:-1], packed + b"x", b"ACC2" + packed[4:], packed[:9]):
        with pytest.raises(ValueError, match=r"accounts|ledger"):
            Accounts.from_bytes(broken)
    for wrong in (b"1234567", 3, b"\xff" * 8 + PrivacyLedger().to_bytes()):
        with pytest.raises(ValueError, match="account of privacy"):
            Account.from_bytes(wrong)
