import pytest
import torch

from fedstrategies.data import DataError, binary_labels, class_indices, class_values


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


@pytest.mark.parametrize("values", [(0, 1, 2), (-1.0, 4.0, 7.0), (0.5, 1.5)])
def test_classes_are_numbered_in_ascending_order(values):
    labels = torch.tensor([values[-1], *values, values[0]])
    classes = class_values(labels)
    assert classes.tolist() == list(values)
    assert class_indices(labels, classes).tolist() == [len(values) - 1, *range(len(values)), 0]
    assert class_indices(labels, classes).dtype == torch.int64


@pytest.mark.parametrize(
    ("labels", "complaint"),
    [([3.0, 3.0], r"one label value \(3\)"), ([1.5, 2.0, 3.0], "regression")],
)
def test_labels_that_are_no_classes_are_refused(labels, complaint):
    with pytest.raises(DataError, match=f"^houses.*{complaint}"):
        class_values(torch.tensor(labels), name="houses")


@pytest.mark.parametrize("stranger", [-1, 2, 9])
def test_classes_that_were_not_trained_on_are_refused(stranger):
    with pytest.raises(DataError, match=rf"^test.*\({stranger}\)"):
        class_indices(torch.tensor([1, stranger]), torch.tensor([1, 3]), name="test")
