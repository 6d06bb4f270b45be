"""Versions of Python and packages against what the package's own metadata admits."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from importlib.metadata import PackageNotFoundError, metadata, requires, version

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from fedstrategies.experiment.config import ExperimentConfig
from fedstrategies.experiment.doctor.finding import Finding, note, ok, problem
from fedstrategies.extras import install_hint

__all__ = ["check_ray", "check_versions"]

_EXTRAS: Mapping[str, str] = {
    "simulation": "the backends ray and flower",
    "privacy": "accounts of privacy and private gradients of networks",
    "data": "partitions by class and features",
    "plots": "pictures of the curves",
    "tensorboard": "--log tensorboard",
}
"""What an extra is for; others (``dev``) are no run's business."""

Versions = Callable[[str], str | None]


def installed(package: str) -> str | None:
    """The version of an installed package; None: it is not."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def check_versions(
    config: ExperimentConfig,
    *,
    python: str = platform.python_version(),
    found: Versions = installed,
    package: str = "fedstrategies",
) -> Iterator[Finding]:
    """Python and every requirement of ``package``, those of extras included."""
    try:
        admitted = str(metadata(package)["Requires-Python"] or "")
        needed = [Requirement(text) for text in requires(package) or []]
    except PackageNotFoundError:
        yield note(
            "versions",
            f"{package} is not installed as a package, so its requirements are not known",
            "pip install -e .",
        )
        return
    fits = SpecifierSet(admitted).contains(python, prereleases=True)
    line = problem("python", f"{python}, {admitted} needed") if not fits else ok("python", python)
    yield line
    for requirement in needed:
        extra = _extra(requirement)
        if extra is None:
            yield _of_core(requirement, found)
        elif extra in _EXTRAS and requirement.name not in {n.name for n in needed if not n.marker}:
            yield _of_extra(requirement, extra, found, needs=extra in _used(config))


def _of_core(requirement: Requirement, found: Versions) -> Finding:
    have = found(requirement.name)
    if have is None:
        return problem(requirement.name, "missing", f"pip install '{requirement}'")
    if not requirement.specifier.contains(have, prereleases=True):
        return problem(
            requirement.name,
            f"{have}, {requirement.specifier} needed",
            f"pip install '{requirement}'",
        )
    return ok(requirement.name, have)


def _of_extra(requirement: Requirement, extra: str, found: Versions, *, needs: bool) -> Finding:
    have = found(requirement.name)
    say = problem if needs else note
    if have is None:
        advice = install_hint(extra)
        return say(requirement.name, f"missing; it is for {_EXTRAS[extra]}", advice)
    if not requirement.specifier.contains(have, prereleases=True):
        advice = f"pip install '{requirement.name}{requirement.specifier}'"
        return say(requirement.name, f"{have}, {requirement.specifier} needed", advice)
    return ok(requirement.name, have)


def _extra(requirement: Requirement) -> str | None:
    """The extra that a requirement belongs to."""
    marker = requirement.marker
    if marker is None or marker.evaluate({"extra": ""}):
        return None
    return next((extra for extra in _EXTRAS if marker.evaluate({"extra": extra})), "other")


def _used(config: ExperimentConfig) -> set[str]:
    """Extras without which this run stops."""
    used = set()
    if config.backend != "cohort":
        used.add("simulation")
    if config.private:
        used.add("privacy")
    if config.log == "tensorboard":
        used.add("tensorboard")
    return used


def check_ray(config: ExperimentConfig, *, found: Versions = installed) -> Iterator[Finding]:
    """Whether Ray can be imported and is the version that Flower is made for."""
    have, used = found("ray"), config.backend != "cohort"
    if have is None:
        return  # among the versions
    try:
        import_module("ray")
    except Exception as error:
        say = problem if used else note
        yield say("ray", f"cannot be imported: {_line(error)}", "pip install --force-reinstall ray")
        return
    try:
        wanted = [Requirement(text) for text in requires("flwr") or []]
    except PackageNotFoundError:
        return
    for requirement in wanted:
        marker = requirement.marker
        if requirement.name != "ray" or not marker or not marker.evaluate({"extra": "simulation"}):
            continue
        if not requirement.specifier.contains(have, prereleases=True):
            say = problem if config.backend == "flower" else note
            yield say(
                "ray",
                f"{have}, and flwr {found('flwr')} is made for ray{requirement.specifier}",
                f"pip install 'ray{requirement.specifier}'",
            )


def _line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())
