"""The part of a configuration that says what is minimised."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fedstrategies.experiment.model_facts import MODELS, ModelFacts
from fedstrategies.experiment.options import ConfigError, coerce_fields, option
from fedstrategies.experiment.resources import check_device
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
        f"{', '.join(BUNDLED_DATASETS)}, or the path of a LIBSVM file (.xz, .gz, .bz2 or plain), "
        "of numpy's arrays `features` and `labels` in one .npz, "
        "of a folder of MNIST-style IDX files or of CIFAR-10's binary batches, or of an archive "
        "of Shakespeare's plays in XML",
        group="Problem",
        metavar="NAME|FILE",
    )
    sequence_length: int = option(
        80,
        "characters in a row of a text",
        group="Problem",
        metavar="S",
        at_least=1,
    )
    test_fraction: float = option(
        0.0,
        "share of each client's rows held out: its own model is measured on them, and where the "
        "set has no test split, so is the server's",
        group="Problem",
        at_least=0,
        below=1,
    )
    model: str = option(
        "logreg",
        "; ".join(f"{name}: {facts.text}" for name, facts in MODELS.items()),
        group="Problem",
        choices=tuple(MODELS),
    )
    width: int | None = option(
        None,
        "hidden units (resnet18: channels of the first stage); unset: "
        + ", ".join(f"{facts.width} for {name}" for name, facts in MODELS.items() if facts.width),
        group="Problem",
        metavar="H",
        at_least=1,
    )
    norm: str | None = option(
        None,
        "normalisation of resnet18; unset: group",
        group="Problem",
        choices=("group", "batch"),
    )
    clients: int = option(20, "number of clients n", group="Problem", metavar="N", at_least=1)
    partition: str = option(
        "contiguous",
        "how rows are dealt to clients: contiguous (file order), iid, dirichlet:alpha=0.5, "
        "classes:per_client=2, features[:clusters=B] (k-means), natural (the set's own clients)",
        group="Problem",
        metavar="HOW",
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
    clip_rows: float | None = option(
        None,
        "scale rows down to norm R where they are longer; L_i are then bounds that follow from R",
        group="Problem",
        metavar="R",
        above=0,
    )
    smoothness: str | None = option(
        None,
        "L=..,L_tilde=.. in place of the constants computed from the data",
        group="Problem",
        metavar="CONSTANTS",
    )
    x0: str | None = option(
        None,
        "starting point: zero, normal:loc=10[,scale=1], or glorot (random weight matrices, zero "
        "biases); unset: zero, for networks glorot",
        group="Problem",
        metavar="POINT",
    )
    seed: int = option(0, "seed of every random draw", group="Problem", metavar="S", at_least=0)
    dtype: str | None = option(
        None,
        "precision of the mathematics; unset: float64 for logreg, else float32",
        group="Problem",
        choices=("float64", "float32"),
    )
    device: str = option(
        "cpu",
        "where networks compute: cpu, cuda, cuda:1, ..., or auto (CUDA where there is any); "
        "devices agree to rounding, not to the bit; logreg stays on the CPU",
        group="Running",
        metavar="DEVICE",
    )

    def __post_init__(self) -> None:
        coerce_fields(self)
        self._set("dataset", _absolute(self.dataset))
        self._set("dtype", self.dtype or self.facts.dtype)
        self._set("x0", self.x0 or self.facts.x0)
        if self.facts.hidden:
            self._set("width", self.width or self.facts.width)
        if self.facts.norm:
            self._set("norm", self.norm or self.facts.norm)
        self._validate()

    @property
    def facts(self) -> ModelFacts:
        """What follows from the model's name."""
        return MODELS[self.model]

    @property
    def constants_known(self) -> bool:
        """Whether L and L_tilde can be computed or are stated."""
        return self.facts.convex or self.smoothness is not None

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)

    def _validate(self) -> None:
        """Checks between options; subclasses extend it.

        Raises
        ------
        ConfigError
            Naming the option that is wrong.
        """
        check_device(self.device)
        if self.device.startswith("cuda") and self.model == "logreg":
            raise ConfigError(
                "device: logreg is a closed form whose rounds are too small for a GPU and stays on "
                "the CPU; leave --device out, or use --model linear"
            )
        if self.overlap > self.clients:
            raise ConfigError(f"overlap: {self.overlap} shards of {self.clients} clients")
        if self.width is not None and not self.facts.hidden:
            raise ConfigError(f"width: {self.model} has no hidden layer")
        if self.norm is not None and not self.facts.norm:
            raise ConfigError(f"norm: {self.model} has no normalisation")
        if self.clip_rows is not None and not self.facts.convex:
            raise ConfigError(f"clip-rows: no constants of {self.model} follow from it")
        self._validate_start_point()
        if self.smoothness is not None:
            stated = parse_smoothness(self.smoothness)
            if not self.facts.convex and not {"L", "L_tilde"} <= set(stated):
                raise ConfigError(
                    f"smoothness: none of {self.model}'s constants is known; "
                    "state both L and L_tilde"
                )
        from fedstrategies.data import DataError, parse_partition
        from fedstrategies.objectives import parse_prox

        try:
            parse_partition(self.partition)
        except DataError as error:
            raise ConfigError(f"partition: {error}") from None
        try:
            parse_prox(self.prox)
        except ValueError as error:
            raise ConfigError(f"prox: {error}") from None

    def _validate_start_point(self) -> None:
        if self.x0 == "glorot":
            if not self.facts.layered:
                raise ConfigError(f"x0: glorot is for weight matrices, and {self.model} has none")
            return
        _, scale = parse_start_point(self.x0 or "")
        if self.facts.hidden and scale == 0.0:
            raise ConfigError(
                f"x0: {self.x0} starts all hidden units of {self.model} equal, with equal "
                "gradients; use glorot, or normal with a scale"
            )


def _absolute(dataset: str) -> str:
    """Paths are made absolute: clients may run in another working directory."""
    return dataset if dataset in BUNDLED_DATASETS else str(Path(dataset).expanduser().absolute())
