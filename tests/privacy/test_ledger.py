"""The ledger is a join semilattice that never forgets a charge; budgets count it down."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedstrategies.privacy import Budget, BudgetSpent, Ledger, PrivacyError, Segment
from tests.privacy.clients import logistic, private, start

DELTA = 1e-5
KINDS = [(sigma, rate) for sigma in (0.0, 0.7, 1.1, 4.0) for rate in (0.01, 0.5, 1.0)]


def of(*charges):
    ledger = Ledger()
    for sigma, rate, steps in charges:
        ledger = ledger.charge(noise_multiplier=sigma, sample_rate=rate, steps=steps)
    return ledger


charges = st.tuples(st.sampled_from(KINDS), st.integers(1, 50)).map(lambda c: (*c[0], c[1]))
ledgers = st.lists(charges, max_size=6).map(lambda parts: of(*parts))


@given(ledgers, ledgers, ledgers)
def test_the_join_is_idempotent_commutative_and_associative(a, b, c):
    assert a.join(a) == a
    assert a.join(b) == b.join(a)
    assert a.join(b).join(c) == a.join(b.join(c))
    assert Ledger().join(a) == a


@given(ledgers, ledgers)
def test_the_join_is_the_least_copy_that_covers_both(a, b):
    joined = a.join(b)
    assert joined.covers(a)
    assert joined.covers(b)
    assert joined.releases >= max(a.releases, b.releases)
    assert joined.releases <= a.releases + b.releases
    assert a.covers(b) == (joined == a)


@given(ledgers, st.lists(charges, max_size=4))
def test_of_a_copy_and_its_continuation_the_longer_one_is_taken(older, more):
    newer = older
    for sigma, rate, steps in more:
        newer = newer.charge(noise_multiplier=sigma, sample_rate=rate, steps=steps)
    assert older.join(newer) == newer.join(older) == newer


@given(ledgers)
def test_bytes_keep_everything(ledger):
    data = ledger.to_bytes()
    assert Ledger.from_bytes(data) == ledger
    assert len(data) == 4 + 24 * len(ledger.segments)


@given(st.permutations([(0.7, 0.5, 3), (1.1, 1.0, 2), (0.7, 0.01, 1), (0.7, 0.5, 4)]))
def test_order_does_not_matter(order):
    assert of(*order) == Ledger((Segment(0.7, 0.01, 1), Segment(0.7, 0.5, 7), Segment(1.1, 1.0, 2)))


@given(st.binary(max_size=60).filter(lambda data: data[:4] != b"DPL1"))
def test_other_bytes_are_refused_in_one_line(data):
    with pytest.raises(PrivacyError) as refusal:
        Ledger.from_bytes(data)
    assert "\n" not in str(refusal.value)


def test_broken_copies_are_refused():
    whole = of((1.1, 0.5, 3), (2.0, 0.5, 3)).to_bytes()
    swapped = whole[:4] + whole[28:] + whole[4:28]
    zero_steps = whole[:20] + bytes(8) + whole[28:]
    not_a_number = whole[:4] + b"\xff" * 8 + whole[12:]
    for data in (whole[:-1], whole + b"x", swapped, zero_steps, not_a_number, whole[:4] * 2):
        with pytest.raises(PrivacyError):
            Ledger.from_bytes(data)
    with pytest.raises(PrivacyError, match="at most 4096"):
        Ledger.from_bytes(whole[:4] + bytes(24 * 5000))


@pytest.mark.parametrize(
    ("charge", "complaint"),
    [
        ((-1.0, 0.5, 1), "noise multiplier"),
        ((float("inf"), 0.5, 1), "noise multiplier"),
        ((1.0, 0.0, 1), "sample rate"),
        ((1.0, 1.5, 1), "sample rate"),
        ((1.0, 0.5, 0), "releases"),
    ],
)
def test_impossible_charges_are_refused(charge, complaint):
    with pytest.raises(PrivacyError, match=complaint):
        of(charge)


def test_the_join_forgets_no_epsilon():
    pytest.importorskip("opacus")
    few_but_loud, many_but_quiet = of((0.7, 1.0, 2)), of((4.0, 1.0, 50))
    joined = few_but_loud.join(many_but_quiet)
    alone = [ledger.epsilon(DELTA) for ledger in (few_but_loud, many_but_quiet)]
    assert joined.epsilon(DELTA) > max(alone)
    assert joined.epsilon(DELTA) < sum(alone)


def test_a_budget_is_counted_down_to_its_end_and_no_further():
    pytest.importorskip("opacus")
    budget = Budget(epsilon=4.0, delta=DELTA)
    one = {"noise_multiplier": 11.58, "sample_rate": 1.0}
    assert budget.releases_left(Ledger(), **one) == 100
    assert budget.allows(of((11.58, 1.0, 100)))
    assert not budget.allows(of((11.58, 1.0, 101)))
    assert budget.releases_left(of((11.58, 1.0, 93)), **one) == 7
    assert budget.releases_left(of((11.58, 1.0, 500)), **one) == 0
    # What was spent otherwise is beside it.
    other = of((2.0, 0.1, 100))
    left = budget.releases_left(other, **one)
    assert 0 < left < 100
    assert budget.allows(other.join(of((11.58, 1.0, left))))
    assert not budget.allows(other.join(of((11.58, 1.0, left + 1))))
    assert budget.releases_left(of((0.0, 1.0, 1)), **one) == 0


@pytest.mark.parametrize(
    "arguments",
    [
        {"epsilon": 0.0, "delta": DELTA},
        {"epsilon": float("inf"), "delta": DELTA},
        {"epsilon": 1.0, "delta": 0.0},
        {"epsilon": 1.0, "delta": 1.0},
        {"epsilon": 1.0, "delta": DELTA, "accountant": "gdp"},
    ],
)
def test_impossible_budgets_are_refused(arguments):
    with pytest.raises(PrivacyError):
        Budget(**arguments)


def test_a_client_whose_budget_is_spent_stops():
    pytest.importorskip("opacus")
    objective = logistic()
    client = private(objective, noise_multiplier=8.0, budget=Budget(epsilon=1.0, delta=DELTA))
    allowed = client.releases_left
    assert allowed >= 2
    for _ in range(allowed):
        client.value_and_gradient(start(objective))
    assert client.spent
    assert client.ledger.releases == allowed
    assert client.ledger.epsilon(DELTA) <= 1.0
    with pytest.raises(BudgetSpent, match="budget"):
        client.value_and_gradient(start(objective))
    with pytest.raises(BudgetSpent, match=r"epsilon 0\.\d+ of 1 at delta 1e-05 after"):
        client.charge()
    assert client.ledger.releases == allowed


def test_wiping_a_node_does_not_lower_its_epsilon():
    objective = logistic()
    client = private(objective)
    x = start(objective)
    for _ in range(3):
        client.value_and_gradient(x)
    kept_by_the_server = Ledger.from_bytes(client.ledger.to_bytes())

    wiped = private(objective, partition=77)
    wiped.restore(kept_by_the_server)
    assert wiped.ledger == client.ledger
    wiped.value_and_gradient(x)
    assert wiped.ledger.releases == 4
    # An older copy that turns up later changes nothing.
    wiped.restore(kept_by_the_server)
    assert wiped.ledger.releases == 4
