"""What pruning needs to know of a linear layer's activations.

Sums over the tokens that passed through the layer, in float64, so that they may be added up in
any number of batches, or over clients. With x the input and z the output of one token:

    sum x,  sum x^2  (per input feature),   sum z^2  (per output unit).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["ActivationStatistics"]


@dataclass(frozen=True, kw_only=True, eq=False)
class ActivationStatistics:
    """Sums over the tokens of a calibration set, for one linear layer.

    Attributes
    ----------
    samples : int
        Sequences; norms and contributions are per sequence, as Wanda and DSnoT scale them. The
        scale moves no Wanda mask, but DSnoT stops at an absolute error.
    tokens : int
        Rows of the layer's input.
    input_sum, input_squares : Tensor
        ``sum x`` and ``sum x^2``: float64, shape (in,).
    output_squares : Tensor
        ``sum z^2``, z without the layer's bias: float64, shape (out,).

    Raises
    ------
    ValueError
        If a count is not positive or a shape does not fit.
    """

    samples: int
    tokens: int
    input_sum: Tensor
    input_squares: Tensor
    output_squares: Tensor

    def __post_init__(self) -> None:
        if self.samples < 1 or self.tokens < 1:
            raise ValueError(
                f"activations of {self.samples} samples and {self.tokens} tokens; "
                "at least one of each is needed"
            )
        if self.input_sum.shape != self.input_squares.shape or self.input_sum.dim() != 1:
            raise ValueError(
                f"sums of inputs have shapes {tuple(self.input_sum.shape)} and "
                f"{tuple(self.input_squares.shape)}; expected (in,) twice"
            )

    @classmethod
    def of(
        cls, inputs: Tensor, weight: Tensor, *, samples: int | None = None
    ) -> ActivationStatistics:
        """Statistics of activations that are all at hand.

        Parameters
        ----------
        inputs : Tensor
            Shape (..., in); every row is a token.
        weight : Tensor
            Shape (out, in), for the outputs.
        samples : int or None
            Sequences; None: as many as tokens.
        """
        rows = inputs.reshape(-1, inputs.shape[-1]).double()
        return cls(
            samples=len(rows) if samples is None else samples,
            tokens=len(rows),
            input_sum=rows.sum(0),
            input_squares=rows.square().sum(0),
            output_squares=(rows @ weight.double().T).square().sum(0),
        )

    def merged(self, other: ActivationStatistics) -> ActivationStatistics:
        """Statistics of both sets together."""
        return ActivationStatistics(
            samples=self.samples + other.samples,
            tokens=self.tokens + other.tokens,
            input_sum=self.input_sum + other.input_sum,
            input_squares=self.input_squares + other.input_squares,
            output_squares=self.output_squares + other.output_squares,
        )

    @property
    def input_norms(self) -> Tensor:
        """``||X_:j||_2 / sqrt(samples)``: shape (in,)."""
        return (self.input_squares / self.samples).sqrt()

    @property
    def output_norms(self) -> Tensor:
        """``||Z_:k||_2 / sqrt(samples)``: shape (out,)."""
        return (self.output_squares / self.samples).sqrt()

    @property
    def input_totals(self) -> Tensor:
        """``sum x / samples``: what a weight of one adds to a sequence; shape (in,)."""
        return self.input_sum / self.samples

    @property
    def input_variances(self) -> Tensor:
        """Variance over tokens: shape (in,), not negative."""
        mean = self.input_sum / self.tokens
        return torch.clamp(self.input_squares / self.tokens - mean.square(), min=0.0)
