"""The options of SPPM-AS and its baselines LocalGD and FedProx."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from fedstrategies.experiment.config import SAMPLING_HELP, ExperimentConfig
from fedstrategies.experiment.options import ConfigError, option
from fedstrategies.experiment.specs import parse_groups, parse_probabilities

__all__ = ["SPPMConfig"]

_SAMPLINGS = ("full", "nice", "nonuniform", "block", "stratified")
_GROUPED = ("block", "stratified")
_WEIGHTED = ("nonuniform", "block")
_CLUSTERED = ("labels", "features", "gradients")
_INNER = ("inner-rounds", "solver", "tolerance", "dropouts")
_DEFAULTS: Mapping[str, Mapping[str, object]] = {
    "sppm": {
        "prox_stepsize": 10.0,
        "inner_rounds": 10,
        "solver": "lbfgs",
        "tolerance": 0.0,
        "dropouts": "retry",
    },
    "localgd": {"local_steps": 5},
    "fedprox": {"local_steps": 5, "prox_stepsize": 10.0},
}


@dataclass(frozen=True, kw_only=True)
class SPPMConfig(ExperimentConfig):
    """SPPM-AS, and the baselines LocalGD (with one local step: mini-batch GD) and FedProx."""

    not_for: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "sppm": ("stepsize", "local-steps"),
        "localgd": ("prox-stepsize", *_INNER),
        "fedprox": _INNER,
    }

    algorithm: str = option(
        "sppm", "the algorithm", group="Method", choices=("sppm", "localgd", "fedprox")
    )
    sampling: str = option("full", SAMPLING_HELP, group="Method", choices=_SAMPLINGS)
    strata: str | None = option(
        None,
        "groups of clients for stratified and block sampling: by k-means on labels, features or "
        "gradients (at x0; they leak data to whoever clusters), with :balanced for groups of "
        "equal size; contiguous; or given as 0,1,2/3,4/5",
        group="Method",
        metavar="HOW",
    )
    probabilities: str | None = option(
        None,
        "of clients (nonuniform) or blocks (block): uniform, mu (best mu_AS), variance (best "
        "variance at x*, which is solved for), or numbers p1,p2,...; unset: uniform",
        group="Method",
        metavar="P",
    )
    prox_stepsize: float | None = option(
        None,
        "gamma, the step size of the proximal operator (sppm, fedprox); unset: 10",
        group="Method",
        metavar="GAMMA",
        above=0,
    )
    inner_rounds: int | None = option(
        None,
        "communication rounds K with one cohort (sppm); unset: 10",
        group="Method",
        metavar="K",
        at_least=1,
    )
    solver: str | None = option(
        None,
        "of a cohort's problem (sppm): gd[:stepsize=..], cg, lbfgs[:memory=..], "
        "local-gd[:steps=..,stepsize=..] or adam:lr=..; unset: lbfgs",
        group="Method",
        metavar="S",
    )
    tolerance: float | None = option(
        None,
        "a cohort is done once the gradient of its problem is below (sppm); unset: 0",
        group="Method",
        metavar="EPS",
        at_least=0,
    )
    dropouts: str | None = option(
        None,
        "clients that do not answer (sppm): retry asks them again, freeze goes on without those "
        "silent in a cohort's first round (biased); unset: retry",
        group="Method",
        choices=("retry", "freeze"),
    )
    local_steps: int | None = option(
        None,
        "local steps a round (localgd, fedprox); unset: 5",
        group="Method",
        metavar="K",
        at_least=1,
    )

    @property
    def uses_stepsize(self) -> bool:
        """SPPM-AS has a prox step size and the solver's own."""
        return self.algorithm != "sppm"

    def _validate(self) -> None:
        for key in self.not_for[self.algorithm]:
            name = key.replace("-", "_")
            if getattr(self, name) not in (None, "theory"):
                raise ConfigError(f"{key}: {self.algorithm} has no such option")
        for name, value in _DEFAULTS[self.algorithm].items():
            if getattr(self, name) is None:
                self._set(name, value)
        super()._validate()
        self._validate_solver()
        if self.inner_rounds is not None and self.rounds < self.inner_rounds and not self.tolerance:
            raise ConfigError(
                f"rounds: {self.rounds} do not complete a cohort of {self.inner_rounds} inner "
                "rounds, and the model would not move; give more rounds or fewer inner rounds"
            )
        if self.private:
            self._validate_privacy()
        if self.smoothness is not None:
            raise ConfigError(
                f"smoothness: the steps of {self.algorithm} follow from each client's own L_i, "
                "which L and L_tilde do not give; leave it out, or give a step size"
            )
        if self.prox != "none" and self.algorithm != "sppm":
            raise ConfigError(f"prox: {self.algorithm} has no regulariser R; use sppm, or --l2")

    def _resolve_sampling(self) -> None:
        if self.sampling not in _GROUPED:
            super()._resolve_sampling()
        elif self.participation is not None:
            raise ConfigError(
                f"participation: {self.sampling} sampling takes --cohort-size, or given --strata"
            )
        if self.sampling == "nonuniform" and self.cohort_size not in (None, 1):
            raise ConfigError("cohort-size: nonuniform sampling takes one client a round")
        self._validate_groups()
        self._validate_probabilities()

    def _validate_groups(self) -> None:
        if self.sampling not in _GROUPED:
            if self.strata is not None:
                raise ConfigError(f"strata: {self.sampling} sampling has no groups of clients")
            return
        self._set("strata", self.strata or "contiguous")
        groups = parse_groups(self.strata or "", self.clients)
        if groups is None and self.cohort_size is None:
            raise ConfigError(f"sampling {self.sampling}: --cohort-size is needed")
        if groups is not None and self.cohort_size is not None:
            raise ConfigError("cohort-size: the groups in --strata say how many clients take part")
        if self.cohort_size is not None and self.cohort_size > self.clients:
            raise ConfigError(f"cohort-size: {self.cohort_size} of {self.clients} clients")

    def _validate_probabilities(self) -> None:
        if self.sampling not in _WEIGHTED:
            if self.probabilities is not None:
                raise ConfigError(f"probabilities: {self.sampling} sampling has none to choose")
            return
        self._set("probabilities", self.probabilities or "uniform")
        parse_probabilities(self.probabilities or "")
        if self.probabilities in ("mu", "variance") and not self.facts.convex:
            raise ConfigError(
                f"probabilities: {self.probabilities} needs constants that are not known for "
                f"{self.model}; use uniform or give numbers"
            )

    def _validate_privacy(self) -> None:
        """Nothing but charged releases may depend on private rows."""
        if self.strata is not None and self.strata.split(":")[0] in _CLUSTERED:
            raise ConfigError(
                f"strata: {self.strata} looks at private rows, outside of the releases that are "
                "charged; with --epsilon use contiguous, or give groups"
            )
        if self.probabilities in ("mu", "variance"):
            raise ConfigError(
                f"probabilities: {self.probabilities} follows from private rows; with --epsilon "
                "use uniform or give numbers"
            )
        name, _, rest = (self.solver or "").partition(":")
        if name in ("cg", "lbfgs"):
            raise ConfigError(
                f"solver: {name} infers curvature from differences of gradients, which with "
                "--epsilon are noisy; use gd, adam:lr=.. or local-gd"
            )
        if name in ("gd", "local-gd") and "stepsize" not in rest and self.clip_rows is None:
            raise ConfigError(
                f"solver: the step of {name} would follow from private rows; give --clip-rows R, "
                f"or {name}:stepsize=.."
            )

    def _validate_solver(self) -> None:
        if self.solver is None:
            return
        from fedstrategies.sppm.solver_spec import parse_solver

        try:
            parse_solver(self.solver)
        except ValueError as error:
            raise ConfigError(f"solver: {error}") from None
        name = self.solver.partition(":")[0]
        if self.batch_size is not None and name in ("cg", "lbfgs"):
            raise ConfigError(
                f"solver: {name} needs exact gradients; with --batch-size use adam:lr=.., gd or "
                "local-gd"
            )
