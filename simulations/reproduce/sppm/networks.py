"""A CNN on Fashion-MNIST with 100 clients: SPPM-AS with Adam inside, LocalGD, FedProx."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedstrategies.experiment import Summary, config_from_mapping, read_history, run
from simulations.reproduce.sppm.figures import draw_accuracies

__all__ = ["DATASET", "NetworkJob", "network_jobs", "network_section", "run_networks"]

DATASET = "fashion-mnist"
SEEDS = (0, 1, 2)
ROUNDS = 150
TARGET = 0.75
_SHARED: dict[str, Any] = {
    "model": "cnn",
    "width": 4,
    "clients": 100,
    "partition": "dirichlet:alpha=0.3",
    "test-fraction": 0.8,
    "l2": 0.0,
    "batch-size": 32,
    "sampling": "nice",
    "cohort-size": 10,
    "rounds": ROUNDS,
    "measure-every": ROUNDS,
    "accuracy-every": 10,
}
_TUNED_ON = 0


@dataclass(frozen=True, kw_only=True)
class NetworkJob:
    """One run; ``settings`` are options beyond those that all share."""

    method: str
    settings: tuple[tuple[str, str], ...]
    seed: int

    @property
    def name(self) -> str:
        """Folder of the run."""
        parts = [self.method, *(f"{k}={v}".replace(":", "-") for k, v in self.settings)]
        return ",".join([*parts, f"seed={self.seed}"])

    def run(self, source: Path, runs: Path) -> None:
        """Run it, unless it is done."""
        out = runs / self.name
        if (out / "summary.json").exists() and Summary.read(out).status in ("done", "diverged"):
            return
        options = {**_SHARED, **dict(self.settings), "algorithm": self.method, "seed": self.seed}
        options |= {"dataset": str(source), "out": str(out), "overwrite": True, "quiet": True}
        run(config_from_mapping(options), picture=False)


def _grid() -> Iterator[tuple[str, tuple[tuple[str, str], ...]]]:
    for inner in ("1", "2", "5", "10"):
        for gamma in ("1", "100"):
            for rate in ("0.003", "0.01"):
                adam = ("solver", f"adam:lr={rate}")
                yield "sppm", (("inner-rounds", inner), ("prox-stepsize", gamma), adam)
    for steps in ("1", "5"):
        for stepsize in ("0.05", "0.2"):
            yield "localgd", (("local-steps", steps), ("stepsize", stepsize))
    for stepsize in ("0.05", "0.2"):
        yield "fedprox", (("local-steps", "5"), ("stepsize", stepsize), ("prox-stepsize", "10"))


def network_jobs() -> list[NetworkJob]:
    """The grid on one seed, by which settings are chosen."""
    return [NetworkJob(method=m, settings=s, seed=_TUNED_ON) for m, s in _grid()]


def chosen(runs: Path) -> list[NetworkJob]:
    """For each method, and each K of SPPM-AS, the settings of best final accuracy; all seeds."""
    best: dict[str, tuple[float, NetworkJob]] = {}
    for job in network_jobs():
        accuracy = _last(runs, job)
        if accuracy is None:
            continue
        key = _label(job)
        if key not in best or accuracy > best[key][0]:
            best[key] = accuracy, job
    return [
        NetworkJob(method=job.method, settings=job.settings, seed=seed)
        for _, job in best.values()
        for seed in SEEDS
    ]


def run_networks(*, data: Path, runs: Path, report: Callable[[str], None]) -> None:
    """The grid, then the chosen settings on all seeds."""
    folder = runs / DATASET
    for stage, jobs in (("grid", network_jobs()), ("seeds", None)):
        found = chosen(folder) if jobs is None else jobs
        for number, job in enumerate(found, start=1):
            job.run(data / DATASET, folder)
            report(f"{DATASET}, {stage}: {number} of {len(found)} runs")


def _label(job: NetworkJob) -> str:
    settings = dict(job.settings)
    names = {"localgd": "LocalGD", "fedprox": "FedProx", "sppm": "SPPM-AS"}
    steps = settings.get("inner-rounds", settings.get("local-steps"))
    return f"{names[job.method]}, {'K' if job.method == 'sppm' else 'H'} = {steps}"


def _last(runs: Path, job: NetworkJob) -> float | None:
    out = runs / job.name
    if not (out / "summary.json").exists():
        return None
    return Summary.read(out).last.get("accuracy")


def network_section(runs: Path, pictures: Path) -> str:
    """Table and picture of the chosen settings; a sentence if there are no runs."""
    curves: dict[str, tuple[Sequence[int], list[Sequence[float]]]] = {}
    lines = [
        "| method | settings | seeds | accuracy at the end | rounds to 75 % | cohorts to 75 % |",
        "|---|---|---|---|---|---|",
    ]
    reached: dict[str, list[tuple[float, float | None, float | None, str]]] = {}
    for job in chosen(runs) if runs.exists() else []:
        out = runs / job.name
        if not (out / "summary.json").exists() or Summary.read(out).status != "done":
            continue
        records = [r for r in read_history(out / "history.jsonl") if "accuracy" in r]
        rounds = [int(r["round"]) for r in records]
        curves.setdefault(_label(job), (rounds, []))[1].append([r["accuracy"] for r in records])
        first = next((r for r in records if r["accuracy"] >= TARGET), None)
        settings = ", ".join(f"{k} {v}" for k, v in job.settings)
        place = (None, None) if first is None else (first["round"], first["outer_round"])
        reached.setdefault(_label(job), []).append((records[-1]["accuracy"], *place, settings))
    if not curves:
        return "The networks have not been run."
    for name, found in reached.items():
        ends = [100 * end for end, *_ in found]
        at = [str(int(r)) if r is not None else "-" for _, r, _, _ in found]
        cohorts = [str(int(c)) if c is not None else "-" for _, _, c, _ in found]
        spread = f"{sum(ends) / len(ends):.1f} ({min(ends):.1f} to {max(ends):.1f}) %"
        cells = (name, found[0][3], str(len(found)), spread, ", ".join(at), ", ".join(cohorts))
        lines.append("| " + " | ".join(cells) + " |")
    title = "Fashion-MNIST, 100 clients, cohorts of 10: mean and range over the seeds"
    draw_accuracies(curves, pictures / f"{DATASET}.png", title=title)
    picture = f"![Test accuracy over communication rounds](sppm/{DATASET}.png)"
    return f"### Fashion-MNIST, 100 clients\n\n{picture}\n\n" + "\n".join(lines)
