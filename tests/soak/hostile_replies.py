"""Forged replies to train messages, for every method of the suite."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from random import Random
from typing import Any

import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict

from fedstrategies.compressors import Floats, Identity, Payload, RandK, TopK, parse_compressor
from fedstrategies.efbv import DIANA, EF21, EFBV, EFBVClient, GradientDescent
from fedstrategies.engines import CohortGrid
from fedstrategies.fedp3 import Calibration, FedP3, parse_layers
from fedstrategies.flower import BaseStrategy
from fedstrategies.flower.control import Response, Status
from fedstrategies.flower.records import CONTROL, LEDGER, raw_array
from fedstrategies.privacy import Ledger as PrivacyLedger
from fedstrategies.pruning import RIA, GlobalPruning
from fedstrategies.robust import Median
from fedstrategies.sampling import NiceSampling
from fedstrategies.scafflix import FLIX, FedAvg, IScaffnew, Scafflix, Scaffnew
from fedstrategies.sppm import (
    LBFGS,
    SPPM,
    FedProx,
    LocalGD,
    LocalGDSolver,
    ProxGD,
)
from fedstrategies.wire import WireError, decode, encode, encode_vector
from fedstrategies.wire.reader import Reader
from tests.fedp3.setting import Setting as Network
from tests.flower.conftest import Setting
from tests.flower.private_setting import DEPLOYED, app_of
from tests.scafflix.setting import Setting as Personal
from tests.soak.hostile_mutations import mutated, repaired
from tests.sppm.problem import logistic_setting

__all__ = ["HOSTILE", "METHODS", "Arena", "Method", "forged", "unusable"]

HOSTILE = (2, 5)
"""Partitions of the clients that forge."""


@dataclass(frozen=True)
class Method:
    """A method and the clients it runs with.

    Attributes
    ----------
    setting : callable
        () -> app and start point.
    strategy : callable
        (smoothness, further settings) -> a fresh strategy.
    """

    setting: Callable[[], Any]
    strategy: Callable[..., BaseStrategy]


@cache
def _setting() -> Setting:
    return Setting()


@cache
def _personal() -> Personal:
    return Personal()


@cache
def _cohorts() -> Any:
    return logistic_setting()


@cache
def _network() -> Network:
    return Network()


class _Private:
    """Clients whose messages carry a ledger."""

    def __init__(self) -> None:
        self.smoothness, self.start = _setting().smoothness, _setting().start
        self.app = app_of(_setting(), replace(DEPLOYED, simulated_seed=0), EFBVClient)


def _fedp3(**settings: Any) -> FedP3:
    settings.pop("smoothness")
    return FedP3(groups=_network().groups, stepsize=0.1, **settings)


def _fedp3_told(**settings: Any) -> FedP3:
    settings.pop("max_update_norm", None)  # squares of activations are no move of a model
    return _fedp3(
        layers=parse_layers("lowerb"),
        pruning=GlobalPruning(keep=0.5, criterion=RIA(exponent=3.0)),
        calibration=Calibration(),
        **settings,
    )


def _with(kind: Callable[..., BaseStrategy], **own: Any) -> Callable[..., BaseStrategy]:
    return lambda **settings: kind(**{**own, **settings})


METHODS: dict[str, Method] = {
    "efbv": Method(_setting, _with(EFBV, compressor=TopK(k=3))),
    "efbv-gradient-shifts": Method(
        _setting, _with(EFBV, compressor=RandK(k=3), shift_init="gradient")
    ),
    "efbv-5-of-8": Method(
        _setting, _with(EFBV, compressor=TopK(k=3), sampling=NiceSampling(cohort_size=5))
    ),
    "efbv-downlink": Method(_setting, _with(EFBV, compressor=TopK(k=3), downlink=TopK(k=4))),
    "efbv-private": Method(_Private, _with(EFBV, compressor=Identity())),
    "efbv-no-copy": Method(_setting, _with(EFBV, compressor=TopK(k=3), memory_budget=0)),
    "ef21-natural": Method(_setting, _with(EF21, compressor=parse_compressor("top-k:k=4+natural"))),
    "ef21-median": Method(_setting, _with(EF21, compressor=TopK(k=3), aggregator=Median())),
    "diana-qsgd": Method(_setting, _with(DIANA, compressor=parse_compressor("qsgd:levels=8"))),
    "gradient-descent": Method(_setting, _with(GradientDescent)),
    "scafflix": Method(_personal, _with(Scafflix, alpha=0.3)),
    "scafflix-4-of-8": Method(
        _personal, _with(Scafflix, alpha=0.3, sampling=NiceSampling(cohort_size=4))
    ),
    "i-scaffnew": Method(_personal, _with(IScaffnew)),
    "scaffnew": Method(_personal, _with(Scaffnew)),
    "flix": Method(_personal, _with(FLIX, alpha=0.3)),
    "fedavg": Method(_personal, _with(FedAvg, local_steps=2)),
    "sppm-lbfgs": Method(_cohorts, _with(SPPM, solver=LBFGS(), inner_rounds=4)),
    "sppm-gd": Method(_cohorts, _with(SPPM, solver=ProxGD(), inner_rounds=4)),
    "sppm-local-gd": Method(_cohorts, _with(SPPM, solver=LocalGDSolver(steps=2), inner_rounds=3)),
    "localgd": Method(_cohorts, _with(LocalGD, local_steps=2)),
    "fedprox": Method(_cohorts, _with(FedProx, local_steps=2)),
    "fedp3": Method(_network, _fedp3),
    "fedp3-told": Method(_network, _fedp3_told),
}
"""Every method by name."""


class Arena:
    """A run in which some clients forge what they send.

    Parameters
    ----------
    name : str
        Of `METHODS`.
    **settings
        Further ones of the strategy.
    """

    def __init__(self, name: str, **settings: Any) -> None:
        method = METHODS[name]
        self.setting = method.setting()
        smoothness = getattr(self.setting, "smoothness", None)
        self.strategy = method.strategy(
            **{"smoothness": smoothness, "fraction_evaluate": 0.0, **settings}
        )
        self.grid = CohortGrid(self.setting.app, num_clients=8, fast="never")
        self.arrays: ArrayRecord = self.setting.start

    def replies(self) -> dict[int, Message]:
        """What the asked clients honestly answer to the next attempt, by partition."""
        messages = list(self.strategy.configure_train(1, self.arrays, ConfigRecord(), self.grid))
        answers = list(self.grid.send_and_receive(messages))
        return {self.grid.partitions[one.metadata.src_node_id]: one for one in answers}

    def finish(self, replies: list[Message]) -> None:
        """Hand replies in."""
        found, _ = self.strategy.aggregate_train(1, replies)
        self.arrays = self.arrays if found is None else found


# ---------------------------------------------------------------- forging


@dataclass(frozen=True)
class _Parts:
    """A reply taken apart: what a forger changes."""

    blob: bytes
    control: bytes
    metrics: dict[str, Any]
    extra: dict[str, Any]


def _apart(reply: Message) -> _Parts:
    content = reply.content
    config = next(c for c in content.config_records.values() if CONTROL in c)
    blobs = [array.data for record in content.array_records.values() for array in record.values()]
    return _Parts(
        blob=blobs[0] if blobs else b"",
        control=config[CONTROL],  # type: ignore[arg-type]
        metrics=dict(next(iter(content.metric_records.values()), {})),
        extra={key: value for key, value in config.items() if key != CONTROL},
    )


def _message(reply: Message, records: dict[str, Any]) -> Message:
    return Message(RecordDict(records), metadata=reply.metadata)


def _built(reply: Message, parts: _Parts, **changes: Any) -> Message:
    """A reply of the usual form with some parts replaced."""
    blob = changes.get("blob", parts.blob)
    array = blob if isinstance(blob, Array) else raw_array(blob)
    config = {CONTROL: changes.get("control", parts.control), **changes.get("extra", parts.extra)}
    return _message(
        reply,
        {
            "arrays": ArrayRecord({"0": array}),
            "metrics": MetricRecord(changes.get("metrics", parts.metrics)),
            "config": ConfigRecord(config),
        },
    )


_SPECS = ("identity", "top-k:k=1", "rand-k:fraction=0.5", "natural", "qsgd:levels=3")


@cache
def _foreign_frames() -> list[bytes]:
    """Whole frames of other operators, dimensions and dtypes, and of numbers that are none."""
    found = []
    for dimension in (1, 4, 12, 13, 400):
        for dtype in (torch.float32, torch.float64):
            x = torch.linspace(-1, 1, dimension, dtype=dtype)
            found += [
                encode(parse_compressor(spec).compress(x[None], torch.tensor([5])))
                for spec in _SPECS
            ]
            for value in (float("nan"), float("inf"), torch.finfo(dtype).max, 5e-324):
                broken = torch.full((dimension,), value, dtype=dtype)
                found.append(encode_vector(broken))
                sparse = Payload(
                    dimension=dimension,
                    values=Floats(broken[None, :1]),
                    indices=torch.tensor([[dimension - 1]]),
                )
                found.append(encode(sparse))
    return found


def _huge_frame(draw: Random) -> bytes:
    """A frame that declares up to 2^40 numbers and holds none."""
    codec = draw.choice((0x00, 0x01, 0x40, 0x80, 0x88, 0xA0))
    sizes = draw.choice((b"\xff\xff\xff\xff\x7f", b"\x80\x80\x80\x80\x80\x20", b"\x0c\xff\xff\x7f"))
    return repaired(b"FS\x01" + bytes((codec,)) + sizes + draw.randbytes(12) + b"0000")


def _forge_blob(reply: Message, parts: _Parts, draw: Random) -> Message:
    frames = _foreign_frames()
    kind = draw.randrange(4)
    if kind == 0:
        return _built(reply, parts, blob=draw.choice(frames))
    if kind == 1:
        return _built(reply, parts, blob=_huge_frame(draw))
    own = [parts.blob or b"FS"]
    return _built(reply, parts, blob=mutated(own[0], draw, [*own, *frames], repaired))


def _forge_control(reply: Message, parts: _Parts, draw: Random) -> Message:
    if draw.random() < 0.5:
        return _built(reply, parts, control=mutated(parts.control, draw, [parts.control]))
    response = Response.from_bytes(parts.control)
    change = draw.choice(
        (
            {"session": draw.choice((0, response.session - 1, 2**64 - 1))},
            {"sequence": draw.choice((0, response.sequence + 1, 2**64 - 1))},
            {"base": draw.randrange(2**32)},
            {"status": draw.choice(list(Status))},
            {"round": 2**32 - 1},
        )
    )
    return _built(reply, parts, control=replace(response, **change).to_bytes())


def _forge_keys(reply: Message, parts: _Parts, draw: Random) -> Message:
    wrong = draw.choice(("text", 3, 0.5, True, [1, 2], ["a"], [b"a", b"b"], b""))
    kind = draw.randrange(3)
    if kind == 0:
        return _built(reply, parts, control=wrong)
    if kind == 1:
        return _built(reply, parts, extra={**parts.extra, LEDGER: wrong})
    config = ConfigRecord({f"{CONTROL}.other": parts.control, "number": 3})
    return _message(reply, {"arrays": ArrayRecord({"0": raw_array(parts.blob)}), "config": config})


def _forge_records(reply: Message, parts: _Parts, draw: Random) -> Message:
    sound = dict(reply.content.items())
    arrays = ArrayRecord({"0": raw_array(parts.blob)})
    return _message(
        reply,
        draw.choice(
            (
                {},
                {"arrays": arrays},
                {"config": ConfigRecord({CONTROL: parts.control})},
                {**sound, "more": arrays},
                {**sound, "more": ArrayRecord({"0": raw_array(b""), "1": raw_array(parts.blob)})},
                {**sound, "more": MetricRecord({"loss": float("nan")})},
                {**sound, "more": ConfigRecord({CONTROL: b""})},
                {f"{i}": ConfigRecord({CONTROL: parts.control}) for i in range(50)},
                {"config": ConfigRecord(), "arrays": ArrayRecord(), "metrics": MetricRecord()},
            )
        ),
    )


def _forge_array(reply: Message, parts: _Parts, draw: Random) -> Message:
    stype = draw.choice(("numpy.ndarray", "fedstrategies.raw", "pickle", ""))
    dtype = draw.choice(("object", "uint8", "float64", "O", ">f8", "no dtype"))
    shape = draw.choice(((), (2**40,), (2**40, 2**40), (-1,), (len(parts.blob),), (0,)))
    data = draw.choice((b"", parts.blob, b"\x93NUMPY\x01\x00" + b"{'descr': '|O'}", _PICKLE))
    return _built(reply, parts, blob=Array(dtype=dtype, shape=shape, stype=stype, data=data))


_PICKLE = b"cbuiltins\nexec\n(S'raise SystemError'\ntR."
"""Raises what no target may raise, should anything ever unpickle it."""


def _forge_metrics(reply: Message, parts: _Parts, draw: Random) -> Message:
    value = draw.choice(
        (float("nan"), float("inf"), -1, 0, -(2**62), 2**2000, 1e308, [1, 2], [0.5], 5e-324)
    )
    key = draw.choice(("loss", "num-examples", "other", ""))
    return _built(reply, parts, metrics={**parts.metrics, key: value})


def _forge_ledger(reply: Message, parts: _Parts, draw: Random) -> Message:
    real = PrivacyLedger()
    for _ in range(draw.choice((1, 3, 16, 17))):
        real = real.charge(
            noise_multiplier=draw.random() * draw.choice((10.0, 1000.0)),
            sample_rate=draw.choice((1.0, draw.random())),
            steps=draw.choice((1, 2**53)),
        )
    packed = real.to_bytes()
    if draw.random() < 0.6:
        packed = mutated(packed, draw, [packed])
    if draw.random() < 0.1:
        packed = b"DPL1" + struct.pack("<ddQ", 1.0, 1.0, 1) * 5000
    return _built(reply, parts, extra={**parts.extra, LEDGER: packed})


def _forge_error(reply: Message, parts: _Parts, draw: Random) -> Message:
    reasons = ("", " \n\t", "\n", "boom", "x" * 10**6, "%s %d {}", "\x00\x1b[2J", "\r\n", None)
    error = Error(code=draw.choice((0, 1, -1, 2**31 - 1)), reason=draw.choice(reasons))
    return Message(error, metadata=reply.metadata)


_FORGERIES = (
    _forge_blob,
    _forge_blob,
    _forge_blob,
    _forge_control,
    _forge_control,
    _forge_keys,
    _forge_records,
    _forge_array,
    _forge_metrics,
    _forge_ledger,
    _forge_error,
)


def forged(reply: Message, draw: Random) -> Message:
    """One forgery of a client's reply."""
    return draw.choice(_FORGERIES)(reply, _apart(reply), draw)


def unusable(reply: Message, draw: Random) -> Iterator[Message]:
    """Without end: forgeries that no server can use, whatever else they say."""
    parts = _apart(reply)
    while True:
        found = draw.choice(
            (_forge_blob, _forge_control, _forge_keys, _forge_records, _forge_array, _forge_error)
        )(reply, parts, draw)
        if found.has_error():
            yield found
            continue
        config = [c for c in found.content.config_records.values() if CONTROL in c]
        blobs = [a for r in found.content.array_records.values() for a in r.values()]
        if (
            len(blobs) == 1
            and config
            and blobs[0].stype == "fedstrategies.raw"
            and _is_upload(config[0][CONTROL])
            and _of_kind(blobs[0].data, parts.blob)
        ):
            # A finite vector of the kind that was asked for is no garbage: spoil its checksum.
            spoiled = blobs[0].data[:-1] + bytes((blobs[0].data[-1] ^ 1,))
            yield _built(found, parts, blob=spoiled, extra={})
            continue
        yield found


def _of_kind(blob: bytes, own: bytes) -> bool:
    """Whether a blob is a frame of the kind of another."""
    dimension = Reader(own, start=4, end=len(own), name="own").varint("d")
    try:
        return decode(blob, dimension=dimension).kind == decode(own, dimension=dimension).kind
    except WireError:
        return False


def _is_upload(control: object) -> bool:
    try:
        return Response.from_bytes(control).status is Status.UPLOAD  # type: ignore[arg-type]
    except (ValueError, TypeError):
        return False
