import pytest
import torch

from fedstrategies.data import DataError, binary_labels


@pytest.mark.parametrize("values", [(1, 2), (0, 1), (-1, 1), (-7.5, 3.25)])
def test_smaller_value_becomes_minus_one(values):
    low, high = values
    labels = binary_labels(torch.tensor([high, low, low, high]))
    assert labels.tolist() == [1, -1, -1, 1]
    assert labels.dtype == torch.float64


@pytest.mark.parametrize(
    ("labels", "found"), [([3, 3], r"1 label value\(s\) \(3\)"), (range(9), r"9 .*3, 4, \.\.\.")]
)
def test_any_other_number_of_classes_is_refused(labels, found):
    with pytest.raises(DataError, match=found):
        binary_labels(torch.tensor(list(labels)), name="digits")
