"""Masks have exactly the zeros they should, and ties go as they go everywhere here."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedstrategies.pruning import SemiStructured, Unstructured


def few_values(rows: int, columns: int, seed: int) -> torch.Tensor:
    """Scores with many ties."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 4, (rows, columns), generator=generator).float()


def expected(lines: list[list[float]], kept: int) -> list[list[bool]]:
    masks = []
    for line in lines:
        order = sorted(range(len(line)), key=lambda i, line=line: (-line[i], i))
        masks.append([i in order[:kept] for i in range(len(line))])
    return masks


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 6),
    columns=st.integers(1, 12),
    sparsity=st.floats(0.0, 1.0),
    seed=st.integers(0, 2**32 - 1),
)
def test_unstructured_counts_are_exact(rows: int, columns: int, sparsity: float, seed: int) -> None:
    scores = few_values(rows, columns, seed)
    by_row = Unstructured(sparsity=sparsity).mask(scores)
    kept = columns - int(sparsity * columns)
    assert by_row.sum(1).tolist() == [kept] * rows
    assert by_row.tolist() == expected(scores.tolist(), kept)
    whole = Unstructured(sparsity=sparsity, per="matrix").mask(scores)
    kept = scores.numel() - int(sparsity * scores.numel())
    assert whole.view(1, -1).tolist() == expected([scores.flatten().tolist()], kept)


@pytest.mark.parametrize(("kept", "of"), [(2, 4), (4, 8), (1, 4), (3, 4)])
def test_n_of_m_is_exact(kept: int, of: int) -> None:
    scores = few_values(6, 3 * of, seed=of + kept)
    mask = SemiStructured(kept=kept, of=of).mask(scores)
    groups = mask.view(-1, of)
    assert groups.sum(1).tolist() == [kept] * len(groups)
    assert groups.tolist() == expected(scores.view(-1, of).tolist(), kept)


def test_half_precision_and_zeros() -> None:
    scores = torch.tensor([[0.0, -0.0, 0.0, 1.0]], dtype=torch.bfloat16)
    assert SemiStructured().mask(scores).tolist() == [[True, False, False, True]]


def test_specs_and_sparsities() -> None:
    assert (Unstructured(sparsity=0.6).spec, SemiStructured().spec) == ("0.6", "2:4")
    assert SemiStructured(kept=4, of=8).sparsity == 0.5


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="6 inputs are no multiple of 4"):
        SemiStructured().mask(torch.ones(2, 6))
    with pytest.raises(ValueError, match="keeps n of m"):
        SemiStructured(kept=4, of=4)
    with pytest.raises(ValueError, match="between 0 and 1"):
        Unstructured(sparsity=1.5)
    for scores in (torch.ones(3), torch.ones(2, 2, dtype=torch.int64), torch.full((2, 2), -1.0)):
        with pytest.raises(ValueError, match="score"):
            Unstructured(sparsity=0.5).mask(scores)
    with pytest.raises(ValueError, match="not finite"):
        Unstructured(sparsity=0.5).mask(torch.tensor([[1.0, float("nan")]]))
