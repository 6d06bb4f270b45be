"""The mean Lyapunov function contracts by the rate of the theory.

Psi^t = f(x^t) - f* + gamma/(2 theta*) (1/n) sum_i ||grad f_i(x^t) - h_i^t||^2 must satisfy
E Psi^{t+1} <= max(1 - gamma mu, (r+1)/2) E Psi^t. All seeds run at once: the clients of 200 seeds
are rows of one batch, so that the mean over seeds costs one pass. With a regulariser R the gap is
that of F = f + R, gamma is at most 1/(2L + ...), and the descent part of the rate is
1/(1 + gamma mu/2).
"""

import pytest
import torch

from fedstrategies.compressors import CompK, Compressor, MixK, RandK, TopK
from fedstrategies.efbv import ClientRule, theory
from fedstrategies.objectives import L1, LogisticRegression, NoProx, Prox, minimise
from fedstrategies.random import Purpose, client_keys
from fedstrategies.sampling import FullParticipation, NiceSampling
from tests.efbv.helpers import problem

N, D, SEEDS, ROUNDS = 6, 10, 200, 30
FAR = torch.full((D,), 2.0, dtype=torch.float64)


@pytest.mark.parametrize("cohort", [N, 3])
@pytest.mark.parametrize(
    "compressor",
    [TopK(k=3), RandK(k=3), MixK(k=2, k_prime=2), CompK(k=2, k_prime=5)],
    ids=lambda compressor: compressor.spec,
)
def test_mean_lyapunov_function_contracts(compressor: Compressor, cohort: int) -> None:
    _assert_contraction(compressor, cohort, NoProx())


def test_with_a_regulariser_the_gap_is_that_of_the_sum() -> None:
    # From the minimiser of f alone only the steps of R bring F down.
    objectives, _ = problem(N, D, rows=5, l2=0.3, seed=1)
    start = minimise(LogisticRegression.stack(objectives)).x
    _assert_contraction(RandK(k=3), N, L1(0.1), start)


def _assert_contraction(
    compressor: Compressor, cohort: int, prox: Prox, start: torch.Tensor = FAR
) -> None:
    objectives, smoothness = problem(N, D, rows=5, l2=0.3, seed=1)
    regularised = not isinstance(prox, NoProx)
    solution = minimise(LogisticRegression.stack(objectives), prox)
    # An L1 that the solution does not feel would test nothing.
    assert bool((solution.x == 0).any()) == regularised
    batch = LogisticRegression.stack(objectives * SEEDS)
    found = theory.efbv(
        compressor.constants(D), smoothness, clients=N, cohort=cohort, regularised=regularised
    )
    rate = found.rate(smoothness.mu, regularised=regularised)
    sampling = FullParticipation() if cohort == N else NiceSampling(cohort_size=cohort)
    rule = ClientRule(compressor=compressor, memory_step=found.memory_step)

    x = start.expand(SEEDS, D)
    h = torch.zeros(SEEDS, D, dtype=torch.float64)
    shifts = torch.zeros(SEEDS * N, D, dtype=torch.float64)

    def evaluate() -> tuple[float, torch.Tensor]:
        values, gradients = batch.value_and_gradient(x.repeat_interleave(N, dim=0))
        penalty = torch.tensor([prox.value(row) for row in x], dtype=torch.float64)
        gap = values.view(SEEDS, N).mean(dim=1) + penalty - solution.value
        drift = ((gradients - shifts) ** 2).sum(dim=1).view(SEEDS, N).mean(dim=1)
        return float((gap + found.gamma / (2 * found.theta) * drift).mean()), gradients

    first, gradients = evaluate()
    psi = first
    for t in range(1, ROUNDS + 1):
        chosen = [sampling.draw(N, seed=seed, round=t) for seed in range(SEEDS)]
        keys = torch.cat([client_keys(s, t, ids, Purpose.CLIENT) for s, ids in enumerate(chosen)])
        rows = torch.cat([seed * N + ids for seed, ids in enumerate(chosen)])
        payload = compressor.compress(gradients[rows] - shifts[rows], keys)
        rule.commit_({"h": shifts}, payload, clients=rows)
        mean = payload.dense().view(SEEDS, cohort, D).sum(dim=1) / N
        x = prox.prox(x - found.gamma * (h + found.gradient_step * mean), found.gamma)
        h = h + found.memory_step * mean
        before = psi
        psi, gradients = evaluate()
        # Round by round, which implies the envelope rate^t Psi^0.
        assert psi <= rate * before * (1 + 1e-9), t
    assert psi < 0.999 * first
    torch.testing.assert_close(h, shifts.view(SEEDS, N, D).mean(dim=1), rtol=0, atol=1e-12)
