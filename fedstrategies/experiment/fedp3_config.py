"""The options of FedP3."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING

from fedstrategies.experiment.config import ExperimentConfig
from fedstrategies.experiment.options import ConfigError, option
from fedstrategies.experiment.scafflix_config import LOCAL_EPOCHS_HELP

if TYPE_CHECKING:
    from fedstrategies.fedp3.calibration import Calibration

__all__ = ["FedP3Config"]

_CALIBRATED = ("wanda", "output-wanda", "symwanda", "ria", "stochria")
"""Criteria of P_i that look at activations."""


@dataclass(frozen=True, kw_only=True)
class FedP3Config(ExperimentConfig):
    """FedP3, with privacy LDP-FedP3: each client holds, trains and sends its part of a network."""

    algorithm: str = option("fedp3", "the algorithm", group="Method", choices=("fedp3",))
    layers: str = option(
        "all",
        "layers that a client gets whole, trains and sends: all, lowerb, opu2, opu3, opr2, opu123, "
        "opu23, or capacity:BYTES (one number, or one per client: a,b,...)",
        group="Layers",
        metavar="L",
    )
    keep: float | str = option(
        1.0,
        "share of the other layers' weights that a client gets: a number in [0, 1], or one per "
        "client (a,b,...)",
        group="Layers",
        metavar="P",
    )
    pruning: str = option(
        "magnitude",
        "which of them: the largest (magnitude), the most important by a criterion of prune, of "
        "weights alone (symmetric, ri, stochri) or with activations that clients tell (wanda, "
        "output-wanda, symwanda, ria, stochria), or leading blocks (ordered)",
        group="Layers",
        choices=(
            *("magnitude", "symmetric", "ri", "stochri"),
            *_CALIBRATED,
            "ordered",
        ),
    )
    calibrate_every: int | None = option(
        None,
        "rounds from one telling of activations to the next, where --pruning needs some; unset: 1",
        group="Layers",
        metavar="E",
        at_least=1,
    )
    calibrate_norm: float | None = option(
        None,
        "norm that the activations of no example exceed, with --epsilon: what noise is a multiple "
        "of",
        group="Layers",
        metavar="C",
        above=0,
    )
    local_pruning: str = option(
        "fixed",
        "part of its model that each local step of a client uses: fixed (all of it), uniform:q=.., "
        "ordered:q=..",
        group="Layers",
        metavar="Q",
    )
    aggregation: str = option(
        "simple",
        "mean of a layer over those who sent it: simple, weighted, attention[:temperature=..]",
        group="Layers",
        metavar="A",
    )
    trained: str | None = option(
        None,
        "what local steps move: all that the client received, or its assigned layers; unset: all "
        "(with --epsilon: assigned)",
        group="Layers",
        choices=("all", "assigned"),
    )
    local_steps: int | None = option(
        None, "local steps a round; unset: 1", group="Method", metavar="K", at_least=1
    )
    local_epochs: int | None = option(
        None, LOCAL_EPOCHS_HELP, group="Personalisation", metavar="E", at_least=1
    )
    clip_gradient: float | None = option(
        None, "norm that no local gradient exceeds", group="Method", metavar="C", above=0
    )
    personal_head: int | None = option(
        None,
        "epochs in which each client fine-tunes a classifier of its own after the last round",
        group="Personalisation",
        metavar="E",
        at_least=1,
    )

    @property
    def shares(self) -> float | tuple[float, ...]:
        """p_i: one for all clients, or one for each."""
        if isinstance(self.keep, float):
            return self.keep
        return tuple(float(part) for part in self.keep.split(","))

    def _validate(self) -> None:
        super()._validate()
        self._validate_privacy()
        if self.personal_head is not None and isinstance(self.stepsize, str):
            raise ConfigError("personal-head: its steps are those of --stepsize; give a number")
        if self.local_steps is not None and self.local_epochs is not None:
            raise ConfigError("local-epochs: local-steps is given too; give one of the two")
        if self.prox != "none":
            raise ConfigError("prox: fedp3 has no regulariser R; use --l2")
        self._validate_shares()
        self._validate_specs()
        self._validate_calibration()

    def _validate_privacy(self) -> None:
        if not self.private:
            self._set("trained", self.trained or "all")
            return
        if self.personal_head is not None:
            raise ConfigError(
                "personal-head: it is trained on private rows, outside of the releases that are "
                "charged; leave it out"
            )
        if self.trained not in (None, "assigned"):
            raise ConfigError("trained: a private client trains what it releases (assigned)")
        self._set("trained", "assigned")

    @property
    def calibration(self) -> Calibration | None:
        """When clients tell of activations; None where P_i needs none."""
        if self.pruning not in _CALIBRATED:
            return None
        from fedstrategies.fedp3.calibration import Calibration

        norm = inf if self.calibrate_norm is None else self.calibrate_norm
        return Calibration(every=self.calibrate_every or 1, max_norm=norm)

    def _validate_calibration(self) -> None:
        if self.pruning in _CALIBRATED:
            if not self.private and self.calibrate_norm is not None:
                raise ConfigError(
                    "calibrate-norm: it bounds examples where noise hides them; give --epsilon "
                    "or --noise-multiplier, or leave it out"
                )
            if self.private and self.calibrate_norm is None:
                raise ConfigError(
                    f"calibrate-norm: is missing; pruning by {self.pruning} asks private clients "
                    "for activations, and noise is a multiple of that norm"
                )
            if self.max_update_norm is not None:
                raise ConfigError(
                    f"max-update-norm: it bounds moves of the model, and pruning by {self.pruning} "
                    "asks clients for activations too; leave one of them out"
                )
            return
        for name in ("calibrate_every", "calibrate_norm"):
            if getattr(self, name) is not None:
                raise ConfigError(
                    f"{name.replace('_', '-')}: pruning by {self.pruning} needs no activations"
                )

    def _validate_shares(self) -> None:
        try:
            shares = self.shares
        except ValueError:
            raise ConfigError(f"keep: {self.keep!r} is not a number, nor one per client") from None
        if any(share != share for share in (shares if isinstance(shares, tuple) else (shares,))):
            raise ConfigError(f"keep: {self.keep!r} is not a number, nor one per client")
        several = shares if isinstance(shares, tuple) else (shares,) * self.clients
        if len(several) != self.clients:
            raise ConfigError(f"keep: {len(several)} shares for {self.clients} clients")
        outside = [share for share in several if not 0 <= share <= 1]
        if outside:
            raise ConfigError(f"keep: {outside[0]:g} is outside [0, 1]")

    def _validate_specs(self) -> None:
        from fedstrategies.fedp3 import parse_aggregation, parse_layer_choice
        from fedstrategies.pruning import parse_local_pruning

        for key, parse in (
            ("layers", parse_layer_choice),
            ("local-pruning", parse_local_pruning),
            ("aggregation", parse_aggregation),
        ):
            try:
                parse(getattr(self, key.replace("-", "_")))
            except ValueError as error:
                raise ConfigError(f"{key}: {error}") from None
