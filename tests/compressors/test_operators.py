"""What each operator sends: corner identities, payload contracts, bit-for-bit batching."""

from math import comb

import pytest
import torch

from fedstrategies.compressors import (
    QSGD,
    Cast,
    CompK,
    Composition,
    Floats,
    Identity,
    Levels,
    MixK,
    Natural,
    Payload,
    Powers,
    RandK,
    Rounded,
    ScaledRandK,
    TopK,
    parse_compressor,
)
from fedstrategies.random import (
    Purpose,
    client_keys,
    derived_keys,
    sample_without_replacement,
)

C, D = 40, 23

ALL = [
    Identity(),
    TopK(k=4),
    TopK(fraction=0.2),
    RandK(k=1),
    RandK(k=4),
    ScaledRandK(k=4),
    MixK(k=2, k_prime=3),
    MixK(k=0, k_prime=3),
    CompK(k=1, k_prime=9),
    CompK(k=3, k_prime=9),
    Natural(),
    QSGD(levels=5),
    Cast(dtype="float16"),
    Cast(dtype="bfloat16"),
    Composition(stages=(TopK(k=4), Natural())),
    Composition(stages=(RandK(k=4), QSGD(levels=3))),
    Composition(stages=(MixK(k=3, k_prime=3), CompK(k=1, k_prime=4), Cast(dtype="float16"))),
]


@pytest.fixture
def keys():
    return client_keys(11, 2, torch.arange(C), Purpose.COMPRESSOR)


@pytest.fixture(params=[torch.float64, torch.float32], ids=["float64", "float32"])
def vectors(request):
    generator = torch.Generator().manual_seed(4)
    rows = torch.randn(C, D, dtype=request.param, generator=generator)
    rows[::3] = rows[::3].round()
    rows[7] = 0
    return rows


@pytest.mark.parametrize("operator", ALL, ids=lambda operator: operator.spec)
def test_a_row_of_a_batch_is_its_own_result_bit_for_bit(operator, vectors, keys):
    batch = operator.compress(vectors, keys)
    assert len(batch) == C
    for row in range(C):
        alone = operator.compress(vectors[row : row + 1], keys[row : row + 1])
        assert torch.equal(alone.dense(), batch.rows(slice(row, row + 1)).dense())
        if alone.indices is not None:
            assert torch.equal(alone.indices[0], batch.indices[row])


@pytest.mark.parametrize("operator", ALL, ids=lambda operator: operator.spec)
def test_payload_contract(operator, vectors, keys):
    before = vectors.clone()
    payload = operator.compress(vectors, keys)
    assert torch.equal(vectors, before)
    assert payload.dimension == D
    values = payload.values.to_tensor()
    assert values.shape == (C, operator.kept(D))
    assert values.dtype == vectors.dtype
    if payload.indices is None:
        assert operator.kept(D) == D
    else:
        assert payload.indices.dtype == torch.int64
        assert (payload.indices.diff(dim=1) > 0).all()
        assert payload.indices.min() >= 0
        assert payload.indices.max() < D
    if payload.keys is not None:
        redrawn = sample_without_replacement(payload.keys, D, operator.kept(D))
        assert torch.equal(payload.indices, redrawn)


@pytest.mark.parametrize("operator", ALL, ids=lambda operator: operator.spec)
def test_zero_stays_zero_and_empty_batches_pass(operator, keys):
    zeros = torch.zeros(3, D, dtype=torch.float64)
    assert not operator.compress(zeros, keys[:3]).dense().any()
    assert operator.compress(zeros[:0], keys[:0]).dense().shape == (0, D)


@pytest.mark.parametrize("operator", ALL, ids=lambda operator: operator.spec)
@pytest.mark.parametrize("poison", [float("nan"), float("inf"), -float("inf")])
def test_non_finite_entries_neither_crash_nor_become_finite(operator, poison, keys):
    vectors = torch.ones(4, D, dtype=torch.float64)
    vectors[2] = poison
    payload = operator.compress(vectors, keys[:4])
    assert not payload.is_finite()
    assert payload.rows(slice(0, 2)).is_finite()


def test_random_operators_send_their_keys(vectors, keys):
    for operator in (RandK(k=4), ScaledRandK(k=4), CompK(k=4, k_prime=D)):
        assert torch.equal(operator.compress(vectors, keys).keys, keys)
    for operator in (TopK(k=4), MixK(k=1, k_prime=3), CompK(k=4, k_prime=5)):
        assert operator.compress(vectors, keys).keys is None


def same(first: Payload, second: Payload) -> bool:
    return torch.equal(first.dense(), second.dense())


def test_comp_between_top_and_rand(vectors, keys):
    assert same(CompK(k=4, k_prime=4).compress(vectors, keys), TopK(k=4).compress(vectors, keys))
    assert CompK(k=4, k_prime=4).constants(D).eta == TopK(k=4).constants(D).eta
    assert same(CompK(k=4, k_prime=D).compress(vectors, keys), RandK(k=4).compress(vectors, keys))
    comp, rand = CompK(k=4, k_prime=D).constants(D), RandK(k=4).constants(D)
    assert (comp.eta, comp.omega) == (rand.eta, pytest.approx(rand.omega))


def test_mix_between_top_and_scaled_rand(vectors, keys):
    assert same(MixK(k=4, k_prime=0).compress(vectors, keys), TopK(k=4).compress(vectors, keys))
    assert same(
        MixK(k=0, k_prime=4).compress(vectors, keys), ScaledRandK(k=4).compress(vectors, keys)
    )
    for mix, other in [
        (MixK(k=4, k_prime=0), TopK(k=4)),
        (MixK(k=0, k_prime=4), ScaledRandK(k=4)),
    ]:
        of_mix, of_other = mix.constants(D), other.constants(D)
        for name in ("eta", "omega", "mean_gain", "second_moment", "error"):
            assert getattr(of_mix, name) == pytest.approx(getattr(of_other, name)), name


def test_mix_always_holds_the_top_and_never_twice(vectors, keys):
    top = TopK(k=2).compress(vectors, keys).indices
    mixed = MixK(k=2, k_prime=3).compress(vectors, keys).indices
    assert (mixed.unsqueeze(1) == top.unsqueeze(2)).any(dim=2).all()


@pytest.mark.parametrize(
    "operator",
    [
        TopK(k=D),
        TopK(fraction=1.0),
        RandK(k=D),
        ScaledRandK(k=D),
        MixK(k=3, k_prime=D - 3),
        CompK(k=D, k_prime=D),
    ],
)
def test_keeping_everything_is_the_identity(operator, vectors, keys):
    payload = operator.compress(vectors, keys)
    assert payload.indices is None
    assert torch.equal(payload.dense(), vectors)
    constants = operator.constants(D)
    assert (constants.eta, constants.omega, constants.error) == (0, 0, 0)
    assert constants.unbiased


@pytest.mark.parametrize(
    ("operator", "message"),
    [
        (TopK(k=24), "k = 24 exceeds the dimension d = 23"),
        (RandK(k=24), "k = 24 exceeds the dimension d = 23"),
        (ScaledRandK(k=24), "k = 24 exceeds the dimension d = 23"),
        (MixK(k=12, k_prime=12), r"12 \+ 12 exceeds the dimension d = 23"),
        (CompK(k=1, k_prime=24), "k_prime = 24 exceeds the dimension d = 23"),
        (CompK(k=9, fraction_prime=0.1), "k = 9 exceeds k_prime = 2"),
        (Composition(stages=(TopK(k=3), RandK(k=4))), "k = 4 exceeds the dimension d = 3"),
    ],
)
def test_more_than_there_is_is_refused(operator, message, vectors, keys):
    for attempt in (
        lambda: operator.constants(D),
        lambda: operator.kept(D),
        lambda: operator.compress(vectors, keys),
    ):
        with pytest.raises(ValueError, match=message):
            attempt()


def test_fractions_round_to_at_least_one():
    assert TopK(fraction=0.01).kept(1000) == 10
    assert TopK(fraction=0.01).kept(7) == 1
    assert MixK(fraction=0.5, k_prime=0).kept(10) == 5


def test_composition_nests_index_sets(vectors, keys):
    both = Composition(stages=(TopK(k=9), ScaledRandK(k=3)))
    payload = both.compress(vectors, keys)
    outer = TopK(k=9).compress(vectors, keys).indices
    ranks = sample_without_replacement(derived_keys(keys, 1), 9, 3)
    assert torch.equal(payload.indices, outer.gather(1, ranks))
    assert torch.equal(payload.values.to_tensor(), vectors.gather(1, payload.indices))


def test_composition_keeps_the_coding_and_the_keys(vectors, keys):
    for coder, kind in [
        (Natural(), Powers),
        (QSGD(levels=3), Levels),
        (Cast(dtype="float16"), Rounded),
    ]:
        payload = Composition(stages=(RandK(k=4), coder)).compress(vectors, keys)
        assert isinstance(payload.values, kind)
        assert torch.equal(payload.indices, sample_without_replacement(payload.keys, D, 4))
    thinned = Composition(stages=(RandK(k=4), TopK(k=2))).compress(vectors, keys)
    assert thinned.keys is None
    assert isinstance(thinned.values, Floats)
    dense_first = Composition(stages=(Identity(), RandK(k=4))).compress(vectors, keys)
    assert dense_first.keys is not None


def test_stages_draw_from_streams_of_their_own(keys):
    """Rand-1 of 2 after rand-2 of 4: all 12 (pair, member) outcomes occur, near equally."""
    both = Composition(stages=(RandK(k=2), RandK(k=1)))
    many = client_keys(0, 0, torch.arange(6000), Purpose.COMPRESSOR)
    first = RandK(k=2).compress(torch.ones(6000, 4), derived_keys(many, 0)).indices
    last = both.compress(torch.ones(6000, 4), many).indices[:, 0]
    outcome = first[:, 0] * 100 + first[:, 1] * 10 + last
    _, counts = outcome.unique(return_counts=True)
    assert len(counts) == 2 * comb(4, 2)
    assert counts.min() > 500 - 6 * 500**0.5
    assert counts.max() < 500 + 6 * 500**0.5


def test_composition_flattens_and_refuses_what_would_lose_a_coding():
    nested = Composition(stages=(TopK(k=9), Composition(stages=(RandK(k=3), Natural()))))
    assert nested == Composition(stages=(TopK(k=9), RandK(k=3), Natural()))
    for spec in ("natural+top-k:k=3", "qsgd:levels=2+rand-k:k=3", "cast:float16+identity"):
        with pytest.raises(ValueError, match="write it the other way round"):
            parse_compressor(spec)
    with pytest.raises(ValueError, match="at least one operator"):
        Composition(stages=())


def test_operators_are_deterministic_in_the_keys(vectors, keys):
    for operator in ALL:
        assert same(operator.compress(vectors, keys), operator.compress(vectors, keys))
    assert not same(
        RandK(k=4).compress(vectors, keys), RandK(k=4).compress(vectors, derived_keys(keys, 1))
    )
