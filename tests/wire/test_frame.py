"""What is wrong with a message is said by name, byte and expectation."""

from __future__ import annotations

import pickle
import zlib

import pytest
import torch

from fedstrategies.compressors.payload import Payload
from fedstrategies.compressors.values import Floats, Levels, Powers, Rounded, Values
from fedstrategies.random import sample_without_replacement
from fedstrategies.wire import WireError, decode, encode


def sealed(hexadecimal: str) -> bytes:
    content = bytes.fromhex(hexadecimal)
    return content + zlib.crc32(content).to_bytes(4, "little")


# Magic and version, codec (index coding, value coding, dtype), d and k, then the body.
DENSE, SEED, GAPS = 0x00, 0x40, 0x80
FLOATS, POWERS, HALF, BRAIN, LEVELS = 0x00, 0x08, 0x10, 0x18, 0x20
F32, F64, F16 = 0, 1, 2
MAGIC = "465301"
ONE = "0000803f"  # 1.0 as float32


def frame(codec: int, sizes: str, body: str) -> bytes:
    return sealed(f"{MAGIC}{codec:02x}{sizes}{body}")


@pytest.mark.parametrize(
    ("blob", "offset", "problem"),
    [
        (b"", 0, "0 bytes are too few"),
        (b"FS\x01\x00\x02", 5, "5 bytes are too few"),
        (sealed("47530100" + "01" + ONE), 0, "not a fedstrategies frame: b'GS', expected b'FS'"),
        (sealed("46530200" + "01" + ONE), 2, "format 2, expected 1"),
        (sealed(MAGIC + "00" + "01" + ONE)[:-1], 8, "checksum"),
        (frame(0xC0, "01", ONE), 3, "codec 0xc0"),
        (frame(DENSE | 0x28, "01", ONE), 3, "codec 0x28"),
        (frame(DENSE | FLOATS | 7, "01", ONE), 3, "codec 0x07"),
        (frame(DENSE | POWERS | F16, "01", "0000000000"), 3, "POWERS of torch.float16"),
        (frame(DENSE, "", ""), 4, "the dimension need 1 bytes, 0 are left"),
        (frame(DENSE, "8100", ONE), 4, "the dimension is padded"),
        (frame(DENSE, "ffffffffff01", ONE), 4, "the dimension is longer than 5 bytes"),
        (frame(DENSE, "02", ONE + ONE), 4, "dimension 2, expected 1"),
        (frame(GAPS, "0102", ONE + ONE), 5, "2 values of a vector of dimension 1"),
        (frame(DENSE, "01", ONE[:6]), 5, "1 values of torch.float32 need 4 bytes, 3 are left"),
        (frame(DENSE, "01", ONE + "00"), 9, "1 bytes are left after the message"),
        (frame(DENSE, "01", "0000c07f"), 5, "value 0 of 1 is nan, expected finite"),
        (frame(SEED, "0101", ONE + "00" * 8), 10, "sent as gaps, found a seed"),
        (frame(DENSE | HALF, "01", "0105" + "003c"), 5, "shift 1281, expected at most 1280"),
        (frame(DENSE | BRAIN, "01", "7f00" + "807f"), 5, "value 0 of 1 is inf"),
        (frame(DENSE | LEVELS, "01", ONE + "00" + "00"), 9, "0 levels, expected 1 to"),
        (frame(DENSE | LEVELS, "01", ONE + "01" + "c0"), 10, "level 2 is above 1"),
        (frame(DENSE | LEVELS, "01", ONE + "01" + "81"), 10, "padding after the levels"),
        (frame(DENSE | LEVELS, "01", "0000807f" + "01" + "80"), 5, "the scale is inf"),
        (frame(DENSE | POWERS, "01", "8000" + "00" + "00"), 5, "exponents 128 to 128"),
        (frame(DENSE | POWERS, "01", "6aff" + "00" + "00"), 5, "exponents -150 to -150"),
        (frame(DENSE | POWERS, "01", "0000" + "80" + "40"), 8, "padding after the exponents"),
        (frame(DENSE | POWERS, "01", "0000" + "01" + "40"), 5, "not in their shortest form"),
        (frame(DENSE | POWERS, "01", "0100" + "80" + "00"), 5, "not in their shortest form"),
        (frame(DENSE | POWERS, "01", "0000" + "7f" + "00"), 7, "127 bits are too wide"),
    ],
)
def test_a_wrong_message_is_refused_with_its_place(blob: bytes, offset: int, problem: str) -> None:
    with pytest.raises(WireError) as caught:
        decode(blob, dimension=1, name="uplink of client 3")
    assert caught.value.offset == offset
    assert problem in caught.value.problem
    assert str(caught.value) == f"uplink of client 3, byte {offset}: {caught.value.problem}"


def index_frame(dimension: int, count: int, section: str) -> bytes:
    return frame(GAPS | HALF, f"{dimension:02x}{count:02x}", "0000" + "003c" * count + section)


@pytest.mark.parametrize(
    ("dimension", "count", "section", "offset", "problem"),
    [
        # 2 of 8: b = 2, quotients in unary, then twice two low bits.
        (8, 2, "", 12, "0 bytes cannot hold 2 gaps"),
        (8, 2, "f000", 12, "2 bytes cannot hold 2 gaps"),
        (8, 2, "00", 12, "ends after 0 of 2"),
        (8, 2, "80", 12, "ends after 1 of 2"),
        (8, 2, "c1", 12, "padding after the index set"),
        (8, 2, "be", 12, "index 11 is out of range, expected below 8"),
        # 8 of 64: b = 3, 4 or 5 bytes.
        (64, 8, "ff00000000", 24, "1 bytes are left after the index set"),
        # 32 of 100: b is stated.
        (100, 32, "", 72, "the Rice parameter need 1 bytes"),
        (100, 32, "03ffffffff", 72, "Rice parameter 3, expected 0 to 2"),
        (100, 32, "01" + "f" * 8 + "0" * 8, 72, "Rice parameter 1 is not the shortest"),
        # 7 of 8: the one left out is sent, as a byte.
        (8, 7, "ffff", 22, "2 bytes cannot hold 1 gaps"),
        (8, 8, "00", 24, "1 bytes are left after the message"),
    ],
)
def test_a_wrong_index_set_is_refused(
    dimension: int, count: int, section: str, offset: int, problem: str
) -> None:
    with pytest.raises(WireError) as caught:
        decode(index_frame(dimension, count, section), dimension=dimension)
    assert problem in caught.value.problem
    assert caught.value.offset == offset


def test_the_same_frame_with_a_right_index_set_is_read() -> None:
    for dimension, count, section, expected in [
        (8, 2, "fc", [3, 7]),
        (64, 8, "ff000000", list(range(8))),
        (100, 32, "00ffffffff", list(range(32))),
        (8, 7, "b0", [0, 1, 2, 4, 5, 6, 7]),
        (8, 8, "", list(range(8))),
    ]:
        found = decode(index_frame(dimension, count, section), dimension=dimension)
        assert found.indices.tolist() == [expected]


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        (Powers(torch.tensor([[1.0, 3.0]])), "value 3.0 at position 1 is not a power of two"),
        (Powers(torch.tensor([[1.0, torch.inf]])), "value inf at position 1"),
        (Floats(torch.tensor([[1, 2]])), "FLOATS of torch.int64"),
        (Rounded(torch.ones(1, 2), torch.zeros(1, dtype=torch.int64), torch.float64), "float16"),
        (
            Rounded(torch.ones(1, 2).half(), torch.tensor([9999]), torch.float64),
            "shift 9999",
        ),
        (Levels(torch.ones(1), torch.tensor([[1, -3]]), 2), "a level is outside -2 to 2"),
        (Levels(torch.ones(1), torch.tensor([[0, 0]]), 0), "0 levels"),
        (Floats(torch.ones(1, 3)), "3 values without indices; expected all 2|3 values of a"),
    ],
)
def test_values_without_an_encoding_are_refused(values: Values, problem: str) -> None:
    with pytest.raises(WireError, match=problem):
        encode(Payload(dimension=2, values=values))


@pytest.mark.parametrize("indices", [[3, 1], [1, 1], [0, 9], [-1, 2]])
def test_indices_out_of_order_or_range_are_refused(indices: list[int]) -> None:
    payload = Payload(dimension=9, values=Floats(torch.ones(1, 2)), indices=torch.tensor([indices]))
    with pytest.raises(WireError, match="ascend strictly within 0 to 8"):
        encode(payload)


def test_a_large_drawn_set_travels_as_its_key() -> None:
    keys = torch.tensor([-(2**63), 12345])
    indices = sample_without_replacement(keys, 1000, 100)
    payload = Payload(dimension=1000, values=Floats(torch.ones(2, 100)), indices=indices, keys=keys)
    for row in range(2):
        blob = encode(payload, row)
        assert len(blob) <= 24 + 400
        found = decode(blob, dimension=1000)
        assert found.keys.tolist() == [int(keys[row])]
        assert found.indices.equal(indices[row : row + 1])


def test_the_format_does_not_change_unnoticed() -> None:
    payload = Payload(
        dimension=112,
        values=Powers(torch.tensor([[0.5, -2.0, 0.0]], dtype=torch.float64)),
        indices=torch.tensor([[3, 50, 111]]),
    )
    # Exponents -1 and 1 as offsets 1 and 3, zero as 0; gaps 3, 46, 60 with b = 5.
    assert encode(payload).hex(" ") == ("46 53 01 89 70 03 ff ff 82 4e 00 a8 dd c0 00 0a 12 fc")


def test_errors_survive_the_way_between_processes() -> None:
    error = pickle.loads(pickle.dumps(WireError("uplink", 4, "too short")))
    assert (error.name, error.offset, str(error)) == ("uplink", 4, "uplink, byte 4: too short")
