"""Checkpoints of llama2.c, version 0.

Seven little-endian int32 (width, hidden, layers, heads, key heads, vocabulary, context; a
negative vocabulary says that the head is not the embedding), then float32 arrays: the embedding;
of all layers the attention norms, queries, keys, values, outputs, feed-forward norms, gates
(w1), downs (w2), ups (w3); the last norm; two tables of rotary angles, which follow from the
sizes and are skipped; and the head where it is not the embedding.

Source: A. Karpathy, llama2.c (MIT licence), the format of its ``run.c``.
"""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fedstrategies.data.errors import DataError
from fedstrategies.language.llama import Llama, LlamaConfig

__all__ = ["read_llama2c"]

_HEADER = struct.Struct("<7i")


def read_llama2c(path: Path) -> Llama:
    """The model in a llama2.c checkpoint, in float32.

    Parameters
    ----------
    path : Path
        The ``.bin`` file.

    Raises
    ------
    DataError
        If it cannot be read, is no such checkpoint, or has another length than its header says.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    if len(content) < _HEADER.size:
        raise DataError(f"{path}: {len(content)} bytes are no llama2.c checkpoint")
    config = _config(path, _HEADER.unpack_from(content))
    expected = _HEADER.size + 4 * _floats(config)
    if len(content) != expected:
        raise DataError(
            f"{path}: {len(content)} bytes; a version-0 llama2.c checkpoint with its header has "
            f"{expected}"
        )
    values = np.frombuffer(content, dtype="<f4", offset=_HEADER.size).astype(np.float32)
    if not np.isfinite(values).all():
        raise DataError(f"{path}: a parameter is not finite")
    return _filled(config, torch.from_numpy(values))


def _config(path: Path, header: tuple[int, ...]) -> LlamaConfig:
    width, hidden, layers, heads, key_heads, vocabulary, context = header
    try:
        return LlamaConfig(
            width=width,
            hidden=hidden,
            layers=layers,
            heads=heads,
            key_heads=key_heads,
            vocabulary=abs(vocabulary),
            context=context,
            tied=vocabulary > 0,
        )
    except ValueError as error:
        raise DataError(f"{path}: no llama2.c checkpoint of version 0 ({error})") from None


def _floats(config: LlamaConfig) -> int:
    """Numbers in the file."""
    width, keys = config.width, config.key_heads * config.head_width
    layer = 2 * width + 2 * width * width + 2 * keys * width + 3 * width * config.hidden
    tables = config.context * config.head_width
    heads = 1 if config.tied else 2
    return heads * config.vocabulary * width + config.layers * layer + width + tables


def _filled(config: LlamaConfig, values: Tensor) -> Llama:
    with torch.device("meta"):
        model = Llama(config)
    model.to_empty(device="cpu")
    if config.tied:
        model.head.weight = model.embedding.weight
    at = 0

    def fill(parameter: Tensor) -> None:
        nonlocal at
        size = parameter.numel()
        parameter.copy_(values[at : at + size].view(parameter.shape))
        at += size

    of_layers = (
        "attention_norm",
        "attention.query",
        "attention.key",
        "attention.value",
        "attention.out",
        "feed_forward_norm",
        "feed_forward.gate",
        "feed_forward.down",
        "feed_forward.up",
    )
    with torch.no_grad():
        fill(model.embedding.weight)
        for part in of_layers:
            for layer in range(config.layers):
                fill(model.get_parameter(f"blocks.{layer}.{part}.weight"))
        fill(model.norm.weight)
        at += config.context * config.head_width
        if not config.tied:
            fill(model.head.weight)
    return model.eval()
