"""Texts, and what is cut from their tokens."""

from __future__ import annotations

import bz2
import gzip
import lzma
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fedstrategies.data.errors import DataError
from fedstrategies.random import Purpose, client_keys, integers_below

__all__ = ["calibration_batches", "read_text", "windows"]

_OPENERS: dict[str, Any] = {
    ".xz": lzma.open,
    ".gz": gzip.open,
    ".bz2": bz2.open,
}


def read_text(path: Path) -> str:
    """A UTF-8 text.

    Parameters
    ----------
    path : Path
        Plain, or .xz, .gz or .bz2.

    Raises
    ------
    DataError
        If it cannot be read, is not UTF-8, or is empty.
    """
    opener = _OPENERS.get(path.suffix)
    try:
        if opener is None:
            content = path.read_bytes()
        else:
            with opener(path, "rb") as file:
                content = file.read()
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 at byte {error.start}") from None
    except (OSError, EOFError, lzma.LZMAError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise DataError(f"{path}: cannot be read ({reason})") from None
    if not text.strip():
        raise DataError(f"{path}: there is no text in it")
    return text


def windows(tokens: Tensor, length: int) -> Tensor:
    """Consecutive windows of a token stream; what is left over at its end is dropped.

    Parameters
    ----------
    tokens : Tensor
        int64, shape (T,).
    length : int
        Of a window.

    Returns
    -------
    Tensor
        int64, shape (T // length, length).

    Raises
    ------
    DataError
        If not one window fits.
    """
    count = len(tokens) // length
    if not count:
        raise DataError(f"{len(tokens)} tokens of text; one window has {length}")
    return tokens[: count * length].view(count, length)


def calibration_batches(
    tokens: Tensor, *, samples: int, length: int, seed: int, batch: int = 8
) -> list[Tensor]:
    """Windows that begin at uniformly drawn places of a token stream.

    Parameters
    ----------
    tokens : Tensor
        int64, shape (T,).
    samples, length : int
        How many windows, and of how many tokens.
    seed : int
        Of the places.
    batch : int
        Windows in a batch.

    Returns
    -------
    list of Tensor
        int64, shapes (at most batch, length).

    Raises
    ------
    DataError
        If the text is shorter than a window.
    """
    if len(tokens) < length:
        raise DataError(f"{len(tokens)} tokens of calibration text; one window has {length}")
    key = client_keys(seed, 0, torch.zeros(1, dtype=torch.int64), Purpose.CALIBRATION)
    starts = integers_below(key, samples, len(tokens) - length + 1)[0]
    drawn = tokens[starts[:, None] + torch.arange(length)]
    return [drawn[start : start + batch] for start in range(0, samples, batch)]
