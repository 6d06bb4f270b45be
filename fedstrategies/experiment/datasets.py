"""The rows of a configuration, read once, and a digest to know them again by."""

from __future__ import annotations

from functools import lru_cache
from hashlib import sha256

import torch
from torch import Tensor

from fedstrategies.data import Dataset, load_dataset
from fedstrategies.experiment.problem_config import BUNDLED_DATASETS, ProblemConfig

__all__ = ["digest_of_data", "read_dataset"]


def read_dataset(config: ProblemConfig) -> Dataset:
    """The data set, as its source has it.

    Raises
    ------
    DataError
        If it cannot be read.
    """
    return _read(config.dataset, config.sequence_length)


def digest_of_data(config: ProblemConfig) -> str | None:
    """``sha256:...`` over the rows, labels, test split and groups; None for a bundled set.

    Of what was read, not of the files: these may be packed otherwise, or lie beside others. A
    bundled set is known by its name and the versions.

    Raises
    ------
    DataError
        If the data cannot be read.
    """
    if config.dataset in BUNDLED_DATASETS:
        return None
    return _digest(config.dataset, config.sequence_length)


@lru_cache(maxsize=2)
def _read(name_or_path: str, sequence_length: int) -> Dataset:
    return load_dataset(name_or_path, sequence_length=sequence_length)


@lru_cache(maxsize=16)
def _digest(path: str, sequence_length: int) -> str:
    dataset = _read(path, sequence_length)
    parts: dict[str, Tensor | None] = {
        "features": dataset.features,
        "labels": dataset.labels,
        "test features": None if dataset.test is None else dataset.test[0],
        "test labels": None if dataset.test is None else dataset.test[1],
        "groups": dataset.groups,
    }
    found = sha256("\n".join(dataset.group_names).encode())
    for name, part in parts.items():
        if part is not None:
            found.update(f"{name} {part.dtype} {tuple(part.shape)}".encode())
            found.update(part.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return f"sha256:{found.hexdigest()}"
