"""Flower's message API in terms of its older one, and back: records, parameters, scalars.

The older API knows lists of numpy arrays, and dictionaries of scalars. A blob travels in it as an
array of uint8 (with numpy's header, 128 bytes), a field as a scalar under the same key.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import isnan
from typing import cast

import numpy as np
from flwr.app import (
    Array,
    ArrayRecord,
    ConfigRecord,
    Message,
    MetricRecord,
    MetricRecordValues,
    RecordDict,
)
from flwr.common import (
    EvaluateIns,
    EvaluateRes,
    FitIns,
    FitRes,
    Parameters,
    Scalar,
    ndarrays_to_parameters,
    parameters_to_ndarrays,
)

from fedstrategies.flower.foreign_arrays import read_array
from fedstrategies.flower.private import client_error
from fedstrategies.flower.records import STYPE, blob_of, raw_array, records_of

__all__ = [
    "evaluate_instructions",
    "evaluation_reply",
    "fit_instructions",
    "parameters_of",
    "record_of",
    "scalars_of",
    "train_reply",
]


def parameters_of(record: ArrayRecord) -> Parameters:
    """The arrays of a record in its order; blobs as arrays of uint8."""
    return ndarrays_to_parameters(
        [blob_of(array) if array.stype == STYPE else array.numpy() for array in record.values()]
    )


def record_of(parameters: Parameters, names: list[str]) -> ArrayRecord:
    """Parameters under names.

    Raises
    ------
    ValueError
        If there are more or fewer arrays than names.
    """
    arrays = parameters_to_ndarrays(parameters)
    if len(arrays) != len(names):
        raise ValueError(f"{len(arrays)} arrays came, the model has {len(names)}: {names}")
    return ArrayRecord(
        {name: Array(np.asarray(array)) for name, array in zip(names, arrays, strict=True)}
    )


def fit_instructions(message: Message, shared: dict[int, Parameters]) -> FitIns:
    """A train message as the older API sends it.

    ``shared`` keeps what was translated already: clients are often sent one and the same record.
    """
    parameters, config = _instructions(message, shared)
    return FitIns(parameters, config)


def evaluate_instructions(message: Message, shared: dict[int, Parameters]) -> EvaluateIns:
    """An evaluate message as the older API sends it; see `fit_instructions`."""
    parameters, config = _instructions(message, shared)
    return EvaluateIns(parameters, config)


def _instructions(
    message: Message, shared: dict[int, Parameters]
) -> tuple[Parameters, dict[str, Scalar]]:
    (record,) = records_of(message.content, ArrayRecord)
    if id(record) not in shared:
        shared[id(record)] = parameters_of(record)
    config = {k: v for one in records_of(message.content, ConfigRecord) for k, v in one.items()}
    return shared[id(record)], _scalars(config, "the configuration")


def train_reply(result: FitRes, sent: Message) -> Message:
    """What `BaseClient.fit` gave, as `BaseClient.train` would have sent it; an error if it cannot.

    Whatever came is this client's business: nothing is raised here.
    """
    try:
        blobs = [_blob(tensor) for tensor in result.parameters.tensors]
        fields = {k: v for k, v in result.metrics.items() if isinstance(v, bytes)}
        content = RecordDict(
            {
                "arrays": ArrayRecord({str(i): raw_array(blob) for i, blob in enumerate(blobs)}),
                "config": ConfigRecord({**fields}),
                "metrics": _metrics(result, {}),
            }
        )
    except (OverflowError, TypeError, ValueError) as error:
        return _malformed(error, sent)
    return Message(content, reply_to=sent)


def evaluation_reply(result: EvaluateRes, sent: Message) -> Message:
    """What `BaseClient.evaluate` measured, as a message; a loss that is NaN was not told.

    An error if it cannot be one, as in `train_reply`.
    """
    try:
        told = {} if isnan(result.loss) else {"loss": result.loss}
        content = RecordDict({"metrics": _metrics(result, told)})
    except (OverflowError, TypeError, ValueError) as error:
        return _malformed(error, sent)
    return Message(content, reply_to=sent)


def _blob(tensor: bytes) -> bytes:
    """The bytes in numpy's array of uint8, which is all that our clients send."""
    values = read_array(tensor)
    if values.dtype != np.uint8 or values.ndim != 1:
        raise ValueError(f"a blob is an array of uint8, {values.dtype} {values.shape} came")
    return values.tobytes()


def _metrics(result: FitRes | EvaluateRes, more: Mapping[str, float]) -> MetricRecord:
    """Numbers alone: a text has no mean, and True is an ``int`` that records do not take."""
    numbers = {k: v for k, v in result.metrics.items() if type(v) in (int, float)}
    told = {"num-examples": result.num_examples, **more, **numbers}
    return MetricRecord(cast(dict[str, MetricRecordValues], told))


def _malformed(error: Exception, sent: Message) -> Message:
    return client_error(f"its reply is malformed: {error}", sent)


def scalars_of(metrics: MetricRecord | None) -> dict[str, Scalar]:
    """Aggregated metrics as the older API's dictionary.

    Raises
    ------
    ValueError
        If one is a list, which that API has no room for.
    """
    return {} if metrics is None else _scalars(metrics, "the aggregated metrics")


def _scalars(fields: Mapping[str, object], what: str) -> dict[str, Scalar]:
    for key, value in fields.items():
        if not isinstance(value, bool | bytes | float | int | str):
            raise ValueError(
                f"{what}: {key!r} is a {type(value).__name__}; Flower's older API has scalars only"
            )
    return cast(dict[str, Scalar], dict(fields))
