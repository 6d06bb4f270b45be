import bz2
import gzip
import lzma
from pathlib import Path

import numpy as np
import pytest
import torch

import fedstrategies.data
from fedstrategies.data import DataError, load_dataset, read_libsvm

TEXT = b"-1 1:0.5 3:2\n# a comment\n+1 2:-1e-3\n2 1:1 2:1 3:1\n"
FEATURES = torch.tensor([[0.5, 0, 2], [0, -1e-3, 0], [1, 1, 1]], dtype=torch.float64)
LABELS = torch.tensor([-1, 1, 2], dtype=torch.float64)


@pytest.mark.parametrize(
    ("file", "pack"),
    [("a", bytes), ("a.gz", gzip.compress), ("a.xz", lzma.compress), ("a.bz2", bz2.compress)],
)
def test_every_compression_gives_the_same_dense_features(tmp_path, file, pack):
    path = tmp_path / file
    path.write_bytes(pack(TEXT))
    dataset = load_dataset(str(path))
    assert torch.equal(dataset.features, FEATURES)
    assert torch.equal(dataset.labels, LABELS)
    assert dataset.features.dtype == dataset.labels.dtype == torch.float64
    assert dataset.name == "a"
    assert len(dataset) == 3
    assert dataset.dimension == 3
    assert dataset.test is None


def test_compression_is_recognised_by_content_not_by_name(tmp_path):
    path = tmp_path / "a.t.txt"
    path.write_bytes(lzma.compress(TEXT))
    dataset = read_libsvm(path)
    assert torch.equal(dataset.features, FEATURES)
    assert dataset.name == "a.t"
    assert read_libsvm(path, name="mine").name == "mine"


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "is empty"),
        (b"hello world\n", "not LIBSVM"),
        (b"1 2 3\n4 5 6\n", "not LIBSVM"),
        (b"a,b,c\n1,2,3\n", "not LIBSVM"),
        (b"1 3:1 2:1\n", "not LIBSVM"),
        (b"\x89PNG\r\n\x1a\n" + bytes(range(256)), "not LIBSVM"),
        (b"1\n2\n", "no feature"),
        (b"\n\n", "no feature"),
        (b"1 1:nan\n", "not finite"),
        (b"inf 1:1\n", "not finite"),
        (gzip.compress(b"", mtime=0), "is empty"),
        (gzip.compress(TEXT * 50, mtime=0)[:-12], "cannot be read"),
        (lzma.compress(TEXT * 50)[:-12], "cannot be read"),
        (bz2.compress(TEXT * 50)[:-12], "cannot be read"),
        (b"\x1f\x8b\x08" + b"garbage" * 5, "cannot be read"),
        (b"1 1:1\n-1 2000000000:1\n", "above the limit"),
    ],
)
def test_whatever_is_not_libsvm_is_one_clear_line(tmp_path, content, complaint):
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(DataError, match=complaint) as caught:
        load_dataset(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_missing_file_and_directory(tmp_path):
    with pytest.raises(DataError, match=r"nowhere.*no such file.*mushrooms, digits"):
        load_dataset(tmp_path / "nowhere")
    with pytest.raises(DataError, match="no such file"):
        read_libsvm(tmp_path / "nowhere")
    with pytest.raises(DataError, match="is a directory"):
        load_dataset(tmp_path)


def test_missing_scikit_learn_names_the_extra(tmp_path, monkeypatch):
    path = tmp_path / "a"
    path.write_bytes(TEXT)
    monkeypatch.setitem(__import__("sys").modules, "sklearn.datasets", None)
    with pytest.raises(DataError, match=r"fedstrategies\[data\]"):
        load_dataset(path)
    with pytest.raises(DataError, match=r"fedstrategies\[data\]"):
        load_dataset("digits")


def test_bundled_mushrooms():
    dataset = load_dataset("mushrooms")
    assert dataset.features.shape == (8124, 112)
    assert dataset.name == "mushrooms"
    values, counts = torch.unique(dataset.labels, return_counts=True)
    assert values.tolist() == [1, 2]
    assert counts.tolist() == [3916, 4208]
    # Every mushroom has one category for each of 21 attributes, or 22 counting the constant one.
    assert set(torch.unique(dataset.features).tolist()) == {0.0, 1.0}
    np.testing.assert_array_equal(dataset.features.sum(dim=1).unique().numpy(), [21])


def test_the_bundled_file_is_read_as_any_other_libsvm_file():
    ours = load_dataset("mushrooms")
    other = read_libsvm(Path(fedstrategies.data.__file__).with_name("mushrooms.xz"))
    assert ours.name == other.name
    for one, two in ((ours.features, other.features), (ours.labels, other.labels)):
        assert one.dtype == two.dtype
        assert torch.equal(one, two)


def test_digits_are_scaled_to_the_unit_interval():
    dataset = load_dataset("digits")
    assert dataset.features.shape == (1797, 64)
    assert dataset.features.dtype == torch.float64
    assert (dataset.features.min(), dataset.features.max()) == (0.0, 1.0)
    assert dataset.labels.dtype == torch.int64
    assert dataset.labels.unique().tolist() == list(range(10))
