"""EF-BV as one would write it for one problem and one compressor: two numpy loops, no library.

`bare_loop` is the least that moves x: no tie rule, no record. `full_loop` has the suite's
arithmetic, so that it arrives at the suite's bits: rows of all clients, ties to the lowest index,
draws that are a function of seed, round and client, sums over clients in blocks of 32; and f and
its gradient at every x^t, accuracy every tenth round, one JSON line a round. Neither counts bytes
as they would travel, keeps receipts, checks numbers, or can be given another compressor, cohort or
objective.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from fedstrategies.data import binary_labels, load_dataset
from fedstrategies.threads import single_threaded

__all__ = ["ACCURACY_EVERY", "Constants", "bare_loop", "full_loop"]

ACCURACY_EVERY = 10

Array: TypeAlias = npt.NDArray[np.float64]
Words: TypeAlias = npt.NDArray[np.uint64]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_COMPRESSOR, _CLIENT, _BLOCK = 2, 7, 32


@dataclass(frozen=True)
class Constants:
    """n, lambda_2 of the regulariser, k', and EF-BV's lambda, nu and gamma."""

    clients: int = 1000
    l2: float = 0.001
    k_prime: int = 56
    lam: float = 0.005
    nu: float = 1.0
    gamma: float = 1e-4


def _folded_rows() -> Array:
    """Rows of mushrooms times minus their labels, so that the margin is one product."""
    data = load_dataset("mushrooms")
    folded: Array = (-binary_labels(data.labels)[:, None] * data.features).double().numpy()
    return folded


def bare_loop(rounds: int, constants: Constants) -> float:
    """Seconds per round of the arithmetic alone (the last client's surplus rows left out)."""
    folded, c = _folded_rows(), constants
    per_client = len(folded) // c.clients
    rows = folded[: c.clients * per_client].reshape(c.clients, per_client, -1).copy()
    dimension = rows.shape[2]
    x, h = np.zeros(dimension), np.zeros(dimension)
    shifts = np.zeros((c.clients, dimension))
    generator = np.random.default_rng(0)
    everyone = np.arange(c.clients)
    with single_threaded():
        start = time.perf_counter()
        for _ in range(rounds):
            _, gradients = _losses_and_gradients(rows, x)
            difference = gradients + c.l2 * x - shifts
            top = np.argpartition(np.abs(difference), dimension - c.k_prime, axis=1)
            drawn = generator.integers(c.k_prime, size=c.clients)
            chosen = top[everyone, dimension - 1 - drawn]
            values = difference[everyone, chosen] * c.k_prime
            mean = np.bincount(chosen, weights=values, minlength=dimension) / c.clients
            shifts[everyone, chosen] += c.lam * values
            x = x - c.gamma * (h + c.nu * mean)
            h = h + c.lam * mean
        return (time.perf_counter() - start) / rounds


def full_loop(
    rounds: int, constants: Constants, path: Path, *, seed: int = 0
) -> tuple[float, Array]:
    """Seconds per round and x^T of the same with tie rule, loss, gradient norm and record.

    Parameters
    ----------
    rounds : int
        T.
    constants : Constants
        Of the problem and the method.
    path : Path
        The history file.
    seed : int
        Of the draws.
    """
    folded, c = _folded_rows(), constants
    dimension = folded.shape[1]
    per_client = len(folded) // c.clients
    most = (c.clients - 1) * per_client
    # All clients but the last have equally many rows.
    blocks = [folded[:most].reshape(c.clients - 1, per_client, dimension), folded[None, most:]]
    blocks = [np.ascontiguousarray(block) for block in blocks]
    x, h = np.zeros(dimension), np.zeros(dimension)
    shifts = np.zeros((c.clients, dimension))
    everyone = np.arange(c.clients)
    row_of, block_of = dimension * everyone, dimension * (everyone // _BLOCK)
    entries = dimension * -(-c.clients // _BLOCK)
    identities = (everyone + 1).astype(np.uint64) * _GOLDEN
    uplink = downlink = 0
    with single_threaded(), path.open("wb", buffering=0) as file:
        start = time.perf_counter()
        losses, gradients = _everyone(blocks, x, c.l2)
        for round in range(1, rounds + 1):
            difference = gradients - shifts
            top = _largest(np.abs(difference), c.k_prime)
            chosen = top[everyone, _draws(identities, seed, round, c.k_prime)]
            values = difference[everyone, chosen] * c.k_prime
            total = np.bincount(block_of + chosen, weights=values, minlength=entries)
            mean = total.reshape(-1, dimension).sum(axis=0) / c.clients
            shifts.reshape(-1)[row_of + chosen] += c.lam * values
            x = x - c.gamma * (h + c.nu * mean)
            h = h + c.lam * mean
            losses, gradients = _everyone(blocks, x, c.l2)
            gradient = _sum(gradients) / c.clients
            uplink += c.clients * 19
            downlink += c.clients * 8 * dimension
            record = {
                "round": round,
                "loss": float(_sum(losses[:, None])[0]) / c.clients,
                "grad_norm_sq": float(gradient @ gradient),
                "uplink_bytes": uplink,
                "downlink_bytes": downlink,
                "seconds": time.perf_counter() - start,
            }
            if round % ACCURACY_EVERY == 0:
                record["accuracy"] = float((folded @ x < 0).mean())
            file.write(json.dumps(record).encode() + b"\n")
        return (time.perf_counter() - start) / rounds, x


def _everyone(blocks: list[Array], x: Array, l2: float) -> tuple[Array, Array]:
    found = [_losses_and_gradients(block, x) for block in blocks]
    losses = np.concatenate([losses for losses, _ in found])
    gradients = np.concatenate([gradients for _, gradients in found])
    losses += 0.5 * l2 * (x @ x)
    gradients += l2 * x
    return losses, gradients


def _losses_and_gradients(rows: Array, x: Array) -> tuple[Array, Array]:
    """Mean log-losses (C,) and their gradients (C, d) for rows (C, m, d), without regulariser."""
    margins = rows @ x
    decay = np.exp(-np.abs(margins))
    losses = (np.log1p(decay) + np.maximum(margins, 0)).mean(axis=1)
    slopes = np.where(margins >= 0, 1.0, decay)
    slopes /= (1 + decay) * rows.shape[1]
    gradients: Array = np.matmul(slopes[:, None], rows)[:, 0]
    return losses, gradients


def _largest(magnitudes: Array, k: int) -> npt.NDArray[np.int64]:
    """The k largest of each row in ascending order, ties by lowest index: shape (C, k)."""
    clients, dimension = magnitudes.shape
    threshold = np.partition(magnitudes, dimension - k, axis=1)[:, dimension - k, None]
    chosen = magnitudes >= threshold
    crowded = np.flatnonzero(chosen.sum(axis=1) > k)
    if len(crowded):
        above = magnitudes[crowded] > threshold[crowded]
        equal = magnitudes[crowded] == threshold[crowded]
        wanted = k - above.sum(axis=1, keepdims=True)
        chosen[crowded] = above | (equal & (equal.cumsum(axis=1) <= wanted))
    flat = np.flatnonzero(chosen).reshape(clients, k)
    return flat - dimension * np.arange(clients)[:, None]


def _sum(rows: Array) -> Array:
    """Over the clients: row after row in blocks of 32, then block after block."""
    whole = len(rows) // _BLOCK * _BLOCK
    sums = rows[:whole].reshape(-1, _BLOCK, rows.shape[1]).sum(axis=1)
    total: Array = np.concatenate([sums, rows[whole:].sum(axis=0, keepdims=True)]).sum(axis=0)
    return total


def _draws(identities: Words, seed: int, round: int, bound: int) -> npt.NDArray[np.int64]:
    """A number below ``bound`` for each client, by hashing (SplitMix64)."""
    root = _mixed_integer(seed + (_CLIENT + 1) * int(_GOLDEN))
    root = _mixed_integer(root + (round + 1) * int(_GOLDEN))
    keys = _mixed(identities + np.uint64(root))
    keys = _mixed(keys ^ np.uint64(_mixed_integer((_COMPRESSOR + 1) * int(_GOLDEN))))
    bits = _mixed(keys + _GOLDEN) >> np.uint64(11)
    return (bits.astype(np.float64) * 2.0**-53 * bound).astype(np.int64)


def _mixed(words: Words) -> Words:
    words ^= words >> np.uint64(30)
    words *= np.uint64(0xBF58476D1CE4E5B9)
    words ^= words >> np.uint64(27)
    words *= np.uint64(0x94D049BB133111EB)
    words ^= words >> np.uint64(31)
    return words


def _mixed_integer(word: int) -> int:
    every_bit = 2**64 - 1
    word &= every_bit
    word = (word ^ (word >> 30)) * 0xBF58476D1CE4E5B9 & every_bit
    word = (word ^ (word >> 27)) * 0x94D049BB133111EB & every_bit
    return word ^ (word >> 31)
