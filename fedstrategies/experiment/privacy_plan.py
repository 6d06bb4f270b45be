"""From (epsilon, delta) to the noise of an experiment, and from its ledgers back to epsilon."""

from __future__ import annotations

from collections.abc import Sequence

from fedstrategies.experiment.config import ExperimentConfig
from fedstrategies.experiment.options import ConfigError
from fedstrategies.privacy import (
    Budget,
    GaussianMechanism,
    Ledger,
    Privacy,
    calibrate_noise,
)
from fedstrategies.privacy.accountant import opacus_module

__all__ = ["privacy_of"]


def privacy_of(
    config: ExperimentConfig, *, releases: Sequence[int], sizes: Sequence[int]
) -> Privacy:
    """The mechanism and budget of every client.

    Parameters
    ----------
    config : ExperimentConfig
        A private one.
    releases : sequence of int
        How many releases each client is going to make if no message is lost.
    sizes : sequence of int
        m_i, examples of each client.

    Raises
    ------
    ConfigError
        If Opacus is not installed, or no noise is enough.
    """
    if config.max_grad_norm is None:
        raise ConfigError("max-grad-norm: privacy needs it")
    try:
        opacus_module("accountants")  # whatever the noise is, a run reports what it has spent
        if config.epsilon is None:
            budget, noise = None, float(config.noise_multiplier or 0.0)
        else:
            budget = Budget(
                epsilon=config.epsilon,
                delta=config.delta,
                accountant=config.accountant,  # type: ignore[arg-type]
            )
            plain = GaussianMechanism(
                max_grad_norm=config.max_grad_norm,
                noise_multiplier=0.0,
                expected_batch_size=config.batch_size,
            )
            plans = {(count, plain.sample_rate(size)) for count, size in _pairs(releases, sizes)}
            noise = calibrate_noise(
                (
                    Ledger().charge(noise_multiplier=1.0, sample_rate=rate, steps=count)
                    for count, rate in sorted(plans)
                    if count
                ),
                epsilon=config.epsilon,
                delta=config.delta,
                accountant=config.accountant,  # type: ignore[arg-type]
            )
        return Privacy(
            max_grad_norm=config.max_grad_norm,
            noise_multiplier=noise,
            expected_batch_size=config.batch_size,
            budget=budget,
            simulated_seed=config.seed,
        )
    except ValueError as error:  # PrivacyError, and what Opacus says of extreme numbers
        raise ConfigError(f"privacy: {error}") from None


def _pairs(releases: Sequence[int], sizes: Sequence[int]) -> zip[tuple[int, int]]:
    return zip(releases, sizes, strict=True)
