"""Rounds per second of EF-BV with 1,000 clients, beside hand-written loops.

    python -m benchmarks.efbv_rounds --output docs/performance.md

Five ways to run the same job (mushrooms, n = 1,000, comp-(1,56), l2 = 0.001): a hand-written
batched numpy loop with the same tie rule, loss and record; a barer one, for information
(`benchmarks.hand_written`); the in-process grid's fast path through the public `run`; its message
path; and Flower's own simulation runtime. The first three are interleaved, and the ratio to the
first is what to quote: absolute times depend on the machine and on what else runs on it. Before a
time counts, the hand-written loop must arrive at this suite's model, bit for bit.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import tempfile
from collections.abc import Mapping
from math import isclose, lgamma, log
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from benchmarks.hand_written import Array, Constants, bare_loop, full_loop
from benchmarks.machine import commit, load, packages, processor
from benchmarks.pages import replace_between
from fedstrategies.compressors import TopK
from fedstrategies.experiment import EFBVConfig, read_history, run
from fedstrategies.wire import encoded_sizes

CLIENTS, L2, K_PRIME = 1000, 0.001, 56
BEGIN, END = "<!-- benchmark:begin -->", "<!-- benchmark:end -->"


def suite(
    rounds: int, *, fast: str = "require", backend: str = "cohort", checked: bool = False
) -> float:
    """Seconds per round of the public `run`, from its own history (round 1 left out).

    With ``checked`` the hand-written loop must arrive at the same model.
    """
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
        summary = run(config, picture=False)
        records = read_history(Path(folder) / "out" / "history.jsonl")
        if checked:
            constants = Constants(
                lam=summary.theory["lam"], nu=summary.theory["nu"], gamma=summary.stepsize
            )
            _, theirs = full_loop(rounds, constants, Path(folder) / "other.jsonl")
            (ours,) = load_file(Path(folder) / "out" / "model.safetensors").values()
            require_same(ours.numpy(), theirs)
            require_same_record(records[-1], Path(folder) / "other.jsonl")
    return float(records[-1]["seconds"] - records[1]["seconds"]) / (rounds - 1)


def require_same(ours: Array, theirs: Array) -> None:
    """Stop unless two models have the same bits: what is timed must be the same work."""
    if not np.array_equal(ours, theirs):
        distance = float(np.abs(ours - theirs).max() / np.abs(ours).max())
        raise SystemExit(f"the hand-written loop arrives elsewhere: relative distance {distance}")


def require_same_record(ours: Mapping[str, float], path: Path) -> None:
    """Stop unless the hand-written loop's last line says what the suite's says."""
    theirs = read_history(path)[-1]
    for name in ("round", "loss", "grad_norm_sq", "accuracy"):
        if not isclose(ours[name], theirs[name], rel_tol=1e-12):
            raise SystemExit(f"{name}: {ours[name]} here, {theirs[name]} in the hand-written loop")


def hand_written(rounds: int) -> float:
    """Seconds per round of `full_loop`."""
    with tempfile.TemporaryDirectory() as folder:
        return full_loop(rounds, Constants(), Path(folder) / "history.jsonl")[0]


def summarise(seconds: list[float]) -> str:
    """Median rounds per second and the range."""
    if not seconds:
        return "not measured"
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


def ratios(results: Mapping[str, list[float]], base: str) -> str:
    """Speed of the fast path against another's, pair by pair."""
    found = [b / s for b, s in zip(results[base], results["fast"], strict=True)]
    return f"**{statistics.median(found):.2f}** ({min(found):.2f} to {max(found):.2f})"


def report(results: dict[str, list[float]], loads: list[float]) -> str:
    """What stands between the page's markers."""
    flower, against = "not measured", "not measured"
    if results["flower"]:
        flower = summarise(results["flower"])
        fastest = min(results["flower"]) / statistics.median(results["fast"])
        against = f"**{fastest:,.0f}** times"
    versions = ", ".join(
        f"{name} {text}" for name, text in packages(["flwr", "torch", "numpy"]).items()
    )
    sizes = "\n".join(frame_sizes())
    return f"""
EF-BV, mushrooms, n = {CLIENTS:,} clients, comp-(1,{K_PRIME}), one thread. Medians over
{len(results["fast"])} interleaved repeats, the range in brackets.

| how | rounds per second | what a round includes |
|---|---|---|
| hand-written batched numpy loop | {summarise(results["full"])} | keyed draws, ties to the lowest \
index, loss, gradient norm, a JSON record |
| `CohortGrid`, fast path | {summarise(results["fast"])} | the same; exact byte counts, receipts, \
checks |
| bare batched numpy loop, for information | {summarise(results["bare"])} | the arithmetic that \
moves x |
| `CohortGrid`, message path | {summarise(results["message"])} | one Flower message a client, \
every frame encoded and decoded |
| Flower's simulation runtime | {flower} | the same messages through Ray actors |

Fast path against the hand-written loop, pair by pair: {ratios(results, "full")} of its speed;
against the bare loop {ratios(results, "bare")}; against Flower's runtime {against} as fast. The
machine is shared: the ratios are the figures to quote. That the hand-written loop arrives at the
suite's model, bit for bit, and at its loss, is checked before a time counts.

Bytes of a top-k message of float64 values, against log2 C(d, k) bits for the positions and 8 bytes
a value (frame and checksum included in what is sent):

{sizes}

Measured on {processor()}, load average {min(loads):.1f} to {max(loads):.1f}; {versions}; commit
{commit()}.
"""


def main() -> None:
    """Measure and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output", type=Path, help="page to update (default: print the tables)")
    parser.add_argument("--rounds", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--skip-message", action="store_true", help="leave out the message path")
    parser.add_argument("--skip-flower", action="store_true", help="leave out the Ray runtime")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    logging.getLogger("flwr").setLevel(logging.ERROR)
    results: dict[str, list[float]] = {
        name: [] for name in ("full", "fast", "bare", "message", "flower")
    }
    loads = []
    suite(50, checked=True)
    hand_written(50)
    bare_loop(50, Constants())
    for _ in range(arguments.repeats):
        loads.append(load())
        results["full"].append(hand_written(arguments.rounds))
        results["fast"].append(suite(arguments.rounds))
        results["bare"].append(bare_loop(arguments.rounds, Constants()))
    if not arguments.skip_message:
        results["message"].append(suite(6, fast="never"))
    if not arguments.skip_flower:
        results["flower"].append(suite(4, backend="flower"))
    print(json.dumps({name: [round(1 / v, 2) for v in values] for name, values in results.items()}))
    tables = report(results, loads)
    if arguments.output is None:
        print(tables)
        return
    replace_between(arguments.output, BEGIN, END, tables)


if __name__ == "__main__":
    main()
