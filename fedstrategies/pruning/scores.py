"""Scores of the weights of a linear layer: what it costs to remove one.

SymWanda prunes W under ``g(V) = ||X (V - W)||_F + ||(V - W) Y||_F``, where the rows of X are
inputs and Y stands on the output side. Removing the single weight from input j to output k costs
exactly

    S_kj = |W_kj| (||X_:j||_2 + ||Y_k:||_2),

and every score here is that with some X and Y, except RIA, which also weighs the column term of
each entry by its input. A layer's weight is ``(out, in)``, as torch stores it; the papers write
its transpose. This file is the only one that has to know: *input* norms belong to columns here,
*output* norms to rows.

Derived anew, where the specification was from memory: a removal changes W by ``-W_kj e_j e_k^T``
(in the papers' orientation), so the first term is ``|W_kj| ||X e_j||`` and the second
``|W_kj| ||e_k^T Y||``; the tests compare with the objective evaluated.

Source: Yi and Richtarik, "Symmetric pruning of large language models" (2025); Sun et al., "A
simple and effective pruning approach for large language models" (Wanda, ICLR 2024); Zhang et al.,
"Plug-and-play" (RIA, ICLR 2024); dissertation arXiv 2509.08233.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fedstrategies.pruning.norms import Subsets, line_norms

__all__ = [
    "relative_importance",
    "ria_scores",
    "stochria_scores",
    "symmetric_scores",
    "symwanda_scores",
    "symwanda_scores_of",
]

# Rows are weighed a block at a time, so that temporaries stay in a core's cache.
_BLOCK = 1 << 16


def symwanda_scores(
    weight: Tensor, *, input_norms: Tensor | None = None, output_norms: Tensor | None = None
) -> Tensor:
    """``|W_kj| (||X_:j||_2 + ||Y_k:||_2)`` from the norms.

    Parameters
    ----------
    weight : Tensor
        Shape (out, in).
    input_norms : Tensor or None
        ``||X_:j||_2``, shape (in,); None: X = 0. Given alone, this is Wanda.
    output_norms : Tensor or None
        ``||Y_k:||_2``, shape (out,); None: Y = 0. Given alone, this is output-side Wanda.

    Returns
    -------
    Tensor
        Shape (out, in), float64 for a float64 weight and float32 for all others.

    Raises
    ------
    ValueError
        If neither is given, or a shape does not fit.
    """
    if input_norms is None and output_norms is None:
        raise ValueError("X = 0 and Y = 0 score nothing; give input_norms or output_norms")
    return _weighed(_matrix(weight), rows=output_norms, columns=input_norms)


def symwanda_scores_of(
    weight: Tensor, *, inputs: Tensor | None = None, outputs: Tensor | None = None
) -> Tensor:
    """``|W_kj| (||X_:j||_2 + ||Y_k:||_2)`` with X and Y given.

    Parameters
    ----------
    weight : Tensor
        Shape (out, in).
    inputs : Tensor or None
        X, shape (a, in); None: 0.
    outputs : Tensor or None
        Y, shape (out, d); None: 0.

    Returns
    -------
    Tensor
        Shape (out, in).

    Raises
    ------
    ValueError
        As `symwanda_scores`.
    """
    return symwanda_scores(
        weight,
        input_norms=None if inputs is None else line_norms(_matrix(inputs), 0, 2.0),
        output_norms=None if outputs is None else line_norms(_matrix(outputs), 1, 2.0),
    )


def symmetric_scores(weight: Tensor) -> Tensor:
    """``|W_kj| (||W_:j||_2 + ||W_k:||_2)``: X and Y are the weight itself.

    Parameters
    ----------
    weight : Tensor
        Shape (out, in).

    Returns
    -------
    Tensor
        Shape (out, in).

    Raises
    ------
    ValueError
        If the weight is no matrix.
    """
    matrix = _matrix(weight)
    return _weighed(matrix, rows=line_norms(matrix, 1, 2.0), columns=line_norms(matrix, 0, 2.0))


def relative_importance(weight: Tensor, *, p: float = 1.0) -> Tensor:
    """``|W_kj| / ||W_:j||_p + |W_kj| / ||W_k:||_p``; a row or column of zeros scores zero.

    The SymWanda score of ``X = diag(1 / ||W_:j||_p)`` and ``Y = diag(1 / ||W_k:||_p)``. Scaling
    the weight changes nothing, transposing it transposes the scores.

    Parameters
    ----------
    weight : Tensor
        Shape (out, in).
    p : float
        Of the norms: at least 1, or infinity.

    Returns
    -------
    Tensor
        Shape (out, in).

    Raises
    ------
    ValueError
        If the weight is no matrix.
    """
    matrix = _matrix(weight)
    rows, columns = line_norms(matrix, 1, p), line_norms(matrix, 0, p)
    return _weighed(matrix, rows=_reciprocal(rows), columns=_reciprocal(columns))


def ria_scores(
    weight: Tensor, *, input_norms: Tensor, exponent: float = 0.5, p: float = 1.0
) -> Tensor:
    """``RI_kj ||X_:j||_2^a``.

    Parameters
    ----------
    weight : Tensor
        Shape (out, in).
    input_norms : Tensor
        ``||X_:j||_2``, shape (in,).
    exponent : float
        a; with 0 this is RI.
    p : float
        Of the norms of RI.

    Returns
    -------
    Tensor
        Shape (out, in).

    Raises
    ------
    ValueError
        If a shape does not fit.
    """
    matrix = _matrix(weight)
    rows, columns = line_norms(matrix, 1, p), line_norms(matrix, 0, p)
    factor = input_norms.to(matrix) ** exponent
    return _weighed(
        matrix, rows=_reciprocal(rows), columns=_reciprocal(columns), column_factor=factor
    )


def stochria_scores(
    weight: Tensor,
    *,
    subsets: Subsets,
    name: str = "",
    input_norms: Tensor | None = None,
    exponent: float = 0.5,
    p: float = 1.0,
) -> Tensor:
    """RI with norms of random subsets: ``|W_kj| (1 / ||W_{S_j, j}||_p + 1 / ||W_{k, S_k}||_p)``.

    Parameters
    ----------
    weight : Tensor
        Shape (out, in).
    subsets : Subsets
        Their share and seed. With a share of 1 this is RI, or RIA, to the bit.
    name : str
        The weight's: two weights of one seed draw independently.
    input_norms : Tensor or None
        ``||X_:j||_2``, shape (in,); scores are multiplied by its power a. The
        publication's formula has no activations, in spite of its name.
    exponent : float
        a.
    p : float
        Of the norms.

    Returns
    -------
    Tensor
        Shape (out, in).

    Raises
    ------
    ValueError
        If a shape does not fit.
    """
    matrix = _matrix(weight)
    rows = subsets.row_norms(matrix, p, name=name)
    columns = subsets.column_norms(matrix, p, name=name)
    scores = _weighed(
        matrix,
        rows=_reciprocal(rows),
        columns=_reciprocal(columns),
        column_factor=None if input_norms is None else input_norms.to(matrix) ** exponent,
    )
    # An entry may be larger than its line's norm where the subset leaves it out.
    return scores.clamp_(max=torch.finfo(scores.dtype).max)


def _matrix(weight: Tensor) -> Tensor:
    """In single or double precision, checked to be a matrix."""
    if weight.dim() != 2:
        raise ValueError(f"a weight of shape {tuple(weight.shape)}; expected (out, in)")
    weight = weight.detach()
    return weight if weight.dtype == torch.float64 else weight.float()


def _reciprocal(norms: Tensor) -> Tensor:
    """1 / norm, finite: what a line of zeros is multiplied by does not matter."""
    return norms.clamp(min=torch.finfo(norms.dtype).tiny).reciprocal_()


def _weighed(
    matrix: Tensor,
    *,
    rows: Tensor | None,
    columns: Tensor | None,
    column_factor: Tensor | None = None,
) -> Tensor:
    """``|W_kj| (columns_j + rows_k) column_factor_j``."""
    outputs, inputs = matrix.shape
    for what, vector, size in (
        ("output norms", rows, outputs),
        ("input norms", columns, inputs),
        ("input norms", column_factor, inputs),
    ):
        if vector is not None and vector.shape != (size,):
            raise ValueError(
                f"{what} of shape {tuple(vector.shape)} for a weight of shape "
                f"{tuple(matrix.shape)}; expected ({size},)"
            )
    scores = matrix.abs()
    step = max(1, _BLOCK // max(1, inputs)) if matrix.device.type == "cpu" else max(1, outputs)
    for start in range(0, outputs, step):
        block = scores[start : start + step]
        if rows is None:
            assert columns is not None
            block *= columns.to(matrix)
            continue
        sums = rows[start : start + step, None].to(matrix)
        if columns is not None:
            sums = sums + columns.to(matrix)
        if column_factor is not None:
            sums = sums * column_factor
        block *= sums
    return scores
