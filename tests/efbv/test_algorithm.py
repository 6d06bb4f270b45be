"""Special-case identities of EF-BV's pure steps, against loops written from the formulas."""

from dataclasses import replace

import pytest
import torch

from fedstrategies.compressors import Compressor, Identity, RandK, TopK
from fedstrategies.efbv import ClientRule, ServerState, Upload, server_step, theory
from fedstrategies.objectives import L1, LogisticRegression, NoProx, Prox
from fedstrategies.random import Purpose, client_keys, derived_keys
from fedstrategies.reduce import sum_over_clients
from tests.efbv.helpers import problem

ROUNDS = 40


def run_efbv(
    compressor: Compressor,
    found: theory.Theory,
    *,
    prox: Prox | None = None,
    clients: int = 8,
    rounds: int = ROUNDS,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    objectives, _ = problem(clients)
    batch = LogisticRegression.stack(objectives)
    everyone = torch.arange(clients)
    rule = ClientRule(compressor=compressor, memory_step=found.memory_step)
    memory = rule.initial_memory(clients, batch.dimension, torch.float64, torch.device("cpu"))
    state = ServerState(
        x=torch.zeros(batch.dimension, dtype=torch.float64),
        h=torch.zeros(batch.dimension, dtype=torch.float64),
    )
    for t in range(1, rounds + 1):
        keys = client_keys(0, t, everyone, Purpose.CLIENT)
        payload, _ = rule.step(memory, state.x, batch, keys)
        upload = Upload(
            partition_ids=everyone,
            payload=payload,
            memory_step=found.memory_step,
            gradient_step=found.gradient_step,
        )
        state = server_step(
            state, [upload], clients=clients, gamma=found.gamma, prox=prox or NoProx()
        )
        rule.commit_(memory, payload)
        held = memory.get("h", torch.zeros(clients, batch.dimension, dtype=torch.float64))
        assert (state.h - held.mean(dim=0)).abs().max() < 1e-15
    return state.x, state.h, held


def test_lambda_nu_one_and_top_k_is_ef21_bit_for_bit() -> None:
    objectives, smoothness = problem()
    batch = LogisticRegression.stack(objectives)
    found = theory.ef21(TopK(k=3).constants(12), smoothness, clients=8)
    x, _, memories = run_efbv(TopK(k=3), found)

    # EF21 as published: g_i <- g_i + C(grad f_i(x) - g_i), x <- x - gamma mean(g_i).
    model = torch.zeros(12, dtype=torch.float64)
    shifts = torch.zeros(8, 12, dtype=torch.float64)
    mean = torch.zeros(12, dtype=torch.float64)
    for _ in range(ROUNDS):
        difference = batch.value_and_gradient(model)[1] - shifts
        sparse = torch.zeros_like(difference)
        for i in range(8):
            order = sorted(range(12), key=lambda j: (-abs(float(difference[i, j])), j))[:3]
            sparse[i, order] = difference[i, order]
        shifts = shifts + sparse
        mean = mean + sum_over_clients(sparse, torch.arange(8)) / 8
        model = model - found.gamma * mean
    assert torch.equal(x, model)
    assert torch.equal(memories, shifts)


def test_nu_one_and_rand_k_is_diana() -> None:
    objectives, smoothness = problem()
    batch = LogisticRegression.stack(objectives)
    compressor = RandK(k=3)
    found = theory.diana(compressor.constants(12), smoothness, clients=8)
    x, _, memories = run_efbv(compressor, found)

    alpha = 1 / (1 + 12 / 3 - 1)
    everyone = torch.arange(8)
    model = torch.zeros(12, dtype=torch.float64)
    shifts = torch.zeros(8, 12, dtype=torch.float64)
    for t in range(1, ROUNDS + 1):
        keys = derived_keys(client_keys(0, t, everyone, Purpose.CLIENT), Purpose.COMPRESSOR)
        gradients = batch.value_and_gradient(model)[1]
        message = compressor.compress(gradients - shifts, keys).dense()
        estimate = (shifts + message).mean(dim=0)
        shifts = shifts + alpha * message
        model = model - found.gamma * estimate
    torch.testing.assert_close(x, model, rtol=0, atol=1e-14)
    torch.testing.assert_close(memories, shifts, rtol=0, atol=1e-14)


@pytest.mark.parametrize("prox", [NoProx(), L1(lam=0.01)])
@pytest.mark.parametrize("memory_step", [0.0, 1.0])
def test_identity_is_proximal_gradient_descent(prox: Prox, memory_step: float) -> None:
    objectives, smoothness = problem()
    batch = LogisticRegression.stack(objectives)
    found = theory.gradient_descent(Identity().constants(12), smoothness, clients=8)
    assert found.memory_step == 0.0
    x, _, held = run_efbv(Identity(), replace(found, memory_step=memory_step), prox=prox)
    assert bool(held.any()) == bool(memory_step)
    model = torch.zeros(12, dtype=torch.float64)
    for _ in range(ROUNDS):
        gradient = batch.value_and_gradient(model)[1].mean(dim=0)
        model = prox.prox(model - found.gamma * gradient, found.gamma)
    torch.testing.assert_close(x, model, rtol=0, atol=1e-14)


def test_the_estimate_uses_the_old_memory() -> None:
    state = ServerState(x=torch.zeros(3), h=torch.tensor([1.0, 0.0, 0.0]))
    rule = ClientRule(compressor=Identity(), memory_step=0.5)
    payload = Identity().compress(torch.tensor([[0.0, 2.0, 0.0]]), torch.zeros(1).long())
    upload = Upload(
        partition_ids=torch.tensor([0]), payload=payload, memory_step=0.5, gradient_step=0.25
    )
    after = server_step(state, [upload], clients=1, gamma=1.0, prox=NoProx())
    assert after.x.tolist() == [-1.0, -0.5, 0.0]
    assert after.h.tolist() == [1.0, 1.0, 0.0]
    assert rule.template(3, torch.float32).kind == payload.kind


def test_an_absent_client_counts_as_zero_and_keeps_the_mean() -> None:
    state = ServerState(x=torch.zeros(2).double(), h=torch.zeros(2).double())
    payload = Identity().compress(torch.tensor([[4.0, 0.0]]).double(), torch.zeros(1).long())
    upload = Upload(
        partition_ids=torch.tensor([2]), payload=payload, memory_step=1.0, gradient_step=1.0
    )
    after = server_step(state, [upload], clients=4, gamma=1.0, prox=NoProx())
    assert after.h.tolist() == [1.0, 0.0]


def test_uncompressed_first_upload_starts_the_memory_at_the_gradient() -> None:
    objectives, _ = problem()
    batch = LogisticRegression.stack(objectives)
    x = torch.ones(12, dtype=torch.float64)
    rule = ClientRule(compressor=TopK(k=1), memory_step=1.0, uncompressed=True)
    memory = rule.initial_memory(8, 12, torch.float64, torch.device("cpu"))
    payload, _ = rule.step(memory, x, batch, torch.zeros(8, dtype=torch.int64))
    rule.commit_(memory, payload)
    assert torch.equal(memory["h"], batch.value_and_gradient(x)[1])


def test_one_client_computes_what_it_would_in_a_cohort() -> None:
    objectives, _ = problem()
    batch = LogisticRegression.stack(objectives)
    x = torch.ones(12, dtype=torch.float64)
    keys = client_keys(3, 7, torch.arange(8), Purpose.CLIENT)
    rule = ClientRule(compressor=RandK(k=2), memory_step=0.3)
    memory = rule.initial_memory(8, 12, torch.float64, torch.device("cpu"))
    together, _ = rule.step(memory, x, batch, keys)
    some = torch.tensor([1, 4, 6])
    part, _ = rule.step(memory, x, batch, keys[some], clients=some)
    assert torch.equal(part.dense(), together.dense()[some])
    for i, objective in enumerate(objectives):
        alone = LogisticRegression.stack([objective])
        own = rule.initial_memory(1, 12, torch.float64, torch.device("cpu"))
        single, _ = rule.step(own, x, alone, keys[i : i + 1])
        assert torch.equal(single.dense()[0], together.dense()[i])
