"""GPUs as torch sees them, and whether the run uses them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator

from fedstrategies.experiment.config import ExperimentConfig
from fedstrategies.experiment.doctor.finding import Finding, note, ok, problem
from fedstrategies.experiment.options import ConfigError
from fedstrategies.experiment.progress import format_bytes
from fedstrategies.experiment.resources import client_shares

__all__ = ["check_gpus"]


def check_gpus(config: ExperimentConfig) -> Iterator[Finding]:
    """What torch sees, what hides the rest, and whether ``--device`` fits it."""
    import torch

    from fedstrategies.experiment.devices import device_of

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    for index in range(count):
        free, total = torch.cuda.mem_get_info(index)
        name = torch.cuda.get_device_name(index)
        yield ok(f"cuda:{index}", f"{name}, {format_bytes(free)} of {format_bytes(total)} free")
    if not count:
        yield _why_none(torch.version.cuda)
    try:
        device = device_of(config.device)
    except ConfigError as error:
        yield problem("device", str(error).removeprefix("device: "), "give --device cpu or auto")
        return
    closed = config.model == "logreg"
    where = "cpu: logreg is a closed form, which stays there" if closed else str(device)
    yield ok("device", where)
    asked = any(share.gpus for share in client_shares(config))
    on_cpu = closed or config.device == "cpu"
    if asked and config.backend != "cohort" and on_cpu:
        yield note(
            "device",
            "--gpus-per-client reserves GPUs, and clients compute on the CPU",
            "leave --gpus-per-client out" if closed else "add --device cuda, or leave it out",
        )
    if asked and config.backend == "cohort":
        yield note(
            "shares",
            "--gpus-per-client has no effect in one process (--backend cohort)",
            "use --backend ray",
        )
    if count and on_cpu and not closed:
        yield note(
            "device", f"torch sees {count} GPUs, and this run uses none", "add --device cuda"
        )


def _why_none(build: str | None) -> Finding:
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    if build is None:
        if shutil.which("nvidia-smi"):
            return note(
                "gpus",
                "a driver is installed, and this build of torch has no CUDA",
                "install a build of torch with CUDA (pytorch.org names the command)",
            )
        return ok("gpus", "none; this build of torch has no CUDA")
    if hidden is not None and hidden.strip() in ("", "-1"):
        return note("gpus", f"hidden by CUDA_VISIBLE_DEVICES={hidden!r}", "unset it")
    return ok("gpus", "none that torch sees")
