"""A pruned model as a safetensors file: of each pruned weight its values and which they are.

A pruned weight is one frame of the wire format (`fedstrategies.wire`), stored as a uint8 array
under the weight's name; all else is stored as it is. The file's metadata says which are which.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from math import prod
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from fedstrategies.compressors.payload import Payload
from fedstrategies.compressors.values import Floats
from fedstrategies.data.errors import DataError
from fedstrategies.saved_model import save_model
from fedstrategies.wire import WireError, decode, encode

__all__ = ["load_sparse", "save_sparse"]

_FORMAT = "fedstrategies-sparse-1"


def save_sparse(named: Mapping[str, Tensor], pruned: Collection[str], path: Path) -> None:
    """Write a model's arrays; those named ``pruned`` without their zeros.

    Parameters
    ----------
    named : mapping of str to Tensor
        As of ``state_dict()``, of any shape; what shares memory is written once for each name.
    pruned : collection of str
        Names of floating-point arrays with zeros.
    path : Path
        Written whole or not at all.

    Raises
    ------
    WireError
        If an array of ``pruned`` is not floating-point.
    OSError
        If the file cannot be written.
    """
    arrays: dict[str, Tensor] = {}
    shapes: dict[str, list[int]] = {}
    for name, value in named.items():
        if name not in pruned:
            arrays[name] = value
            continue
        flat = value.detach().cpu().reshape(1, -1)
        kept = flat[0].nonzero()[:, 0].unsqueeze(0)
        frame = encode(
            Payload(dimension=flat.shape[1], values=Floats(flat.gather(1, kept)), indices=kept)
        )
        arrays[name] = torch.from_numpy(np.frombuffer(frame, dtype=np.uint8).copy())
        shapes[name] = list(value.shape)
    # One entry: safetensors writes several in an order that differs from process to process.
    save_model(arrays, path, metadata={_FORMAT: json.dumps(shapes)})


def load_sparse(path: Path) -> dict[str, Tensor]:
    """The arrays that `save_sparse` wrote, dense again, to the bit (a zero has no sign).

    Parameters
    ----------
    path : Path
        The file.

    Returns
    -------
    dict of str to Tensor
        On the CPU, each with the shape and dtype it was saved with.

    Raises
    ------
    DataError
        If the file cannot be read or is no such file.
    """
    try:
        with safe_open(path, framework="pt") as file:
            about = file.metadata() or {}
            if _FORMAT not in about:
                raise DataError(f"{path}: not a sparse checkpoint of fedstrategies")
            shapes = json.loads(about[_FORMAT])
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        for name, shape in shapes.items():
            blob = arrays[name].numpy().tobytes()
            payload = decode(blob, dimension=prod(shape), name=name)
            arrays[name] = payload.dense()[0].view(shape)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from None
    except DataError:
        raise
    except (SafetensorError, WireError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: damaged ({error})") from None
    return arrays
