"""Sums of clipped per-example gradients of any torch module, through Opacus."""

from __future__ import annotations

import warnings
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from fedstrategies.objectives import TorchObjective
from fedstrategies.objectives.dense_network import altered
from fedstrategies.privacy.accountant import opacus_module
from fedstrategies.privacy.clipping import clip_factors
from fedstrategies.privacy.errors import PrivacyError

__all__ = ["check_module", "clipped_module_mean"]

# Per-example gradients of a chunk take at most about this much memory (activations come on top).
_CHUNK_BYTES = 64 * 2**20
_FIX = "opacus.validators.ModuleValidator.fix(module) replaces what it can"


def check_module(module: nn.Module) -> None:
    """Whether Opacus can tell the examples of a batch apart in this module.

    Raises
    ------
    PrivacyError
        With its validator's message and the fix, if it cannot; if the module is not in training
        mode, where Opacus records no gradients; or if Opacus is not installed.
    """
    validators = opacus_module("validators")
    # One complaint a layer; the layers are named below.
    complaints = validators.ModuleValidator.validate(module)
    found = list(dict.fromkeys(_in_one_line(error) for error in complaints))
    # The validator asks trainable layers only; statistics of the batch couple frozen ones too.
    coupled = [
        name or type(layer).__name__
        for name, layer in module.named_modules()
        if isinstance(layer, _BatchNorm) and (layer.training or layer.running_mean is None)
    ]
    if not found and coupled:
        found = ["BatchNorm makes each example depend on the others of its batch"]
    if altered(module.modules()):
        raise PrivacyError(
            f"{type(module).__name__} has no private gradients: it has hooks of the user's or a "
            "replaced forward, which Opacus does not see; remove them"
        )
    if not module.training:
        raise PrivacyError(
            f"{type(module).__name__} has no private gradients: {'; '.join(found)}; "
            "call module.train() first"
        )
    if found:
        where = f" (at {', '.join(coupled)})" if coupled else ""
        raise PrivacyError(
            f"{type(module).__name__} has no private gradients: {'; '.join(found)}{where}; {_FIX}"
        )


def clipped_module_mean(
    objective: TorchObjective,
    x: Tensor,
    rows: Tensor,
    *,
    max_norm: float,
    divisor: float,
    coordinates: Tensor | None = None,
    key: Tensor | None = None,
) -> Tensor:
    """``(1/B) sum_{j in rows} clip_C(grad loss_j(x))``, without the regulariser.

    Clipping is joint over all coordinates, or over ``coordinates``. The module is copied for
    the call: Opacus leaves hooks in what it works on, and clients share modules. Examples go
    through in chunks whose gradients fit into 64 MiB, at most ``objective.chunk_size`` of them.

    Parameters
    ----------
    objective : TorchObjective
        Its module has passed `check_module`; its loss is the mean of losses of single examples.
        (Should another be used, clipping still bounds what the gradients add up to, but an
        example that changes the gradients of others is not protected.)
    x : Tensor
        Shape (d,).
    rows : Tensor
        int64 row numbers, shape (b,); there may be none.
    max_norm, divisor : float
        C and B.
    coordinates : Tensor, optional
        bool, shape (d,): what is released; zero elsewhere.
    key : Tensor, optional
        int64, shape (1,): the stream of dropout, which need not be secret.

    Returns
    -------
    Tensor
        Shape (d,), on the device of ``x``.

    Raises
    ------
    PrivacyError
        If a layer has no per-example gradients.
    """
    total = torch.zeros(objective.dimension, dtype=x.dtype, device=objective.device)
    if not len(rows):
        return total.to(x.device)
    module = deepcopy(objective.module).to(objective.device)
    parameters = _place(objective, module, x)
    try:
        hooked: Any = opacus_module("grad_sample").GradSampleModule(module, loss_reduction="mean")
    except NotImplementedError as error:
        raise PrivacyError(
            f"{type(module).__name__} has no private gradients: {_in_one_line(error)}; {_FIX}"
        ) from error
    released = None
    if coordinates is not None:
        released = coordinates.to(objective.device)
    with torch.enable_grad(), objective.random_draws(key), warnings.catch_warnings():
        # Opacus hooks the first layer, whose input needs no gradient; torch warns of that.
        warnings.filterwarnings("ignore", "Full backward hook is firing", UserWarning)
        for chunk in torch.split(rows, _chunk_length(objective, x)):
            features, targets = objective.examples.take(chunk, objective.device)
            torch.autograd.backward(objective.loss(hooked(features), targets))
            total += _clipped_sum(parameters, len(chunk), max_norm, released)
            hooked.zero_grad(set_to_none=True)
    return (total / divisor).to(x.device)


def _place(objective: TorchObjective, module: nn.Module, x: Tensor) -> list[nn.Parameter]:
    """Write x into the module's trainable parameters; they are given back in x's order."""
    found = dict(module.named_parameters())
    for parameter in found.values():
        parameter.requires_grad_(False)
    parts = objective.layout.unflatten(x.detach().to(objective.device))
    with torch.no_grad():
        for name, part in parts.items():
            found[name].copy_(part)
            found[name].requires_grad_(True)
    return [found[name] for name in parts]


def _clipped_sum(
    parameters: list[nn.Parameter], count: int, max_norm: float, released: Tensor | None
) -> Tensor:
    """Sum of the clipped gradients of one chunk: shape (d,)."""
    parts, start = [], 0
    for parameter in parameters:
        gradients: Tensor | None = getattr(parameter, "grad_sample", None)
        if gradients is None:
            gradients = parameter.new_zeros((count, *parameter.shape))
        flat = gradients.detach().reshape(count, -1)
        if released is not None:
            flat = flat * released[start : start + flat.shape[1]].to(flat.dtype)
        parts.append(flat)
        start += flat.shape[1]
    squares = [torch.linalg.vector_norm(part, dim=1, dtype=torch.float64) ** 2 for part in parts]
    norms = torch.stack(squares).sum(dim=0).sqrt()
    factors = clip_factors(norms, max_norm).to(parts[0].dtype)
    if not bool(torch.isfinite(norms).all()):
        # 0 times infinity is not a number.
        parts = [part.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0) for part in parts]
    return torch.cat([factors @ part for part in parts])


def _chunk_length(objective: TorchObjective, x: Tensor) -> int:
    fitting = max(1, _CHUNK_BYTES // (objective.dimension * x.element_size()))
    return min(fitting, objective.chunk_size or fitting)


def _in_one_line(error: Exception) -> str:
    """The first two sentences of a validator's message, which may be a page."""
    return ". ".join(" ".join(str(error).split()).split(". ")[:2]).rstrip(".")
