"""Both methods on one instance, side by side, so that every cut is at the same round."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from simulations.reproduce.efbv.curve import Header, append_point, read_curve, write_curve
from simulations.reproduce.efbv.instance import METHODS, Instance
from simulations.reproduce.efbv.loop import Loop

__all__ = ["CheckpointError", "curve_path", "race"]

_CHECKPOINT_SECONDS = 60.0


class CheckpointError(ValueError):
    """A checkpoint cannot be continued; the message is one line saying which and what to do."""


def curve_path(folder: Path, dataset: str, xi: int, method: str) -> Path:
    """Where a curve is kept."""
    return folder / f"{dataset}-xi{xi}-{method}.jsonl"


def race(
    instance: Instance,
    *,
    rounds: int,
    every: int,
    curves: Path,
    checkpoints: Path,
    shift_init: Literal["gradient", "zero"] = "gradient",
    budget_seconds: float | None = None,
    report: Callable[[str], None] = print,
) -> None:
    """Advance EF21 and EF-BV in turns of ``every`` rounds until both have done ``rounds``.

    Parameters
    ----------
    instance : Instance
        The problem.
    rounds, every : int
        T, and the rounds between two points of a curve.
    curves, checkpoints : Path
        Folders. A run that was stopped continues from its checkpoint; points written after
        the checkpoint are computed again, with the same values.
    shift_init : {"gradient", "zero"}
        h_i^0.
    budget_seconds : float, optional
        Stop after this time, both methods at the same round.
    report : callable
        Takes one line of progress.

    Raises
    ------
    CheckpointError
        If a checkpoint is damaged or belongs to another experiment.
    """
    if _is_complete(instance, rounds, curves):
        report(f"{instance.name} xi={instance.xi}: complete, nothing to do")
        return
    runners = [
        _Runner(Loop(instance, method, shift_init=shift_init), curves, checkpoints)
        for method in METHODS
    ]
    started = saved = monotonic()
    while any(runner.loop.round < rounds for runner in runners):
        # A pair that was killed between two checkpoints is brought level first.
        level = min(runner.loop.round for runner in runners)
        for runner in runners:
            if runner.loop.round == level:
                runner.turn(min(level + every - level % every, rounds))
        now = monotonic()
        if now - saved >= _CHECKPOINT_SECONDS:
            saved = now
            for runner in runners:
                runner.save()
            report(_progress(instance, runners))
        if (
            budget_seconds is not None
            and now - started >= budget_seconds
            and len({runner.loop.round for runner in runners}) == 1
        ):
            report(f"{instance.name} xi={instance.xi}: the budget is used up")
            break
    for runner in runners:
        runner.save()
    report(_progress(instance, runners))


def _is_complete(instance: Instance, rounds: int, curves: Path) -> bool:
    paths = [curve_path(curves, instance.name, instance.xi, method) for method in METHODS]
    return all(path.exists() and read_curve(path).last.round >= rounds for path in paths)


def _progress(instance: Instance, runners: list[_Runner]) -> str:
    parts = []
    for runner in runners:
        loop = runner.loop
        pace = 1e3 * loop.seconds / loop.round
        parts.append(f"{METHODS[loop.method]} gap {runner.gap:.6g} ({pace:.1f} ms a round)")
    return f"{instance.name} xi={instance.xi} round {runners[0].loop.round}: " + ", ".join(parts)


class _Runner:
    """A loop with its files."""

    def __init__(self, loop: Loop, curves: Path, checkpoints: Path) -> None:
        name = loop.instance.name, loop.instance.xi, loop.method
        self.loop = loop
        self.header = _header(loop)
        self.curve = curve_path(curves, *name)
        self.checkpoint = curve_path(checkpoints, *name).with_suffix(".safetensors")
        self.gap = self.header.initial_gap
        if self.checkpoint.exists():
            self._load()
            known = read_curve(self.curve).until(loop.round) if self.curve.exists() else None
            if known is None or known.last.round != loop.round:
                raise CheckpointError(
                    f"{self.curve}: lacks the points up to round {loop.round} of its checkpoint; "
                    f"delete {self.checkpoint} to start again"
                )
            self.gap = known.last.gap
            write_curve(self.curve, self.header, known.points)
        else:
            write_curve(self.curve, self.header, [loop.measure()])

    def turn(self, until: int) -> None:
        """Advance to a round and write the point there."""
        while self.loop.round < until:
            self.loop.advance()
        point = self.loop.measure()
        self.gap = point.gap
        append_point(self.curve, point)

    def save(self) -> None:
        """Replace the checkpoint, all at once."""
        self.checkpoint.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.checkpoint.with_name(self.checkpoint.name + ".tmp")
        tensors = {name: tensor.cpu() for name, tensor in self.loop.tensors.items()}
        counters = json.dumps(self.loop.counters)
        save_file(tensors, temporary, {"identity": self.header.identity, "counters": counters})
        os.replace(temporary, self.checkpoint)

    def _load(self) -> None:
        try:
            with safe_open(self.checkpoint, framework="pt") as stored:
                metadata = stored.metadata()
                tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise CheckpointError(
                f"{self.checkpoint}: is damaged ({error}); delete it to start again"
            ) from None
        if metadata.get("identity") != self.header.identity:
            raise CheckpointError(
                f"{self.checkpoint}: is of another experiment, device or version of torch; "
                "delete it to start again"
            )
        self.loop.restore(tensors, json.loads(metadata["counters"]))


def _header(loop: Loop) -> Header:
    instance, theory = loop.instance, loop.theory
    config = instance.problem.config
    start = loop.measure()
    device = instance.device
    return Header(
        dataset=instance.name,
        xi=instance.xi,
        method=loop.method,
        clients=instance.clients,
        dimension=instance.dimension,
        compressor=instance.operator.spec,
        l2=config.l2,
        x0=config.x0,
        shift_init=loop.shift_init,
        seed=config.seed,
        x0_norm=float(torch.linalg.vector_norm(instance.problem.start_point)),
        initial_gap=start.gap,
        L=instance.smoothness.L,
        L_tilde=instance.smoothness.L_tilde,
        fstar=instance.fstar,
        lam=theory.lam,
        nu=theory.nu,
        r=theory.r,
        r_av=theory.r_av,
        gamma=theory.gamma,
        device="cpu" if device.type == "cpu" else torch.cuda.get_device_name(device),
        torch=torch.__version__,
    )
