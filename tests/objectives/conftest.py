import pytest

from fedstrategies.data import binary_labels, contiguous_partition, load_dataset
from fedstrategies.objectives import LogisticRegression


@pytest.fixture(scope="session")
def mushrooms():
    return load_dataset("mushrooms")


@pytest.fixture(scope="session")
def mushrooms_clients(mushrooms):
    labels = binary_labels(mushrooms.labels)

    def clients(number, l2=0.1):
        return [
            LogisticRegression(features=mushrooms.features[rows], labels=labels[rows], l2=l2)
            for rows in contiguous_partition(len(mushrooms), number)
        ]

    return clients
