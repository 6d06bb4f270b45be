"""The reproduction of the EF-BV curves: its loop, its files, its report."""

import random
import subprocess
import sys
from dataclasses import replace
from math import log

import pytest
import torch
from safetensors.torch import load_file

from fedstrategies.experiment import runner
from fedstrategies.experiment.efbv_config import EFBVConfig
from fedstrategies.experiment.history import read_history
from fedstrategies.flower.control import Response
from simulations.reproduce.efbv.__main__ import main
from simulations.reproduce.efbv.curve import read_curve
from simulations.reproduce.efbv.flow import compute_flow
from simulations.reproduce.efbv.instance import METHODS, load_instance
from simulations.reproduce.efbv.loop import Loop
from simulations.reproduce.efbv.pairs import read_pairs
from simulations.reproduce.efbv.race import race

ROWS, DIMENSION = 40, 6


@pytest.fixture
def data(tmp_path):
    """A folder with one LIBSVM file, full of ties."""
    draw = random.Random(0)
    lines = []
    for row in range(ROWS):
        entries = " ".join(f"{j}:{draw.choice((-1, 1))}" for j in range(1, DIMENSION + 1))
        lines.append(f"{1 + (row % 3 == 0)} {entries}")
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "tiny").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture
def command(data, tmp_path):
    def run(*options):
        return main(
            [
                f"--data={data}",
                "--only=tiny",
                "--xi=1,2",
                "--every=10",
                f"--out={tmp_path / 'out'}",
                f"--checkpoints={tmp_path / 'checkpoints'}",
                "--no-mushrooms-checks",
                *options,
            ]
        )

    return run


def bits(folder):
    """All points of all curves, but for their seconds."""
    return {
        path.name: [replace(point, seconds=0.0) for point in read_curve(path).points]
        for path in sorted(folder.glob("*.jsonl"))
    }


@pytest.mark.parametrize("xi", [1, 2])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("shift_init", ["gradient", "zero"])
def test_the_loop_is_the_strategy(data, tmp_path, monkeypatch, method, xi, shift_init):
    """Its chunks and the strategy's engine give the same bits; bytes differ by the receipts."""
    monkeypatch.setattr("simulations.reproduce.efbv.instance._CHUNK_BYTES", 8 * DIMENSION * 7)
    instance = load_instance(data / "tiny", xi=xi)
    assert len(instance.chunks) == 6
    loop = Loop(instance, method, shift_init=shift_init)
    points = [loop.measure()]
    for _ in range(30):
        loop.advance()
        points.append(loop.measure())
    runner.run(
        EFBVConfig(
            algorithm=method,
            dataset=str(data / "tiny"),
            clients=ROWS,
            overlap=xi,
            l2=0.001,
            compressor=f"comp:k=1,k_prime={DIMENSION // 2}",
            x0="normal:loc=10",
            shift_init=shift_init,
            rounds=30,
            fstar="solve",
            out=str(tmp_path / "out"),
            quiet=True,
        )
    )
    history = read_history(tmp_path / "out" / "history.jsonl")
    weight = load_file(tmp_path / "out" / "model.safetensors")["weight"]
    assert torch.equal(loop.tensors["x"], weight)
    for point, record in zip(points, history, strict=True):
        control = Response.SIZE * ROWS * point.round
        assert point.uplink_bytes + control == record["uplink_bytes"]
        assert point.gap == pytest.approx(record["gap"], abs=1e-12)
        assert point.grad_norm_sq == pytest.approx(record["grad_norm_sq"], rel=1e-9)
    h = loop.tensors["memory"].mean(dim=0)
    assert torch.allclose(loop.tensors["h"], h, rtol=0, atol=1e-13)


def test_the_paper_counts_32_bits_a_number(data):
    instance = load_instance(data / "tiny")
    dense, zero = Loop(instance, "efbv"), Loop(instance, "efbv", shift_init="zero")
    counted = []
    for _ in range(3):
        counted.append((dense.bits_per_client, zero.bits_per_client))
        dense.advance()
        zero.advance()
    assert counted == [(0, 0), (32 * DIMENSION, 32), (32 * (DIMENSION + 1), 64)]


def test_a_killed_run_continues_with_the_same_bits(data, tmp_path, monkeypatch):
    def go(name, **options):
        folders = {"curves": tmp_path / name, "checkpoints": tmp_path / name / "state"}
        race(
            load_instance(data / "tiny"),
            rounds=60,
            every=10,
            report=lambda line: None,
            **folders,
            **options,
        )

    go("whole")
    go("parts", budget_seconds=0)
    assert [pair.rounds for pair in read_pairs(tmp_path / "parts")] == [10]

    # Killed while the second method works: its points since the checkpoint are void.
    advance = Loop.advance

    def killed(loop):
        if loop.method == "efbv" and loop.round == 35:
            raise KeyboardInterrupt
        advance(loop)

    with monkeypatch.context() as patch:
        patch.setattr(Loop, "advance", killed)
        with pytest.raises(KeyboardInterrupt):
            go("parts")
    assert read_curve(tmp_path / "parts" / "tiny-xi1-ef21.jsonl").last.round == 40
    with (tmp_path / "parts" / "tiny-xi1-efbv.jsonl").open("a") as stream:
        stream.write('{"round": 4')
    go("parts")
    assert bits(tmp_path / "parts") == bits(tmp_path / "whole")
    for method in METHODS:
        name = f"state/tiny-xi1-{method}.safetensors"
        whole, parts = load_file(tmp_path / "whole" / name), load_file(tmp_path / "parts" / name)
        assert all(torch.equal(whole[key], parts[key]) for key in ("x", "h", "memory"))


def test_the_command_writes_curves_figures_and_page(command, tmp_path, capsys):
    assert command("--rounds=30") == 0
    out = tmp_path / "out"
    assert {path.name for path in (out / "efbv").iterdir()} == {
        "tiny.png",
        *(f"tiny-xi{xi}-{method}.jsonl" for xi in (1, 2) for method in METHODS),
    }
    page = (out / "efbv.md").read_text()
    assert "| tiny | 2 | 30 |" in page
    assert "not attempted" in page
    assert "norm " in capsys.readouterr().out
    before = bits(out / "efbv")

    (out / "efbv.md").unlink()
    assert command("--report-only") == 0
    assert (out / "efbv.md").read_text() == page

    assert command("--rounds=30") == 0
    assert "nothing to do" in capsys.readouterr().out
    assert bits(out / "efbv") == before
    assert command("--rounds=40") == 0
    assert [pair.rounds for pair in read_pairs(out / "efbv")] == [40, 40]


def test_wrong_input_is_one_line(command, tmp_path, capsys):
    def complaint(*options):
        capsys.readouterr()
        assert command("--rounds=10", *options) == 2
        (line,) = capsys.readouterr().err.splitlines()
        return line

    assert "holds no phishing" in complaint("--only=phishing")
    assert "no curves yet" in complaint("--report-only")
    assert not (tmp_path / "out").exists()
    assert command("--rounds=10") == 0
    curve = tmp_path / "out" / "efbv" / "tiny-xi1-efbv.jsonl"
    checkpoint = tmp_path / "checkpoints" / "tiny-xi1-efbv.safetensors"
    curve.unlink()
    assert "lacks the points" in complaint()
    content = checkpoint.read_bytes()
    checkpoint.write_bytes((tmp_path / "checkpoints" / "tiny-xi2-efbv.safetensors").read_bytes())
    assert "another experiment" in complaint()
    checkpoint.write_bytes(content[:100])
    assert "is damaged" in complaint()


def test_efbv_gains_more_than_ef21_with_a_thousand_clients():
    """The first 200 of the 2,000 rounds of docs/results/efbv.md, from gradient shifts."""
    instance = load_instance("mushrooms", clients=1000, x0="normal:loc=10")
    reductions = {}
    for method in METHODS:
        loop = Loop(instance, method)
        start = loop.measure().gap
        for _ in range(200):
            loop.advance()
        reductions[method] = log(start / loop.measure().gap)
    steps = instance.theory("efbv").gamma / instance.theory("ef21").gamma
    assert steps == pytest.approx(1.3411, abs=1e-4)
    assert reductions["efbv"] / reductions["ef21"] == pytest.approx(steps, rel=0.01)


def test_the_flow_foretells_the_loop(data):
    (here,) = (
        g for g in compute_flow(data / "tiny", rounds=20) if (g.x0[-2:], g.factor) == ("10", 1)
    )
    instance = load_instance(data / "tiny")
    for method, foretold in (("ef21", here.ef21), ("efbv", here.efbv)):
        loop = Loop(instance, method)
        for _ in range(20):
            loop.advance()
        start = Loop(instance, method).measure().gap
        assert start - loop.measure().gap == pytest.approx(start - foretold, rel=0.05)


def test_it_imports_without_flower():
    forbid = "import sys; sys.modules['flwr'] = sys.modules['ray'] = None; "
    code = forbid + "import simulations.reproduce.efbv.__main__"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
