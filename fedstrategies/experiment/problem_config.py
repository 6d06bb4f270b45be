"""The part of a configuration that says what is minimised."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fedstrategies.experiment.options import ConfigError, coerce_fields, option
from fedstrategies.experiment.specs import parse_smoothness, parse_start_point

__all__ = ["BUNDLED_DATASETS", "ProblemConfig"]

BUNDLED_DATASETS = ("mushrooms", "digits")
"""As `fedstrategies.data` has them; repeated because reading that loads torch."""


@dataclass(frozen=True, kw_only=True)
class ProblemConfig:
    """What is minimised: ``f(x) + R(x)`` with ``f = (1/n) sum_i f_i``.

    It is hashable, and everything built from it is cached by it.
    """

    dataset: str = option(
        "mushrooms",
        f"{', '.join(BUNDLED_DATASETS)}, or the path of a LIBSVM file (.xz, .gz, .bz2 or plain)",
        group="Problem",
        metavar="NAME|FILE",
    )
    test_fraction: float = option(
        0.0,
        "share of each client's rows held out for accuracy where the set has no test split",
        group="Problem",
        at_least=0,
        below=1,
    )
    model: str = option("logreg", "the model", group="Problem", choices=("logreg",))
    clients: int = option(20, "number of clients n", group="Problem", metavar="N", at_least=1)
    partition: str = option(
        "contiguous",
        "how rows are dealt to clients: in file order or shuffled",
        group="Problem",
        choices=("contiguous", "iid"),
    )
    overlap: int = option(
        1,
        "each client also holds the next XI-1 shards",
        group="Problem",
        metavar="XI",
        at_least=1,
    )
    l2: float = option(
        0.1, "adds (LAM/2)||x||^2 to every f_i", group="Problem", metavar="LAM", at_least=0
    )
    prox: str = option(
        "none",
        "the regulariser R: none, l1:0.01, l2sq:0.1 or box:1",
        group="Problem",
        metavar="R",
    )
    batch_size: int | None = option(
        None,
        "rows in a mini-batch; unset: full gradients",
        group="Problem",
        metavar="B",
        at_least=1,
    )
    smoothness: str | None = option(
        None,
        "L=..,L_tilde=.. in place of the constants computed from the data",
        group="Problem",
        metavar="CONSTANTS",
    )
    x0: str = option(
        "zero",
        "starting point: zero or normal:loc=10[,scale=1]",
        group="Problem",
        metavar="POINT",
    )
    seed: int = option(0, "seed of every random draw", group="Problem", metavar="S", at_least=0)
    dtype: str | None = option(
        None,
        "precision of the mathematics; unset: float64 for logreg",
        group="Problem",
        choices=("float64", "float32"),
    )

    def __post_init__(self) -> None:
        coerce_fields(self)
        self._set("dataset", _absolute(self.dataset))
        self._set("dtype", self.dtype or "float64")
        self._validate()

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)

    def _validate(self) -> None:
        """Checks between options; subclasses extend it.

        Raises
        ------
        ConfigError
            Naming the option that is wrong.
        """
        if self.overlap > self.clients:
            raise ConfigError(f"overlap: {self.overlap} shards of {self.clients} clients")
        parse_start_point(self.x0)
        if self.smoothness is not None:
            parse_smoothness(self.smoothness)
        from fedstrategies.objectives import parse_prox

        try:
            parse_prox(self.prox)
        except ValueError as error:
            raise ConfigError(f"prox: {error}") from None


def _absolute(dataset: str) -> str:
    """Paths are made absolute: clients may run in another working directory."""
    return dataset if dataset in BUNDLED_DATASETS else str(Path(dataset).expanduser().absolute())
