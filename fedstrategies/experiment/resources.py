"""What clients take of a machine while they work, and which device they compute on.

Loads no torch: what is installed and visible is looked at where objectives are built
(`fedstrategies.experiment.devices`), by the process that builds them.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from fedstrategies.engines.shares import PackingError, Share, shares_of
from fedstrategies.experiment.options import ConfigError

if TYPE_CHECKING:
    from fedstrategies.experiment.config import ExperimentConfig

__all__ = ["check_device", "check_resources", "client_shares", "parse_amounts"]

_DEVICE = re.compile(r"auto|cpu|cuda(:\d{1,3})?")


def parse_amounts(given: float | str, *, where: str) -> float | tuple[float, ...]:
    """A number for all clients, or numbers with commas: one for each.

    Raises
    ------
    ConfigError
        If a part is not a number.
    """
    if not isinstance(given, str):
        return given
    try:
        return tuple(float(part) for part in given.split(","))
    except ValueError:
        raise ConfigError(
            f"{where}: {given!r} is neither a number nor numbers with commas between them"
        ) from None


def client_shares(config: ExperimentConfig) -> tuple[Share, ...]:
    """The share of every client, by partition.

    Raises
    ------
    ConfigError
        If a list is not of one number a client, or an amount is impossible.
    """
    cpus = parse_amounts(config.cpus_per_client, where="cpus-per-client")
    gpus = parse_amounts(config.gpus_per_client, where="gpus-per-client")
    try:
        return shares_of(config.clients, cpus=cpus, gpus=gpus)
    except PackingError as error:
        # The options' names, as they are written.
        raise ConfigError(re.sub(r"(cpus|gpus) per client", r"\1-per-client", str(error))) from None


def check_device(device: str) -> None:
    """Refuse what is no device's name.

    Raises
    ------
    ConfigError
        If it is neither ``auto`` nor ``cpu`` nor ``cuda`` nor ``cuda:`` and a number.
    """
    if not _DEVICE.fullmatch(device):
        raise ConfigError(f"device: {device!r} is not one of auto, cpu, cuda, cuda:0, cuda:1, ...")


def check_resources(config: ExperimentConfig) -> None:
    """Refuse shares and devices that the backend cannot give.

    Raises
    ------
    ConfigError
        Naming the option.
    """
    shares = client_shares(config)
    if config.backend == "cohort":
        return
    if config.backend == "flower":
        for name in ("cpus_per_client", "gpus_per_client"):
            if isinstance(getattr(config, name), str):
                raise ConfigError(
                    f"{name.replace('_', '-')}: Flower's runtime has one setting for all its Ray "
                    "virtual clients; give one number, or use --backend ray"
                )
    if config.device.startswith("cuda:"):
        raise ConfigError(
            f"device: with --backend {config.backend} Ray gives each process its GPU, which is "
            f"there called cuda:0 whatever its number; use --device cuda, not {config.device}"
        )
    if config.device == "cuda" and not all(share.gpus for share in shares):
        raise ConfigError(
            f"device: with --backend {config.backend} a client computes on the share of a GPU that "
            "it reserves, and some reserve none; give --gpus-per-client, or --device auto"
        )
