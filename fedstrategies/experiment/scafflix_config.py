"""The options of Scafflix, its relatives and its baselines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from fedstrategies.experiment.config import ExperimentConfig
from fedstrategies.experiment.options import ConfigError, option

__all__ = ["LOCAL_EPOCHS_HELP", "ScafflixConfig"]

LOCAL_EPOCHS_HELP = (
    "epochs of each client's own training: for x_i* of models that are not convex (scafflix, "
    "flix), in every round (fedp3)"
)
DEFAULT_ALPHA = 0.1
DEFAULT_FEDAVG_STEPS = 5
_WITH_COIN = ("scafflix", "scaffnew", "i-scaffnew")


@dataclass(frozen=True, kw_only=True)
class ScafflixConfig(ExperimentConfig):
    """Scafflix, Scaffnew, i-Scaffnew, and the baselines FLIX and FedAvg."""

    not_for: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "scaffnew": ("alpha",),
        "i-scaffnew": ("alpha",),
        "flix": ("p", "local-steps"),
        "fedavg": ("alpha", "p"),
    }

    algorithm: str = option(
        "scafflix",
        "the algorithm",
        group="Method",
        choices=("scafflix", "scaffnew", "i-scaffnew", "flix", "fedavg"),
    )
    compressor: str | None = option(
        None, "identity (there is no theory for another)", group="Method", metavar="C"
    )
    alpha: float | str | None = option(
        None,
        "weight of the common model in each client's, in [0, 1]: a number, or one per client "
        f"(a,b,...); unset: {DEFAULT_ALPHA} (scafflix, flix)",
        group="Personalisation",
        metavar="A",
    )
    p: float | str | None = option(
        None,
        "communication probability: theory or a number (scafflix, scaffnew, i-scaffnew)",
        group="Method",
        metavar="P",
    )
    local_steps: int | None = option(
        None,
        "fixed local steps a round, for Scafflix with p = 1/K; unset: drawn with p, for fedavg "
        f"{DEFAULT_FEDAVG_STEPS}",
        group="Method",
        metavar="K",
        at_least=1,
    )
    server_optimizer: str = option(
        "sgd", "sgd, sgd:lr=.. or adam:lr=.. on the server", group="Method", metavar="OPT"
    )
    local_epochs: int | None = option(
        None,
        LOCAL_EPOCHS_HELP,
        group="Personalisation",
        metavar="E",
        at_least=1,
    )
    local_stepsize: float | None = option(
        None, "step size of that training", group="Personalisation", metavar="G", above=0
    )
    local_batch_size: int | None = option(
        None, "its batch size; unset: all rows", group="Personalisation", metavar="B", at_least=1
    )
    save_personal: bool = option(
        False, "write every client's deployed model to OUT/personal", group="Output"
    )

    @property
    def alphas(self) -> tuple[float, ...]:
        """alpha_i of every client."""
        if self.alpha is None:
            return (1.0,) * self.clients
        if isinstance(self.alpha, float):
            return (self.alpha,) * self.clients
        return tuple(float(part) for part in self.alpha.split(","))

    @property
    def uses_stepsize(self) -> bool:
        """Whether the step size matters: FLIX with an optimiser on the server has none."""
        return self.algorithm != "flix" or self.server_optimizer == "sgd"

    @property
    def solves_locally(self) -> bool:
        """Whether any client needs its x_i*."""
        return any(weight < 1 for weight in self.alphas)

    def _validate(self) -> None:
        super()._validate()
        for key in self.not_for.get(self.algorithm, ()):
            if getattr(self, key.replace("-", "_")) is not None:
                raise ConfigError(f"{key}: {self.algorithm} has no such option")
        self._validate_alpha()
        self._validate_privacy()
        self._validate_steps()
        self._validate_local_solver()
        if self.compressor not in (None, "identity"):
            raise ConfigError(
                f"compressor: there is no theory for {self.compressor} in {self.algorithm} "
                "(TAMUNA and CompressedScaffnew are methods for that); leave it out, or use efbv"
            )
        if self.smoothness is not None and self.algorithm in ("scafflix", "i-scaffnew", "flix"):
            raise ConfigError(
                f"smoothness: the steps of {self.algorithm} follow from each client's own L_i, "
                "which L and L_tilde do not give; leave it out, or give --stepsize"
            )
        if self.prox != "none":
            raise ConfigError(f"prox: {self.algorithm} has no regulariser R; use --l2, or efbv")
        from fedstrategies.server_optimizer import parse_server_optimizer

        try:
            parse_server_optimizer(self.server_optimizer)
        except ValueError as error:
            raise ConfigError(f"server-optimizer: {error}") from None

    def _validate_privacy(self) -> None:
        if self.private and self.solves_locally:
            raise ConfigError(
                "alpha: below 1 each client's x_i* is trained on its rows, outside of the releases "
                "that are charged; with --epsilon or --noise-multiplier alpha must be 1"
            )

    def _validate_alpha(self) -> None:
        if self.algorithm in ("scafflix", "flix") and self.alpha is None:
            self._set("alpha", DEFAULT_ALPHA)
        try:
            weights = self.alphas
        except ValueError:
            raise ConfigError(
                f"alpha: {self.alpha!r} is not a number, nor one per client"
            ) from None
        if isinstance(self.alpha, str) and len(weights) == 1:
            raise ConfigError(f"alpha: {self.alpha!r} is not a finite number, nor one per client")
        if len(weights) != self.clients:
            raise ConfigError(f"alpha: {len(weights)} weights for {self.clients} clients")
        outside = [weight for weight in weights if not 0 <= weight <= 1]
        if outside:
            raise ConfigError(f"alpha: {outside[0]:g} is outside [0, 1]")
        if not any(weights):
            raise ConfigError("alpha: 0 for every client leaves nothing to train together")

    def _validate_steps(self) -> None:
        if self.algorithm == "fedavg" and self.local_steps is None:
            self._set("local_steps", DEFAULT_FEDAVG_STEPS)
        if self.p in (None, "theory"):
            self._set("p", None)
            if self.algorithm in _WITH_COIN and self.local_steps is None and not self.facts.convex:
                raise ConfigError(
                    f"p: the theory's needs L_i and mu_i, which are not known for {self.model}; "
                    "give --local-steps or --p"
                )
            return
        if not isinstance(self.p, float) or not 0 < self.p <= 1:
            raise ConfigError(f"p: {self.p!r} is neither theory nor a number in (0, 1]")
        if self.local_steps is not None:
            raise ConfigError("p: a fixed --local-steps sets it to 1/K; give one of the two")

    def _validate_local_solver(self) -> None:
        training = (self.local_epochs, self.local_stepsize)
        if self.facts.convex:
            if any(setting is not None for setting in (*training, self.local_batch_size)):
                raise ConfigError(
                    f"local-epochs: x_i* of {self.model} is solved for exactly; leave out "
                    "local-epochs, local-stepsize and local-batch-size"
                )
        elif self.solves_locally and None in training:
            raise ConfigError(
                f"alpha: below 1 each client first trains alone, and {self.model} has no solver; "
                "give --local-epochs and --local-stepsize (and --local-batch-size)"
            )
