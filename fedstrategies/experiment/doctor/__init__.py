"""Looking at everything a run depends on, before it starts: ``fedstrategies doctor``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fedstrategies.engines.packing import Plan
from fedstrategies.experiment.config import ExperimentConfig
from fedstrategies.experiment.doctor.finding import Finding, Level

__all__ = ["Diagnosis", "Finding", "Level", "examine"]


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """What was found.

    Attributes
    ----------
    findings : tuple of Finding
        In the order in which they were looked at.
    plan : Plan or None
        The actors of a run on Ray, where there is one that fits.
    """

    findings: tuple[Finding, ...]
    plan: Plan | None

    @property
    def problems(self) -> int:
        """How many would stop the run."""
        return sum(finding.level == "problem" for finding in self.findings)


def examine(config: ExperimentConfig, *, app: Path | None = None) -> Diagnosis:
    """Look at software, GPUs, threads, Ray, Flower's environment, SuperNodes, input, memory, disk.

    The data set is read and the method prepared as for a run; Ray is started for a moment if the
    run would use it. Nothing is written.

    Parameters
    ----------
    config : ExperimentConfig
        What is to be run.
    app : Path or None
        A Flower app of the user's, whose files are looked at as well.
    """
    from fedstrategies.experiment.doctor.flower_app import check_flower_app

    plans: list[Plan] = []
    findings = tuple(_look(config, plans))
    if app is not None:
        findings += tuple(check_flower_app(app))
    return Diagnosis(findings=findings, plan=plans[0] if plans else None)


def _look(config: ExperimentConfig, plans: list[Plan]) -> Iterator[Finding]:
    from fedstrategies.experiment.doctor.flower import check_flower
    from fedstrategies.experiment.doctor.gpus import check_gpus
    from fedstrategies.experiment.doctor.machine import check_threads
    from fedstrategies.experiment.doctor.software import check_ray, check_versions
    from fedstrategies.experiment.doctor.supernodes import check_supernodes, running_supernodes

    yield from check_versions(config)
    ray = list(check_ray(config))
    yield from ray
    yield from check_threads(config)
    yield from check_gpus(config)
    if config.backend != "cohort" and not any(finding.level == "problem" for finding in ray):
        yield from _look_at_ray(config, plans)
    yield from check_flower(config)
    yield from check_supernodes(config, running_supernodes())
    yield from _look_at_input(config)


def _look_at_ray(config: ExperimentConfig, plans: list[Plan]) -> Iterator[Finding]:
    import torch

    from fedstrategies.experiment.doctor.finding import problem
    from fedstrategies.experiment.doctor.placement import check_placement, plan_of, ray_cluster
    from fedstrategies.experiment.flower_backend import set_environment

    set_environment()
    try:
        cluster = ray_cluster(config)
    except Exception as error:
        text = " ".join(f"cannot be started or reached: {error}".split())
        yield problem("ray", text, "look at --ray-address, and at `ray status`")
        return
    plan = plan_of(config, cluster.machines)
    if isinstance(plan, Plan):
        plans.append(plan)
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    yield from check_placement(config, cluster, plan, torch_gpus=gpus)


def _look_at_input(config: ExperimentConfig) -> Iterator[Finding]:
    from fedstrategies.data import DataError
    from fedstrategies.experiment.doctor.finding import ok, problem
    from fedstrategies.experiment.doctor.machine import check_disk
    from fedstrategies.experiment.doctor.memory import check_memory, memory_need
    from fedstrategies.experiment.free_memory import available_memory
    from fedstrategies.experiment.options import ConfigError
    from fedstrategies.experiment.preparation import prepare

    free = available_memory()
    try:
        prepared = prepare(config)
    except (ConfigError, DataError) as error:
        yield problem("input", str(error))
        return
    need = memory_need(prepared)
    size = f"n = {need.clients:,} clients, d = {need.dimension:,}"
    yield ok("input", f"{config.algorithm} on {config.dataset_name}: {size}")
    yield from check_memory(need, free)
    model = need.dimension * need.itemsize
    yield from check_disk(config, Path(prepared.config.out or "."), model_bytes=model)
