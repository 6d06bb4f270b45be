"""The options of ``fedstrategies prune``, checked before anything is read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fedstrategies.experiment.options import ConfigError
from fedstrategies.pruning import (
    Pattern,
    PruningMethod,
    Unstructured,
    parse_method,
    parse_pattern,
)

__all__ = ["PruneConfig"]


@dataclass(frozen=True, kw_only=True)
class PruneConfig:
    """What is pruned how, and on which texts.

    Attributes
    ----------
    model : str
        A llama2.c checkpoint, or a folder or name of a Hugging Face model.
    methods : tuple of str
        As `parse_method` reads them; each starts from the dense model.
    evaluation : Path
        Text for the perplexity.
    calibration : Path or None
        Text for activations; None where no method needs them.
    sparsity : float or None
        Share that is removed, in (0, 1); or
    pattern : str or None
        ``n:m``. One of the two.
    samples, length : int, int or None
        Calibration windows, and tokens of a window in calibration and evaluation; None: the
        model's context.
    batch_size, seed : int
        Windows at a time; of the calibration windows.
    keep_outputs : bool
        See `prune_module`.
    skip : tuple of str
        Shell patterns of linear layers that stay dense.
    tokenizer : Path or None
        Of a llama2.c checkpoint; None: the one beside it.
    device : str
        As torch names it.
    out : Path or None
        Folder of the results; None: a free one under ``runs/``.
    overwrite : bool
        Replace what is in the folder.

    Raises
    ------
    ConfigError
        If an option is wrong or two contradict one another.
    """

    model: str
    methods: tuple[str, ...]
    evaluation: Path
    calibration: Path | None = None
    sparsity: float | None = None
    pattern: str | None = None
    samples: int = 128
    length: int | None = None
    batch_size: int = 8
    seed: int = 0
    keep_outputs: bool = False
    skip: tuple[str, ...] = ()
    tokenizer: Path | None = None
    device: str = "cpu"
    out: Path | None = None
    overwrite: bool = False

    def __post_init__(self) -> None:
        if not self.methods:
            raise ConfigError("--method: name at least one")
        if len(set(self.methods)) < len(self.methods):
            raise ConfigError("--method: one is given twice")
        if (self.sparsity is None) == (self.pattern is None):
            raise ConfigError("give either --sparsity or --pattern")
        if self.sparsity is not None and not 0.0 < self.sparsity < 1.0:
            raise ConfigError(f"--sparsity: {self.sparsity} is not between 0 and 1")
        for name, value, least in (
            ("calibration-samples", self.samples, 1),
            ("length", self.length, 2),
            ("batch-size", self.batch_size, 1),
        ):
            if value is not None and value < least:
                raise ConfigError(f"--{name}: {value} is less than {least}")
        methods = self.parsed_methods
        _ = self.zeros
        if self.calibration is None:
            needing = [text for text, method in methods.items() if method.needs_activations]
            if needing:
                raise ConfigError(f"--calibration: {needing[0]} needs a text to calibrate on")

    @property
    def parsed_methods(self) -> dict[str, PruningMethod]:
        """By their text."""
        try:
            return {text: parse_method(text) for text in self.methods}
        except ValueError as error:
            raise ConfigError(f"--method: {error}") from None

    @property
    def zeros(self) -> Pattern:
        """The pattern."""
        if self.pattern is None:
            assert self.sparsity is not None
            return Unstructured(sparsity=self.sparsity)
        try:
            return parse_pattern(self.pattern)
        except ValueError as error:
            raise ConfigError(f"--pattern: {error}") from None
