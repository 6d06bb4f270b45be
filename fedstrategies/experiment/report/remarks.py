"""What a reader of the page must know before believing it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from fedstrategies.experiment.progress import format_bytes
from fedstrategies.experiment.report.charts import MOST_CURVES
from fedstrategies.experiment.report.folders import RunFolder
from fedstrategies.experiment.report.groups import Group, differing, problem_differs

__all__ = ["remarks_on"]

_MOST_NAMED = 5


def remarks_on(groups: Sequence[Group]) -> list[str]:
    """One sentence for each thing that is wrong or easily misread."""
    runs = [run for group in groups for run in group.runs]
    found = [f"{run.name}: {text}" for run in runs for text in _of_run(run)]
    found += [f"{group.label}: {text}" for group in groups for text in _of_group(group)]
    return [*found, *_of_all(groups)]


def _of_run(run: RunFolder) -> Iterator[str]:
    summary = run.summary
    if summary is None:
        yield "has not ended, or was cut off: there is no summary.json."
    elif summary.status != "done":
        yield f"{summary.status}. {_sentence(summary.error or 'no reason given')}"
    losses = [record["loss"] for record in run.records if "loss" in record]
    if losses and losses[-1] > losses[0]:
        yield f"the loss ended at {losses[-1]:.4g}, above the {losses[0]:.4g} it began with."
    if run.torn:
        yield "the last line of the history was cut off and is left out."
    yield from _of_length(run)
    failures = [record for record in run.records if record.get("failures")]
    if failures:
        count = sum(record["failures"] for record in failures)
        yield f"{count:,.0f} uploads that were asked for were not used, in {len(failures)} rounds."
    if recovery := run.last.get("recovery_bytes"):
        yield f"{format_bytes(recovery)} were sent to restore memories that clients had lost."
    if summary is not None:
        for name, number in summary.incidents.items():
            if number:
                yield f"incident: {name.replace('_', ' ')}, {number} times."
    yield from _of_privacy(run)


def _of_length(run: RunFolder) -> Iterator[str]:
    if not run.records:
        yield "the history is empty."
        return
    numbers = [record["round"] for record in run.records]
    if numbers != list(range(len(numbers))):
        yield "the history does not have every round once, from 0 on: something was cut out of it."
    last, summary = numbers[-1], run.summary
    if summary is not None and summary.last.get("round", last) != last:
        yield (
            f"the history ends with round {last:,.0f}, the summary with round "
            f"{summary.last['round']}: they are not of one run."
        )
    planned = run.options.get("rounds", "")
    early = planned.isdigit() and last < int(planned)
    if early and summary is not None and summary.status == "done" and not summary.reached:
        yield f"ends with round {last:,.0f} of {int(planned):,}, though no target was reached."


def _of_privacy(run: RunFolder) -> Iterator[str]:
    spent, target = run.last.get("epsilon_max"), _number(run.options.get("epsilon", ""))
    if spent is not None and target is not None and spent > target * (1 + 1e-9):
        yield f"epsilon is {spent:.4g}, above the target {target:g}."
    summary = run.summary
    if summary is None or not summary.privacy:
        return
    if "epsilon_max" not in summary.privacy:
        yield "epsilon is not finite: the clients are not private."
    if "simulated" in summary.privacy:
        yield (
            "privacy is simulated: the noise is a function of the seed, and losses, gaps and "
            "accuracies are measured outside of epsilon."
        )


def _of_group(group: Group) -> Iterator[str]:
    seeds = [run.seed for run in group.runs]
    twice = sorted({seed for seed in seeds if seed and seeds.count(seed) > 1})
    if twice:
        yield f"seed {_few(twice)} is there more than once and counts as often."
    lasts = sorted({run.last["round"] for run in group.measured})
    if len(lasts) > 1:
        yield (
            f"its seeds end between rounds {lasts[0]:,.0f} and {lasts[-1]:,.0f}; the curve ends "
            "with the shortest."
        )


def _of_all(groups: Sequence[Group]) -> Iterator[str]:
    seeds = [{run.seed for run in group.runs} for group in groups]
    everywhere = set().union(*seeds)
    if any(len(own) > 1 for own in seeds):
        without: dict[tuple[str, ...], list[str]] = {}
        for group, own in zip(groups, seeds, strict=True):
            lacking = sorted(everywhere - own, key=lambda seed: (len(seed), seed))
            without.setdefault(tuple(lacking), []).append(group.label)
        for missing, labels in without.items():
            if missing:
                plural = "s" * (len(missing) > 1)
                yield f"{_few(labels)}: without seed{plural} {_few(missing)}, which others have."
    elif len(everywhere) > 1:
        yield "The curves have different seeds: some of what differs is luck."
    if problem := problem_differs([group.options for group in groups if group.options]):
        yield (
            f"The runs differ in {_few(problem)}: they do not minimise the same function, so that "
            "losses and gaps are not to be compared."
        )
    versions = differing([run.versions for group in groups for run in group.runs])
    versions = [name for name in versions if name != "data"]
    if versions:
        yield f"The runs were made with different versions of {_few(versions)}."
    if len(groups) > MOST_CURVES:
        yield f"{MOST_CURVES} of {len(groups)} curves are drawn; the table has all."


def _sentence(text: str) -> str:
    text = " ".join(text.split())
    return text if text.endswith((".", "!", "?")) else f"{text}."


def _few(names: Sequence[str]) -> str:
    named = ", ".join(names[:_MOST_NAMED])
    return named if len(names) <= _MOST_NAMED else f"{named} and {len(names) - _MOST_NAMED} more"


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
