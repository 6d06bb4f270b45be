"""Scoring time of stochRIA against RIA on one matrix, and what kept outputs save; in one thread.

    python -m benchmarks.pruning --output docs/results/pruning.md

Every repetition times all systems one after the other; a ratio is the median of the ratios
within a repetition.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from copy import deepcopy
from functools import partial
from pathlib import Path

import torch

from benchmarks.compressors import interleaved, milliseconds, ratio
from benchmarks.machine import processor
from benchmarks.pages import replace_between
from fedstrategies.language import Llama, LlamaConfig
from fedstrategies.pruning import (
    Subsets,
    Unstructured,
    parse_method,
    prune_module,
    ria_scores,
    stochria_scores,
)
from fedstrategies.threads import single_threaded

SHAPE = (4096, 11008)
SHARES = (0.1, 0.01)
BEGIN, END = "<!-- scoring:begin -->", "<!-- scoring:end -->"
CALIBRATION = "<!-- calibration:begin -->", "<!-- calibration:end -->"
BASE = "RIA"
ANEW, KEPT = "activations computed anew", "outputs of a block kept"
WINDOWS, LENGTH, BATCH = 32, 128, 8


def report(shape: tuple[int, int], repeats: int) -> str:
    """The section between the markers."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(shape, generator=generator)
    norms = torch.rand(shape[1], generator=generator)
    systems = {
        "copy of the weight": weight.clone,
        BASE: partial(ria_scores, weight, input_norms=norms),
    }
    for share in SHARES:
        for shared in (False, True):
            kind = "one subset for all lines" if shared else "a subset for each line"
            systems[f"stochRIA, {share:.0%}, {kind}"] = partial(
                stochria_scores,
                weight,
                subsets=Subsets(share=share, shared=shared),
                input_norms=norms,
            )
    times = interleaved(systems, repeats)
    lines = [
        f"Scores of one float32 weight of {shape[0]} x {shape[1]}: {processor()}, one thread,",
        f"torch {torch.__version__}, {repeats} repetitions, load average {os.getloadavg()[0]:.1f};",
        "medians and quartiles.",
        "",
        f"| scores | ms | against {BASE} |",
        "|---|---|---|",
        *(
            f"| {name} | {milliseconds(times, name)} | {ratio(times, name, BASE)} |"
            for name in times
        ),
    ]
    return "\n" + "\n".join(lines) + "\n"


def calibration_report(depths: Sequence[int], repeats: int) -> str:
    """The other section: pruning Llamas of some depths by Wanda, with their calibration."""
    what = f"{WINDOWS} windows of {LENGTH} tokens, {BATCH} at a time"
    run = f"{repeats} repetitions, load average {os.getloadavg()[0]:.1f}"
    lines = [
        f"Wanda at 50 % on Llamas of width 64, {what}: {processor()},",
        f"one thread, torch {torch.__version__}, {run}; medians and quartiles.",
        "",
        f"| blocks | {ANEW}, ms | {KEPT}, ms | against that |",
        "|---|---|---|---|",
    ]
    for blocks in depths:
        times = interleaved(
            {
                ANEW: partial(_prune, _llama(blocks), keep_outputs=False),
                KEPT: partial(_prune, _llama(blocks), keep_outputs=True),
            },
            repeats,
        )
        lines.append(
            f"| {blocks} | {milliseconds(times, ANEW)} | {milliseconds(times, KEPT)} | "
            f"{ratio(times, KEPT, ANEW)} |"
        )
    return "\n" + "\n".join(lines) + "\n"


def _llama(blocks: int) -> Llama:
    config = LlamaConfig(
        width=64, hidden=172, layers=blocks, heads=8, key_heads=4, vocabulary=512, context=LENGTH
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Llama(config).eval()


def _prune(model: Llama, *, keep_outputs: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    windows = torch.randint(0, 512, (WINDOWS, LENGTH), generator=generator)
    prune_module(
        deepcopy(model),
        torch.split(windows, BATCH),
        method=parse_method("wanda"),
        pattern=Unstructured(sparsity=0.5),
        keep_outputs=keep_outputs,
    )


def main() -> None:
    """Measure and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output", type=Path, help="page to update (default: print the section)")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--shape", type=int, nargs=2, default=list(SHAPE))
    parser.add_argument("--blocks", type=int, nargs="+", default=[6, 12, 24])
    options = parser.parse_args()
    with single_threaded():
        scoring = report((options.shape[0], options.shape[1]), options.repeats)
        calibration = calibration_report(options.blocks, options.repeats)
    if options.output is None:
        print(scoring + calibration)
    else:
        replace_between(options.output, BEGIN, END, scoring)
        replace_between(options.output, *CALIBRATION, calibration)


if __name__ == "__main__":
    main()
