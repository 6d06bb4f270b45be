"""Gaussian noise and Poisson samples as functions of a node's secret and a release counter.

The public draws of `fedstrategies.random` are for whoever knows the seed; these are for the node
alone. Two standard primitives of `hashlib` make them:

* keyed BLAKE2b, a pseudo-random function by design, maps (counter, purpose, question) under the
  secret to the 32-byte key of one stream;
* SHAKE-256 of that key and a block number is the stream. It gives a whole block in one call,
  where HMAC-SHA-256 would be called for every 32 bytes. (ChaCha20 would be four times faster, but
  lies in neither the standard library nor numpy; numpy's own generators are not cryptographic.)

Normals come from Box and Muller's transform of 53-bit uniforms in float64, four of them summed
and halved for each coordinate. No sampler in floating point is exact: the values that one such
transform can take are sparse enough in their last bits to tell neighbouring inputs apart (Mironov
2012 for Laplace noise; Jin et al. 2022 for Gaussian noise). The sum of four makes the search for
preimages infeasible (Holohan and Braghin 2021; Opacus's ``secure_mode`` does the same), it is not
a proof. Beyond that, the guarantee is that of real arithmetic; the uniforms end the noise at 17
standard deviations. Nothing here rejects and draws again, so the time taken does not depend on
the values.

References
----------
I. Mironov, "On significance of the least significant bits for differential privacy" (2012).
J. Jin et al., "Are we there yet? Timing and floating-point attacks on differential privacy
systems" (2022). N. Holohan and S. Braghin, "Secure random sampling in differential privacy" (2021).
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from hashlib import blake2b, shake_256

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fedstrategies.privacy.secret import Secret

__all__ = ["NoisePurpose", "poisson_sample", "standard_normals", "stream_key"]

_WORD = 8
_SUMMANDS = 4
_BLOCK = 2**15
"""Coordinates that share one call of SHAKE-256: a megabyte of its output."""
_TWO_PI = 2.0 * np.pi


class NoisePurpose(IntEnum):
    """What a private draw is for; two purposes never share a stream."""

    NOISE = 1
    SAMPLE = 2
    MESSAGE = 3
    STATISTIC = 4


def stream_key(
    secret: Secret, counter: int, purpose: NoisePurpose, *, question: bytes = b""
) -> bytes:
    """The key of one stream: keyed BLAKE2b of (counter, purpose, question).

    Parameters
    ----------
    secret : Secret
        The node's.
    counter : int
        Number of the release, 0 <= counter < 2**64, never used for two.
    purpose : NoisePurpose
        What the stream is for.
    question : bytes
        What is public about the release (the point, the mechanism). Should a counter repeat in
        spite of all care, another question still meets unrelated noise, and the same one gets
        the same answer: neither lets the noise cancel.

    Returns
    -------
    bytes
        32 bytes, without the secret indistinguishable from random ones.

    Raises
    ------
    ValueError
        If the counter is out of range.
    """
    if not 0 <= counter < 2**64:
        raise ValueError(f"a release counter lies in 0..2**64 - 1, got {counter}")
    name = counter.to_bytes(8, "little") + int(purpose).to_bytes(1, "little") + question
    # The personalisation separates these streams from any other use of the same secret.
    return blake2b(name, key=secret.key, digest_size=32, person=b"fedstrategies/dp").digest()


def standard_normals(streams: Sequence[bytes], count: int) -> Tensor:
    """Independent N(0, 1) draws for each stream.

    A stream's numbers do not depend on the other streams of the call.

    Parameters
    ----------
    streams : sequence of bytes
        C keys from `stream_key`.
    count : int
        d.

    Returns
    -------
    Tensor
        float64, shape (C, d).
    """
    normals = np.empty((len(streams), count))
    for start in range(0, count, _BLOCK):
        width = min(_BLOCK, count - start)
        # Two coordinates at least: with one, sine and cosine of the same angle would meet.
        drawn = max(width, 2)
        together = max(1, _BLOCK // drawn)
        for first in range(0, len(streams), together):
            chunk = slice(first, first + together)
            words = _words(streams[chunk], start // _BLOCK, _SUMMANDS * drawn)
            normals[chunk, start : start + width] = _normals(words, drawn)[:, :width]
    return torch.from_numpy(normals)


def poisson_sample(stream: bytes, size: int, rate: float) -> Tensor:
    """Which of ``size`` examples are in the sample, each independently with probability q.

    Parameters
    ----------
    stream : bytes
        A key from `stream_key`.
    size : int
        m.
    rate : float
        q in (0, 1], rounded up to a multiple of 2**-53.

    Returns
    -------
    Tensor
        bool, shape (m,).
    """
    if rate >= 1.0:
        return torch.ones(size, dtype=torch.bool)
    chosen = np.empty(size, dtype=np.bool_)
    for start in range(0, size, _BLOCK):
        part = chosen[start : start + _BLOCK]
        part[:] = _fractions(_words([stream], start // _BLOCK, len(part))[0]) < rate
    return torch.from_numpy(chosen)


def _words(streams: Sequence[bytes], block: int, count: int) -> npt.NDArray[np.uint64]:
    """Block number ``block`` of each stream: uint64, shape (C, count)."""
    suffix = block.to_bytes(8, "little")
    blocks = b"".join(shake_256(key + suffix).digest(_WORD * count) for key in streams)
    return np.frombuffer(blocks, dtype="<u8").reshape(len(streams), count)


def _fractions(words: npt.NDArray[np.uint64]) -> npt.NDArray[np.float64]:
    """Uniform in [0, 1) with 53 bits."""
    fractions: npt.NDArray[np.float64] = (words >> np.uint64(11)).astype(np.float64)
    fractions *= 2.0**-53
    return fractions


def _normals(words: npt.NDArray[np.uint64], width: int) -> npt.NDArray[np.float64]:
    """Normals (C, width) from words (C, 4 width)."""
    uniforms = _fractions(words)
    radius, angle = uniforms[:, : 2 * width], uniforms[:, 2 * width :]
    # 1 - u lies in (0, 1], where the logarithm is finite.
    np.subtract(1.0, radius, out=radius)
    np.log(radius, out=radius)
    radius *= -2.0
    np.sqrt(radius, out=radius)
    angle *= _TWO_PI
    cosines, sines = radius * np.cos(angle), radius * np.sin(angle)
    total: npt.NDArray[np.float64] = cosines[:, :width] + cosines[:, width:]
    # Each coordinate takes its sines from its neighbour's pairs: four pairs stand behind it.
    total += np.roll(sines[:, :width], 1, axis=1)
    total += np.roll(sines[:, width:], 1, axis=1)
    total *= 0.5
    return total
