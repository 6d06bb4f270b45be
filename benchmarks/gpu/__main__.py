"""The table of the section "One GPU": every execution, its time, its memory, its weights.

    python -m benchmarks.gpu --output docs/performance.md
    python -m benchmarks.gpu --device cpu --scale small

The first needs CUDA; the second runs anywhere and shows that the script works, no more. A time
counts only where the weights after all rounds agree with the loop's.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.gpu.executions import EXECUTIONS, make
from benchmarks.gpu.task import SCALES, Task
from benchmarks.machine import commit, load, packages, processor
from benchmarks.pages import replace_between
from benchmarks.simulation.task import MODELS

BEGIN, END = "<!-- gpu:begin -->", "<!-- gpu:end -->"
TOLERANCE = 1e-4


@dataclass(kw_only=True)
class Found:
    """What was measured of one execution.

    Attributes
    ----------
    medians : list of float
        Seconds a round: the median of each repeat.
    peak : int
        Most bytes of the GPU that tensors took, data included; 0: not measured.
    distance : float
        ``||x - x_loop|| / ||x_loop - x^0||`` after the first repeat.
    error : str
        Why there is no time.
    """

    medians: list[float] = field(default_factory=list)
    peak: int = 0
    distance: float = float("nan")
    error: str = ""

    @property
    def counts(self) -> bool:
        """Whether the arithmetic is the loop's."""
        return not self.error and self.distance <= TOLERANCE


def measure(task: Task, names: Sequence[str], *, rounds: int, repeats: int) -> dict[str, Found]:
    """All executions, interleaved: A B C, A B C, ...; the first two rounds of each are dropped."""
    found = {name: Found() for name in names}
    reference: Tensor | None = None
    for _ in range(repeats):
        for name in names:
            if found[name].error:
                continue
            try:
                x = _run(task, name, found[name], rounds)
            except (ValueError, RuntimeError) as error:  # no CUDA, out of memory, no kernel
                found[name].error = " ".join(str(error).split())[:200]
                continue
            if reference is None:
                reference = x
            moved = torch.linalg.vector_norm(reference - task.start)
            found[name].distance = float(torch.linalg.vector_norm(x - reference) / moved)
    return found


def _run(task: Task, name: str, found: Found, rounds: int) -> Tensor:
    gc.collect()
    cuda = task.device.type == "cuda"
    if cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(task.device)
    execution, x, seconds = make(name, task), task.start, []
    for number in range(rounds + 2):
        began = time.perf_counter()
        x = execution.round(x, number)
        if cuda:
            torch.cuda.synchronize(task.device)
        seconds.append(time.perf_counter() - began)
    found.medians.append(statistics.median(seconds[2:]))
    if cuda:
        found.peak = torch.cuda.max_memory_allocated(task.device)
    return x


def report(task: Task, model: str, found: dict[str, Found], *, rounds: int) -> str:
    """What stands between the page's markers."""
    scale = task.scale
    loop = next(iter(found.values()))
    lines = [
        "| execution | ms a round | of the loop | GPU memory | distance of the weights |",
        "|---|---|---|---|---|",
    ]
    for name, one in found.items():
        if one.error:
            lines.append(f"| {name} | - | - | - | {one.error} |")
            continue
        if not one.counts:
            lines.append(f"| {name} | - | - | - | {one.distance:.1e}: too far to count |")
            continue
        times = sorted(1e3 * value for value in one.medians)
        ratios = [a / b for a, b in zip(one.medians, loop.medians, strict=True)]
        memory = f"{one.peak / 2**30:.2f} GiB" if one.peak else "not measured"
        lines.append(
            f"| {name} | {statistics.median(times):.1f} ({times[0]:.1f} to {times[-1]:.1f}) | "
            f"{statistics.median(ratios):.2f} | {memory} | {one.distance:.1e} |"
        )
    where = (
        torch.cuda.get_device_name(task.device)
        if task.device.type == "cuda"
        else f"no GPU: {processor()}"
    )
    versions = ", ".join(
        f"{name} {number}" for name, number in packages(["torch", "numpy"]).items()
    )
    return f"""
A round of {scale.clients:,} x {scale.examples} images 3 x 32 x 32: cohort {scale.cohort}, batch
{scale.batch}, {scale.steps} local steps, model {model} with {task.layout.dimension:,} parameters,
float32 without TF32. Medians of {rounds} rounds over {len(loop.medians)} interleaved repeats, the
range in brackets; ratios are taken within a repeat. The last column is the distance of the final
weights from the loop's, relative to how far these moved; up to {TOLERANCE:g} a time counts.

{chr(10).join(lines)}

Measured on {where}; load average {load():.1f}; {versions}; commit {commit() or "unknown"}.
"""


def main() -> None:
    """Measure, and write or print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output", type=Path, help="page to update (default: print the table)")
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1, ... or cpu")
    parser.add_argument("--scale", choices=sorted(SCALES), default="pfl")
    parser.add_argument("--model", choices=sorted(MODELS), default="cnn")
    parser.add_argument("--rounds", type=int, default=10, help="timed rounds of a run")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    device = torch.device(options.device)
    if device.type == "cuda":
        if not torch.cuda.is_available():
            parser.error(
                f"torch {torch.__version__} sees no CUDA device; --device cpu --scale small tries "
                "the script without one"
            )
        torch.cuda.set_device(device)
    # The loop, the graph and vmap choose different kernels: with TF32 they would differ by 1e-3.
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    torch.set_num_threads(1)
    task = Task(options.model, SCALES[options.scale], device)
    found = measure(task, EXECUTIONS, rounds=options.rounds, repeats=options.repeats)
    tables = report(task, options.model, found, rounds=options.rounds)
    if options.output is None:
        print(tables)
    else:
        replace_between(options.output, BEGIN, END, tables)


if __name__ == "__main__":
    main()
