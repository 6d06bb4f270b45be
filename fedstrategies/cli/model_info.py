"""``fedstrategies info --model``: a model's layer groups, and what FedP3 uploads of them."""

from __future__ import annotations

import re

from rich.console import Console
from rich.table import Table

from fedstrategies.experiment.networks import build_module
from fedstrategies.experiment.options import ConfigError
from fedstrategies.experiment.problem_config import ProblemConfig
from fedstrategies.experiment.progress import format_bytes
from fedstrategies.fedp3 import LAYER_CHOICES, uplink_fraction
from fedstrategies.pruning import LayerGroups, layer_groups

__all__ = ["print_model"]

_CLIENTS = 100


def print_model(
    model: str,
    *,
    classes: int | None = None,
    image: str | None = None,
    width: int | None = None,
    norm: str | None = None,
) -> None:
    """Two tables: the layer groups, and the mean upload under every choice of layers.

    Parameters
    ----------
    model : str
        As ``--model`` of a run.
    classes : int, optional
        K; 10 if not given.
    image : str, optional
        ``CxHxW``: channels, height and width; ``3x32x32`` if not given.
    width, norm : optional
        As in a run.

    Raises
    ------
    ConfigError
        If there is no such model, or it cannot be of that size.
    """
    config = ProblemConfig(model=model, width=width, norm=norm)
    classes = 10 if classes is None else classes
    if classes < 1:
        raise ConfigError(f"classes: {classes} is below 1")
    shape = _image(image or "3x32x32")
    try:
        module = build_module(
            config.model, image=shape, classes=classes, width=config.width, norm=config.norm
        )
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(f"image: {error}") from None
    groups = layer_groups(module)
    dtype = str(groups.layout.dtype).removeprefix("torch.")
    final = groups.groups[groups.classifier].name
    console = Console()
    console.print(_groups_table(groups))
    console.print(f"bytes as {dtype}; {final}, the classifier, is every client's\n", soft_wrap=True)
    console.print(_choices_table(groups))
    console.print(
        f"share of the model that a client uploads, mean of {_CLIENTS} clients", soft_wrap=True
    )


def _image(text: str) -> tuple[int, int, int]:
    found = re.fullmatch(r"(\d{1,4})x(\d{1,4})x(\d{1,4})", text.strip())
    sizes = [int(size) for size in found.groups()] if found else []
    if not found or 0 in sizes:
        raise ConfigError(f"image: {text!r} is not channels, height and width like 3x32x32")
    channels, height, width = sizes
    return channels, height, width


def _groups_table(groups: LayerGroups) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("layer group", no_wrap=True)
    for name in ("arrays", "parameters", "bytes", "share"):
        table.add_column(name, no_wrap=True, justify="right")
    for group in groups:
        table.add_row(
            group.name,
            str(len(group.entries)),
            f"{group.size:,}",
            format_bytes(group.bytes),
            f"{group.size / groups.dimension:.2%}",
        )
    total = sum(group.bytes for group in groups)
    arrays = str(len(groups.entries))
    table.add_row("all", arrays, f"{groups.dimension:,}", format_bytes(total), "100%")
    return table


def _choices_table(groups: LayerGroups) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("layers", no_wrap=True)
    table.add_column("uplink", no_wrap=True, justify="right")
    table.add_column("")
    for name, choice in LAYER_CHOICES.items():
        assigned = choice.draw(groups, clients=_CLIENTS, seed=0, round=0)
        fraction = uplink_fraction(groups, assigned)
        table.add_row(name, f"{fraction:.4f}", "" if choice.fixed else "drawn anew each round")
    return table
