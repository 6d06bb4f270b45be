"""Epsilon and noise against Opacus's own accountants and closed forms."""

import math

import pytest

from fedstrategies.privacy import (
    Ledger,
    PrivacyError,
    calibrate_noise,
    composed_epsilon,
    zcdp_epsilon,
    zcdp_noise_multiplier,
)

accountants = pytest.importorskip("opacus.accountants")
DELTA = 1e-5


def plan(rate=1.0, steps=100, sigma=1.0):
    return Ledger().charge(noise_multiplier=sigma, sample_rate=rate, steps=steps)


def gaussian_epsilon(sigma, steps, delta=DELTA):
    """The exact epsilon of full-batch Gaussian releases (Balle and Wang 2018), by bisection.

    T releases with noise sigma are one with sigma / sqrt(T).
    """
    mu = math.sqrt(steps) / sigma

    def tail(value):
        return 0.5 * math.erfc(value / math.sqrt(2.0))

    def delta_of(epsilon):
        return tail(epsilon / mu - mu / 2) - math.exp(epsilon) * tail(epsilon / mu + mu / 2)

    low, high = 0.0, 200.0
    for _ in range(80):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if delta_of(middle) > delta else (low, middle)
    return high


HISTORIES = [
    [(11.58, 1.0, 100)],
    [(1.1, 0.01, 1000)],
    [(0.8, 0.1, 20), (2.0, 1.0, 10), (1.1, 0.01, 30)],
]


@pytest.mark.parametrize("history", HISTORIES)
def test_rdp_is_that_of_opacus(history):
    theirs = accountants.RDPAccountant()
    theirs.history = list(history)
    assert composed_epsilon(tuple(history), DELTA) == pytest.approx(
        theirs.get_epsilon(DELTA), rel=1e-12
    )


@pytest.mark.parametrize("history", HISTORIES)
@pytest.mark.filterwarnings("ignore")
def test_prv_is_that_of_opacus_and_tighter(history):
    theirs = accountants.PRVAccountant()
    theirs.history = list(history)
    found = composed_epsilon(tuple(history), DELTA, "prv")
    assert found == pytest.approx(theirs.get_epsilon(DELTA), rel=1e-12)
    assert found < composed_epsilon(tuple(history), DELTA, "rdp")


@pytest.mark.parametrize(("sigma", "steps"), [(11.58, 100), (40.0, 100), (3.0, 4), (200.0, 100)])
def test_accountants_never_claim_less_than_the_exact_epsilon(sigma, steps):
    exact = gaussian_epsilon(sigma, steps)
    prv = composed_epsilon(((sigma, 1.0, steps),), DELTA, "prv")
    rdp = composed_epsilon(((sigma, 1.0, steps),), DELTA, "rdp")
    assert exact <= prv <= max(exact + 0.025, 1.03 * exact)
    assert exact < rdp < 1.35 * exact


@pytest.mark.parametrize(
    "history",
    [
        [(12.0, 0.5, 20_000)],
        [(50.0, 0.3, 10**6)],
        [(1.0 + k, 0.05, 100) for k in range(5)],
    ],
)
def test_where_only_whole_orders_are_tried_little_is_lost(history):
    theirs = accountants.RDPAccountant()
    theirs.history = history
    finest = theirs.get_epsilon(DELTA)
    assert finest < composed_epsilon(tuple(history), DELTA) < 1.03 * finest


def test_a_prv_grid_that_would_take_all_memory_is_refused_at_once():
    with pytest.raises(PrivacyError, match=r"grid would have .* points.* use the rdp accountant"):
        composed_epsilon(((1.0, 0.5, 10**5),), DELTA, "prv")


def test_nothing_released_costs_nothing_and_no_noise_costs_everything():
    assert composed_epsilon((), DELTA) == 0.0
    assert composed_epsilon(((1.0, 1.0, 5), (0.0, 0.5, 1)), DELTA) == float("inf")
    for delta in (0.0, 1.0, float("nan")):
        with pytest.raises(PrivacyError, match="delta"):
            composed_epsilon(((1.0, 1.0, 1),), delta)
    with pytest.raises(PrivacyError, match="'gdp'"):
        composed_epsilon(((1.0, 1.0, 1),), DELTA, "gdp")


def test_the_noise_of_a_hundred_full_batches_at_epsilon_4():
    sigma = calibrate_noise([plan()], epsilon=4.0, delta=DELTA)
    assert sigma == pytest.approx(11.58, abs=0.01)
    # The closed form asks for a tenth more.
    assert 1.05 * sigma < zcdp_noise_multiplier(4.0, DELTA, 100) < 1.15 * sigma


@pytest.mark.parametrize(
    ("accountant", "rate", "steps", "epsilon"),
    [
        *(("rdp", 1.0, 100, epsilon) for epsilon in (0.05, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0)),
        ("rdp", 0.05, 50, 0.5),
        ("rdp", 0.05, 50, 8.0),
        ("prv", 1.0, 100, 0.5),
        ("prv", 1.0, 100, 8.0),
        ("prv", 0.05, 50, 2.0),
    ],
)
def test_the_target_is_met_closely_and_never_exceeded(accountant, rate, steps, epsilon):
    sigma = calibrate_noise(
        [plan(rate, steps)], epsilon=epsilon, delta=DELTA, accountant=accountant
    )
    found = plan(rate, steps, sigma).epsilon(DELTA, accountant=accountant)
    assert 0.99 * epsilon <= found <= epsilon
    # Independently: by Opacus's own accountant, a hundredth less noise is too little.
    if accountant == "rdp" and epsilon >= 0.5:
        theirs = accountants.RDPAccountant()
        theirs.history = [(0.99 * sigma, rate, steps)]
        assert theirs.get_epsilon(DELTA) > epsilon


def test_the_worst_client_decides():
    clients = [plan(1 / size, steps) for size in range(1, 60) for steps in (1, 7, 20)]
    sigma = calibrate_noise(clients, epsilon=2.0, delta=DELTA)
    assert sigma == calibrate_noise([plan(1.0, 20)], epsilon=2.0, delta=DELTA)

    # Few large samples, or many small ones: neither is worse by its numbers alone.
    mixed = [plan(1.0, 1), plan(0.2, 60)]
    sigma = calibrate_noise(mixed, epsilon=2.0, delta=DELTA)
    alone = [calibrate_noise([one], epsilon=2.0, delta=DELTA) for one in mixed]
    assert sigma == pytest.approx(max(alone), rel=1e-3)

    # A plan may hold releases of several kinds.
    both = mixed[0].join(mixed[1])
    together = calibrate_noise([both, *mixed], epsilon=2.0, delta=DELTA)
    assert together > max(alone)
    assert both.scaled(together).epsilon(DELTA) <= 2.0


def test_relative_multipliers_are_kept():
    relative = plan(1.0, 10, 1.0).join(plan(1.0, 10, 3.0))
    sigma = calibrate_noise([relative], epsilon=1.0, delta=DELTA)
    multipliers = [one.noise_multiplier for one in relative.scaled(sigma).segments]
    assert multipliers == [sigma, 3.0 * sigma]
    assert calibrate_noise([plan(1.0, 10)], epsilon=1.0, delta=DELTA) < sigma


def test_targets_out_of_reach_are_refused_in_one_line():
    with pytest.raises(PrivacyError, match="cannot be reached with any noise by the rdp"):
        calibrate_noise([plan()], epsilon=1e-3, delta=1e-12)
    with pytest.raises(PrivacyError, match="no release"):
        calibrate_noise([Ledger()], epsilon=1.0, delta=DELTA)
    with pytest.raises(PrivacyError, match="without noise"):
        calibrate_noise([plan(sigma=0.0)], epsilon=1.0, delta=DELTA)
    with pytest.raises(PrivacyError, match="epsilon"):
        calibrate_noise([plan()], epsilon=-1.0, delta=DELTA)


@pytest.mark.parametrize("epsilon", [0.5, 1.0, 2.0, 4.0, 8.0])
def test_the_closed_form_is_its_own_inverse(epsilon):
    sigma = zcdp_noise_multiplier(epsilon, DELTA, 100)
    assert zcdp_epsilon(sigma, 100, DELTA) == pytest.approx(epsilon, rel=1e-12)
    assert composed_epsilon(((sigma, 1.0, 100),), DELTA) <= epsilon


@pytest.mark.parametrize(
    ("target", "stated"), [(0.5, 0.505), (1.0, 1.022), (2.0, 2.087), (4.0, 4.35), (8.0, 9.39)]
)
def test_the_constant_of_the_papers_calibration_is_too_weak(target, stated):
    # sigma^2 = c K C^2 log(1/delta) / (m^2 epsilon^2) with c = 2 and sensitivity C/m.
    sigma = math.sqrt(2.0 * 100 * math.log(1 / DELTA)) / target
    assert zcdp_epsilon(sigma, 100, DELTA) == pytest.approx(stated, rel=2e-3)
