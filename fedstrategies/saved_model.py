"""A model as a safetensors file, written whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

__all__ = ["save_model"]


def save_model(
    named: Mapping[str, Tensor], path: Path, *, metadata: Mapping[str, str] | None = None
) -> None:
    """Write named arrays; a reader sees the old file or the new one, never a part.

    Parameters
    ----------
    named : mapping of str to Tensor
        Parameters under the model's names.
    path : Path
        Its folder is created.
    metadata : mapping of str to str, optional
        Texts in the file's header.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        arrays = {name: value.detach().cpu().clone() for name, value in named.items()}
        save_file(arrays, partial, metadata=dict(metadata) if metadata else None)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
