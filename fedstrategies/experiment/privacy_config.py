"""The options of local differential privacy, for every family of algorithms."""

from __future__ import annotations

from dataclasses import dataclass

from fedstrategies.experiment.options import ConfigError, option
from fedstrategies.experiment.problem_config import ProblemConfig

__all__ = ["PrivacyConfig"]


@dataclass(frozen=True, kw_only=True)
class PrivacyConfig(ProblemConfig):
    """What a client's releases may cost; without any of it they are not private."""

    epsilon: float | None = option(
        None,
        "every client's epsilon over the whole run; the noise is calibrated to it",
        group="Privacy",
        metavar="EPS",
        above=0,
    )
    delta: float = option(1e-5, "delta", group="Privacy", metavar="D", above=0, below=1)
    noise_multiplier: float | None = option(
        None,
        "noise over clipping norm, in place of --epsilon, which is then reported",
        group="Privacy",
        metavar="SIGMA",
        at_least=0,
    )
    max_grad_norm: float | None = option(
        None,
        "clipping norm C of each example's gradient; with --batch-size B the examples of a "
        "release are a Poisson sample of B on average",
        group="Privacy",
        metavar="C",
        above=0,
    )
    accountant: str = option(
        "rdp",
        "how releases are composed (prv: tighter, slower)",
        group="Privacy",
        choices=("rdp", "prv"),
    )

    @property
    def private(self) -> bool:
        """Whether gradients leave the clients clipped and noisy."""
        return self.epsilon is not None or self.noise_multiplier is not None

    def _validate(self) -> None:
        super()._validate()
        if not self.private:
            if self.max_grad_norm is not None:
                raise ConfigError("max-grad-norm: give --epsilon or --noise-multiplier with it")
            return
        if self.epsilon is not None and self.noise_multiplier is not None:
            raise ConfigError(
                "noise-multiplier: --epsilon is given too, to which the noise is calibrated; give "
                "one of the two"
            )
        if self.max_grad_norm is None:
            raise ConfigError(
                "max-grad-norm: privacy needs the norm C that gradients are clipped to"
            )
