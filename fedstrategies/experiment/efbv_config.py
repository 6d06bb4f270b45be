"""The options of EF-BV and its special cases."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from fedstrategies.experiment.config import ExperimentConfig
from fedstrategies.experiment.options import ConfigError, option

__all__ = ["EFBVConfig"]

DEFAULT_COMPRESSOR = "rand-k:fraction=0.05"


@dataclass(frozen=True, kw_only=True)
class EFBVConfig(ExperimentConfig):
    """EF-BV and its special cases: EF21, DIANA and gradient descent."""

    not_for: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "ef21": ("lambda", "nu"),
        "diana": ("lambda", "nu"),
        "gd": ("compressor", "shift-init", "lambda", "nu"),
    }

    algorithm: str = option(
        "efbv", "the algorithm", group="Method", choices=("efbv", "ef21", "diana", "gd")
    )
    compressor: str | None = option(
        None,
        "top-k:k=1, top-k:fraction=0.01, rand-k:k=5, scaled-rand-k:k=5, mix:k=1,k_prime=5, "
        "comp:k=1,k_prime=56, natural, qsgd:levels=8, cast:bfloat16, identity; composed with +; "
        f"unset: {DEFAULT_COMPRESSOR}",
        group="Method",
        metavar="C",
    )
    downlink_compressor: str | None = option(
        None,
        "EF21-P: the server sends differences of the model, compressed by an operator as above, "
        "and clients compute at the model these add up to; unset: the model itself",
        group="Method",
        metavar="C",
    )
    lam: float | None = option(
        None,
        "scaling of the memory in (0, 1]; unset: the theory's (efbv)",
        group="Method",
        key="lambda",
        above=0,
    )
    nu: float | None = option(
        None,
        "scaling of the estimate in (0, 1]; unset: the theory's (efbv)",
        group="Method",
        above=0,
    )
    shift_init: str = option(
        "zero",
        "first memories (not gd): zero, or the dense gradients at x0 as the upload of round 1",
        group="Method",
        choices=("zero", "gradient"),
    )

    def _validate(self) -> None:
        super()._validate()
        self._resolve_compressor()
        for name, value in (("lambda", self.lam), ("nu", self.nu)):
            if value is not None and self.algorithm != "efbv":
                raise ConfigError(f"{name}: {self.algorithm} fixes it; use efbv to choose it")
            if value is not None and value > 1:
                raise ConfigError(f"{name}: {value:g} is above 1")
        if self.algorithm == "gd" and self.shift_init != "zero":
            raise ConfigError(f"shift-init: gd keeps no memory to set to the {self.shift_init}")

    def _resolve_compressor(self) -> None:
        from fedstrategies.compressors import parse_compressor

        default = "identity" if self.algorithm == "gd" else DEFAULT_COMPRESSOR
        try:
            spec = parse_compressor(self.compressor or default).spec
        except ValueError as error:
            raise ConfigError(f"compressor: {error}") from None
        if self.downlink_compressor is not None:
            try:
                down = parse_compressor(self.downlink_compressor).spec
            except ValueError as error:
                raise ConfigError(f"downlink-compressor: {error}") from None
            self._set("downlink_compressor", down)
        if self.algorithm == "gd" and spec != "identity":
            raise ConfigError(f"compressor: gd sends whole gradients, not {spec}; use efbv")
        self._set("compressor", spec)
