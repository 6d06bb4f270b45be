"""A configuration as a TOML file, as a Flower app's run configuration, and back."""

from __future__ import annotations

import platform
import tomllib
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import tomli_w

from fedstrategies.experiment.config import ExperimentConfig
from fedstrategies.experiment.efbv_config import EFBVConfig
from fedstrategies.experiment.families import all_options, config_from_mapping
from fedstrategies.experiment.options import ConfigError, Scalar, options

__all__ = [
    "app_defaults",
    "read_mapping",
    "read_toml",
    "read_versions",
    "to_mapping",
    "to_toml",
    "versions",
]

_PACKAGES = ("fedstrategies", "flwr", "torch", "numpy", "ray", "scikit-learn", "safetensors")


def to_mapping(config: ExperimentConfig, *, app: bool = False) -> dict[str, Scalar]:
    """Every option under its key; unset ones as an empty string.

    With ``app`` the keys are those of a Flower app's run configuration, without the options
    that Flower itself decides there (backend and resources).
    """
    named = {
        (entry.app_key if app else entry.key): getattr(config, entry.name)
        for entry in options(type(config))
    }
    return {key: "" if value is None else value for key, value in named.items() if key}


def app_defaults(config_class: type[ExperimentConfig] = EFBVConfig) -> dict[str, Scalar]:
    """The ``[tool.flwr.app.config]`` table of an app for this family of algorithms."""
    return {
        entry.app_key: "" if entry.default is None else entry.default
        for entry in options(config_class)
        if entry.app_key is not None
    }


def to_toml(config: ExperimentConfig, *, data: str | None = None) -> str:
    """The resolved configuration and a ``[versions]`` table, as TOML.

    Parameters
    ----------
    config : ExperimentConfig
        What is written.
    data : str or None
        A digest of the rows, which the table of versions then has as well.
    """
    of_data = {} if data is None else {"data": data}
    return tomli_w.dumps({**to_mapping(config), "versions": {**versions(), **of_data}})


def read_toml(path: Path) -> ExperimentConfig:
    """The configuration in a file that `to_toml` wrote, or any subset of its keys.

    Parameters
    ----------
    path : Path
        The file.

    Raises
    ------
    ConfigError
        If the file cannot be read, is not TOML, or holds a wrong option.
    """
    return config_from_mapping(read_mapping(path))


def read_mapping(path: Path) -> dict[str, object]:
    """The options in a TOML file as they stand there, the ``[versions]`` table left out.

    An app's ``output-dir`` counts as ``out``, so that one file serves both.

    Raises
    ------
    ConfigError
        If the file cannot be read or is not TOML.
    """
    values = _read(path)
    values.pop("versions", None)
    return _without_app_keys(values)


def read_versions(path: Path) -> dict[str, str]:
    """The ``[versions]`` table of a TOML file; empty where there is none.

    Raises
    ------
    ConfigError
        If the file cannot be read or is not TOML.
    """
    found = _read(path).get("versions", {})
    if not isinstance(found, dict):
        return {}
    return {name: value for name, value in found.items() if isinstance(value, str)}


def _read(path: Path) -> dict[str, object]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise ConfigError(f"{path}: cannot be read ({reason})") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: not TOML ({error})") from None


def _without_app_keys(values: Mapping[str, object]) -> dict[str, object]:
    renamed = {
        entry.app_key: entry.key
        for entry in all_options()
        if entry.app_key is not None and entry.app_key != entry.key
    }
    return {renamed.get(key, key): value for key, value in values.items()}


def versions() -> dict[str, str]:
    """Versions of Python and of the packages a result depends on."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
