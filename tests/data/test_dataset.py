import pytest
import torch

from fedstrategies.data import DataError, Dataset


def test_a_row_of_text_is_no_vector():
    rows = torch.zeros(3, 4, 5)
    assert Dataset(features=rows[:, :, 0], labels=torch.zeros(3), name="a").dimension == 4
    with pytest.raises(DataError, match=r"a: rows of shape \(4, 5\)"):
        _ = Dataset(features=rows, labels=torch.zeros(3), name="a").dimension


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({"labels": torch.zeros(2)}, "a: 2 labels for 3 rows"),
        ({"groups": torch.zeros(2, dtype=torch.int64)}, r"groups of shape \(2,\) for 3 rows"),
        ({"groups": torch.tensor([0, 1, 2]), "group_names": ("x", "y")}, "none of the 2 named"),
        ({"groups": torch.tensor([0, -1, 1]), "group_names": ("x", "y")}, "none of the 2 named"),
    ],
)
def test_parts_that_do_not_fit_are_refused(given, complaint):
    with pytest.raises(DataError, match=complaint):
        Dataset(**{"features": torch.zeros(3, 1), "labels": torch.zeros(3), "name": "a", **given})
