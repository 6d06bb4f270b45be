"""Rounds per second of EF-BV with 1,000 clients, beside the loop nobody can beat by much.

    python -m benchmarks.efbv_rounds --output docs/performance.md

Four ways to run the same job (mushrooms, n = 1,000, comp-(1,56), l2 = 0.001): a bare batched
numpy loop without Flower, bytes, receipts or records; the in-process grid's fast path through
the public `run`, which writes bytes, loss and a history record every round; its message path;
and Flower's own simulation runtime. The first two are interleaved, and their ratio is what to
quote: absolute times depend on the machine and on what else runs on it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import tempfile
import time
from importlib.metadata import version
from math import lgamma, log
from pathlib import Path

import numpy as np
import torch

from benchmarks.pages import replace_between
from fedstrategies.compressors import TopK
from fedstrategies.data import binary_labels, load_dataset
from fedstrategies.experiment import EFBVConfig, read_history, run
from fedstrategies.threads import single_threaded
from fedstrategies.wire import encoded_sizes

CLIENTS, L2, K_PRIME = 1000, 0.001, 56
BEGIN, END = "<!-- benchmark:begin -->", "<!-- benchmark:end -->"


def bare_loop(rounds: int) -> float:
    """Seconds per round of a plain numpy loop (the last client's surplus rows left out)."""
    data = load_dataset("mushrooms")
    folded = (-binary_labels(data.labels)[:, None] * data.features).numpy()
    per_client = len(folded) // CLIENTS
    rows = folded[: CLIENTS * per_client].reshape(CLIENTS, per_client, -1).copy()
    dimension = rows.shape[2]
    x, h = np.zeros(dimension), np.zeros(dimension)
    shifts = np.zeros((CLIENTS, dimension))
    generator = np.random.default_rng(0)
    everyone = np.arange(CLIENTS)
    gamma, lam, nu = 1e-4, 0.005, 0.2
    with single_threaded():
        start = time.perf_counter()
        for _ in range(rounds):
            margins = np.matmul(rows, x)
            decay = np.exp(-np.abs(margins))
            (np.log1p(decay) + np.maximum(margins, 0)).mean()
            slopes = np.where(margins >= 0, 1.0, decay) / (1 + decay) / per_client
            gradients = np.matmul(slopes[:, None], rows)[:, 0] + L2 * x
            (gradients.mean(axis=0) ** 2).sum()
            difference = gradients - shifts
            top = np.argpartition(np.abs(difference), dimension - K_PRIME, axis=1)
            chosen = top[everyone, dimension - 1 - generator.integers(K_PRIME, size=CLIENTS)]
            values = difference[everyone, chosen] * K_PRIME
            mean = np.bincount(chosen, weights=values, minlength=dimension) / CLIENTS
            shifts[everyone, chosen] += lam * values
            x = x - gamma * (h + nu * mean)
            h = h + lam * mean
        return (time.perf_counter() - start) / rounds


def suite(rounds: int, *, fast: str = "require", backend: str = "cohort") -> float:
    """Seconds per round of the public `run`, from its own history (round 1 left out)."""
    with tempfile.TemporaryDirectory() as folder:
        config = EFBVConfig(
            algorithm="efbv",
            clients=CLIENTS,
            l2=L2,
            compressor=f"comp:k=1,k_prime={K_PRIME}",
            rounds=rounds,
            backend=backend,
            fast=fast,
            out=f"{folder}/out",
            quiet=True,
        )
        run(config)
        records = read_history(Path(folder) / "out" / "history.jsonl")
    return float(records[-1]["seconds"] - records[1]["seconds"]) / (rounds - 1)


def summarise(seconds: list[float]) -> str:
    """Median rounds per second and the range."""
    rates = sorted(1 / value for value in seconds)
    return f"{statistics.median(rates):.4g} ({rates[0]:.4g} to {rates[-1]:.4g})"


def frame_sizes() -> list[str]:
    """A table of message sizes against the entropy of a random k-subset plus the values."""
    lines = ["| d | k | bytes sent | bound | sent / bound |", "|---|---|---|---|---|"]
    for dimension, k in [(112, 1), (112, 5), (112, 56), (10_000, 100), (1_600_000, 16_000)]:
        vectors = torch.randn(16, dimension, generator=torch.Generator().manual_seed(0)).double()
        payload = TopK(k=k).compress(vectors, torch.zeros(16, dtype=torch.int64))
        sent = float(encoded_sizes(payload).double().mean())
        subsets = (lgamma(dimension + 1) - lgamma(k + 1) - lgamma(dimension - k + 1)) / log(2)
        bound = subsets / 8 + 8 * k
        lines.append(f"| {dimension:,} | {k:,} | {sent:,.1f} | {bound:,.1f} | {sent / bound:.3f} |")
    return lines


def report(results: dict[str, list[float]]) -> str:
    """What stands between the page's markers."""
    ratios = [b / s for b, s in zip(results["bare"], results["fast"], strict=True)]
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
    ).stdout.strip()
    versions = ", ".join(f"{name} {version(name)}" for name in ("flwr", "torch", "numpy"))
    loads = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    flower = summarise(results["flower"]) if results["flower"] else "not measured"
    sizes = "\n".join(frame_sizes())
    return f"""
EF-BV, mushrooms, n = {CLIENTS:,} clients, comp-(1,{K_PRIME}), one thread. Medians over
{len(ratios)} interleaved repeats, the range in brackets.

| how | rounds per second | what a round includes |
|---|---|---|
| bare batched numpy loop | {summarise(results["bare"])} | the arithmetic alone; no tie rule |
| `CohortGrid`, fast path | {summarise(results["fast"])} | exact byte counts, loss, gradient \
norm, a JSON record, receipts, ties to the lowest index |
| `CohortGrid`, message path | {summarise(results["message"])} | one Flower message a client, \
every frame encoded and decoded |
| Flower's simulation runtime | {flower} | the same messages through Ray actors |

Fast path against the bare loop, pair by pair: **{statistics.median(ratios):.2f}** of its speed
({min(ratios):.2f} to {max(ratios):.2f}). The machine is shared: the ratio is the figure to
quote.

Bytes of a top-k message of float64 values, against log2 C(d, k) bits for the positions and 8 bytes
a value (frame and checksum included in what is sent):

{sizes}

Measured on {platform.machine()}, {os.cpu_count()} cores, load average {loads} at the end; Python
{platform.python_version()}, {versions}; commit {commit}.
"""


def main() -> None:
    """Measure and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output", type=Path, help="page to update (default: print the tables)")
    parser.add_argument("--rounds", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--skip-flower", action="store_true", help="leave out the Ray runtime")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    results: dict[str, list[float]] = {"bare": [], "fast": [], "message": [], "flower": []}
    bare_loop(50)
    suite(50)
    for _ in range(arguments.repeats):
        results["bare"].append(bare_loop(arguments.rounds))
        results["fast"].append(suite(arguments.rounds))
    results["message"].append(suite(6, fast="never"))
    if not arguments.skip_flower:
        results["flower"].append(suite(4, backend="flower"))
    print(json.dumps({name: [round(1 / v, 2) for v in values] for name, values in results.items()}))
    tables = report(results)
    if arguments.output is None:
        print(tables)
        return
    replace_between(arguments.output, BEGIN, END, tables)


if __name__ == "__main__":
    main()
