"""Data: readers, the bundled sets, and who holds which rows."""

from fedstrategies.data.catalogue import BUNDLED, load_dataset
from fedstrategies.data.dataset import Dataset
from fedstrategies.data.errors import DataError
from fedstrategies.data.labels import binary_labels, class_indices, class_values
from fedstrategies.data.libsvm import read_libsvm
from fedstrategies.data.partition import (
    PARTITIONS,
    contiguous_partition,
    iid_partition,
    partition,
    split_test,
)

__all__ = [
    "BUNDLED",
    "PARTITIONS",
    "DataError",
    "Dataset",
    "binary_labels",
    "class_indices",
    "class_values",
    "contiguous_partition",
    "iid_partition",
    "load_dataset",
    "partition",
    "read_libsvm",
    "split_test",
]
