"""The page of results, rewritten from the runs that are there."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fedstrategies.experiment import Summary, read_history
from simulations.reproduce.fedp3.figures import Curve, draw_accuracies, draw_privacy
from simulations.reproduce.fedp3.jobs import METHODS, SEEDS, SPLITS, Job, tuned, tuning_jobs
from simulations.reproduce.fedp3.private_jobs import (
    EPSILONS,
    LAYERS,
    best_step,
    digits_jobs,
    private_jobs,
    step_jobs,
)
from simulations.reproduce.fedp3.tables import is_done, spread, table
from simulations.reproduce.fedp3.traffic import traffic_table

__all__ = ["MARKERS", "write_report"]

MARKERS = ("<!-- results -->", "<!-- results: end -->")
"""What stands between them on the page is rewritten; the rest is prose."""

_SHOWN = ("FedAvg", "OPU3", "OPU2", "LowerB", "OPU3, keep 0.5", "LowerB, keep 0.5")
_PUBLISHED = {
    "FedAvg": ("89.91", "87.86"),
    "OPU3": ("88.73", "85.59"),
    "OPU2": ("85.29", "85.01"),
    "LowerB": ("83.25", "84.75"),
    "OPU3, keep 0.9": ("81.75", "84.27"),
    "OPU3, keep 0.7": ("78.44", "75.31"),
    "OPU3, keep 0.5": ("64.96", "61.15"),
}
"""Fashion-MNIST, S1 and S2; the rows with a share are beside ours for want of their layers."""


def write_report(runs: Path, page: Path) -> None:
    """Rewrite tables and pictures of ``page`` from the folders below ``runs``.

    Raises
    ------
    ValueError
        If the page has lost its markers, or there are no runs: its tables then stay.
    """
    text = page.read_text(encoding="utf-8")
    begin, end = MARKERS
    if text.count(begin) != 1 or text.count(end) != 1:
        raise ValueError(f"{page}: {begin} and {end} must each stand there once")
    before, rest = text.split(begin)
    parts = [f"### Bytes of the authors' networks\n\n{traffic_table()}"]
    if all((runs / job.name / "summary.json").exists() for job in tuning_jobs()):
        steps = tuned(runs)
        parts += [_section(split, steps[split], runs, page.parent / "fedp3") for split in SPLITS]
    if all((runs / job.name / "summary.json").exists() for job in step_jobs()):
        parts.append(_privacy(best_step(runs), runs, page.parent / "fedp3"))
        parts.append(_digits(runs))
    if len(parts) == 1:
        raise ValueError(f"{runs}: there are no runs to report of; give --data")
    body = "\n\n".join(parts)
    page.write_text(f"{before}{begin}\n\n{body}\n\n{end}{rest.split(end)[1]}", encoding="utf-8")


def _section(split: str, step: float, runs: Path, pictures: Path) -> str:
    found = {method: _done(split, method, step, runs) for method in METHODS}
    curves = [_curve(method, found[method]) for method in _SHOWN if found[method]]
    picture = f"fashion-mnist-{split}.png"
    draw_accuracies(curves, pictures / picture, title=f"Fashion-MNIST, {split}: accuracy by bytes")
    heads = ("method", "seeds", "server's model", "own head", "up", "down", "published")
    rows = [_row(method, split, folders) for method, folders in found.items() if folders]
    return (
        f"### Fashion-MNIST, {split} (step {step:g})\n\n"
        f"![Accuracy against megabytes on {split}](fedp3/{picture})\n\n{table(heads, rows)}"
    )


def _privacy(step: float, runs: Path, pictures: Path) -> str:
    found: dict[tuple[str, float | None], list[Summary]] = {}
    for job in private_jobs(step):
        if is_done(runs / job.name):
            summary = Summary.read(runs / job.name)
            found.setdefault((job.layers, job.epsilon), []).append(summary)
    rows = []
    for epsilon in (*EPSILONS, None):
        done = [found.get((layers, epsilon), []) for layers in LAYERS]
        if not any(done):
            continue
        first = next(summaries[0] for summaries in done if summaries)
        spent = max((float(s.privacy.get("epsilon_max", 0)) for d in done for s in d), default=0.0)
        rows.append(
            (
                "infinite (no noise)" if epsilon is None else f"{epsilon:g}",
                "" if epsilon is None else f"{spent:.4f}",
                "" if epsilon is None else f"{float(first.privacy['noise_multiplier']):.2f}",
                *(
                    spread([100 * float(s.last["accuracy"]) for s in summaries])
                    + f", seeds: {len(summaries)}"
                    if summaries
                    else "-"
                    for summaries in done
                ),
            )
        )
    levels = {
        layers: {
            epsilon: [float(s.last["accuracy"]) for s in found[layers, epsilon]]
            for epsilon in EPSILONS
            if (layers, epsilon) in found
        }
        for layers in LAYERS
    }
    draw_privacy(levels, pictures / "privacy.png", title="LDP-FedP3: accuracy by epsilon")
    heads = ("epsilon", "accountant's", "noise multiplier", *LAYERS)
    return (
        f"### LDP-FedP3 on Fashion-MNIST, S2 (step {step:g})\n\n"
        f"![Accuracy against epsilon](fedp3/privacy.png)\n\n{table(heads, rows)}"
    )


def _done(split: str, method: str, step: float, runs: Path) -> list[Path]:
    jobs = (Job(method=method, split=split, seed=seed, stepsize=step) for seed in SEEDS)
    return [runs / job.name for job in jobs if is_done(runs / job.name)]


def _digits(runs: Path) -> str:
    rows = []
    for epsilon in (*EPSILONS, None):
        done = [
            Summary.read(runs / job.name)
            for job in digits_jobs()
            if job.epsilon == epsilon and is_done(runs / job.name)
        ]
        if done:
            spent = max(float(one.privacy.get("epsilon_max", 0)) for one in done)
            rows.append(
                (
                    "infinite (no noise)" if epsilon is None else f"{epsilon:g}",
                    "" if epsilon is None else f"{spent:.4f}",
                    "" if epsilon is None else f"{float(done[0].privacy['noise_multiplier']):.2f}",
                    spread([100 * float(one.last["accuracy"]) for one in done]),
                    str(len(done)),
                )
            )
    heads = ("epsilon", "accountant's", "noise multiplier", "accuracy", "seeds")
    return f"### LDP-FedP3 on digits\n\n{table(heads, rows)}"


def _row(method: str, split: str, folders: Sequence[Path]) -> tuple[str, ...]:
    last = [Summary.read(folder).last for folder in folders]
    published = _PUBLISHED.get(method)
    return (
        method,
        str(len(folders)),
        spread([100 * float(record["accuracy"]) for record in last]),
        spread([100 * float(record["accuracy_personal"]) for record in last]),
        f"{float(last[0]['uplink_bytes']) / 1e6:.2f} MB",
        f"{float(last[0]['downlink_bytes']) / 1e6:.2f} MB",
        "" if published is None else f"{published[list(SPLITS).index(split)]} %",
    )


def _curve(method: str, folders: Sequence[Path]) -> Curve:
    histories = [
        [record for record in read_history(folder / "history.jsonl") if "accuracy" in record]
        for folder in folders
    ]
    megabytes = [
        (float(record["uplink_bytes"]) + float(record["downlink_bytes"])) / 1e6
        for record in histories[0]
    ]
    runs = [[float(record["accuracy"]) for record in history] for history in histories]
    return Curve(label=method, megabytes=megabytes, runs=runs)
