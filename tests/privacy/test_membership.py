r"""A loss-threshold membership attack, held against what (epsilon, delta) allows.

The game is played with the neighbouring relation of this room, the zero-out of one record in a
shard of public size. There are m candidates, known to the attacker, labels included. A fair coin
b_j is thrown for each: with b_j = 1 it is in the shard, with b_j = 0 its row is zero, so that its
gradient is zero at every point. The divisor of a release is m either way, and says nothing. The
attacker is given the last model x and guesses b_j: a member if the loss of candidate j at x is at
most a threshold.

Its advantage on candidate j is ``TPR - FPR = P(guess | b_j = 1) - P(guess | b_j = 0)``. Fix the
other coins: then b_j = 1 and b_j = 0 are two neighbouring shards, x is a function of releases that
are (epsilon, delta)-private together, and any event E of x has

    P_1(E) <= e^epsilon P_0(E) + delta,      P_0(E^c) <= e^epsilon P_1(E^c) + delta.

Their sum with E = {guess} is ``(e^epsilon + 1) (TPR - FPR) <= e^epsilon - 1 + 2 delta``, and means
over the other coins and over candidates keep it. This is not the game of members against fresh
records in which a non-member's place is taken by another record: there the shards differ by two
zero-outs, and the bound would be that of 2 epsilon.

The threshold is no maximum over what it is measured on: it is the best one in runs that are not
measured (shadow models), and nothing else of those runs is used.

With fair coins ``(1/m) sum_j (2 b_j - 1) (2 guess_j - 1)`` has the mean advantage over candidates
as its expectation, whatever the number of members. Guesses within a run depend on each other
through x, so standard errors are over runs: records, coins and secrets are fresh in each.

Source of the bound: Kairouz, Oh, Viswanath, "The composition theorem for differential privacy"
(2015); of the attack: Yeom et al., "Privacy risk in machine learning" (2018).
"""

from functools import cache
from math import exp, inf, sqrt
from statistics import NormalDist

import pytest
import torch
from torch.nn.functional import normalize, softplus

from fedstrategies.objectives import LogisticRegression
from fedstrategies.privacy import Ledger, PrivateObjective, calibrate_noise, simulated_secret
from tests.privacy.clients import normal

EPSILON, DELTA = 1.0, 1e-5
BOUND = (exp(EPSILON) - 1.0 + 2.0 * DELTA) / (exp(EPSILON) + 1.0)
CANDIDATES, DIMENSION, STEPS = 200, 600, 16
SHADOWS, RUNS = 16, 40
PRIVATE = {"stepsize": 40.0, "max_grad_norm": 0.25}
"""At the start gradients have norm 1/2: all are clipped, and members show as far as they may."""
OVERFITTED = {"stepsize": 600.0, "max_grad_norm": inf, "noise_multiplier": 0.0}


def play(run, *, stepsize, **mechanism):
    """One game: losses of the candidates (m,), their coins (m,) as +1 and -1, and the ledger."""
    # More coordinates than rows and labels that mean nothing: what the model knows of a label, it
    # has learnt from the record itself.
    rows = normalize(normal(CANDIDATES, DIMENSION, seed=3 * run), dim=1)
    labels = normal(CANDIDATES, seed=3 * run + 1).sign()
    coins = normal(CANDIDATES, seed=3 * run + 2).sign()
    shard = LogisticRegression(features=rows * (coins > 0).unsqueeze(1), labels=labels, l2=1e-6)
    client = PrivateObjective(objective=shard, secret=simulated_secret(run, 0), **mechanism)
    x = torch.zeros(DIMENSION, dtype=torch.float64)
    for _ in range(STEPS):
        x = x - stepsize * client.value_and_gradient(x)[1]
    return softplus(-labels * (rows @ x)), coins, client.ledger


def best_threshold(losses, coins):
    """The threshold of most advantage, for losses and coins of any shape."""
    ordered, order = losses.flatten().sort()
    return ordered[coins.flatten()[order].cumsum(0).argmax()]


@cache
def attack(**settings):
    """Advantage in the measured runs, its standard error, and members' losses and a ledger."""
    games = [play(run, **settings) for run in range(SHADOWS + RUNS)]
    losses = torch.stack([one for one, _, _ in games])
    coins = torch.stack([one for _, one, _ in games])
    threshold = best_threshold(losses[:SHADOWS], coins[:SHADOWS])
    guesses = torch.where(losses[SHADOWS:] <= threshold, 1.0, -1.0)
    each = (coins[SHADOWS:] * guesses).mean(dim=1)
    members = losses[SHADOWS:][coins[SHADOWS:] > 0]
    return float(each.mean()), float(each.std()) / sqrt(RUNS), members, games[0][2]


@cache
def noise(batch=None):
    """The noise multiplier of epsilon 1 over all steps."""
    pytest.importorskip("opacus")
    rate = 1.0 if batch is None else batch / CANDIDATES
    plan = Ledger().charge(noise_multiplier=1.0, sample_rate=rate, steps=STEPS)
    return calibrate_noise([plan], epsilon=EPSILON, delta=DELTA)


def private_attack(*, batch=None, share=1.0):
    """The attack where releases have a share of the noise that epsilon 1 needs."""
    return attack(**PRIVATE, noise_multiplier=share * noise(batch), expected_batch_size=batch)


@pytest.mark.parametrize("batch", [None, 50])
def test_the_attack_stays_below_what_epsilon_1_allows(batch):
    mean, error, _, ledger = private_attack(batch=batch)
    assert ledger.releases == STEPS
    assert 0.99 * EPSILON <= ledger.epsilon(DELTA) <= EPSILON
    assert error < 0.02
    assert mean <= BOUND + 3.0 * error


def test_the_attack_on_the_overfitted_model_exceeds_it():
    mean, error, members, _ = attack(**OVERFITTED)
    assert float(members.mean()) < 0.05
    assert mean - 3.0 * error > BOUND
    assert mean > 0.9


def test_a_tenth_of_the_noise_exceeds_it():
    # The bound holds for lack of information, not because the attack is too weak to use it.
    mean, error, _, _ = private_attack(share=0.1)
    assert mean - 3.0 * error > BOUND


def test_the_attack_is_nearly_the_best_one_there_is():
    # T full releases are one Gaussian of sensitivity sqrt(T)/sigma, on which no test has more
    # advantage than the total variation 2 Phi(sqrt(T)/(2 sigma)) - 1: .098, far below .462.
    best = 2.0 * NormalDist().cdf(sqrt(STEPS) / (2.0 * noise())) - 1.0
    mean, error, _, _ = private_attack()
    assert best / 2.0 < mean <= best + 3.0 * error
    # Half the noise that was charged is seen.
    mean, error, _, _ = private_attack(share=0.5)
    assert mean > best + 3.0 * error


def test_a_model_of_nothing_but_noise_gives_no_advantage():
    mean, error, _, _ = private_attack(share=1000.0)
    assert abs(mean) <= 3.0 * error
