"""``fedstrategies prune``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["prune_command"]


def prune_command(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="a llama2.c checkpoint (.bin), or a folder or name of a Hugging Face model",
        ),
    ],
    evaluation: Annotated[
        Path, typer.Option("--eval", metavar="TEXT", help="what the perplexity is measured on")
    ],
    method: Annotated[
        list[str],
        typer.Option(
            metavar="NAME",
            help="magnitude, wanda, output-wanda, symwanda, symmetric, ri, ria, stochri, stochria, "
            "dsnot or r2-dsnot, with options as in ria:exponent=0.5,p=1; may be repeated",
        ),
    ],
    sparsity: Annotated[
        float | None, typer.Option(metavar="S", help="share of the weights that is removed")
    ] = None,
    pattern: Annotated[
        str | None, typer.Option(metavar="N:M", help="of M consecutive inputs N stay, as in 2:4")
    ] = None,
    calibration: Annotated[
        Path | None, typer.Option(metavar="TEXT", help="what activations are measured on")
    ] = None,
    calibration_samples: Annotated[int, typer.Option(metavar="N", help="windows of it")] = 128,
    length: Annotated[
        int | None, typer.Option(metavar="TOKENS", help="of a window; default: the context")
    ] = None,
    batch_size: Annotated[int, typer.Option(metavar="B", help="windows at a time")] = 8,
    seed: Annotated[int, typer.Option(metavar="S", help="of the calibration windows")] = 0,
    keep_outputs: Annotated[
        bool,
        typer.Option(
            "--keep-outputs",
            help="keep what a block gives for all calibration windows in memory: two passes in "
            "place of half as many as there are blocks",
        ),
    ] = False,
    skip: Annotated[
        list[str] | None,
        typer.Option(metavar="PATTERN", help="linear layers that stay dense, as in '*.down'"),
    ] = None,
    tokenizer: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="of a llama2.c checkpoint; default: tok*.bin beside it"),
    ] = None,
    device: Annotated[str, typer.Option(metavar="NAME", help="cpu, cuda, ...")] = "cpu",
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="default: runs/prune-MODEL")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace what is in DIR")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="print nothing but errors")] = False,
) -> None:
    """Prune a language model after its training, and measure its perplexity before and after."""
    from fedstrategies.cli.pruning_display import print_pruning, pruning_progress
    from fedstrategies.experiment.language_pruning import PruneConfig, prune_language_model

    config = PruneConfig(
        model=model,
        methods=tuple(method),
        evaluation=evaluation,
        calibration=calibration,
        sparsity=sparsity,
        pattern=pattern,
        samples=calibration_samples,
        length=length,
        batch_size=batch_size,
        seed=seed,
        keep_outputs=keep_outputs,
        skip=tuple(skip or ()),
        tokenizer=tokenizer,
        device=device,
        out=out,
        overwrite=overwrite,
    )
    with pruning_progress(quiet=quiet) as tell:
        summaries = prune_language_model(config, tell=tell)
    if not quiet:
        print_pruning(summaries)
