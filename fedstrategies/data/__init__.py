"""Data: readers, the bundled sets, and who holds which rows."""

from fedstrategies.data.arrays import dataset_from_numpy
from fedstrategies.data.catalogue import BUNDLED, load_dataset
from fedstrategies.data.cifar import read_cifar10
from fedstrategies.data.dataset import Dataset
from fedstrategies.data.errors import DataError
from fedstrategies.data.feature_partition import features_partition
from fedstrategies.data.frames import dataset_from_pandas
from fedstrategies.data.idx import read_idx
from fedstrategies.data.label_partition import classes_partition, dirichlet_partition
from fedstrategies.data.labels import binary_labels, class_indices, class_values
from fedstrategies.data.libsvm import read_libsvm
from fedstrategies.data.map_style import dataset_from_torch
from fedstrategies.data.natural_partition import natural_partition
from fedstrategies.data.npz import read_npz
from fedstrategies.data.partition import partition
from fedstrategies.data.partition_spec import (
    PARTITION_EXAMPLES,
    PARTITIONS,
    PartitionSpec,
    parse_partition,
)
from fedstrategies.data.partitioner import flwr_partition
from fedstrategies.data.shakespeare import DEFAULT_SEQUENCE_LENGTH, read_shakespeare
from fedstrategies.data.shards import contiguous_partition, iid_partition
from fedstrategies.data.split import split_test
from fedstrategies.data.tables import dataset_from_huggingface
from fedstrategies.data.text import SHAKESPEARE_ALPHABET, encode_text, fold_text

__all__ = [
    "BUNDLED",
    "DEFAULT_SEQUENCE_LENGTH",
    "PARTITIONS",
    "PARTITION_EXAMPLES",
    "SHAKESPEARE_ALPHABET",
    "DataError",
    "Dataset",
    "PartitionSpec",
    "binary_labels",
    "class_indices",
    "class_values",
    "classes_partition",
    "contiguous_partition",
    "dataset_from_huggingface",
    "dataset_from_numpy",
    "dataset_from_pandas",
    "dataset_from_torch",
    "dirichlet_partition",
    "encode_text",
    "features_partition",
    "flwr_partition",
    "fold_text",
    "iid_partition",
    "load_dataset",
    "natural_partition",
    "parse_partition",
    "partition",
    "read_cifar10",
    "read_idx",
    "read_libsvm",
    "read_npz",
    "read_shakespeare",
    "split_test",
]
