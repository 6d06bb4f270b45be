"""Rows dealt by flwr-datasets' partitioners: every row once, whatever the data and the settings."""

import sys

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from fedstrategies.data import (
    DataError,
    Dataset,
    dataset_from_huggingface,
    dirichlet_partition,
    flwr_partition,
)

datasets = pytest.importorskip("datasets")
partitioners = pytest.importorskip("flwr_datasets.partitioner")

NAMES = tuple("abcdefg")


def rows_of(labels, groups=None):
    return Dataset(
        features=torch.zeros(len(labels), 2),
        labels=torch.tensor(labels),
        name="rows",
        groups=None if groups is None else torch.tensor(groups),
        group_names=() if groups is None else NAMES,
    )


def is_a_partition(parts, count):
    return torch.equal(torch.cat(parts).sort().values, torch.arange(count)) and all(
        len(part) and torch.equal(part, part.sort().values) for part in parts
    )


labelled = st.lists(st.integers(0, 3), min_size=20, max_size=80).filter(lambda x: {0, 1} <= {*x})


@settings(max_examples=25, deadline=None)
@given(labels=labelled, clients=st.integers(1, 6), seed=st.integers(0, 99), kind=st.integers(0, 3))
def test_no_row_is_lost_or_doubled(labels, clients, seed, kind):
    classes = len({*labels})
    partitioner = [
        lambda: partitioners.IidPartitioner(num_partitions=clients),
        lambda: partitioners.DirichletPartitioner(
            num_partitions=clients,
            partition_by="label",
            alpha=1.0,
            min_partition_size=0,
            seed=seed,
        ),
        lambda: partitioners.PathologicalPartitioner(
            num_partitions=clients,
            partition_by="label",
            num_classes_per_partition=min(2, classes),
            class_assignment_mode="deterministic",
            seed=seed,
        ),
        lambda: partitioners.NaturalIdPartitioner(partition_by="label"),
    ][kind]()
    try:
        parts = flwr_partition(partitioner, rows_of(labels))
    except DataError:
        # What a partitioner cannot deal is refused, never dealt in part.
        assume(False)
    assert is_a_partition(parts, len(labels))


@settings(max_examples=25, deadline=None)
@given(groups=st.lists(st.integers(0, 6), min_size=1, max_size=60))
def test_natural_clients_hold_the_rows_of_one_group_each(groups):
    parts = flwr_partition(
        partitioners.NaturalIdPartitioner(partition_by="group"), rows_of([0] * len(groups), groups)
    )
    assert is_a_partition(parts, len(groups))
    held = [{groups[row] for row in part.tolist()} for part in parts]
    assert all(len(one) == 1 for one in held)
    assert set().union(*held) == {*groups}


def test_the_same_partitioner_gives_the_same_rows_again():
    partitioner = partitioners.DirichletPartitioner(
        num_partitions=4, partition_by="label", alpha=0.5, min_partition_size=2, seed=3
    )
    data = rows_of([row % 3 for row in range(90)])
    first, again = flwr_partition(partitioner, data), flwr_partition(partitioner, data)
    assert [part.tolist() for part in first] == [part.tolist() for part in again]
    assert not partitioner.is_dataset_assigned()


def test_it_is_the_partition_that_the_command_line_deals():
    labels = [row % 3 for row in range(90)]
    partitioner = partitioners.DirichletPartitioner(
        num_partitions=4,
        partition_by="label",
        alpha=0.5,
        min_partition_size=10,
        self_balancing=False,
        shuffle=False,
        seed=3,
    )
    ours = dirichlet_partition(torch.tensor(labels), 4, alpha=0.5, seed=3)
    theirs = flwr_partition(partitioner, rows_of(labels))
    assert [part.tolist() for part in ours] == [part.tolist() for part in theirs]


def test_rows_of_a_table_are_those_that_the_partitioner_loads():
    table = datasets.Dataset.from_dict(
        {"x": [float(row) for row in range(60)], "writer": [f"w{row % 7}" for row in range(60)]}
    )
    parts = flwr_partition(partitioners.NaturalIdPartitioner(partition_by="writer"), table)
    assert is_a_partition(parts, 60)
    loaded = partitioners.NaturalIdPartitioner(partition_by="writer")
    loaded.dataset = table
    data = dataset_from_huggingface(table, features=["x"], label="writer")
    for client, part in enumerate(parts):
        own = dataset_from_huggingface(
            loaded.load_partition(client), features=["x"], label="writer"
        )
        assert torch.equal(data.take(part)[0], own.features)
        assert own.class_names == (table["writer"][int(part[0])],)


def test_what_cannot_be_dealt_is_refused(recwarn):
    data = rows_of([0, 1, 2] * 10)
    iid = partitioners.IidPartitioner(num_partitions=31)
    with pytest.raises(DataError, match="IidPartitioner: Index 30 out of range"):
        flwr_partition(iid, data)
    with pytest.raises(DataError, match=r"DirichletPartitioner: .*hue"):
        flwr_partition(
            partitioners.DirichletPartitioner(num_partitions=2, partition_by="hue", alpha=1.0), data
        )
    skewed = partitioners.DirichletPartitioner(
        num_partitions=9, partition_by="label", alpha=0.01, min_partition_size=0, seed=1
    )
    with pytest.raises(DataError, match=r"DirichletPartitioner gives no row to \d clients"):
        flwr_partition(skewed, data)
    few = partitioners.PathologicalPartitioner(
        num_partitions=1, partition_by="label", num_classes_per_partition=2
    )
    with pytest.raises(DataError, match=r"gives 10 of 30 rows to nobody; .*allow_unused=True"):
        flwr_partition(few, data)
    assert len(flwr_partition(few, data, allow_unused=True)[0]) == 20
    with pytest.raises(DataError, match="deals columns, not rows"):
        flwr_partition(
            partitioners.VerticalEvenPartitioner(num_partitions=2, active_party_columns="label"),
            datasets.Dataset.from_dict({"a": [1] * 4, "b": [2] * 4, "label": [0] * 4}),
        )
    assert not recwarn.list
    used = partitioners.IidPartitioner(num_partitions=2)
    used.dataset = datasets.Dataset.from_dict({"a": [1, 2]})
    with pytest.raises(DataError, match="IidPartitioner has its data already"):
        flwr_partition(used, data)
    taken = datasets.Dataset.from_dict({"__row__": [1, 2]})
    with pytest.raises(DataError, match="no column of the data may be called '__row__'"):
        flwr_partition(partitioners.IidPartitioner(num_partitions=2), taken)
    with pytest.raises(DataError, match="rows of a DatasetDict cannot be dealt; give one split"):
        flwr_partition(
            partitioners.IidPartitioner(num_partitions=2), datasets.DatasetDict(train=taken)
        )


def test_without_datasets_the_extra_is_named(monkeypatch):
    partitioner = partitioners.IidPartitioner(num_partitions=2)
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match=r'pip install "fedstrategies\[data\]"'):
        flwr_partition(partitioner, rows_of([0, 1]))


def test_rows_with_several_labels_can_be_dealt_by_number():
    data = Dataset(features=torch.zeros(6, 2), labels=torch.zeros(6, 4), name="text")
    parts = flwr_partition(partitioners.IidPartitioner(num_partitions=3), data)
    assert is_a_partition(parts, 6)
