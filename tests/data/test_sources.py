"""Data as users have it: numpy, pandas, torch and Hugging Face tables, all as one `Dataset`."""

import numpy as np
import pandas
import pytest
import torch
from torch.utils.data import IterableDataset, Subset, TensorDataset

from fedstrategies.data import (
    DataError,
    dataset_from_huggingface,
    dataset_from_numpy,
    dataset_from_pandas,
    dataset_from_torch,
)

datasets = pytest.importorskip("datasets")

ROWS = np.arange(12.0).reshape(6, 2)
TREES = ["oak", "elm", "oak", "ash", "ash", "oak"]
NUMBERS = [2, 1, 2, 0, 0, 2]
NAMES = ("ash", "elm", "oak")


# ------------------------------------------------------------------ numpy


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int64])
@pytest.mark.parametrize("given", ["uint8", "int16", "uint32", "int64"])
def test_features_take_the_dtype_that_is_asked_for(dtype, given):
    data = dataset_from_numpy(ROWS.astype(given), np.arange(6), dtype=dtype)
    assert data.features.dtype == dtype
    assert data.features.tolist() == ROWS.tolist()


def test_arrays_are_copied():
    rows, labels = ROWS.astype("float32"), np.arange(6)
    data = dataset_from_numpy(rows, labels)
    rows[:], labels[:] = -1, -1
    assert data.features.min() == 0
    assert data.labels.tolist() == list(range(6))


def test_images_keep_their_shape():
    images = np.zeros((4, 3, 8, 8), dtype=np.uint8)
    assert dataset_from_numpy(images, np.arange(4)).features.shape == (4, 3, 8, 8)


@pytest.mark.parametrize(
    ("labels", "dtype", "found"),
    [
        (np.array([0, 1, 1]), torch.int64, [0, 1, 1]),
        (np.array([False, True, True], dtype=bool), torch.int64, [0, 1, 1]),
        (np.array([1, 2, 3], dtype="uint8"), torch.int64, [1, 2, 3]),
        (np.array([0.5, -1.0, 2.0]), torch.float32, [0.5, -1.0, 2.0]),
        (np.array([[1, 2], [3, 4], [5, 6]]), torch.int64, [[1, 2], [3, 4], [5, 6]]),
    ],
)
def test_labels_are_classes_or_targets(labels, dtype, found):
    data = dataset_from_numpy(np.zeros((3, 1)), labels)
    assert (data.labels.dtype, data.labels.tolist(), data.class_names) == (dtype, found, ())


@pytest.mark.parametrize("kind", [str, object])
def test_texts_become_classes_with_names(kind):
    data = dataset_from_numpy(ROWS, np.array(TREES, dtype=kind))
    assert (data.labels.tolist(), data.class_names) == (NUMBERS, NAMES)


def test_the_test_split_has_the_classes_of_training():
    held_out = np.ones((2, 2)), np.array(["oak", "ash"])
    data = dataset_from_numpy(ROWS, np.array(TREES), test=held_out)
    assert data.test is not None
    assert data.test[0].dtype == torch.float32
    assert data.test[1].tolist() == [2, 0]
    with pytest.raises(DataError, match=r"arrays \(test\) has labels that no .* \(beech\)"):
        dataset_from_numpy(
            ROWS, np.array(TREES), test=(np.ones((2, 2)), np.array(["oak", "beech"]))
        )
    with pytest.raises(DataError, match=r"\(test\): 2 labels for 3 rows"):
        dataset_from_numpy(ROWS, np.arange(6), test=(np.ones((3, 2)), np.arange(2)))


@pytest.mark.parametrize("groups", [np.array([7, 3, 7, 7, 3, 9]), np.array(list("babbac"))])
def test_groups_are_numbered_in_sorted_order(groups):
    data = dataset_from_numpy(ROWS, np.arange(6), groups=groups)
    assert data.groups is not None
    assert data.groups.tolist() == [1, 0, 1, 1, 0, 2]
    assert data.group_names == tuple(map(str, sorted(set(groups.tolist()))))


NAN = np.array([[0.0, 1], [np.nan, 1], [2, np.inf]])


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"features": np.zeros(3)}, r"features of shape \(3,\); one row an example"),
        ({"features": NAN}, "2 row.* features that are not finite, the first is row 1"),
        ({"features": np.array([["a"], ["b"], ["c"]])}, "dtype <U1 are not numbers; encode"),
        ({"features": np.zeros((3, 1), dtype=complex)}, "complex128 are not numbers"),
        ({"features": np.array([[1], [2, 3], [4]], dtype=object)}, "object are not numbers"),
        ({"features": np.zeros((4, 1))}, "arrays: 3 labels for 4 rows"),
        ({"labels": np.array([0.0, np.nan, 1.0])}, "1 row.* labels that are not finite.* row 1"),
        ({"labels": np.array(["a", None, "b"], dtype=object)}, "labels must be .* got NoneType"),
        ({"labels": np.array(["2020"] * 3, dtype="datetime64")}, "labels must be .* got date"),
        ({"groups": np.array([0.5, 1.0, 2.0])}, "groups must be whole numbers or texts, got float"),
        ({"groups": np.arange(2)}, r"groups of shape \(2,\) for 3 rows"),
        ({"dtype": torch.float16}, "dtype must be one of torch.float32, .* got torch.float16"),
        ({"features": np.full((3, 1), 0.5), "dtype": torch.int64}, "measurements, not indices"),
    ],
)
def test_arrays_that_cannot_be_used_are_refused(change, complaint):
    given = {"features": np.zeros((3, 1)), "labels": np.arange(3), **change}
    with pytest.raises(DataError, match=complaint):
        dataset_from_numpy(given.pop("features"), given.pop("labels"), **given)


# ------------------------------------------------------------------ pandas


def frame(**columns):
    return pandas.DataFrame({"a": ROWS[:, 0], "b": NUMBERS, "tree": TREES, **columns})


def test_a_frame_has_one_feature_a_column():
    data = dataset_from_pandas(frame(), label="tree")
    assert data.features.tolist() == [
        [a, float(b)] for a, b in zip(ROWS[:, 0], NUMBERS, strict=True)
    ]
    assert (data.labels.tolist(), data.class_names) == (NUMBERS, NAMES)


def test_the_columns_that_are_named_are_the_features_in_that_order():
    whole = frame(wood=list("xyxyxy"), extra=1.0)
    data = dataset_from_pandas(whole, label="b", features=["extra", "a"], group="wood")
    assert data.features[:, 0].tolist() == [1.0] * 6
    assert data.labels.tolist() == NUMBERS
    assert data.group_names == ("x", "y")


@pytest.mark.parametrize("kind", ["Int64", "boolean", "Float32", "bool", "uint8"])
def test_pandas_own_kinds_of_numbers_are_numbers(kind):
    whole = pandas.DataFrame({"a": pandas.array([1, 0, 1], dtype=kind), "y": [0, 1, 0]})
    assert dataset_from_pandas(whole, label="y").features.tolist() == [[1], [0], [1]]
    flipped = pandas.DataFrame({"a": [0.0, 1.0, 2.0], "y": whole["a"]})
    assert dataset_from_pandas(flipped, label="y").labels.tolist() == [1, 0, 1]


@pytest.mark.parametrize("kind", ["str", "string", object])
def test_labels_may_be_texts_of_any_kind(kind):
    data = dataset_from_pandas(frame(tree=pandas.Series(TREES, dtype=kind)), label="tree")
    assert (data.labels.tolist(), data.class_names) == (NUMBERS, NAMES)


def test_categories_keep_their_order_and_those_without_a_row():
    order = ["oak", "yew", "elm", "ash"]
    data = dataset_from_pandas(frame(tree=pandas.Categorical(TREES, order)), label="tree")
    assert data.class_names == tuple(order)
    assert data.labels.tolist() == [order.index(tree) for tree in TREES]


def test_the_index_of_a_frame_does_not_matter():
    shuffled = frame().set_index(pandas.Index([5, 5, 2, 0, 9, 1]))
    assert dataset_from_pandas(shuffled, label="tree").labels.tolist() == NUMBERS


@pytest.mark.parametrize(
    ("change", "options", "complaint"),
    [
        ({}, {"label": "leaf"}, "no column 'leaf'; there are a, b, tree"),
        ({}, {"features": ["a", "c"]}, "no column 'c'"),
        ({}, {"features": ["tree"]}, "column 'tree' is the label or the group"),
        ({}, {"features": []}, "no column of features"),
        ({"c": TREES}, {}, r"column 'c' holds .*; encode .*get_dummies\(frame, columns=\['c'\]\)"),
        ({"c": pandas.Categorical(TREES)}, {}, "column 'c' holds category"),
        ({"c": pandas.Timestamp("2020-01-01")}, {}, "column 'c' holds datetime"),
        ({"c": [1, None, 2, None, 3, 4]}, {}, "'c' has 2 missing .* first in row 1; fill or drop"),
        ({"c": pandas.array([1, None] * 3, dtype="Int64")}, {}, "column 'c' has 3 missing"),
        ({"tree": [None, *TREES[1:]]}, {}, "column 'tree' has 1 missing"),
        ({"c": [1.0, np.inf] * 3}, {}, "3 row.* not finite, the first is row 1"),
        ({"c": [0.5] * 6}, {"group": "c"}, "groups must be whole numbers or texts"),
    ],
)
def test_frames_that_cannot_be_used_are_refused(change, options, complaint):
    with pytest.raises(DataError, match=complaint):
        dataset_from_pandas(frame(**change), **{"label": "tree", **options})


def test_what_is_no_frame_is_refused():
    with pytest.raises(DataError, match=r"a pandas\.DataFrame is needed, got ndarray"):
        dataset_from_pandas(ROWS, label="tree")
    twice = pandas.concat([frame(), frame()[["a"]]], axis=1)
    with pytest.raises(DataError, match="two columns have the same name"):
        dataset_from_pandas(twice, label="tree")
    with pytest.raises(DataError, match="2 columns are called 'a'"):
        dataset_from_pandas(twice, label="a")


# ------------------------------------------------------------------ torch


class Items(torch.utils.data.Dataset):
    def __init__(self, items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, row):
        return self.items[row]


class Stream(IterableDataset):
    def __iter__(self):
        return iter([(torch.zeros(2), 0)])


class Unsized(torch.utils.data.Dataset):
    def __getitem__(self, row):
        return torch.zeros(2), row


def test_tensors_and_items_give_the_same_rows():
    rows, labels = torch.from_numpy(ROWS).float(), torch.tensor(NUMBERS)
    of_tensors = dataset_from_torch(TensorDataset(rows, labels))
    of_items = dataset_from_torch(Items([(rows[i], NUMBERS[i]) for i in range(6)]))
    of_some = dataset_from_torch(Subset(TensorDataset(rows, labels), [4, 1]))
    for data in (of_tensors, of_items):
        assert torch.equal(data.features, rows)
        assert torch.equal(data.labels, labels)
    assert torch.equal(of_some.features, rows[[4, 1]])
    rows.fill_(-1)
    assert of_tensors.features.min() == 0


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        (Stream(), "an IterableDataset, a stream.*; read it into a map-style data set"),
        (Unsized(), "a map-style data set is needed, one with a length"),
        (Items([]), "has no rows"),
        (Items([(torch.zeros(2), 0), (torch.zeros(3), 1)]), "items do not stack .*transform"),
        (Items([torch.zeros(2)] * 3), "items must be pairs"),
        (Items([(torch.zeros(2), 0, 0)] * 3), "items must be pairs"),
        (Items([(torch.zeros(2), "oak")] * 3), "items must be pairs"),
        (Items([{"x": torch.zeros(2), "y": 1}] * 3), "items must be pairs"),
        (Items([(torch.zeros(2, dtype=torch.uint8), 0)] * 3), "dtype torch.uint8; floats"),
        (Items([(1.0, 0)] * 3), "one number, not a vector"),
        (TensorDataset(torch.zeros(3, 2)), "items must be pairs"),
    ],
)
def test_torch_data_sets_that_cannot_be_used_are_refused(source, complaint):
    with pytest.raises(DataError, match=complaint):
        dataset_from_torch(source)


# ------------------------------------------------------------------ Hugging Face


def table(features=None, **columns):
    base = {"a": ROWS[:, 0].tolist(), "b": NUMBERS, "tree": TREES}
    return datasets.Dataset.from_dict({**base, **columns}, features=features)


def test_columns_of_numbers_become_vectors():
    data = dataset_from_huggingface(table(), features=["b", "a"], label="tree", group="tree")
    assert data.features.shape == (6, 2)
    assert data.features[:, 0].tolist() == NUMBERS
    assert (data.labels.tolist(), data.class_names) == (NUMBERS, NAMES)
    assert data.group_names == NAMES


def test_a_column_of_vectors_or_matrices_is_kept_as_it_is():
    vectors = table(v=ROWS.tolist())
    assert dataset_from_huggingface(vectors, features="v", label="b").features.tolist() == (
        ROWS.tolist()
    )
    square = datasets.Features(
        {"m": datasets.Array2D((2, 3), "float32"), "y": datasets.Value("int64")}
    )
    matrices = datasets.Dataset.from_dict(
        {"m": np.arange(24.0).reshape(4, 2, 3).tolist(), "y": [0, 1, 2, 3]}, features=square
    )
    data = dataset_from_huggingface(matrices, features="m", label="y")
    assert data.features.flatten().tolist() == list(range(24))
    assert data.features.shape == (4, 2, 3)


@pytest.mark.parametrize(("mode", "channels"), [("L", 1), ("RGB", 3)])
def test_images_become_channels_of_the_unit_interval(mode, channels):
    from PIL import Image

    pixels = np.arange(2 * 4 * 5 * channels).reshape(2, 4, 5, channels).astype("uint8")
    images = [Image.fromarray(one.squeeze(), mode) for one in pixels]
    shown = datasets.Features(
        {"image": datasets.Image(), "y": datasets.ClassLabel(names=["cat", "dog", "emu"])}
    )
    data = dataset_from_huggingface(
        datasets.Dataset.from_dict({"image": images, "y": [2, 0]}, features=shown),
        features="image",
        label="y",
    )
    assert data.features.shape == (2, channels, 4, 5)
    np.testing.assert_allclose(data.features.numpy(), np.moveaxis(pixels, 3, 1) / 255, rtol=1e-6)
    assert (data.labels.tolist(), data.class_names) == ([2, 0], ("cat", "dog", "emu"))


def test_images_of_different_size_are_refused():
    from PIL import Image

    shown = datasets.Features({"image": datasets.Image(), "y": datasets.Value("int64")})
    images = [Image.new("L", (4, 4)), Image.new("L", (4, 5))]
    both = datasets.Dataset.from_dict({"image": images, "y": [0, 1]}, features=shown)
    with pytest.raises(DataError, match=r"shapes \(4, 4\), \(5, 4\)\); resize and convert"):
        dataset_from_huggingface(both, features="image", label="y")


def test_one_clients_part_has_the_classes_of_all():
    kinds = datasets.Features(
        {"a": datasets.Value("float32"), "y": datasets.ClassLabel(names=["p", "q", "r"])}
    )
    part = datasets.Dataset.from_dict({"a": [0.0, 1.0], "y": [2, 2]}, features=kinds)
    data = dataset_from_huggingface(part, features=["a"], label="y")
    assert (data.labels.tolist(), data.class_names) == ([2, 2], ("p", "q", "r"))


@pytest.mark.parametrize(
    ("given", "options", "complaint"),
    [
        (lambda: table(), {"features": ["c"]}, "no column 'c'; there are a, b, tree"),
        (lambda: table(), {"features": ["a", "tree"], "label": "b"}, "'tree' holds <U3|'tree' hol"),
        (lambda: table(), {"features": "a"}, "'a' does not hold arrays .* name several columns"),
        (lambda: table(), {"features": ["tree"]}, "other than label and group"),
        (lambda: table(), {"features": []}, "other than label and group"),
        (lambda: table(v=[[1.0]] * 5 + [[1.0, 2.0]]), {"features": "v"}, "'v' does not hold"),
        (
            lambda: table(a=[1.0, None, 2.0, 3.0, 4.0, 5.0]),
            {},
            "'a' has 1 missing .* row 1; fill or drop",
        ),
        (lambda: table(a=[1.0, np.nan] * 3), {}, "'a' has 3 missing .* row 1"),
        (lambda: table(a=[1.0, np.inf] * 3), {}, "3 row.* not finite.* row 1"),
        (lambda: table(tree=["a", None] * 3), {}, "'tree' has 3 missing .* row 1"),
        (lambda: table(b=[1, None, 2, 3, 4, 5]), {"label": "b"}, "'b' has 1 missing .* row 1"),
        (lambda: datasets.DatasetDict(train=table()), {}, "holds the splits train; give one"),
        (lambda: table().to_iterable_dataset(), {}, "got IterableDataset; a stream"),
        (lambda: table().select([]), {}, "has no rows"),
        (lambda: ROWS, {}, "a datasets.Dataset is needed, got ndarray"),
    ],
)
def test_tables_that_cannot_be_used_are_refused(given, options, complaint):
    with pytest.raises(DataError, match=complaint):
        dataset_from_huggingface(given(), **{"features": ["a"], "label": "tree", **options})


def test_rows_that_have_no_class_are_refused():
    kinds = datasets.Features(
        {"a": datasets.Value("float32"), "y": datasets.ClassLabel(names=["p", "q"])}
    )
    unlabelled = datasets.Dataset.from_dict({"a": [0.0, 1.0], "y": [-1, 1]}, features=kinds)
    with pytest.raises(DataError, match=r"rows without a label \(class -1\); drop them"):
        dataset_from_huggingface(unlabelled, features=["a"], label="y")
