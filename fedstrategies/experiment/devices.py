"""Where objectives compute: ``--device``, in the process that builds them."""

from __future__ import annotations

import torch

from fedstrategies.experiment.options import ConfigError

__all__ = ["device_of"]


def device_of(name: str) -> torch.device:
    """The device that ``--device`` means in this process.

    Parameters
    ----------
    name : str
        ``cpu``, ``cuda``, ``cuda:1``, ...; ``auto``: the first CUDA device if there is one.

    Raises
    ------
    ConfigError
        If torch sees no such device.
    """
    if name == "cpu":
        return torch.device("cpu")
    visible = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        return torch.device("cuda", 0) if visible else torch.device("cpu")
    device = torch.device(name)
    index = device.index or 0
    if index >= visible:
        build = torch.version.cuda
        why = (
            f"it sees {visible} CUDA devices (numbered from 0)"
            if visible
            else f"it was built for CUDA {build} and sees no device: look at the driver and at "
            "CUDA_VISIBLE_DEVICES"
            if build
            else "this build of it has no CUDA: install one that has"
        )
        raise ConfigError(f"device: {name} is not there for torch {torch.__version__}; {why}")
    return torch.device("cuda", index)
