"""The mean Lyapunov function stays under the envelope of the theory.

Psi^t = f(x^t) - f* + gamma/(2 theta*) (1/n) sum_i ||grad f_i(x^t) - h_i^t||^2 must satisfy
E Psi^t <= max(1 - gamma mu, (r+1)/2)^t Psi^0. All seeds run at once: the clients of 200 seeds
are rows of one batch, so that the mean over seeds costs one pass.
"""

import pytest
import torch

from fedstrategies.compressors import CompK, Compressor, MixK, RandK, TopK
from fedstrategies.efbv import ClientRule, theory
from fedstrategies.objectives import LogisticRegression, NoProx, minimise
from fedstrategies.random import Purpose, client_keys
from fedstrategies.sampling import FullParticipation, NiceSampling
from tests.efbv.helpers import problem

N, D, SEEDS, ROUNDS = 6, 10, 200, 60


@pytest.mark.parametrize("cohort", [N, 3])
@pytest.mark.parametrize(
    "compressor",
    [TopK(k=3), RandK(k=3), MixK(k=2, k_prime=2), CompK(k=2, k_prime=5)],
    ids=lambda compressor: compressor.spec,
)
def test_mean_lyapunov_function_is_under_its_envelope(compressor: Compressor, cohort: int) -> None:
    objectives, smoothness = problem(N, D, rows=5, l2=0.3, seed=1)
    solution = minimise(LogisticRegression.stack(objectives), NoProx())
    batch = LogisticRegression.stack(objectives * SEEDS)
    found = theory.efbv(compressor.constants(D), smoothness, clients=N, cohort=cohort)
    rate = found.rate(smoothness.mu)
    sampling = FullParticipation() if cohort == N else NiceSampling(cohort_size=cohort)
    rule = ClientRule(compressor=compressor, memory_step=found.memory_step)

    x = torch.full((SEEDS, D), 2.0, dtype=torch.float64)
    h = torch.zeros(SEEDS, D, dtype=torch.float64)
    shifts = torch.zeros(SEEDS * N, D, dtype=torch.float64)

    def evaluate() -> tuple[float, torch.Tensor]:
        values, gradients = batch.value_and_gradient(x.repeat_interleave(N, dim=0))
        gap = values.view(SEEDS, N).mean(dim=1) - solution.value
        drift = ((gradients - shifts) ** 2).sum(dim=1).view(SEEDS, N).mean(dim=1)
        return float((gap + found.gamma / (2 * found.theta) * drift).mean()), gradients

    first, gradients = evaluate()
    for t in range(1, ROUNDS + 1):
        chosen = [sampling.draw(N, seed=seed, round=t) for seed in range(SEEDS)]
        keys = torch.cat([client_keys(s, t, ids, Purpose.CLIENT) for s, ids in enumerate(chosen)])
        rows = torch.cat([seed * N + ids for seed, ids in enumerate(chosen)])
        payload = compressor.compress(gradients[rows] - shifts[rows], keys)
        rule.commit_({"h": shifts}, payload, clients=rows)
        mean = payload.dense().view(SEEDS, cohort, D).sum(dim=1) / N
        x = x - found.gamma * (h + found.gradient_step * mean)
        h = h + found.memory_step * mean
        psi, gradients = evaluate()
        assert psi <= rate**t * first * (1 + 1e-9), t
    assert psi < 0.999 * first
    torch.testing.assert_close(h, shifts.view(SEEDS, N, D).mean(dim=1), rtol=0, atol=1e-12)
