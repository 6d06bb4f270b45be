from __future__ import annotations

from math import exp, fsum, sqrt

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fedstrategies.fedp3 import (
    Aggregation,
    Attention,
    Simple,
    Weighted,
    aggregate,
    parse_aggregation,
    parse_layers,
)
from fedstrategies.pruning import layer_groups
from fedstrategies.scafflix.algorithm import weighted_mean
from tests.pruning.networks import small_cnn, some_vector

GROUPS = layer_groups(small_cnn())
D, G = GROUPS.dimension, len(GROUPS)
X = some_vector(D, seed=1)
RULES: list[Aggregation] = [Simple(), Weighted(), Attention(temperature=0.5)]
rules = pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.spec)


def uploads(clients: int, seed: int = 2, dtype: torch.dtype = torch.float32) -> Tensor:
    return some_vector(clients * D, seed=seed).view(clients, D).to(dtype)


def some_layers(clients: int, seed: int = 3) -> Tensor:
    draw = torch.rand(clients, G, generator=torch.Generator().manual_seed(seed))
    return draw < 0.5


def mean(rows: Tensor, sent: Tensor, rule: Aggregation, ids: Tensor | None = None) -> Tensor:
    ids = torch.arange(len(rows)) if ids is None else ids
    return aggregate(rows, sent, X.to(rows.dtype), GROUPS, partition_ids=ids, aggregation=rule)


@pytest.mark.parametrize("clients", [1, 2, 31, 32, 33, 100])
def test_all_layers_and_simple_is_fedavg_bit_for_bit(clients: int) -> None:
    rows, everything = uploads(clients), torch.ones(clients, G, dtype=torch.bool)
    ids = torch.arange(clients)
    fedavg = weighted_mean(rows, torch.ones(clients, dtype=torch.float64), ids)
    assert torch.equal(mean(rows, everything, Simple()), fedavg)
    assert torch.equal(aggregate(rows, everything, X, GROUPS, partition_ids=ids), fedavg)
    some = ids * 3 + 1
    fedavg = weighted_mean(rows, torch.ones(clients, dtype=torch.float64), some)
    assert torch.equal(mean(rows, everything, Simple(), some), fedavg)


@pytest.mark.parametrize("name", ["all", "lowerb", "opu2", "opu3", "opr2"])
def test_weighted_with_equally_many_layers_is_simple_bit_for_bit(name: str) -> None:
    sent = parse_layers(name).draw(GROUPS, clients=45, seed=0, round=1)
    assert len(set(sent.sum(dim=1).tolist())) == 1
    rows = uploads(45)
    assert torch.equal(mean(rows, sent, Weighted()), mean(rows, sent, Simple()))


@settings(max_examples=40, deadline=None)
@given(clients=st.integers(1, 40), seed=st.integers(0, 10**6))
def test_weights_against_the_formula(clients: int, seed: int) -> None:
    rows, sent = uploads(clients, seed, torch.float64), some_layers(clients, seed + 1)
    x, tau = X.double(), 0.5
    for rule in RULES:
        got = mean(rows, sent, rule)
        for layer, group in enumerate(GROUPS):
            part = torch.cat([torch.arange(s.start, s.stop) for s in group.slices])
            members = [i for i in range(clients) if sent[i, layer]]
            if not members:
                assert torch.equal(got[part], x[part])
                continue
            if isinstance(rule, Simple):
                weights = [1.0 for _ in members]
            elif isinstance(rule, Weighted):
                weights = [float(sent[i].sum()) for i in members]
            else:
                dots = [float(rows[i, part] @ x[part]) for i in members]
                weights = [exp(dot / (tau * sqrt(len(part)))) for dot in dots]
            total = fsum(weights)
            expected = torch.zeros(len(part)).double()
            for i, weight in zip(members, weights, strict=True):
                expected += weight / total * rows[i, part]
            torch.testing.assert_close(got[part], expected, rtol=1e-11, atol=1e-13)


@rules
def test_shares_sum_to_one(rule: Aggregation) -> None:
    sent = some_layers(20)
    sent[0] = True
    assert len(set(sent.sum(dim=1).tolist())) > 1, "the numbers of layers differ"
    same = X.double().expand(20, D)
    torch.testing.assert_close(mean(same, sent, rule), X.double(), rtol=1e-14, atol=0)


@rules
def test_a_layer_nobody_sent_stays_bit_for_bit(rule: Aggregation) -> None:
    sent = some_layers(6)
    sent[:, 2] = False
    sent[:, 4] = True
    old = X.clone()
    got = mean(uploads(6), sent, rule)
    assert torch.equal(X, old), "x itself is not written to"
    for layer, group in enumerate(GROUPS):
        for part in group.slices:
            changed = bool((got[part] != X[part]).any())
            assert changed == bool(sent[:, layer].any())
    nobody = torch.zeros(6, G, dtype=torch.bool)
    assert torch.equal(mean(uploads(6), nobody, rule), X)
    assert torch.equal(mean(uploads(0), nobody[:0], rule), X)


@rules
def test_what_was_not_sent_is_not_read(rule: Aggregation) -> None:
    rows, sent = uploads(9), some_layers(9)
    poisoned = torch.where(GROUPS.expand(sent), rows, torch.tensor(torch.nan))
    assert torch.equal(mean(poisoned, sent, rule), mean(rows, sent, rule))


@rules
def test_the_order_of_the_rows_does_not_matter(rule: Aggregation) -> None:
    rows, sent, ids = uploads(50), some_layers(50), torch.arange(50) * 2 + 5
    order = torch.randperm(50, generator=torch.Generator().manual_seed(0))
    got = mean(rows[order], sent[order], rule, ids[order])
    assert torch.equal(got, mean(rows, sent, rule, ids))


def test_clients_of_a_layer_may_change_places() -> None:
    sent = parse_layers("lowerb").draw(GROUPS, clients=40, seed=0, round=1)
    rows = uploads(40, dtype=torch.float64)
    permuted = torch.cat([rows[:10].flip(0), rows[10:]])
    torch.testing.assert_close(
        mean(permuted, sent, Simple()), mean(rows, sent, Simple()), rtol=1e-13, atol=1e-14
    )


@rules
def test_a_single_contributor_is_taken_as_it_is(rule: Aggregation) -> None:
    rows, sent = uploads(1), torch.ones(1, G, dtype=torch.bool)
    assert torch.equal(mean(rows, sent, rule), rows[0])


def test_attention_between_its_limits() -> None:
    rows, sent = uploads(4, dtype=torch.float64), torch.ones(4, G, dtype=torch.bool)
    hot = mean(rows, sent, Attention(temperature=1e12))
    torch.testing.assert_close(hot, mean(rows, sent, Simple()), rtol=1e-9, atol=1e-9)
    cold = mean(rows, sent, Attention(temperature=1e-6))
    for group in GROUPS:
        part = torch.cat([torch.arange(s.start, s.stop) for s in group.slices])
        closest = (rows[:, part] @ X.double()[part]).argmax()
        assert torch.equal(cold[part], rows[closest, part])
    alike = uploads(1).expand(4, D).contiguous()
    assert torch.equal(mean(alike, sent, Attention()), mean(alike, sent, Simple()))


def test_inputs_that_do_not_fit_are_refused() -> None:
    rows, sent, ids = uploads(2), some_layers(2), torch.arange(2)
    with pytest.raises(ValueError, match=r"rows, sent and x have shapes \(\(2, \d+\), \(2, 4\)"):
        aggregate(rows, sent[:, :4], X, GROUPS, partition_ids=ids)
    with pytest.raises(ValueError, match=r"expected \(\(1, \d+\), \(1, 5\), \(\d+,\)\)"):
        aggregate(rows, sent, X, GROUPS, partition_ids=ids[:1])
    with pytest.raises(ValueError, match=r"a client is there twice among \[3, 3\]"):
        aggregate(rows, sent, X, GROUPS, partition_ids=torch.tensor([3, 3]))


def test_rules_as_text() -> None:
    for rule in RULES:
        assert parse_aggregation(rule.spec) == rule
    assert parse_aggregation("attention") == Attention(temperature=1.0)
    for text, message in {
        "median": "the aggregations are simple, weighted, attention",
        "simple:temperature=1": "only attention has a setting",
        "attention:tau=1": "only attention has a setting, attention:temperature=1",
        "attention:temperature=hot": "temperature = 'hot' is not a number",
        "attention:temperature=0": "temperature = 0.0 is not positive and finite",
        "attention:temperature=inf": "temperature = inf is not positive and finite",
    }.items():
        with pytest.raises(ValueError, match=message):
            parse_aggregation(text)
