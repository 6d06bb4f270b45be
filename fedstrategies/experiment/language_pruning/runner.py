"""Prune and evaluate, one method after the other."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from math import isfinite
from typing import cast

import torch
from torch import Tensor, nn

from fedstrategies.experiment.folder_lock import FolderLock
from fedstrategies.experiment.language_pruning.config import PruneConfig
from fedstrategies.experiment.language_pruning.files import (
    MODEL,
    SUMMARY,
    clear,
    folder_of,
    state_of,
    subfolder,
    write_json,
    write_sparse,
)
from fedstrategies.experiment.options import ConfigError
from fedstrategies.experiment.results import peak_memory_bytes
from fedstrategies.language import (
    LanguageModel,
    Perplexity,
    calibration_batches,
    load_language_model,
    perplexity,
    read_text,
)
from fedstrategies.pruning import PrunedLayer, PruningMethod, linear_blocks, prune_module

__all__ = ["PruneSummary", "prune_language_model"]

Tell = Callable[[str, int, int], None]
"""What is being done, how much of it is done, and how much there is."""


@dataclass(frozen=True, kw_only=True)
class PruneSummary:
    """What one method did.

    Attributes
    ----------
    model, method, pattern : str
        As they were given; the pattern is a sparsity or n:m.
    sparsity : float
        Share of zeros in the pruned layers, counted.
    layers, weights : int
        Pruned linear layers and their entries.
    perplexity_dense, perplexity : float or None
        Before and after; None: not finite.
    tokens : int
        Predicted for each of them.
    seconds, scoring_seconds : float
        For pruning as a whole with its calibration, and for scores, masks and swaps alone.
    peak_memory_bytes, peak_device_bytes : int or None
        Largest resident size of the process so far, and of the accelerator's memory that torch
        took for this method; None where the system does not say, or there is none.
    dense_bytes, bytes : int
        The model's numbers, and the sparse file.
    seed : int
        Of the calibration windows.
    out : str
        Folder of the pruned model.
    """

    model: str
    method: str
    pattern: str
    sparsity: float
    layers: int
    weights: int
    perplexity_dense: float | None
    perplexity: float | None
    tokens: int
    seconds: float
    scoring_seconds: float
    peak_memory_bytes: int | None
    peak_device_bytes: int | None
    dense_bytes: int
    bytes: int
    seed: int
    out: str


def prune_language_model(
    config: PruneConfig, *, tell: Tell = lambda what, done, total: None
) -> tuple[PruneSummary, ...]:
    """Run every method of a configuration from the dense model.

    One method's files are ``model.safetensors`` and ``summary.json`` in the folder; those of
    several are in subfolders named after them, and the folder's ``summary.json`` lists all.

    Parameters
    ----------
    config : PruneConfig
        The options.
    tell : callable
        Hears of progress.

    Raises
    ------
    ConfigError, DataError
        If something is wrong with options, model or texts; nothing was written then.
    WriteError
        If a file cannot be written.
    """
    out = folder_of(config)
    model = load_language_model(config.model, tokenizer=config.tokenizer)
    length = _length(config, model)
    model.module.to(_device(config))
    batches: list[Tensor] = []
    if config.calibration is not None:
        device = next(model.module.parameters()).device
        drawn = calibration_batches(
            model.encode(read_text(config.calibration)),
            samples=config.samples,
            length=length,
            seed=config.seed,
            batch=config.batch_size,
        )
        batches = [batch.to(device) for batch in drawn]
    tokens = model.encode(read_text(config.evaluation))
    _count(model, config)

    def evaluated(what: str) -> Perplexity:
        return perplexity(
            model,
            tokens,
            length=length,
            batch=config.batch_size,
            observe=lambda done, total: tell(f"{what}: perplexity", done, total),
        )

    before = evaluated("dense")
    several = len(config.methods) > 1
    dense = {name: value.clone() for name, value in state_of(model).items()} if several else {}
    summaries: list[PruneSummary] = []
    with FolderLock(out):
        clear(out, config)
        for text, method in config.parsed_methods.items():
            if summaries:
                model.module.load_state_dict(dense)
            seconds, peak, pruned = _prune(model, batches, method, config, partial(tell, text))
            after = evaluated(text)
            folder = out / subfolder(text) if several else out
            size = write_sparse(model, pruned, folder / MODEL)
            summary = PruneSummary(
                model=config.model,
                method=text,
                pattern=config.zeros.spec,
                sparsity=1 - sum(layer.kept for layer in pruned) / sum(x.size for x in pruned),
                layers=len(pruned),
                weights=sum(layer.size for layer in pruned),
                perplexity_dense=_finite(before.value),
                perplexity=_finite(after.value),
                tokens=before.tokens,
                seconds=seconds,
                scoring_seconds=sum(layer.seconds for layer in pruned),
                peak_memory_bytes=peak_memory_bytes(),
                peak_device_bytes=peak,
                dense_bytes=sum(p.numel() * p.itemsize for p in model.module.parameters()),
                bytes=size,
                seed=config.seed,
                out=str(folder),
            )
            write_json(asdict(summary), folder / SUMMARY)
            summaries.append(summary)
        if several:
            write_json({"methods": [asdict(summary) for summary in summaries]}, out / SUMMARY)
    return tuple(summaries)


def _length(config: PruneConfig, model: LanguageModel) -> int:
    if config.length is not None and config.length > model.context:
        raise ConfigError(f"--length: {config.length} tokens; the context is {model.context}")
    return config.length or model.context


def _count(model: LanguageModel, config: PruneConfig) -> int:
    """Layers that will be pruned; the pattern is tried on each."""
    count = 0
    try:
        for block in linear_blocks(model.module, skip=config.skip):
            for name in block.layers:
                columns = cast(nn.Linear, model.module.get_submodule(name)).in_features
                config.zeros.mask(torch.zeros(1, columns))
                count += 1
    except ValueError as error:
        raise ConfigError(f"{config.model}: {error}") from None
    return count


def _device(config: PruneConfig) -> torch.device:
    try:
        device = torch.device(config.device)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        raise ConfigError(f"--device: {config.device} cannot be used ({reason})") from None
    return device


def _prune(
    model: LanguageModel,
    batches: list[Tensor],
    method: PruningMethod,
    config: PruneConfig,
    tell: Callable[[int, int], None],
) -> tuple[float, int | None, tuple[PrunedLayer, ...]]:
    on_cuda = next(model.module.parameters()).device.type == "cuda"
    if on_cuda:
        torch.cuda.reset_peak_memory_stats()
    done, layers = 0, _count(model, config)

    def observe(layer: PrunedLayer) -> None:
        nonlocal done
        done += 1
        tell(done, layers)

    began = time.perf_counter()
    try:
        pruned = prune_module(
            model.module,
            batches,
            method=method,
            pattern=config.zeros,
            forward=model.scores,
            skip=config.skip,
            keep_outputs=config.keep_outputs,
            observe=observe,
        )
    except ValueError as error:
        raise ConfigError(f"{config.model}: {error}") from None
    if on_cuda:
        torch.cuda.synchronize()
    seconds = time.perf_counter() - began
    return seconds, torch.cuda.max_memory_allocated() if on_cuda else None, pruned


def _finite(value: float) -> float | None:
    return value if isfinite(value) else None
