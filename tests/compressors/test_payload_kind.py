"""What two payloads must share to be stacked."""

import pytest
import torch

from fedstrategies.compressors import Cast, Payload


def test_rounded_values_of_different_dtypes_are_of_different_kinds() -> None:
    keys = torch.zeros(1, dtype=torch.int64)
    wide = Cast(dtype="bfloat16").compress(torch.ones((1, 3), dtype=torch.float64), keys)
    narrow = Cast(dtype="bfloat16").compress(torch.ones((1, 3), dtype=torch.float32), keys)
    assert wide.kind != narrow.kind
    with pytest.raises(ValueError, match="different kinds"):
        Payload.stack([wide, narrow])
