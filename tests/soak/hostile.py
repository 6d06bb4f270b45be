"""A million hostile inputs: mutated messages and files, forged replies, coverage-guided fuzzing.

    python -m tests.soak.hostile --results FILE [--output docs/reliability.md]

Three kinds, each in chunks whose seed is their number, so that a run that was stopped goes on where
it was:

* *mutated*: real messages of every codec and file, mutated (`hostile_mutations`), to the readers of
  `hostile_targets`;
* *forged*: replies of two of eight clients, 20 each in an attempt, to every method's
  ``aggregate_train`` (`hostile_replies`);
* *guided*: the same readers and replies under atheris (`fuzz`), left out where it is not installed.

The address space of the process is limited to 2 GiB beyond what it takes at the start: a declared
size that were believed would end in a MemoryError, which is a finding. Of one input in 50 the
memory is measured, and compared with the bound.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import logging
import os
import re
import resource
import subprocess
import sys
import traceback
import warnings
from pathlib import Path
from random import Random
from typing import Any

from benchmarks.pages import replace_between
from fedstrategies.flower import AllClientsFailed, Diverged
from tests.soak.hostile_memory import peak_of, traced
from tests.soak.hostile_mutations import mutated
from tests.soak.hostile_replies import HOSTILE, METHODS, Arena, forged, unusable
from tests.soak.hostile_targets import OVERHEAD, TARGETS

BEGIN, END = "<!-- begin hostile -->", "<!-- end hostile -->"
CHUNK = 5_000
MEASURED = 50
"""Of so many inputs one has its memory measured."""
AT_ONCE = 20
"""Forgeries of one client in an attempt."""
LIMIT = 2 << 30

# Of the million; the rest is what a target's speed allows.
MUTATED = {
    "frame": 250_000,
    "request": 60_000,
    "response": 40_000,
    "downlink": 60_000,
    "ledger": 60_000,
    "receipts": 40_000,
    "state-head": 20_000,
    "state-file": 40_000,
    "checkpoint": 20_000,
    "fedp3-model": 60_000,
}
FORGED = 10_000  # for each method
GUIDED = {
    "frame": 150_000,
    "request": 30_000,
    "response": 10_000,
    "downlink": 30_000,
    "ledger": 30_000,
    "receipts": 20_000,
    "state-file": 10_000,
    "fedp3-model": 20_000,
    "reply": 5_000,
}


def guard() -> None:
    """Limit the address space to what is taken now and `LIMIT` more."""
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (taken + LIMIT, taken + LIMIT))


def mutate_chunk(name: str, number: int, count: int) -> dict[str, Any]:
    """One chunk of mutated inputs: how many, what was found, the largest share of the bound."""
    target = TARGETS[name]
    seeds = target.seeds()
    draw = Random(f"{name} {number}")
    findings: dict[str, str] = {}
    worst = 0.0
    for place in range(count):
        data = mutated(draw.choice(seeds), draw, seeds, target.repair)
        try:
            if place % MEASURED:
                target.call(data)
            else:
                worst = max(worst, _measured(lambda data=data: target.call(data)))
        except Exception:
            note(findings, f"{name} {data.hex()}")
    return {"inputs": count, "findings": findings, "worst": worst}


def _measured(call: Any) -> float:
    """Bytes that a call takes over the bound that it returns."""
    bound: list[int] = []
    with traced():
        taken = peak_of(lambda: bound.append(call()))
    return taken / bound[0]


def note(findings: dict[str, str], what: str) -> None:
    """Keep the traceback of the exception at hand under its last line, with the first input."""
    trace = traceback.format_exc()
    place = traceback.extract_tb(sys.exc_info()[2])[-1]
    key = f"{Path(place.filename).name}:{place.lineno} {trace.splitlines()[-1][:100]}"
    findings.setdefault(key, f"{what[:4000]}\n{trace[-3000:]}")


def forge_chunk(name: str, number: int, count: int) -> dict[str, Any]:
    """One chunk of forged replies: every second attempt has none that could be used."""
    draw = Random(f"{name} {number}")
    findings: dict[str, str] = {}
    inputs, attempts, worst = 0, 0, 0.0
    ends = {"AllClientsFailed": 0, "Diverged": 0}
    arena = Arena(name, max_update_norm=1e3)
    while inputs < count:
        attempts += 1
        try:
            inputs += _attempt(arena, draw, garbage=attempts % 2 == 0)
            if attempts % 20 == 0:
                worst = max(worst, _measured_attempt(arena, draw))
                inputs += 1
            assert bool(arena.strategy.x.isfinite().all()), "the model is finite"
        except (AllClientsFailed, Diverged) as error:
            ends[type(error).__name__] += 1
            arena = Arena(name, max_update_norm=1e3)
        except Exception:
            note(findings, f"{name} chunk {number} attempt {attempts}")
            arena = Arena(name, max_update_norm=1e3)
        if attempts % 200 == 0:
            arena = Arena(name, max_update_norm=1e3)
    return {"inputs": inputs, "findings": findings, "worst": worst, "ends": ends}


def _attempt(arena: Arena, draw: Random, *, garbage: bool) -> int:
    sent, count = [], 0
    for partition, reply in arena.replies().items():
        if partition not in HOSTILE or _says_nothing(reply):
            sent.append(reply)
            continue
        stream = unusable(reply, draw)
        many = [next(stream) if garbage else forged(reply, draw) for _ in range(AT_ONCE)]
        count += len(many)
        sent += many
    draw.shuffle(sent)
    arena.finish(sent)
    return count


def _measured_attempt(arena: Arena, draw: Random) -> float:
    """Memory of judging one forged reply over 240 bytes for each of its own and 64 n d."""
    replies = arena.replies()
    sound = [p for p in HOSTILE if p in replies and not _says_nothing(replies[p])]
    if not sound:
        arena.finish(list(replies.values()))
        return 0.0
    replies[sound[0]] = forged(replies[sound[0]], draw)
    lengths = [
        len(array.data)
        for one in replies.values()
        if not one.has_error()
        for record in one.content.array_records.values()
        for array in record.values()
    ]
    # Errors that are not logged are kept: a reason of a million characters is one input.
    bound = 240 * sum(lengths) + 64 * 8 * len(arena.strategy.x) + 60 * OVERHEAD

    def call() -> int:
        arena.finish(list(replies.values()))
        return bound

    return _measured(call)


def _says_nothing(reply: Any) -> bool:
    return reply.has_error() or not any(map(len, reply.content.array_records.values()))


def guide(name: str, number: int, count: int) -> dict[str, Any]:
    """One process of atheris: inputs, and branches of the package that they reached."""
    call = [sys.executable, "-m", "tests.soak.fuzz", name, f"-runs={count}", f"-seed={number + 1}"]
    done = subprocess.run(call, capture_output=True, text=True, errors="replace")
    ran = re.search(r"number_of_executed_units: (\d+)", done.stderr)
    reached = re.findall(r"cov: (\d+)", done.stderr)
    findings = {}
    if done.returncode or ran is None:
        findings[f"exit status {done.returncode}"] = (done.stdout + done.stderr)[-4000:]
    return {
        "inputs": int(ran[1]) if ran else 0,
        "findings": findings,
        "coverage": int(reached[-1]) if reached else 0,
    }


def work(share: float, guided: bool) -> list[tuple[str, str, int, int]]:
    """(kind, name, number, inputs) of every chunk."""
    chunks = []
    plans: dict[str, dict[str, int]] = {
        "mutated": MUTATED,
        "forged": dict.fromkeys(METHODS, FORGED),
    }
    if guided:
        plans["guided"] = GUIDED
    for kind, plan in plans.items():
        for name, total in plan.items():
            left = max(1, round(total * share))
            size = left if kind == "guided" else CHUNK
            chunks += [
                (kind, name, number, min(size, left - number * size))
                for number in range(-(-left // size))
            ]
    return chunks


def report(found: dict[str, dict[str, Any]]) -> str:
    """The table between the markers."""
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for key, result in found.items():
        kind, name, _ = key.split(" ")
        row = rows.setdefault(
            (kind, name), {"inputs": 0, "findings": set(), "worst": 0.0, "coverage": 0}
        )
        row["inputs"] += result["inputs"]
        row["findings"] |= set(result["findings"])
        row["worst"] = max(row["worst"], result.get("worst", 0.0))
        row["coverage"] = max(row["coverage"], result.get("coverage", 0))
    lines = [
        "| inputs | read by | tried | findings | memory, of the bound | the bound, in bytes |",
        "|---|---|---|---|---|---|",
    ]
    for (kind, name), row in rows.items():
        known = TARGETS.get(name)
        bound = known.states if known is not None else "240 len + 512 d"
        memory = f"{100 * row['worst']:.0f} %" if kind != "guided" else "not measured"
        lines.append(
            f"| {kind} | {name} | {row['inputs']:,} | {len(row['findings'])} | {memory} | {bound} |"
        )
    total = sum(row["inputs"] for row in rows.values())
    wrong = sum(len(row["findings"]) for row in rows.values())
    lines += [
        "",
        f"In all {total:,} inputs, {wrong} findings.",
        "",
        "len: bytes of the input; d: numbers in the model. To each bound comes a constant for",
        "exceptions and log lines: 64 to 256 KiB, and 4 MiB for a whole round with 8 clients. What",
        "decodes is encoded again, within three times the bound.",
    ]
    return "\n" + "\n".join(lines) + "\n"


def main() -> None:
    """Try what has not been tried, and write what was found."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--results", type=Path, required=True, help="JSON file; continued")
    parser.add_argument("--output", type=Path, help="page to update (default: print the table)")
    parser.add_argument("--share", type=float, default=1.0, help="of the million (default: 1)")
    options = parser.parse_args()
    logging.getLogger("flwr").setLevel(logging.CRITICAL)
    warnings.simplefilter("ignore")  # numpy's, about numbers that overflow
    guided = importlib.util.find_spec("atheris") is not None
    if not guided:
        print("atheris is not installed: without coverage-guided inputs", flush=True)
    chunks = work(options.share, guided)
    found = json.loads(options.results.read_text()) if options.results.exists() else {}
    for target in TARGETS.values():
        target.seeds()
    guard()
    calls = {"mutated": mutate_chunk, "forged": forge_chunk, "guided": guide}
    for kind, name, number, count in chunks:
        key = f"{kind} {name} {number}"
        if key in found:
            continue
        result = found[key] = calls[kind](name, number, count)
        partial = options.results.with_suffix(".partial")
        partial.write_text(json.dumps(found, indent=1))
        os.replace(partial, options.results)
        done = sum(one["inputs"] for one in found.values())
        print(f"{done:>9,} inputs; {key}: {len(result['findings'])} findings", flush=True)
        for line in result["findings"]:
            print(f"  {line}", flush=True)
    if options.output is None:
        print(report(found))
    else:
        replace_between(options.output, BEGIN, END, report(found))
    if any(one["findings"] for one in found.values()):
        sys.exit("there are findings: see the results file")


if __name__ == "__main__":
    main()
