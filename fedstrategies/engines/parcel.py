"""Objects with tensors on their way through Ray's object store, without pickled copies.

torch pickles a tensor into the byte stream, which copies it several times, and a view with the
whole storage behind it; the bytes of Flower's arrays are copied likewise. In a `Parcel` the numbers
lie beside the stream (pickle protocol 5), from where Ray maps them into the reader's memory.
"""

from __future__ import annotations

import io
import pickle
import warnings
from collections.abc import Sequence
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from flwr.app import Array
from ray.cloudpickle import CloudPickler
from torch import Tensor

__all__ = ["Parcel", "put_together", "taken_apart"]

_T = TypeVar("_T")


class Parcel(Generic[_T]):
    """Something with tensors or Flower's arrays inside, wherever in it they are.

    The tensors of a parcel that arrived lie in shared memory and must not be written into.

    Parameters
    ----------
    content : object
        What is sent; tensors arrive on the CPU, and without what else their storage holds.
    """

    def __init__(self, content: _T, *, size: int = 0) -> None:
        self.content = content
        self.size = size
        """Bytes of the numbers, where it has arrived."""

    def __reduce__(self) -> tuple[object, ...]:
        return _arrived, taken_apart(self.content)


def taken_apart(content: object) -> tuple[bytes, list[pickle.PickleBuffer]]:
    """A stream that says what it is, and the numbers beside it."""
    stream, numbers = io.BytesIO(), list[pickle.PickleBuffer]()
    pickler: Any = _Pickler
    pickler(stream, protocol=5, buffer_callback=numbers.append).dump(content)
    return stream.getvalue(), numbers


def put_together(stream: bytes, numbers: Sequence[Any]) -> Any:
    """The content; tensors lie in the memory of the ``numbers``, which are buffers.

    The stream is unpickled: it is of a process that this run has started itself.
    """
    return pickle.loads(stream, buffers=numbers)


class _Pickler(CloudPickler):
    """Ray's own pickler, but for what is mostly numbers."""

    def reducer_override(self, value: object) -> Any:
        if type(value) is Array:
            return _array, (value.dtype, value.shape, value.stype, pickle.PickleBuffer(value.data))
        if type(value) is not Tensor:
            plainly: Any = super().reducer_override
            return plainly(value)
        plain = value.detach().cpu().contiguous()
        # numpy has no bfloat16.
        halves = plain.dtype is torch.bfloat16
        return _tensor, ((plain.view(torch.int16) if halves else plain).numpy(), halves)


def _arrived(stream: bytes, numbers: list[pickle.PickleBuffer]) -> Parcel[Any]:
    size = sum(memoryview(number).nbytes for number in numbers)
    return Parcel(put_together(stream, numbers), size=size)


def _array(dtype: str, shape: tuple[int, ...], stype: str, data: bytes) -> Array:
    return Array(dtype=dtype, shape=shape, stype=stype, data=bytes(data))


def _tensor(array: npt.NDArray[np.generic], halves: bool) -> Tensor:
    with warnings.catch_warnings():
        # That the memory cannot be written to is what the class says of it.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        tensor = torch.from_numpy(array)
    return tensor.view(torch.bfloat16) if halves else tensor
