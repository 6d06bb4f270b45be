"""Where a pruned model goes, and what is written there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from fedstrategies.durable import write_durably
from fedstrategies.experiment.language_pruning.config import PruneConfig
from fedstrategies.experiment.results import check_directory, free_directory
from fedstrategies.experiment.writing import writing
from fedstrategies.language import LanguageModel, load_sparse, save_sparse
from fedstrategies.pruning import PrunedLayer

__all__ = [
    "MODEL",
    "SUMMARY",
    "clear",
    "folder_of",
    "state_of",
    "subfolder",
    "write_json",
    "write_sparse",
]

MODEL, SUMMARY = "model.safetensors", "summary.json"


def folder_of(config: PruneConfig) -> Path:
    """``--out``, or the first free of ``runs/prune-MODEL``, -2, -3, ...

    Raises
    ------
    ConfigError
        If it is no folder, or holds something and is not to be overwritten.
    """
    if config.out is None:
        return free_directory(f"prune-{Path(config.model).stem}")
    check_directory(config.out, overwrite=config.overwrite, resumable=False)
    return config.out


def subfolder(method: str) -> str:
    """That of one of several methods."""
    return "".join(c if c.isalnum() or c in "-." else "_" for c in method)


def clear(out: Path, config: PruneConfig) -> None:
    """Remove what this configuration will write, where it may, and nothing else.

    The folder may hold other runs in folders of their own.
    """
    if not config.overwrite:
        return
    with writing(out):
        for folder in (out, *(out / subfolder(method) for method in config.parsed_methods)):
            for name in (MODEL, SUMMARY):
                (folder / name).unlink(missing_ok=True)


def state_of(model: LanguageModel) -> Mapping[str, Tensor]:
    """Its weights and buffers, by name."""
    state: dict[str, Tensor] = model.module.state_dict()
    return state


def write_sparse(model: LanguageModel, pruned: tuple[PrunedLayer, ...], path: Path) -> int:
    """Write the sparse file, read it back, and compare; its size in bytes.

    Raises
    ------
    RuntimeError
        If what is read is not what was written.
    """
    state = state_of(model)
    with writing(path):
        save_sparse(state, {f"{layer.name}.weight" for layer in pruned}, path)
    found = load_sparse(path)
    for name, value in state.items():
        if not torch.equal(found[name], value.cpu()):
            raise RuntimeError(f"{path}: {name} is not what was written")
    return path.stat().st_size


def write_json(content: Mapping[str, object], path: Path) -> None:
    """Write what was measured; what was not is absent."""
    with writing(path):
        write_durably(path, (json.dumps(_present(content), indent=2) + "\n").encode())


def _present(content: object) -> object:
    if isinstance(content, Mapping):
        return {key: _present(value) for key, value in content.items() if value is not None}
    if isinstance(content, list):
        return [_present(value) for value in content]
    return content
