"""Scoring time of stochRIA against RIA on one matrix, in one thread.

    python -m benchmarks.pruning --output docs/results/pruning.md

Every repetition times all systems one after the other; a ratio is the median of the ratios
within a repetition.
"""

from __future__ import annotations

import argparse
import os
from functools import partial
from pathlib import Path

import torch

from benchmarks.compressors import interleaved, milliseconds, ratio
from benchmarks.machine import processor
from benchmarks.pages import replace_between
from fedstrategies.pruning import Subsets, ria_scores, stochria_scores
from fedstrategies.threads import single_threaded

SHAPE = (4096, 11008)
SHARES = (0.1, 0.01)
BEGIN, END = "<!-- scoring:begin -->", "<!-- scoring:end -->"
BASE = "RIA"


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


def main() -> None:
    """Measure and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output", type=Path, help="page to update (default: print the section)")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--shape", type=int, nargs=2, default=list(SHAPE))
    options = parser.parse_args()
    with single_threaded():
        section = report((options.shape[0], options.shape[1]), options.repeats)
    if options.output is None:
        print(section)
    else:
        replace_between(options.output, BEGIN, END, section)


if __name__ == "__main__":
    main()
