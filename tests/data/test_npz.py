import numpy as np
import pytest
import torch

from fedstrategies.data import DataError, load_dataset, read_npz

FEATURES = np.arange(12.0).reshape(4, 3)
LABELS = np.array([0, 1, 1, 0])


def saved(folder, /, **arrays):
    path = folder / "mine.npz"
    np.savez(path, **arrays)
    return path


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_arrays_come_back(tmp_path, save):
    path = tmp_path / "mine.npz"
    save(path, features=FEATURES, labels=LABELS, groups=np.array(list("baab")))
    data = load_dataset(path)
    assert data.name == "mine"
    assert data.features.dtype == torch.float64
    assert data.features.tolist() == FEATURES.tolist()
    assert data.labels.tolist() == LABELS.tolist()
    assert data.group_names == ("a", "b")
    assert data.image is None


def test_a_file_is_known_by_what_it_holds(tmp_path):
    renamed = saved(tmp_path, features=FEATURES, labels=LABELS).rename(tmp_path / "rows.data")
    assert load_dataset(renamed).features.shape == (4, 3)


@pytest.mark.parametrize(("shape", "image"), [((4, 5, 6), (1, 5, 6)), ((4, 3, 5, 6), (3, 5, 6))])
def test_bytes_are_pixels(tmp_path, shape, image):
    pixels = np.arange(np.prod(shape)).reshape(shape).astype("uint8")
    data = read_npz(
        saved(
            tmp_path,
            features=pixels,
            labels=LABELS,
            test_features=pixels[:2],
            test_labels=LABELS[:2],
        )
    )
    assert data.image == image
    assert data.features.dtype == torch.float32
    np.testing.assert_allclose(data.features.numpy(), pixels.reshape(4, -1) / 255, rtol=1e-6)
    assert data.test is not None
    assert torch.equal(data.test[0], data.features[:2])


@pytest.mark.parametrize(
    ("arrays", "complaint"),
    [
        ({"labels": LABELS}, r"mine.npz: no array 'features'; there are labels; write it with"),
        ({"x": FEATURES, "y": LABELS}, r"no array 'features'; there are x, y"),
        ({"features": FEATURES, "labels": LABELS, "more": LABELS}, "array 'more' is none of"),
        ({"features": FEATURES, "labels": LABELS[:3]}, "mine: 3 labels for 4 rows"),
        ({"features": LABELS, "labels": LABELS}, r"shape \(4,\); \(N, d\), \(N, H, W\)"),
        ({"features": FEATURES, "labels": LABELS, "test_labels": LABELS}, "needs both"),
        (
            {
                "features": FEATURES,
                "labels": LABELS,
                "test_features": FEATURES[:, :2],
                "test_labels": LABELS,
            },
            r"rows of shape \(3,\), test rows of \(2,\)",
        ),
        ({"features": FEATURES, "labels": np.array([0, None] * 2)}, "cannot be read .*pickle"),
    ],
)
def test_files_that_cannot_be_used_are_refused(tmp_path, arrays, complaint):
    with pytest.raises(DataError, match=complaint):
        read_npz(saved(tmp_path, **arrays))


def test_a_damaged_file_is_refused(tmp_path):
    path = saved(tmp_path, features=FEATURES, labels=LABELS)
    whole = path.read_bytes()
    for end in range(0, len(whole), 40):
        path.write_bytes(whole[:end])
        with pytest.raises(DataError):
            load_dataset(path)
    flipped = bytearray(whole)
    flipped[150] ^= 1
    path.write_bytes(bytes(flipped))
    with pytest.raises(DataError, match="cannot be read"):
        read_npz(path)
    with pytest.raises(DataError, match="no such file"):
        read_npz(tmp_path / "nowhere.npz")
