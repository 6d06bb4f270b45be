"""Forward and backward pass of a dense network for clients with equally many examples.

With the activations a_0 (the features), z_l = a_{l-1} W_l^T + b_l and a_l = phi_l(z_l), row by
row, and s_l the slopes of a client's loss in z_l,

    grad W_l = s_l^T a_{l-1},   grad b_l = sum of the rows of s_l,
    s_{l-1} = (s_l W_l) * phi_{l-1}'(z_{l-1}),

    s_L = (softmax(z_L) - e_t)/B for the cross-entropy,  2 (z_L - t)/(B K) for the squares.

numpy's matmul makes one BLAS call a client, and its elementwise functions give a number the same
bits wherever it stands. (torch's batched products do not keep this promise, nor does its sigmoid,
which treats the last few numbers of an array apart.) So a client's bits do not depend on who else
is in the call, with a fixed number of BLAS threads: see `fedstrategies.threads`.
"""

from __future__ import annotations

from math import pi, sqrt
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from fedstrategies.objectives.dense_network import Affine, DenseNetwork, Elementwise

__all__ = ["Numbers", "scores", "values", "values_and_gradients"]

Numbers: TypeAlias = npt.NDArray[Any]


def scores(network: DenseNetwork, points: Numbers, features: Numbers) -> Numbers:
    """z_L of every example.

    Parameters
    ----------
    network : DenseNetwork
        The model.
    points : ndarray
        Shape (C, d): each client's trained parameters.
    features : ndarray
        Shape (C, B, inputs).

    Returns
    -------
    ndarray
        Shape (C, B, K).
    """
    with np.errstate(all="ignore"):
        return _forward(network, points, features)[-1]


def values(network: DenseNetwork, points: Numbers, features: Numbers, targets: Numbers) -> Numbers:
    """Mean loss of each client: shape (C,); parameters as in `values_and_gradients`."""
    with np.errstate(all="ignore"):
        return _losses(network, _forward(network, points, features)[-1], targets)[0]


def values_and_gradients(
    network: DenseNetwork, points: Numbers, features: Numbers, targets: Numbers, gradients: Numbers
) -> Numbers:
    """Mean loss of each client, its gradient written into ``gradients``.

    Parameters
    ----------
    network : DenseNetwork
        The model.
    points : ndarray
        Shape (C, d): each client's trained parameters.
    features : ndarray
        Shape (C, B, inputs).
    targets : ndarray
        Classes int64 (C, B), or (C, B, K).
    gradients : ndarray
        Shape (C, d), overwritten.

    Returns
    -------
    ndarray
        Shape (C,).
    """
    # A diverging run overflows here; its caller looks at the values, a warning adds nothing.
    with np.errstate(all="ignore"):
        activations = _forward(network, points, features)
        losses, slopes = _losses(network, activations[-1], targets)
        _backward(network, points, activations, slopes, gradients)
    return losses


def _forward(network: DenseNetwork, points: Numbers, features: Numbers) -> list[Numbers]:
    """What goes into each step, and what comes out of the last."""
    activations = [features]
    for step in network.steps:
        signal = activations[-1]
        if isinstance(step, Affine):
            output = np.matmul(signal, _weight(step, points).swapaxes(-1, -2))
            if step.bias is not None:
                output += _vector(step.bias, points)
            activations.append(output)
        else:
            activations.append(_apply(step, signal))
    return activations


def _backward(
    network: DenseNetwork,
    points: Numbers,
    activations: list[Numbers],
    slopes: Numbers,
    gradients: Numbers,
) -> None:
    lowest = next(i for i, s in enumerate(network.steps) if isinstance(s, Affine) and s.trained)
    for index in range(len(network.steps) - 1, lowest - 1, -1):
        step = network.steps[index]
        if not isinstance(step, Affine):
            slopes *= _derivative(step, activations[index], activations[index + 1])
            continue
        if isinstance(step.weight, slice):
            out = gradients[:, step.weight].reshape(-1, step.outputs, step.inputs)
            np.matmul(slopes.swapaxes(-1, -2), activations[index], out=out)
        if isinstance(step.bias, slice):
            np.sum(slopes, axis=1, out=gradients[:, step.bias])
        if index > lowest:
            slopes = np.matmul(slopes, _weight(step, points))


def _weight(step: Affine, points: Numbers) -> Numbers:
    if isinstance(step.weight, slice):
        return points[:, step.weight].reshape(-1, step.outputs, step.inputs)
    # One matrix for all, but a product for each.
    return np.broadcast_to(step.weight.numpy(), (len(points), step.outputs, step.inputs))


def _vector(place: slice | torch.Tensor, points: Numbers) -> Numbers:
    return points[:, None, place] if isinstance(place, slice) else np.asarray(place.numpy())


def _losses(network: DenseNetwork, output: Numbers, targets: Numbers) -> tuple[Numbers, Numbers]:
    """Mean losses (C,) and their slopes (C, B, K) in the scores."""
    rows = output.shape[1]
    if network.loss == "squares":
        slopes = output - targets
        losses = np.square(slopes).reshape(len(slopes), -1).sum(axis=1)
        slopes *= 2.0 / (rows * output.shape[2])
        return losses / (rows * output.shape[2]), slopes
    shifted = output - output.max(axis=2, keepdims=True)
    # One row of scores an example, of all clients; a view.
    flat = shifted.reshape(-1, shifted.shape[2])
    where = np.arange(len(flat)), targets.reshape(-1)
    chosen = flat[where].reshape(targets.shape)
    slopes = np.exp(shifted, out=shifted)
    normaliser = slopes.sum(axis=2, keepdims=True)
    losses = (np.log(normaliser[:, :, 0]) - chosen).sum(axis=1) / rows
    slopes /= normaliser
    flat[where] -= 1.0
    slopes /= rows
    return losses, slopes


def _apply(function: Elementwise, signal: Numbers) -> Numbers:
    if function == "relu":
        return np.maximum(signal, 0.0)
    if function == "tanh":
        return np.tanh(signal)
    if function == "sigmoid":
        return 1.0 / (1.0 + np.exp(-signal))
    return signal * _normal_distribution(signal)


def _derivative(function: Elementwise, signal: Numbers, output: Numbers) -> Numbers:
    """phi'(z), by z and phi(z)."""
    if function == "relu":
        return output > 0.0
    if function == "tanh":
        return 1.0 - output * output
    if function == "sigmoid":
        return output * (1.0 - output)
    density = np.exp(-0.5 * signal * signal) * (1.0 / sqrt(2.0 * pi))
    return _normal_distribution(signal) + signal * density


def _normal_distribution(signal: Numbers) -> Numbers:
    """The standard normal distribution function, a client at a time: numpy has no erf."""
    found = np.empty_like(signal)
    for row, one in enumerate(signal):
        found[row] = torch.special.erf(torch.from_numpy(one).mul(sqrt(0.5))).numpy()
    found += 1.0
    found *= 0.5
    return found
