"""The subsampled Gaussian mechanism: its public numbers, and what identifies a release."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from hashlib import blake2b
from math import isfinite

import numpy as np
from torch import Tensor

from fedstrategies.privacy.errors import PrivacyError

__all__ = ["GaussianMechanism"]

_NUMBERS = struct.Struct("<dddd")


@dataclass(frozen=True, kw_only=True)
class GaussianMechanism:
    """``(1/B) (sum_{j in S} clip_C(g_j) + N(0, sigma^2 C^2 I))`` with a Poisson sample S.

    Each example is in S with probability q = B/m. The divisor is the expected size B of the
    sample, a public number; the drawn one is not. Two shards are neighbours if one results from
    the other by setting one record's gradient to zero (or the vector that takes its place, see
    `released_statistic`); then the sum changes by at most C, and the number of examples m is
    public.

    Attributes
    ----------
    max_grad_norm : float
        C > 0; infinity, without noise only, does not clip.
    noise_multiplier : float
        sigma >= 0.
    expected_batch_size : int or None
        B >= 1; None: m, every example in every release (q = 1).

    Raises
    ------
    PrivacyError
        If a number is not as above.
    """

    max_grad_norm: float
    noise_multiplier: float
    expected_batch_size: int | None = None

    def __post_init__(self) -> None:
        if not self.max_grad_norm > 0.0:
            raise PrivacyError(f"max_grad_norm must be positive, got {self.max_grad_norm}")
        if not (isfinite(self.noise_multiplier) and self.noise_multiplier >= 0.0):
            raise PrivacyError(
                f"noise_multiplier must be a finite number >= 0, got {self.noise_multiplier}"
            )
        if self.noise_multiplier > 0.0 and not isfinite(self.max_grad_norm):
            raise PrivacyError(
                "noise is a multiple of max_grad_norm, which is infinite; give a finite one"
            )
        if self.expected_batch_size is not None and self.expected_batch_size < 1:
            raise PrivacyError(
                f"expected_batch_size must be at least 1, got {self.expected_batch_size}"
            )

    def batch_size(self, num_examples: int) -> int:
        """B for a client with m examples.

        Raises
        ------
        PrivacyError
            If B > m.
        """
        if self.expected_batch_size is None:
            return num_examples
        if self.expected_batch_size > num_examples:
            raise PrivacyError(
                f"expected_batch_size {self.expected_batch_size} exceeds a client's "
                f"{num_examples} examples; lower it, or leave it out for full batches"
            )
        return self.expected_batch_size

    def sample_rate(self, num_examples: int) -> float:
        """q = B/m.

        Raises
        ------
        PrivacyError
            If B > m.
        """
        return self.batch_size(num_examples) / num_examples

    def noise_scale(self, num_examples: int) -> float:
        """sigma C / B, the standard deviation in each released coordinate; 0 without noise."""
        if self.noise_multiplier == 0.0:
            return 0.0
        return self.noise_multiplier * self.max_grad_norm / self.batch_size(num_examples)

    def question(self, x: Tensor, num_examples: int, *, coordinates: Tensor | None = None) -> bytes:
        """A digest of all that is public about a release, for `stream_key`: 32 bytes.

        Parameters
        ----------
        x : Tensor
            The point asked about, shape (d,).
        num_examples : int
            m.
        coordinates : Tensor, optional
            bool, shape (d,): what is released; None: all.
        """
        size = self.batch_size(num_examples)
        numbers = _NUMBERS.pack(self.max_grad_norm, self.noise_multiplier, size, num_examples)
        point = np.ascontiguousarray(x.detach().cpu().numpy())
        digest = blake2b(numbers, digest_size=32)
        digest.update(point.dtype.str.encode() + point.tobytes())
        if coordinates is not None:
            digest.update(np.packbits(coordinates.cpu().numpy()).tobytes())
        return digest.digest()
