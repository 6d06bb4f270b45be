"""The families of algorithms: which configuration class an algorithm's name means."""

from __future__ import annotations

from collections.abc import Mapping

from fedstrategies.experiment.config import ExperimentConfig
from fedstrategies.experiment.efbv_config import EFBVConfig
from fedstrategies.experiment.fedp3_config import FedP3Config
from fedstrategies.experiment.options import ConfigError, Option, from_view, options
from fedstrategies.experiment.scafflix_config import ScafflixConfig
from fedstrategies.experiment.sppm_config import SPPMConfig

__all__ = ["ALGORITHMS", "FAMILIES", "all_options", "config_from_mapping", "not_for"]

FAMILIES: tuple[type[ExperimentConfig], ...] = (
    EFBVConfig,
    ScafflixConfig,
    SPPMConfig,
    FedP3Config,
)

ALGORITHMS: Mapping[str, type[ExperimentConfig]] = {
    name: family
    for family in FAMILIES
    for entry in options(family)
    if entry.name == "algorithm"
    for name in entry.choices
}


def all_options() -> tuple[Option, ...]:
    """The options of all families, ``algorithm`` left out; one key is one option."""
    found: dict[str, Option] = {}
    for family in FAMILIES:
        for entry in options(family):
            found.setdefault(entry.key, entry)
    return tuple(entry for key, entry in found.items() if key != "algorithm")


def not_for(algorithm: str) -> set[str]:
    """Keys of options that exist, but not for this algorithm."""
    family = ALGORITHMS[algorithm]
    own = {entry.key for entry in options(family)}
    others = {entry.key for entry in all_options()} - own
    return others | set(family.not_for.get(algorithm, ()))


def config_from_mapping(values: Mapping[str, object], *, app: bool = False) -> ExperimentConfig:
    """A configuration from kebab-case keys (command line or TOML; ``app``: Flower's run config).

    Parameters
    ----------
    values : mapping of str to object
        Options by key, ``algorithm`` among them; what is left out has its default.
    app : bool
        The keys are those of Flower's run configuration, which has not all of them.

    Returns
    -------
    ExperimentConfig
        Of the family that the algorithm belongs to.

    Raises
    ------
    ConfigError
        For an unknown algorithm or option, an option of another algorithm, or a wrong value.
    """
    algorithm = values.get("algorithm", "efbv")
    if not isinstance(algorithm, str) or algorithm not in ALGORITHMS:
        raise ConfigError(f"unknown algorithm {algorithm!r}; there are {', '.join(ALGORITHMS)}")
    family = ALGORITHMS[algorithm]
    own = {key for entry in options(family) for key in (entry.key, entry.app_key)}
    known = {key for entry in all_options() for key in (entry.key, entry.app_key)}
    for key in values:
        if key not in own and key in known:
            raise ConfigError(f"{key}: {algorithm} has no such option")
    return family(**from_view(family, values, view="app" if app else "command line"))  # type: ignore[arg-type]
