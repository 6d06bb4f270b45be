import bz2
import gzip
import lzma

import pytest
import torch

from fedstrategies.data import DataError, class_indices, class_values, load_dataset, read_idx
from fedstrategies.data import idx as idx_module

GENERATOR = torch.Generator().manual_seed(0)
IMAGES = torch.randint(256, (5, 3, 4), dtype=torch.uint8, generator=GENERATOR)
IMAGES[0, 0, :2] = torch.tensor([0, 255])
LABELS = torch.tensor([7, 0, 3, 3, 9], dtype=torch.uint8)
IMAGES_FILE, LABELS_FILE = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"


def idx(values):
    lengths = b"".join(length.to_bytes(4, "big") for length in values.shape)
    return bytes((0, 0, 8, values.ndim)) + lengths + bytes(values.flatten().tolist())


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "digits"
    path.mkdir()
    (path / IMAGES_FILE).write_bytes(idx(IMAGES))
    (path / LABELS_FILE).write_bytes(idx(LABELS))
    return path


def test_pixels_become_rows_in_the_unit_interval(folder):
    dataset = load_dataset(folder)
    assert dataset.features.shape == (5, 12)
    assert dataset.features.dtype == torch.float32
    assert torch.equal(dataset.features.reshape(5, 3, 4), IMAGES.to(torch.float32) / 255)
    assert dataset.features[0, :2].tolist() == [0.0, 1.0]
    assert dataset.labels.dtype == torch.int64
    assert dataset.labels.tolist() == LABELS.tolist()
    assert dataset.image == (1, 3, 4)
    assert dataset.name == "digits"
    assert dataset.test is None
    assert read_idx(folder, name="mine").name == "mine"
    classes = class_values(dataset.labels)
    assert class_indices(dataset.labels, classes).tolist() == [2, 0, 1, 1, 3]


@pytest.mark.parametrize(
    ("suffix", "pack"), [(".gz", gzip.compress), (".xz", lzma.compress), (".bz2", bz2.compress)]
)
def test_packed_files_and_the_test_split(folder, suffix, pack):
    (folder / f"t10k-images-idx3-ubyte{suffix}").write_bytes(pack(idx(IMAGES[:2])))
    (folder / f"t10k-labels-idx1-ubyte{suffix}").write_bytes(pack(idx(LABELS[1:3])))
    (folder / f"{IMAGES_FILE}{suffix}").write_bytes(pack((folder / IMAGES_FILE).read_bytes()))
    (folder / IMAGES_FILE).unlink()
    dataset = load_dataset(folder)
    assert dataset.features.shape == (5, 12)
    features, labels = dataset.test
    assert torch.equal(features, dataset.features[:2])
    assert labels.tolist() == [0, 3]


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "begins with nothing, not with 00 00 08 03"),
        (b"\x00\x00\x08\x03\x00\x00", "begins with 00 00 08 03"),
        (idx(LABELS) + bytes(12), "begins with 00 00 08 01, not with 00 00 08 03"),
        (b"\x00\x00\x0d\x03" + bytes(12), "begins with 00 00 0d 03"),
        (idx(IMAGES)[:-1], "ends after 59 of 60 values"),
        (idx(IMAGES) + b"\x00", "goes on after the 60 values"),
        (idx(IMAGES[:0]), "holds 0 x 3 x 4 values, hence none"),
        (b"\x00\x00\x08\x03" + b"\xff" * 12, "above the limit of 16 GiB"),
        (b"\x00\x00\x08\x03" + b"\x00\x00\xff\xff\x00\x00\x02\x00\x00\x00\x00\x40", "ends after 0"),
        (gzip.compress(idx(IMAGES), mtime=0)[:-9], "cannot be read"),
        (b"\x1f\x8b\x08" + b"garbage" * 5, "cannot be read"),
    ],
)
def test_a_file_that_is_not_what_it_says_is_one_clear_line(folder, content, complaint):
    (folder / IMAGES_FILE).write_bytes(content)
    with pytest.raises(DataError, match=complaint) as caught:
        load_dataset(folder)
    assert str(caught.value).startswith(f"{folder / IMAGES_FILE}: ")
    assert "\n" not in str(caught.value)


def test_a_false_header_does_not_make_it_allocate(folder, monkeypatch):
    asked = []

    class Stream:
        def read(self, size):
            asked.append(size)
            return b""

    with pytest.raises(DataError, match="ends after 0 of 4000000000 values"):
        idx_module._exactly(Stream(), folder, 4_000_000_000)
    assert max(asked) <= 2**24


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({LABELS_FILE: None}, f"no {LABELS_FILE} in it"),
        ({LABELS_FILE: LABELS[:4]}, "5 train images, 4 labels"),
        ({"t10k-images-idx3-ubyte": IMAGES}, "no t10k-labels-idx1-ubyte in it"),
        ({"t10k-labels-idx1-ubyte": LABELS}, "no t10k-images-idx3-ubyte in it"),
        (
            {
                "t10k-images-idx3-ubyte": IMAGES.transpose(1, 2),
                "t10k-labels-idx1-ubyte": LABELS,
            },
            "training images are 3 x 4 pixels, test images 4 x 3",
        ),
    ],
)
def test_files_that_do_not_fit_each_other_are_refused(folder, change, complaint):
    for file, values in change.items():
        if values is None:
            (folder / file).unlink()
        else:
            (folder / file).write_bytes(idx(values.contiguous()))
    with pytest.raises(DataError, match=complaint) as caught:
        load_dataset(folder)
    assert str(caught.value).startswith(f"{folder}: ")


def test_a_folder_without_images_is_refused(tmp_path):
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(DataError, match=str(path)):
            read_idx(path)
