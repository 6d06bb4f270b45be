"""Selection, draws and codec against a copy of the vector they work on, in one thread.

    python -m benchmarks.compressors --output docs/performance.md

Every repetition times the two copies and the systems one after the other; a ratio is the median
of the ratios within a repetition. A *fresh copy* is `torch.Tensor.clone`, which also pays for new
memory pages; a *copy in place* goes to memory that is there already.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from math import lgamma, log
from pathlib import Path

import numpy as np
import torch

from benchmarks.pages import replace_between
from fedstrategies import RandK, TopK, parse_compressor
from fedstrategies.compressors import Payload
from fedstrategies.random import Purpose, client_keys
from fedstrategies.threads import single_threaded
from fedstrategies.wire import decode, encode

DIMENSIONS = (100_000, 1_600_000, 11_000_000)
FRACTIONS = (0.001, 0.01, 0.1)
CONVEX = ("top-k:k=1", "top-k:k=5", "comp:k=1,k_prime=56", "mix:k=1,k_prime=5", "rand-k:k=5")
BEGIN, END = "<!-- compressors:begin -->", "<!-- compressors:end -->"

Times = Mapping[str, list[float]]


@dataclass(frozen=True)
class Problem:
    """One vector with the message of its largest entries.

    Attributes
    ----------
    vector : torch.Tensor
        float32, shape (1, d), normal.
    fraction : float
        k/d.
    """

    vector: torch.Tensor
    fraction: float

    @property
    def dimension(self) -> int:
        """d."""
        return self.vector.shape[1]

    @property
    def name(self) -> str:
        """The first two columns of its row."""
        return f"{self.dimension:,} | {self.fraction:.1%}"


def interleaved(systems: Mapping[str, Callable[[], object]], repeats: int) -> Times:
    """Seconds of each call, the systems in turn; a first turn warms up and is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in systems}
    for turn in range(repeats + 1):
        for name, call in systems.items():
            began = time.perf_counter()
            call()
            if turn:
                seconds[name].append(time.perf_counter() - began)
    return seconds


def spread(numbers: list[float], form: str) -> str:
    """Median, and in parentheses the quartiles."""
    low, middle, high = statistics.quantiles(numbers, n=4, method="inclusive")
    return f"{middle:{form}} ({low:{form}} to {high:{form}})"


def ratio(times: Times, system: str, base: str) -> str:
    """Median and quartiles of the ratios within a repetition."""
    pairs = zip(times[system], times[base], strict=True)
    return spread([mine / other for mine, other in pairs], ".2f")


def milliseconds(times: Times, system: str) -> str:
    """Median and quartiles."""
    return spread([1e3 * seconds for seconds in times[system]], ".3g")


def entropy_bytes(dimension: int, count: int) -> float:
    """``log2 C(d, k) / 8``."""
    bits = lgamma(dimension + 1) - lgamma(count + 1) - lgamma(dimension - count + 1)
    return bits / log(2) / 8


def message(problem: Problem) -> Payload:
    """The k largest entries."""
    return TopK(fraction=problem.fraction).compress(problem.vector, torch.tensor([7]))


def measured(problem: Problem, repeats: int) -> Times:
    """Copies, both operators, what they replace, and the codec."""
    vector, count = problem.vector, round(problem.fraction * problem.dimension)
    room, keys = torch.empty_like(vector), torch.tensor([7])
    top, random = TopK(fraction=problem.fraction), RandK(fraction=problem.fraction)
    payload = message(problem)
    frame = encode(payload)
    return interleaved(
        {
            "fresh copy": vector.clone,
            "copy in place": lambda: room.copy_(vector),
            "top-k": lambda: top.compress(vector, keys),
            "rand-k": lambda: random.compress(vector, keys),
            "torch.topk": lambda: vector.abs().topk(count, sorted=False),
            "torch.randperm": lambda: torch.randperm(problem.dimension)[:count],
            "encode": lambda: encode(payload),
            "decode": lambda: decode(frame, dimension=problem.dimension),
            "both": lambda: decode(encode(payload), dimension=problem.dimension),
        },
        repeats,
    )


def operator_table(results: list[tuple[Problem, Times]], system: str, rival: str) -> list[str]:
    """One operator against both copies and what it replaces."""
    head = f"| d | k/d | {system}, ms | against a fresh copy | against a copy in place | "
    lines = [f"{head}`{rival}` against a fresh copy |", "|---|---|---|---|---|---|"]
    for problem, times in results:
        lines.append(
            f"| {problem.name} | {milliseconds(times, system)} | "
            f"{ratio(times, system, 'fresh copy')} | {ratio(times, system, 'copy in place')} | "
            f"{ratio(times, rival, 'fresh copy')} |"
        )
    return lines


def codec_table(results: list[tuple[Problem, Times]]) -> list[str]:
    """Size against the entropy bound, and time."""
    head = "| d | k/d | bytes | of the bound | bits an index | entropy | encode, ms | decode, ms |"
    lines = [
        f"{head} both against a fresh copy | both against a copy in place |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for problem, times in results:
        payload = message(problem)
        count, size = payload.values.to_tensor().numel(), len(encode(payload))
        entropy = entropy_bytes(problem.dimension, count)
        bound = 1.02 * (entropy + 4 * count) + 24
        lines.append(
            f"| {problem.name} | {size:,} | {size / bound:.3f} | "
            f"{8 * (size - 4 * count) / count:.3f} | {8 * entropy / count:.3f} | "
            f"{milliseconds(times, 'encode')} | {milliseconds(times, 'decode')} | "
            f"{ratio(times, 'both', 'fresh copy')} | {ratio(times, 'both', 'copy in place')} |"
        )
    return lines


def convex_table(repeats: int) -> list[str]:
    """1,000 clients of 112 coordinates at once, and one client's message."""
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(1000, 112, dtype=torch.float64, generator=generator)
    # A third of the clients of a sparse data set tie at the threshold.
    vectors[::3] = (2 * vectors[::3]).round()
    keys = client_keys(0, 1, torch.arange(1000), Purpose.COMPRESSOR)
    lines = [
        "| operator | 1,000 clients, ms | bytes of a message | encode one, µs | decode one, µs |",
        "|---|---|---|---|---|",
    ]
    for spec in CONVEX:
        operator = parse_compressor(spec)
        payload = operator.compress(vectors, keys).rows(slice(0, 1))
        frame = encode(payload)
        times = interleaved(
            {
                "compress": partial(operator.compress, vectors, keys),
                "encode": partial(encode, payload),
                "decode": partial(decode, frame, dimension=112),
            },
            50 * repeats,
        )
        encoding, decoding = ([1e6 * s for s in times[name]] for name in ("encode", "decode"))
        lines.append(
            f"| `{spec}` | {milliseconds(times, 'compress')} | {len(frame)} | "
            f"{spread(encoding, '.0f')} | {spread(decoding, '.0f')} |"
        )
    return lines


def exact(problem: Problem) -> None:
    """Compare the selection with a stable sort.

    Raises
    ------
    ValueError
        If they differ: a wrong selection has no time.
    """
    payload = message(problem)
    assert payload.indices is not None
    magnitudes = problem.vector[0].abs().numpy()
    expected = np.argsort(-magnitudes, kind="stable")[: payload.indices.shape[1]]
    if not np.array_equal(np.sort(expected), payload.indices[0].numpy()):
        raise ValueError(f"top-k of {problem.name} differs from a stable sort")


def report(dimensions: list[int], repeats: int) -> str:
    """The section between the markers."""
    results = []
    for dimension in dimensions:
        generator = torch.Generator().manual_seed(dimension)
        vector = torch.randn(1, dimension, generator=generator)
        for fraction in FRACTIONS:
            problem = Problem(vector, fraction)
            exact(problem)
            results.append((problem, measured(problem, repeats)))
    lines = [
        f"One thread of {platform.machine()}, torch {torch.__version__}, numpy {np.__version__};",
        f"{repeats} repetitions, load average {os.getloadavg()[0]:.1f}; medians and quartiles.",
        "A fresh copy is `x.clone()`, a copy in place `y.copy_(x)`.",
        "",
        *operator_table(results, "top-k", "torch.topk"),
        "",
        *operator_table(results, "rand-k", "torch.randperm"),
        "",
        "Frames of top-k messages (float32 values), decoded to a payload, not to d numbers;",
        "the bound is `1.02 (log2 C(d,k) / 8 + 4 k) + 24` bytes.",
        "",
        *codec_table(results),
        "",
        "Convex runs: 1,000 clients of 112 float64 coordinates, a third with ties.",
        "",
        *convex_table(repeats),
    ]
    return "\n" + "\n".join(lines) + "\n"


def main() -> None:
    """Measure and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output", type=Path, help="page to update (default: print the section)")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--dimensions", type=int, nargs="+", default=list(DIMENSIONS))
    options = parser.parse_args()
    with single_threaded():
        section = report(options.dimensions, options.repeats)
    if options.output is None:
        print(section)
    else:
        replace_between(options.output, BEGIN, END, section)


if __name__ == "__main__":
    main()
