"""What an experiment is: one frozen dataclass, validated on construction.

`ProblemConfig` is what is minimised, `ExperimentConfig` adds how it is run and what is
recorded, and each family of algorithms adds its own options (see `families`). Everything that
needs no data is checked here; what needs the data is checked by `fedstrategies.experiment.run`
before anything is written.

This module imports neither torch nor Flower, so that the command line starts at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import ClassVar

from fedstrategies.experiment.options import ConfigError, option
from fedstrategies.experiment.privacy_config import PrivacyConfig
from fedstrategies.experiment.problem_config import ProblemConfig
from fedstrategies.experiment.resources import check_resources
from fedstrategies.experiment.specs import parse_stepsize

__all__ = ["SAMPLING_HELP", "ExperimentConfig"]

SAMPLING_HELP = (
    "which clients take part in a round: full, nice (a random set of --cohort-size); sppm, localgd "
    "and fedprox also nonuniform (one client), block, stratified (groups: see --strata)"
)


@dataclass(frozen=True, kw_only=True)
class ExperimentConfig(PrivacyConfig):
    """One experiment: a problem, an algorithm, how it is run and what is recorded."""

    not_for: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    """Options of the family that one of its algorithms does not have."""

    algorithm: str = option("efbv", "the algorithm", group="Method")
    rounds: int = option(1000, "communication rounds T", group="Method", metavar="T", at_least=1)
    stepsize: float | str = option(
        "theory", "theory, theory*4 or a number", group="Method", metavar="GAMMA"
    )
    participation: int | None = option(
        None,
        "shorthand for --sampling nice --cohort-size M",
        group="Method",
        metavar="M",
        at_least=1,
    )
    sampling: str = option(
        "full", SAMPLING_HELP, group="Method", metavar="LAW", choices=("full", "nice")
    )
    cohort_size: int | None = option(
        None, "clients in a cohort", group="Method", metavar="M", at_least=1
    )
    max_update_norm: float | None = option(
        None,
        "refuse updates of clients whose norm is larger (never scaled down); unset: none",
        group="Method",
        metavar="B",
        above=0,
    )
    aggregator: str | None = option(
        None,
        "a robust mean of what clients send: median, trimmed-mean:share=0.2, geometric-median or "
        "krum:share=0.2,selected=1; unset: the mean",
        group="Method",
        metavar="SPEC",
    )
    backend: str = option(
        "cohort",
        "in-process; Ray actors that keep their clients; or Flower's simulation runtime on Ray",
        group="Running",
        app_key=False,
        choices=("cohort", "ray", "flower"),
    )
    actors: int | None = option(
        None,
        "Ray actors, as many as there is room for if unset (ray)",
        group="Running",
        app_key=False,
        metavar="N",
        at_least=1,
    )
    ray_address: str | None = option(
        None,
        "a running Ray cluster, auto for that of this machine; unset: started for the run (ray)",
        group="Running",
        app_key=False,
        metavar="ADDR",
    )
    fast: str = option(
        "auto",
        "batched path of the backends cohort and ray (never: one message per client)",
        group="Running",
        app_key=False,
        choices=("auto", "never", "require"),
        hidden=True,
    )
    cpus_per_client: float | str = option(
        1.0,
        "CPUs that a client takes while it works, on Ray: one number, or one for each client "
        "(with commas; not with --backend flower)",
        group="Running",
        app_key=False,
        metavar="C[,C...]",
        at_least=0,
    )
    gpus_per_client: float | str = option(
        0.0,
        "share of a GPU that a client takes, likewise; 0.5, 0.25, 0.2: those that divide 1",
        group="Running",
        app_key=False,
        metavar="G[,G...]",
        at_least=0,
    )
    state_dir: str | None = option(
        None,
        "keep what clients remember in files below DIR, not in messages (flower)",
        group="Running",
        app_key=False,
        metavar="DIR",
    )
    target_gap: float | None = option(
        None, "stop at f - f* <= EPS (solves for f*)", group="Running", metavar="EPS", above=0
    )
    target_accuracy: float | None = option(
        None, "stop at this accuracy", group="Running", metavar="A", above=0
    )
    fstar: float | str | None = option(
        None, "solve, or the value of f* where it is known", group="Running", metavar="F"
    )
    measure_every: int = option(
        1,
        "rounds between two measurements of loss, gap and gradient, which read every row",
        group="Running",
        metavar="R",
        at_least=1,
    )
    accuracy_every: int | None = option(
        None,
        "rounds between two measurements of accuracy; 0: only for the start and the end; "
        "unset: 1 with --target-accuracy, else 10",
        group="Running",
        metavar="R",
        at_least=0,
    )
    cost_inner: float = option(
        1.0, "price of one client-hub round", group="Running", metavar="C1", at_least=0
    )
    cost_outer: float = option(
        0.0, "price of one hub-server round", group="Running", metavar="C2", at_least=0
    )
    out: str | None = option(
        None,
        "folder of the results; unset: runs/ALGORITHM-DATASET-SEED",
        group="Output",
        app_key="output-dir",
        metavar="DIR",
    )
    overwrite: bool = option(False, "replace the results in --out", group="Output")
    checkpoint_every: int | None = option(
        None,
        "rounds between two checkpoints, kept in --out; unset: none",
        group="Output",
        metavar="R",
        at_least=1,
    )
    resume: bool = option(
        False,
        "go on with the run in --out from its last checkpoint; of the options that decide what "
        "is computed only --rounds may differ",
        group="Output",
    )
    log: str | None = option(
        None,
        "also write every record for TensorBoard, into DIR/tensorboard",
        group="Output",
        choices=("tensorboard",),
    )
    quiet: bool = option(False, "print nothing but errors", group="Output")

    @property
    def problem(self) -> ProblemConfig:
        """The part of the configuration that says what is minimised."""
        return ProblemConfig(
            **{entry.name: getattr(self, entry.name) for entry in fields(ProblemConfig)}
        )

    @property
    def uses_stepsize(self) -> bool:
        """Whether the step size matters to the method."""
        return True

    @property
    def dataset_name(self) -> str:
        """The data set's name without folder and suffixes."""
        return Path(self.dataset).name.split(".")[0] or "dataset"

    def _validate(self) -> None:
        super()._validate()
        _, relative = parse_stepsize(self.stepsize)
        if relative and self.uses_stepsize and not self.constants_known:
            raise ConfigError(
                f"stepsize: the theory needs L and L_tilde, which are not known for {self.model}; "
                "give a number, or state them with --smoothness"
            )
        if relative and self.uses_stepsize and self.private and self.clip_rows is None:
            raise ConfigError(
                "stepsize: the theory's constants would be computed from private rows; give "
                "--clip-rows R, from which they then follow, or a number"
            )
        self._resolve_sampling()
        self._resolve_aggregator()
        check_resources(self)
        for name in ("actors", "ray_address"):
            if getattr(self, name) is not None and self.backend != "ray":
                raise ConfigError(f"{name.replace('_', '-')}: only --backend ray has such actors")
        if self.state_dir is not None:
            if self.backend != "flower":
                raise ConfigError("state-dir: only --backend flower sends clients' state about")
            self._set("state_dir", str(Path(self.state_dir).expanduser()))
        if self.private and (self.target_gap is not None or self.target_accuracy is not None):
            name = "target-accuracy" if self.target_gap is None else "target-gap"
            raise ConfigError(
                f"{name}: when the run ends would follow from private losses, outside of what is "
                "charged; with --epsilon give the number of rounds"
            )
        if self.resume and self.overwrite:
            raise ConfigError("resume: give --resume or --overwrite, not both")
        if self.resume and self.out is None:
            raise ConfigError("resume: --out is needed, it says which run to go on with")
        if self.target_gap is not None and self.fstar is None:
            self._set("fstar", "solve")
        if isinstance(self.fstar, str) and self.fstar != "solve":
            raise ConfigError(f"fstar: {self.fstar!r} is neither solve nor a number")
        if self.fstar == "solve" and not self.facts.convex:
            raise ConfigError(
                f"fstar: no solver finds the minimum for {self.model}, which is not convex; "
                "give its value, or leave out fstar and target-gap"
            )
        if self.target_accuracy is not None and self.target_accuracy > 1:
            raise ConfigError(f"target-accuracy: {self.target_accuracy:g} is above 1")
        if self.accuracy_every is None:
            # Reading all rows once more would cost half as much as the round itself.
            self._set("accuracy_every", 10 if self.target_accuracy is None else 1)
        if self.out is not None:
            self._set("out", str(Path(self.out).expanduser()))

    def _resolve_aggregator(self) -> None:
        if self.aggregator is not None:
            from fedstrategies.robust import parse_aggregator

            try:
                self._set("aggregator", parse_aggregator(self.aggregator).spec)
            except ValueError as error:
                raise ConfigError(f"aggregator: {error}") from None

    def _resolve_sampling(self) -> None:
        if self.participation is not None:
            if self.cohort_size not in (None, self.participation):
                raise ConfigError(
                    f"participation {self.participation} and cohort-size {self.cohort_size} "
                    "disagree; give one of them"
                )
            self._set("sampling", "nice")
            self._set("cohort_size", self.participation)
            self._set("participation", None)
        if self.sampling == "nice" and self.cohort_size is None:
            raise ConfigError("sampling nice: --cohort-size is needed")
        if self.sampling == "full" and self.cohort_size is not None:
            raise ConfigError("cohort-size: sampling full takes every client; use --participation")
        if self.cohort_size is not None and self.cohort_size > self.clients:
            raise ConfigError(f"cohort-size: {self.cohort_size} of {self.clients} clients")
