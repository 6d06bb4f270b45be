"""The networks for images through ``--model``: start points, chunks, batch statistics."""

import gzip
from pathlib import Path

import pytest
import torch
from torch import nn

from fedstrategies.data import DataError
from fedstrategies.experiment import runner
from fedstrategies.experiment.efbv_config import EFBVConfig
from fedstrategies.experiment.history import read_history
from fedstrategies.experiment.options import ConfigError
from fedstrategies.experiment.problem import load_problem
from fedstrategies.experiment.problem_config import ProblemConfig
from fedstrategies.threads import single_threaded


@pytest.fixture(autouse=True)
def _alone():
    with single_threaded():
        yield


def write_images(folder: Path, split: str, count: int, seed: int) -> None:
    """Grey images of 16 x 16; the class is where the light comes from."""
    draw = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 3
    pixels = torch.randint(100, (count, 16, 16), generator=draw)
    for row, label in enumerate(labels.tolist()):
        pixels[row, 5 * label : 5 * label + 5] += 150
    for kind, values in (("images-idx3", pixels), ("labels-idx1", labels)):
        lengths = b"".join(length.to_bytes(4, "big") for length in values.shape)
        content = bytes((0, 0, 8, values.ndim)) + lengths + bytes(values.flatten().tolist())
        (folder / f"{split}-{kind}-ubyte.gz").write_bytes(gzip.compress(content))


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "light"
    folder.mkdir()
    write_images(folder, "train", 36, seed=0)
    return folder


def config(images, model, **change):
    sizes = {"lenet": 8, "resnet18": 2, "cnn": 2}
    settings = {"dataset": str(images), "clients": 3, "l2": 0.0, "width": sizes[model]}
    return ProblemConfig(model=model, **{**settings, **change})


@pytest.mark.parametrize(
    ("model", "change"),
    [("lenet", {}), ("resnet18", {}), ("resnet18", {"norm": "batch"})],
)
def test_training_lowers_the_loss_on_both_paths_alike(images, tmp_path, model, change):
    settings = {"algorithm": "gd", "rounds": 6, "stepsize": 0.05, "batch_size": 8}
    histories = []
    for fast in ("require", "never"):
        out = tmp_path / fast
        problem = config(images, model, **change)
        shared = {name: getattr(problem, name) for name in ProblemConfig.__dataclass_fields__}
        run = EFBVConfig(**{**shared, **settings}, out=str(out), fast=fast)
        assert runner.run(run).status == "done"
        records = read_history(out / "history.jsonl")
        histories.append([{**record, "seconds": None} for record in records])
    assert histories[0] == histories[1]
    assert histories[0][-1]["loss"] < histories[0][0]["loss"]


@pytest.mark.parametrize("norm", ["group", "batch"])
def test_the_start_has_scales_of_one_and_moves_every_layer(images, norm):
    problem = load_problem(config(images, "resnet18", norm=norm))
    parts = problem.named(problem.start_point)
    scales = [name for name in parts if "norm" in name and name.endswith("weight")]
    shortcuts = [name for name in parts if name.endswith("shortcut.1.weight")]
    assert (len(scales), len(shortcuts)) == (17, 3)
    for name, part in parts.items():
        if name in scales or name in shortcuts:
            assert bool((part == 1).all())
        elif part.ndim == 1:
            assert not bool(part.any())
        else:
            assert part.unique().numel() == part.numel()
    _, gradient = problem.objective(0).value_and_gradient(problem.start_point)
    moved = problem.layout.unflatten(gradient)
    assert all(bool(part.any()) for part in moved.values())


def test_batch_statistics_are_of_training_rows(images):
    write_images(images, "t10k", 12, seed=1)
    problem = load_problem(config(images, "resnet18", norm="batch", test_fraction=0.25))
    x = problem.start_point
    training = problem.objective(1)
    rows = problem.held_out[1]
    features, labels = problem.features[rows], problem.labels[rows]
    # One of the held-out rows after the other: none sees the statistics of another.
    alone = [
        problem.model.objective(features[k : k + 1], labels[k : k + 1], training=training).value(x)
        for k in range(len(rows))
    ]
    held_out = problem.held_out_objective(1)
    torch.testing.assert_close(held_out.value(x), torch.stack(alone).mean())
    by_themselves = problem.model.objective(features, labels)
    assert not torch.isclose(held_out.value(x), by_themselves.value(x))

    # The test rows, by the statistics of all clients' training rows.
    used = torch.unique(torch.cat(problem.shards))
    together = problem.model.objective(problem.features[used], problem.labels[used])
    expected = problem.model.objective(*problem.evaluation, training=together)
    assert problem.accuracy(x) == float(expected.accuracy(x))
    assert len(used) == 36 - sum(map(len, problem.held_out))


def test_normalisation_is_as_asked(images):
    for norm, kind in ((None, nn.GroupNorm), ("group", nn.GroupNorm), ("batch", nn.BatchNorm2d)):
        problem = load_problem(config(images, "resnet18", norm=norm))
        assert isinstance(problem.model.module.stem_norm, kind)
    assert config(images, "resnet18") == config(images, "resnet18", norm="group")


def test_what_does_not_fit_is_refused(images, libsvm_file):
    with pytest.raises(ConfigError, match="norm: lenet has no normalisation"):
        config(images, "lenet", norm="group")
    for model in ("cnn", "lenet", "resnet18"):
        with pytest.raises(DataError, match=f"holds no images; model {model}"):
            load_problem(config(libsvm_file, model))


def test_small_images_are_refused_in_the_name_of_the_data_set():
    pytest.importorskip("sklearn")
    with pytest.raises(DataError, match="digits: images of 8 x 8 are too small"):
        load_problem(ProblemConfig(dataset="digits", model="lenet"))
