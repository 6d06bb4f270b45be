"""Everything that reads bytes of others: what it may raise, and what must hold if it does not.

A target takes bytes and returns how many bytes of memory it was allowed to take. It passes over the
errors that its docstring promises; any other exception is a finding. So is a message that decodes
and does not encode to itself.
"""

from __future__ import annotations

import tempfile
import zlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from pathlib import Path
from random import Random

import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, MetricRecord, RecordDict
from safetensors.torch import save_file

from fedstrategies.checkpoint import CheckpointError, read_checkpoint, write_checkpoint
from fedstrategies.compressors import parse_compressor
from fedstrategies.fedp3.frames import Downlink
from fedstrategies.flower import DirectoryStore
from fedstrategies.flower.account import Account, read_ledger
from fedstrategies.flower.accounts import Accounts
from fedstrategies.flower.control import ORIGIN, MemoryCommand, Request, Response, Status, Tag
from fedstrategies.flower.errors import ProtocolError
from fedstrategies.flower.receipts import Receipts
from fedstrategies.flower.record_files import checksum as file_checksum
from fedstrategies.flower.record_files import pack as pack_record
from fedstrategies.flower.record_files import read as read_record
from fedstrategies.flower.records import raw_array
from fedstrategies.flower.replica import Replica, Route, checksum, rebuild
from fedstrategies.flower.state_head import HEAD, Place, packed_head, read_head
from fedstrategies.privacy import Ledger as PrivacyLedger
from fedstrategies.pruning import GlobalPruning, LayerGroups, OrderedPruning, layer_groups
from fedstrategies.wire import WireError, decode, encode, encode_vector
from tests.fedp3.setting import network
from tests.soak.hostile_mutations import repaired

__all__ = ["OVERHEAD", "TARGETS", "Target", "frame_bound"]

OVERHEAD = 64 * 1024
"""Bytes beside any bound: exceptions, their tracebacks, interned strings."""

DIMENSIONS = (1, 2, 12, 112, 1000, 5000)
COMPRESSORS = (
    "identity",
    "top-k:k=1",
    "top-k:fraction=0.1",
    "top-k:fraction=0.7",
    "rand-k:k=1",
    "rand-k:fraction=0.2",
    "rand-k:fraction=0.8",
    "mix:k=1,k_prime=1",
    "natural",
    "qsgd:levels=8",
    "qsgd:levels=100000",
    "cast:bfloat16",
    "cast:float16",
    "top-k:fraction=0.3+natural",
    "rand-k:fraction=0.3+qsgd:levels=4",
    "top-k:fraction=0.2+cast:float16",
)


def frame_bound(length: int, dimension: int) -> int:
    """What `decode` may take for a frame: 240 bytes for each of its own and 64 for each of d."""
    return 240 * length + 64 * dimension + OVERHEAD


@dataclass(frozen=True)
class Target:
    """A reader of bytes.

    Attributes
    ----------
    call : callable
        Reads bytes; returns the bound on its memory, in bytes.
    seeds : callable
        () -> real messages.
    repair : callable or None
        Makes the checksums of a mutated message fit.
    states : str
        The bound, as a formula for the report.
    """

    call: Callable[[bytes], int]
    seeds: Callable[[], list[bytes]]
    repair: Callable[[bytes], bytes] | None
    states: str


# ---------------------------------------------------------------- frames


@cache
def _frames() -> list[bytes]:
    """One byte for the dimension, then a frame: every codec, dtype and size."""
    found = []
    draw = torch.Generator().manual_seed(0)
    for number, dimension in enumerate(DIMENSIONS):
        for dtype in (torch.float32, torch.float64):
            x = torch.randn((1, dimension), generator=draw).to(dtype)
            for spec in COMPRESSORS:
                try:
                    payload = parse_compressor(spec).compress(x, torch.tensor([number]))
                except ValueError:
                    continue  # k above d
                found.append(bytes((number,)) + encode(payload))
        half = torch.randn(dimension, generator=draw).half()
        found.append(bytes((number,)) + encode_vector(half))
    return found


def _read_frame(data: bytes) -> int:
    if not data:
        return OVERHEAD
    dimension, blob = DIMENSIONS[data[0] % len(DIMENSIONS)], data[1:]
    try:
        payload = decode(blob, dimension=dimension)
    except WireError:
        return frame_bound(len(blob), dimension)
    assert encode(payload) == blob, "a frame that decodes encodes to itself"
    assert payload.is_finite()
    assert payload.dense().shape == (1, dimension)
    # Encoding and looking at it took as much again.
    return 3 * frame_bound(len(blob), dimension)


def _repair_frame(data: bytes) -> bytes:
    return data[:1] + repaired(data[1:])


# ---------------------------------------------------------------- control fields


def _requests() -> list[bytes]:
    tag = Tag(2**64 - 1, 7, 2**32 - 1)
    found = []
    for constants, spec in (((), ""), ((0.25, 1.0), "top-k:k=5"), ((1.0,) * 40, "scafflix")):
        for memory in MemoryCommand:
            request = Request(
                session=1,
                sequence=2,
                round=3,
                key=-4,
                ack=tag,
                memory=memory,
                settlement=memory is MemoryCommand.KEEP,
                constants=constants,
                spec=spec,
            )
            found.append(request.to_bytes())
    return found


def _read_request(data: bytes) -> int:
    try:
        request = Request.from_bytes(data)
    except ProtocolError:
        return OVERHEAD
    Request.from_bytes(request.to_bytes())
    return OVERHEAD


def _responses() -> list[bytes]:
    return [
        Response(status=status, session=2**64 - 1, sequence=5, round=3, base=9).to_bytes()
        for status in Status
    ]


def _read_response(data: bytes) -> int:
    try:
        response = Response.from_bytes(data)
    except ProtocolError:
        return OVERHEAD
    assert response.to_bytes() == data
    return OVERHEAD


_HELD = Replica(session=1, number=3, w=torch.zeros(12, dtype=torch.float64))


def _routes() -> list[bytes]:
    """The fields and the frames, each behind its length."""
    top = parse_compressor("top-k:k=3")
    w, frames = _HELD.w.clone(), []
    for number in range(3):
        payload = top.compress(torch.linspace(-1, number, 12, dtype=torch.float64)[None], None)
        payload.add_to_(w[None], 0.5)
        frames.append(encode(payload))
    path = Route(numbers=(3, 4, 5, 6), checksum=checksum(w), scale=0.5)
    whole = Route(numbers=(9,), checksum=checksum(w), scale=0.5, whole=True)
    return [
        _joined([path.to_bytes(), *frames]),
        _joined([whole.to_bytes(), encode_vector(w)]),
    ]


def _read_route(data: bytes) -> int:
    parts = _parted(data)
    try:
        route = Route.from_bytes(parts[0] if parts else b"")
        if route.frames == len(parts) - 1:
            rebuild(_HELD, route, parts[1:], session=1, dimension=12)
    except ValueError:  # ProtocolError and WireError among them
        pass
    return frame_bound(len(data), 12) * 2


def _joined(parts: list[bytes]) -> bytes:
    return b"".join(len(part).to_bytes(2, "little") + part for part in parts)


def _parted(data: bytes) -> list[bytes]:
    parts = []
    while len(data) >= 2 and len(parts) < 300:
        length = int.from_bytes(data[:2], "little")
        parts.append(data[2 : 2 + length])
        data = data[2 + length :]
    return parts


def _repair_parts(data: bytes) -> bytes:
    return _joined([part if len(part) < 60 else repaired(part) for part in _parted(data)])


# ---------------------------------------------------------------- privacy, receipts


def _ledgers() -> list[bytes]:
    one = PrivacyLedger().charge(noise_multiplier=1.0, sample_rate=0.5, steps=3)
    two = one.charge(noise_multiplier=2.0, sample_rate=1.0, steps=2**40)
    accounts = Accounts(3)
    accounts.heard(1, two, up_to=0)
    accounts.asked(2, 1, 5)
    return [
        one.to_bytes(),
        two.to_bytes(),
        PrivacyLedger().to_bytes(),
        Account(ledger=two, unanswered=4).to_bytes(),
        accounts.to_bytes(),
    ]


def _read_ledger(data: bytes) -> int:
    for read in (PrivacyLedger.from_bytes, read_ledger, Account.from_bytes, Accounts.from_bytes):
        try:
            found = read(data)
        except ValueError:
            continue
        if isinstance(found, PrivacyLedger):
            assert found.to_bytes() == data
    # 24 bytes are a mechanism, 12 a client; either is a few objects of Python.
    return 240 * len(data) + OVERHEAD


def _all_receipts() -> list[bytes]:
    request = Request(
        session=7, sequence=3, round=3, key=5, ack=ORIGIN, constants=(0.25, 1.0), spec="top-k:k=5"
    )
    pending = Receipts().after_upload(request, encode_vector(torch.ones(4)), 0.5)
    return [Receipts().to_bytes(), pending.to_bytes(), pending.without_blob().to_bytes()]


def _read_receipts(data: bytes) -> int:
    with suppress(ProtocolError):
        Receipts.from_bytes(data)
    return 240 * len(data) + OVERHEAD


# ---------------------------------------------------------------- files


@cache
def _folder() -> Path:
    return Path(tempfile.mkdtemp(prefix="hostile-"))


def _heads() -> list[bytes]:
    folder = _node_folder()
    places = {
        "fedstrategies": Place(side=0, size=100, checksum=1),
        "fedstrategies.memory": Place(side=1, size=2**31, checksum=2**32 - 1),
    }
    deep = b"[" * 100_000
    return [packed_head(folder, {}), packed_head(folder, places), deep]


def _node_folder() -> Path:
    folder = _folder() / "run-1" / "partition-000000"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _read_head(data: bytes) -> int:
    folder = _node_folder()
    (folder / HEAD).write_bytes(data)
    read_head(folder)
    context = Context(
        run_id=1, node_id=5, node_config={"partition-id": 0}, state=RecordDict(), run_config={}
    )
    with DirectoryStore(_folder()).opened(context):
        pass  # files that are not as the head says are left out, with a line in the log
    return 240 * len(data) + 4 * OVERHEAD


def _state_files() -> list[bytes]:
    memory = ArrayRecord(
        {
            "h": Array(dtype="<f8", shape=(1, 4), stype="fedstrategies.raw", data=bytes(32)),
            "w": raw_array(b"abc"),
        }
    )
    receipts = ConfigRecord({"receipts": b"\x01" * 40, "number": 4, "share": 0.5})
    metrics = MetricRecord({"loss": 0.5, "num-examples": 7})
    deep = b"[" * 100_000
    found = [b"".join(pack_record(record)) for record in (memory, receipts, metrics)]
    return [*found, len(deep).to_bytes(8, "little") + deep]


def _read_state_file(data: bytes) -> int:
    """With the right checksum, as if whoever wrote the file had written the head as well."""
    with suppress(ValueError):
        read_record(BytesIO(data), size=len(data), checked=file_checksum([data]))
    return 240 * len(data) + 2 * OVERHEAD


@dataclass(frozen=True)
class Kept:
    """A dataclass that a checkpoint may hold."""

    x: torch.Tensor
    note: str


def _checkpoints() -> list[bytes]:
    path = _folder() / "seed.safetensors"
    found = []
    trees: list[object] = [
        {"x": torch.zeros(3), "round": 3},
        {
            "memory": {"h": torch.ones((2, 3), dtype=torch.float64)},
            "method": {"solve": Kept(torch.zeros(2), "a"), "used": {1: 2}, "lines": ("x", None)},
            "accounts": b"\x00\x01",
            "set": {3, 1},
        },
    ]
    for tree in trees:
        write_checkpoint(path, tree)
        found.append(path.read_bytes())
    return found


def _read_checkpoint(data: bytes) -> int:
    path = _folder() / "round-000000001.safetensors"
    path.write_bytes(data)
    with suppress(CheckpointError):
        read_checkpoint(path, classes=(Kept,))
    return 240 * len(data) + 4 * OVERHEAD


def _repair_checkpoint(data: bytes) -> bytes:
    """Mutate the tree that a whole file holds, and write it with a checksum that fits."""
    draw = Random(zlib.crc32(data))
    tensors = {"x": torch.zeros(3), "method.solve.x": torch.zeros(2)}
    trees = [
        '["map", [["x", ["tensor", "x"]], ["round", 3]]]',
        '["map", [["a", ["object", "Kept", {"x": ["tensor", "x"], "note": "n"}]]]]',
        '["map", [["b", ["tuple", ["x", null, ["bytes", "00ff"]]]], ["c", ["set", [3, 1]]]]]',
        "[" * draw.randrange(1, 20_000),
        '["list", [' * 3000 + "1" + "]]" * 3000,
    ]
    text = bytearray(draw.choice(trees if draw.random() < 0.02 else trees[:3]).encode())
    for _ in range(draw.randrange(4)):
        place = draw.randrange(len(text))
        text[place : place + draw.randrange(3)] = draw.choice(
            (b'"', b"[", b"]", b"null", b"1e999", b"{}", b'"tensor"', b"-1", b'["set", [[]]]', b"")
        )
        text = text or bytearray(b"0")
    skeleton = text.decode(errors="replace")
    found = zlib.crc32(skeleton.encode())
    for name in sorted(tensors):
        found = zlib.crc32(tensors[name].view(torch.uint8).numpy(), found)
    metadata = {
        "format": "fedstrategies.checkpoint/1",
        "tree": skeleton,
        "checksum": f"{found:08x}",
    }
    path = _folder() / "made.safetensors"
    save_file(tensors, path, metadata=metadata)
    return path.read_bytes()


# ---------------------------------------------------------------- FedP3


@cache
def _groups() -> LayerGroups:
    return layer_groups(network())


@cache
def _links() -> list[Downlink]:
    groups = _groups()
    mine = tuple(i in (1, groups.classifier) for i in range(len(groups)))
    every = (True,) * len(groups)
    return [
        Downlink(groups=groups, assigned=mine, keep=0.5),
        Downlink(groups=groups, assigned=mine, keep=0.5, ordered=True),
        Downlink(groups=groups, assigned=every, keep=1.0),
    ]


def _models() -> list[bytes]:
    groups = _groups()
    x = torch.linspace(-1.0, 1.0, groups.dimension)
    found = []
    for number, link in enumerate(_links()):
        law = OrderedPruning(keep=0.5) if link.ordered else GlobalPruning(keep=0.5)
        mask = law.mask(x, groups, 0.5) if link.keep < 1.0 else None
        _, parts = link.split(x, mask)
        found.append(bytes((number,)) + _joined([encode(part) for part in parts]))
    return found


def _read_model(data: bytes) -> int:
    if not data:
        return OVERHEAD
    link, blobs = _links()[data[0] % len(_links())], _parted(data[1:])
    try:
        parts = [
            decode(blob, dimension=length) for blob, length in zip(blobs, link.lengths, strict=True)
        ]
        x = link.assemble(parts)
        assert x.shape == (link.groups.dimension,)
    except ValueError:  # WireError among them
        pass
    return frame_bound(len(data), 2 * link.groups.dimension) * 2


def _repair_model(data: bytes) -> bytes:
    return data[:1] + _joined([repaired(part) for part in _parted(data[1:])])


FRAME = "240 len + 64 d"
FILE = "240 len"

TARGETS: dict[str, Target] = {
    "frame": Target(_read_frame, _frames, _repair_frame, FRAME),
    "request": Target(_read_request, _requests, None, "64 KiB"),
    "response": Target(_read_response, _responses, None, "64 KiB"),
    "downlink": Target(_read_route, _routes, _repair_parts, FRAME),
    "ledger": Target(_read_ledger, _ledgers, None, FILE),
    "receipts": Target(_read_receipts, _all_receipts, None, FILE),
    "state-head": Target(_read_head, _heads, None, FILE),
    "state-file": Target(_read_state_file, _state_files, None, FILE),
    "checkpoint": Target(_read_checkpoint, _checkpoints, _repair_checkpoint, FILE),
    "fedp3-model": Target(_read_model, _models, _repair_model, FRAME),
}
"""The readers by name."""
