"""Several algorithms on the same problem, side by side."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path

from fedstrategies.experiment.config import ExperimentConfig
from fedstrategies.experiment.drawing import why_no_pictures
from fedstrategies.experiment.families import (
    ALGORITHMS,
    all_options,
    config_from_mapping,
    not_for,
)
from fedstrategies.experiment.folder_lock import FolderLock
from fedstrategies.experiment.history import total_bytes
from fedstrategies.experiment.model_facts import MODELS
from fedstrategies.experiment.options import ConfigError
from fedstrategies.experiment.plots import NAMES, Curve, draw_comparison, read_curve
from fedstrategies.experiment.preparation import prepare
from fedstrategies.experiment.progress import Observer, format_bytes
from fedstrategies.experiment.results import Summary, check_directory
from fedstrategies.experiment.runner import run
from fedstrategies.experiment.writing import writing

__all__ = ["Comparison", "compare", "comparison_configs"]

FILES = ("comparison.md", "comparison.png")


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The runs of a comparison.

    Attributes
    ----------
    summaries : dict
        Name -> summary, in the order they were asked for.
    curves : tuple of Curve
        Their histories.
    budget : int
        Uplink bytes of the run that sent least: where gaps are compared.
    weights : tuple of str
        The weights alpha that are in use; with several, the runs minimise several objectives.
    """

    summaries: Mapping[str, Summary]
    curves: tuple[Curve, ...]
    budget: int
    weights: tuple[str, ...] = ("1",)

    @property
    def columns(self) -> tuple[str, ...]:
        """What is compared; personal accuracies where some run has them."""
        return (
            "algorithm",
            "rounds",
            "loss",
            "gap",
            *(("personal", "worst\ntenth") if self._personal else ()),
            "uplink",
            "downlink",
            "total",
            "gap at equal\nuplink",
            "step size",
            "seconds",
        )

    @property
    def _personal(self) -> bool:
        return any("accuracy_personal" in summary.last for summary in self.summaries.values())

    @property
    def ok(self) -> bool:
        """Whether every run ended well."""
        return all(summary.status == "done" for summary in self.summaries.values())

    def rows(self) -> list[tuple[str, ...]]:
        """One row of text per run, under `columns`."""
        return [
            self._row(name, summary, curve)
            for (name, summary), curve in zip(self.summaries.items(), self.curves, strict=True)
        ]

    def _row(self, name: str, summary: Summary, curve: Curve) -> tuple[str, ...]:
        last = summary.last
        affordable = [r for r in curve.records if r["uplink_bytes"] <= self.budget and "gap" in r]
        return (
            name if summary.status == "done" else f"{name} ({summary.status})",
            str(last.get("round", 0)),
            _number(last.get("loss"), ".7g"),
            _number(last.get("gap"), ".2e"),
            *(
                _number(last.get(f"accuracy_personal{which}"), ".4f")
                for which in (("", "_worst_decile") if self._personal else ())
            ),
            format_bytes(last.get("uplink_bytes", 0)),
            format_bytes(last.get("downlink_bytes", 0)),
            format_bytes(total_bytes(last) or 0),
            _number(affordable[-1]["gap"] if affordable else None, ".2e"),
            _number(summary.stepsize, ".4g"),
            f"{summary.seconds:.1f}",
        )

    def to_markdown(self) -> str:
        """The table as Markdown, with the budget said below."""
        heads = [column.replace("\n", " ") for column in self.columns]
        lines = [heads, ("---",) * len(self.columns), *self.rows()]
        table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
        return f"{table}\n\n{self.note()}\n"

    def note(self) -> str:
        """What the last columns mean."""
        equal = (
            f"Equal uplink: {format_bytes(self.budget)} over all clients, all that the run that "
            "sent least has sent. Total: both ways, lost memories and models sent again included."
        )
        if len(self.weights) == 1:
            return equal
        return (
            f"{equal} Losses are those of the deployed models at alpha = "
            f"{' and '.join(self.weights)}; each gap is to the minimum at its own alpha."
        )


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def comparison_configs(
    arguments: Sequence[str], shared: Mapping[str, object]
) -> dict[str, ExperimentConfig]:
    """Configurations of ``NAME`` and ``NAME:option=value`` arguments over shared options.

    Each distinct NAME is one run; overrides apply to the run of their NAME alone, and reach only
    the options of the method: problem, measurements and output are common to all. A shared option
    reaches the algorithms that have it (gradient descent has no compressor, FedAvg no alpha), and
    must reach one at least. f* is solved for where the model allows it, unless ``fstar`` says
    otherwise.

    Parameters
    ----------
    arguments : sequence of str
        E.g. ``["efbv", "ef21", "ef21:compressor=top-k:k=5"]``.
    shared : mapping
        Kebab-case options of all runs.

    Raises
    ------
    ConfigError
        For an unknown name or option, an override of a name that is not compared or of an option
        that is common to all, or a repeat.
    """
    names = [argument for argument in arguments if ":" not in argument]
    overrides: dict[str, dict[str, object]] = {name: {} for name in names}
    if not names:
        raise ConfigError(f"compare: name at least one of {', '.join(ALGORITHMS)}")
    if len(overrides) < len(names):
        raise ConfigError("compare: an algorithm is named twice")
    for argument in arguments:
        name, colon, rest = argument.partition(":")
        if not colon:
            continue
        key, equals, value = rest.partition("=")
        if name not in overrides:
            raise ConfigError(f"compare: {argument!r} overrides {name!r}, which is not compared")
        if not equals:
            raise ConfigError(f"compare: {argument!r} is not NAME:option=value")
        _refuse_common(argument, key)
        overrides[name][key] = value
    strangers = {name: not_for(name) if name in ALGORITHMS else set() for name in names}
    for key in shared:
        if all(key in absent for absent in strangers.values()):
            raise ConfigError(f"compare: {key}: none of {', '.join(names)} has such an option")
    configs = {}
    for name in names:
        values = {key: value for key, value in shared.items() if key not in strangers[name]}
        values |= {**overrides[name], "algorithm": name}
        if _is_solvable(values):
            values.setdefault("fstar", "solve")
        configs[name] = config_from_mapping(values)
    return configs


def _refuse_common(argument: str, key: str) -> None:
    """Runs that differ in more than their method cannot be compared."""
    entries = all_options()
    own = [entry.key for entry in entries if entry.group in ("Method", "Personalisation")]
    # What is wrong with an unknown key is for the configuration to say.
    if key == "algorithm" or any(key == entry.key and key not in own for entry in entries):
        raise ConfigError(
            f"compare: {argument!r}: {key} is common to all runs"
            + ("" if key == "algorithm" else f", give --{key} once")
            + f"; a run may have its own {', '.join(own)}"
        )


def _is_solvable(values: Mapping[str, object]) -> bool:
    facts = MODELS.get(str(values.get("model") or "logreg"))
    # What is wrong with an unknown name is for the configuration to say.
    return facts is None or facts.convex


def compare(
    configs: Mapping[str, ExperimentConfig],
    *,
    show: Callable[[str, ExperimentConfig], AbstractContextManager[list[Observer]]],
) -> Comparison:
    """Run each configuration into its own folder under ``out`` and write table and picture.

    Every configuration is checked before the first one runs. ``out`` is held until the end, so
    that no second comparison replaces runs of this one.

    Parameters
    ----------
    configs : mapping
        Name -> configuration; they share ``out``.
    show : callable
        (name, configuration) -> context manager that gives the observers of that run.

    Raises
    ------
    ConfigError, DataError
        For wrong input, or where another process is writing ``out``; nothing was written.
    WriteError
        If results cannot be written.
    """
    first = next(iter(configs.values()))
    base = Path(first.out) if first.out is not None else _default_directory(first)
    check_directory(base, overwrite=first.overwrite or first.resume)
    placed = {name: replace(config, out=str(base / name)) for name, config in configs.items()}
    for config in placed.values():
        prepare(config)
    with FolderLock(base):
        return _compare(placed, base, show=show)


def _compare(
    placed: Mapping[str, ExperimentConfig],
    base: Path,
    *,
    show: Callable[[str, ExperimentConfig], AbstractContextManager[list[Observer]]],
) -> Comparison:
    summaries: dict[str, Summary] = {}
    for name, config in placed.items():
        with show(name, config) as observers:
            summaries[name] = run(config, observers=observers)
    curves = tuple(read_curve(base / name, label=_label(placed, name)) for name in placed)
    comparison = Comparison(
        summaries=summaries,
        curves=curves,
        budget=int(min(curve.records[-1]["uplink_bytes"] for curve in curves)),
        weights=tuple(sorted({_weight(config) for config in placed.values()})),
    )
    with writing(base / "comparison.md"):
        (base / "comparison.md").write_text(comparison.to_markdown(), encoding="utf-8")
    if why_no_pictures() is None:
        with writing(base / "comparison.png"):
            draw_comparison(curves, base / "comparison.png", title=_title(placed))
    return comparison


def _default_directory(config: ExperimentConfig) -> Path:
    base = Path("runs") / f"compare-{config.dataset_name}-{config.seed}"
    candidate, number = base, 1
    while candidate.exists():
        number += 1
        candidate = base.with_name(f"{base.name}-{number}")
    return candidate


_NAMES = {**NAMES, "gd": "GD"}


def _label(configs: Mapping[str, ExperimentConfig], name: str) -> str:
    plain = _NAMES.get(name, name)
    shared = len(_compressors(configs)) == 1
    compressor = _compressor(configs[name])
    return plain if shared or compressor is None else f"{plain}, {compressor}"


def _title(configs: Mapping[str, ExperimentConfig]) -> str:
    """Of a comparison's picture; what differs between the runs stands in their labels."""
    config = next(iter(configs.values()))
    compressors = _compressors(configs)
    shared = f", {compressors.pop()}" if len(compressors) == 1 else ""
    return f"{config.dataset_name}, {config.clients} clients{shared}"


def _compressors(configs: Mapping[str, ExperimentConfig]) -> set[str]:
    """Those in use, where gd compresses nothing."""
    found = {_compressor(config) for config in configs.values()}
    return {compressor for compressor in found if compressor is not None}


def _weight(config: ExperimentConfig) -> str:
    """alpha as it was given; 1 where there is no such option, or it is not set."""
    alpha = getattr(config, "alpha", None)
    return "1" if alpha is None else f"{alpha}"


def _compressor(config: ExperimentConfig) -> str | None:
    """What compresses the messages; None where nothing does."""
    compressor = getattr(config, "compressor", None)
    up = None if compressor == "identity" else compressor
    down = getattr(config, "downlink_compressor", None)
    return up if down in (None, "identity") else f"{up or 'dense'} up, {down} down"
