import bz2
import gzip
import lzma

import pytest
import torch

from fedstrategies.data import DataError, class_values, load_dataset, read_cifar10
from fedstrategies.data import cifar as cifar_module

GENERATOR = torch.Generator().manual_seed(0)
# Batches of unequal sizes: their order and their bounds both show.
SIZES = (2, 1, 3, 1, 2)
PIXELS = torch.randint(256, (9, 3, 32, 32), dtype=torch.uint8, generator=GENERATOR)
PIXELS[0, 0, 0, :2] = torch.tensor([0, 255])
LABELS = torch.tensor([6, 9, 9, 4, 1, 0, 2, 7, 8], dtype=torch.uint8)
FIRST = "data_batch_1.bin"


def batch(rows):
    records = torch.cat([LABELS[rows].unsqueeze(1), PIXELS[rows].flatten(1)], dim=1)
    return bytes(records.flatten().tolist())


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "tiny"
    path.mkdir()
    for number, rows in enumerate(torch.arange(9).split(SIZES), start=1):
        (path / f"data_batch_{number}.bin").write_bytes(batch(rows))
    return path


def test_pixels_become_rows_in_the_unit_interval_in_the_order_of_the_batches(folder):
    dataset = load_dataset(folder)
    assert dataset.features.shape == (9, 3072)
    assert dataset.features.dtype == torch.float32
    assert torch.equal(dataset.features.reshape(9, 3, 32, 32), PIXELS.to(torch.float32) / 255)
    assert dataset.features[0, :2].tolist() == [0.0, 1.0]
    assert dataset.labels.dtype == torch.int64
    assert dataset.labels.tolist() == LABELS.tolist()
    assert dataset.image == (3, 32, 32)
    assert (dataset.name, dataset.test) == ("tiny", None)
    assert read_cifar10(folder, name="mine").name == "mine"
    assert class_values(dataset.labels).tolist() == [0, 1, 2, 4, 6, 7, 8, 9]


@pytest.mark.parametrize(
    ("suffix", "pack"), [(".gz", gzip.compress), (".xz", lzma.compress), (".bz2", bz2.compress)]
)
def test_packed_batches_and_the_test_split(folder, suffix, pack):
    plain = load_dataset(folder)
    (folder / f"{FIRST}{suffix}").write_bytes(pack((folder / FIRST).read_bytes()))
    (folder / FIRST).unlink()
    (folder / f"test_batch.bin{suffix}").write_bytes(pack(batch(torch.tensor([3, 7]))))
    dataset = load_dataset(folder)
    assert torch.equal(dataset.features, plain.features)
    features, labels = dataset.test
    assert torch.equal(features, plain.features[[3, 7]])
    assert labels.tolist() == [4, 7]


def test_a_plain_batch_goes_before_a_packed_one(folder):
    (folder / f"{FIRST}.gz").write_bytes(gzip.compress(batch(torch.tensor([8]))))
    assert load_dataset(folder).labels.tolist() == LABELS.tolist()


WHOLE = batch(torch.arange(2))


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "0 bytes are 0 records of 3073 and 0 more"),
        (WHOLE[:-1], "6145 bytes are 1 records of 3073 and 3072 more"),
        (WHOLE + b"\x00", "6147 bytes are 2 records of 3073 and 1 more"),
        (WHOLE[:3073] + b"\x0a" + WHOLE[3074:], "record 1 has the label 10"),
        (gzip.compress(WHOLE, mtime=0)[:-9], "cannot be read"),
        (lzma.compress(WHOLE)[:-30], "cannot be read"),
        (b"\x1f\x8b\x08" + b"garbage" * 5, "cannot be read"),
    ],
)
@pytest.mark.parametrize("file", [FIRST, "test_batch.bin"])
def test_a_batch_that_is_none_is_one_clear_line(folder, file, content, complaint):
    (folder / file).write_bytes(content)
    with pytest.raises(DataError, match=complaint) as caught:
        load_dataset(folder)
    assert str(caught.value).startswith(f"{folder / file}: ")
    assert "\n" not in str(caught.value)


def test_a_small_file_does_not_fill_the_memory(folder, monkeypatch):
    monkeypatch.setattr(cifar_module, "_MOST_RECORDS", 3)
    asked = []

    class Endless:
        def read(self, size):
            asked.append(size)
            return bytes(size)

    with pytest.raises(DataError, match="more than 3 records"):
        cifar_module._content(Endless(), folder)
    assert len(asked) == 1
    assert max(asked) <= 2**24
    (folder / FIRST).write_bytes(WHOLE * 2)
    with pytest.raises(DataError, match="more than 3 records"):
        load_dataset(folder)


@pytest.mark.parametrize("missing", range(1, 6))
def test_all_five_training_batches_are_needed(folder, missing):
    (folder / f"data_batch_{missing}.bin").unlink()
    with pytest.raises(DataError, match=rf"no data_batch_{missing}\.bin in it") as caught:
        load_dataset(folder)
    assert str(caught.value).startswith(f"{folder}: ")


def test_a_folder_without_batches_is_refused(tmp_path):
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(DataError, match=str(path)):
            read_cifar10(path)
    with pytest.raises(DataError, match=r"neither .* nor data_batch_1\.bin"):
        load_dataset(tmp_path)
