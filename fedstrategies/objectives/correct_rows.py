"""Which examples a module's output classifies correctly."""

from __future__ import annotations

from torch import Tensor

__all__ = ["correct_rows"]


def correct_rows(output: Tensor, targets: Tensor) -> Tensor | None:
    """Where the class that the scores choose is that of the target; None if targets are no classes.

    Parameters
    ----------
    output : Tensor
        (B, K, ...) with K > 1, the largest of the K scores choosing; or one score an example,
        whose sign chooses.
    targets : Tensor
        (B, ...) class numbers, int64; for one score an example 0/1 or -1/+1, of any dtype.

    Returns
    -------
    Tensor or None
        bool, one entry for each target.
    """
    if output.ndim > 1 and output.shape[1] > 1:
        one_class_each = output.shape[:1] + output.shape[2:] == targets.shape
        if not one_class_each or targets.is_floating_point():
            return None
        return output.argmax(dim=1) == targets
    if output.numel() != targets.numel():
        return None
    flat = targets.reshape(-1)
    classes = flat.abs() if bool((flat < 0).any()) else flat
    if not bool(((classes == 1) | ((classes == 0) & (flat.min() >= 0))).all()):
        return None
    return (output.reshape(-1) > 0) == (flat > 0)
