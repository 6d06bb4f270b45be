"""Round trips and mutations over every kind of values and index sets."""

from __future__ import annotations

import zlib
from dataclasses import fields

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fedstrategies.compressors.payload import Payload
from fedstrategies.compressors.values import Floats, Levels, Powers, Rounded, Values
from fedstrategies.random import sample_without_replacement
from fedstrategies.wire import (
    WireError,
    decode,
    decode_vector,
    encode,
    encode_rows,
    encode_vector,
    encoded_size,
    encoded_sizes,
)

checked = settings(derandomize=True, deadline=None, max_examples=120)

SPECIAL = [0.0, -0.0, 1.0, -1.0, 5e-324, -(2.0**-1060), 1e-40, 3.5, 6e4, -1e30]
LOWEST = {torch.float32: -149, torch.float64: -1074}
HIGHEST = {torch.float32: 127, torch.float64: 1023}


def make_values(rng: np.random.Generator, clients: int, count: int) -> Values:
    shape = (clients, count)
    dtype = (torch.float32, torch.float64)[rng.integers(2)]
    numbers = torch.from_numpy(
        np.where(rng.random(shape) < 0.3, rng.choice(SPECIAL, shape), rng.standard_normal(shape))
    )
    kind = rng.integers(5)
    if kind == 0:
        return Floats(numbers.to(dtype))
    if kind == 1:
        return Floats(numbers.clamp(-6e4, 6e4).to((torch.float16, torch.bfloat16)[rng.integers(2)]))
    if kind == 2:
        low = int(rng.integers(LOWEST[dtype], HIGHEST[dtype] + 1))
        high = int(rng.integers(low, min(HIGHEST[dtype], low + rng.integers(1, 400)) + 1))
        powers = np.ldexp(rng.choice([-1.0, 1.0], shape), rng.integers(low, high + 1, shape))
        powers *= rng.random(shape) >= rng.choice([0.0, 0.3, 1.0])
        return Powers(torch.from_numpy(powers).to(dtype))
    if kind == 3:
        half = (torch.float16, torch.bfloat16)[rng.integers(2)]
        shift = torch.from_numpy(rng.integers(-30, 30, clients))
        return Rounded(numbers.clamp(-6e4, 6e4).to(half), shift, dtype)
    steps = int(rng.choice([1, 2, 3, 8, 127, 128, 2**20]))
    levels = torch.from_numpy(rng.integers(-steps, steps + 1, shape))
    return Levels(torch.from_numpy(rng.random(clients)).to(dtype), levels, steps)


@st.composite
def payloads(draw: st.DrawFn) -> Payload:
    """Any payload of 1 to 3 clients, d up to 600."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    clients = draw(st.integers(1, 3))
    dimension = draw(st.one_of(st.integers(1, 40), st.integers(41, 600)))
    how = draw(st.sampled_from(["dense", "uniform", "clustered", "drawn"]))
    if how == "dense":
        return Payload(dimension=dimension, values=make_values(rng, clients, dimension))
    count = draw(st.integers(0, dimension))
    values = make_values(rng, clients, count)
    if how == "drawn":
        keys = torch.from_numpy(rng.integers(-(2**63), 2**63, clients))
        indices = sample_without_replacement(keys, dimension, count)
        return Payload(dimension=dimension, values=values, indices=indices, keys=keys)
    rows = []
    for _ in range(clients):
        if how == "uniform":
            row = np.sort(rng.choice(dimension, count, replace=False))
        else:
            row = np.arange(count) + rng.integers(0, dimension - count + 1)
        rows.append(torch.from_numpy(row))
    return Payload(dimension=dimension, values=values, indices=torch.stack(rows))


def bits_of(tensor: Tensor) -> tuple[torch.dtype, tuple[int, ...], bytes]:
    return (
        tensor.dtype,
        tuple(tensor.shape),
        tensor.reshape(-1).clone().view(torch.uint8).numpy().tobytes(),
    )


def assert_same_values(found: Values, expected: Values) -> None:
    assert type(found) is type(expected)
    for field in fields(expected):
        left, right = getattr(found, field.name), getattr(expected, field.name)
        assert (bits_of(left) == bits_of(right)) if isinstance(right, Tensor) else left == right
    assert bits_of(found.to_tensor()) == bits_of(expected.to_tensor())


def resealed(content: bytes) -> bytes:
    return content + zlib.crc32(content).to_bytes(4, "little")


@checked
@given(payloads())
def test_decoding_gives_the_payload_back_bit_for_bit(payload: Payload) -> None:
    blobs = encode_rows(payload)
    for row, blob in enumerate(blobs):
        assert blob == encode(payload, row)
        expected = payload.rows(slice(row, row + 1))
        found = decode(blob, dimension=payload.dimension, finite=False)
        assert found.dimension == payload.dimension
        assert_same_values(found.values, expected.values)
        if expected.indices is None:
            assert found.indices is None
            assert found.keys is None
            continue
        assert found.indices is not None
        assert bits_of(found.indices) == bits_of(expected.indices)
        if found.keys is not None:
            assert expected.keys is not None
            assert bits_of(found.keys) == bits_of(expected.keys)


@checked
@given(payloads())
def test_sizes_are_known_without_encoding(payload: Payload) -> None:
    sizes = encoded_sizes(payload)
    assert sizes.dtype == torch.int64
    assert sizes.tolist() == [len(blob) for blob in encode_rows(payload)]
    assert encoded_size(payload) == int(sizes.sum())


@st.composite
def mutations(draw: st.DrawFn) -> tuple[Payload, bytes]:
    """A payload and its first message's bytes, changed and given a fitting checksum."""
    payload = draw(payloads())
    content = bytearray(encode(payload)[:-4])
    for _ in range(draw(st.integers(1, 3))):
        if not content:
            break
        # Half of the changes hit the first bytes, where the sizes are.
        last = len(content) - 1
        at = draw(st.one_of(st.integers(0, min(last, 24)), st.integers(0, last)))
        change = draw(st.sampled_from(["flip", "set", "cut", "extend", "delete", "insert"]))
        if change == "flip":
            content[at] ^= 1 << draw(st.integers(0, 7))
        elif change == "set":
            content[at] = draw(st.integers(0, 255))
        elif change == "cut":
            del content[at:]
        elif change == "extend":
            content += draw(st.binary(min_size=1, max_size=9))
        elif change == "delete":
            del content[at]
        else:
            content.insert(at, draw(st.integers(0, 255)))
    return payload, bytes(content)


@settings(checked, max_examples=400)
@given(mutations(), st.booleans())
def test_changed_bytes_are_refused_or_are_another_valid_message(
    mutation: tuple[Payload, bytes], finite: bool
) -> None:
    payload, content = mutation
    blob = resealed(content)
    try:
        found = decode(blob, dimension=payload.dimension, finite=finite)
    except WireError as error:
        refusal = error
    else:
        refusal = None
    if refusal is not None:
        assert 0 <= refusal.offset <= len(blob)
        assert str(refusal).startswith(f"payload, byte {refusal.offset}: ")
        return
    assert encode(found) == blob
    assert int(encoded_sizes(found)) == len(blob)
    assert not finite or found.is_finite()


@checked
@given(payloads(), st.data())
def test_damage_without_a_new_checksum_is_always_seen(
    payload: Payload, data: st.DataObject
) -> None:
    blob = bytearray(encode(payload))
    blob[data.draw(st.integers(0, len(blob) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(WireError):
        decode(bytes(blob), dimension=payload.dimension, finite=False)


@checked
@given(st.binary(max_size=60), st.integers(0, 300))
def test_arbitrary_bytes_raise_nothing_else(content: bytes, dimension: int) -> None:
    for blob in (content, resealed(content), resealed(b"FS\x01" + content)):
        try:
            found = decode(blob, dimension=dimension)
        except WireError:
            continue
        assert encode(found) == blob


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_dense_vectors(dtype: torch.dtype) -> None:
    vector = torch.tensor([0.0, -0.0, 1.5, -3.0], dtype=dtype)
    blob = encode_vector(vector)
    assert len(blob) == 9 + 4 * dtype.itemsize
    assert bits_of(decode_vector(blob, dimension=4)) == bits_of(vector)


def test_a_dense_vector_is_not_read_from_a_compressed_message() -> None:
    payload = Payload(dimension=4, values=Floats(torch.ones(1, 1)), indices=torch.tensor([[2]]))
    with pytest.raises(WireError, match="downlink, byte 3: a compressed message"):
        decode_vector(encode(payload), dimension=4, name="downlink")


def test_numbers_that_are_not_finite_pass_only_where_allowed() -> None:
    vector = torch.tensor([1.0, torch.nan, -torch.inf])
    blob = encode_vector(vector)
    assert bits_of(decode_vector(blob, dimension=3, finite=False)) == bits_of(vector)
    with pytest.raises(WireError, match="value 1 of 3 is nan, expected finite"):
        decode_vector(blob, dimension=3)
