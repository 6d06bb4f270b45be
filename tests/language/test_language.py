"""Loading, texts, perplexity and sparse files."""

from __future__ import annotations

import lzma
import sys
from math import exp, inf
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from fedstrategies.data.errors import DataError
from fedstrategies.language import (
    LanguageModel,
    Perplexity,
    calibration_batches,
    load_language_model,
    load_sparse,
    perplexity,
    read_text,
    save_sparse,
)
from fedstrategies.pruning import SemiStructured, parse_method, prune_module
from tests.language.tiny import TEXT, write_tiny, write_tokenizer


def counting(module: nn.Module, tokens: Tensor) -> Tensor:
    """Probability 1/2 for the token's successor, the rest for the other seven."""
    probabilities = torch.full((*tokens.shape, 8), 0.5 / 7)
    probabilities.scatter_(2, ((tokens + 1) % 8).unsqueeze(2), 0.5)
    return probabilities.log()


def test_perplexity_is_that_of_known_probabilities() -> None:
    model = LanguageModel(
        name="counting",
        module=nn.Linear(1, 1),
        encode=lambda text: torch.zeros(1),
        scores=counting,
        context=8,
    )
    stream = torch.arange(43) % 8
    told: list[tuple[int, int]] = []
    found = perplexity(model, stream, length=4, batch=3, observe=lambda *now: told.append(now))
    assert found.tokens == 10 * 3
    assert found.value == pytest.approx(2.0)
    assert told == [(3, 10), (6, 10), (9, 10), (10, 10)]
    jumping = torch.tensor([0, 1, 5, 6])
    assert perplexity(model, jumping, length=4).value == pytest.approx((2 * 14 * 2) ** (1 / 3))
    with pytest.raises(DataError, match="43 tokens of text; one window has 44"):
        perplexity(model, stream, length=44)
    with pytest.raises(ValueError, match="at least 2"):
        perplexity(model, stream, length=1)


def test_a_perplexity_too_large_for_a_number_is_infinite() -> None:
    assert Perplexity(nats=800.0, tokens=1).value == inf
    assert Perplexity(nats=700.0, tokens=1).value == exp(700.0)


def test_calibration_windows_are_of_the_text_and_of_the_seed() -> None:
    stream = torch.arange(100)
    batches = calibration_batches(stream, samples=10, length=7, seed=1, batch=4)
    assert [tuple(batch.shape) for batch in batches] == [(4, 7), (4, 7), (2, 7)]
    drawn = torch.cat(batches)
    assert torch.equal(drawn, drawn[:, :1] + torch.arange(7))
    assert int(drawn.min()) >= 0
    assert int(drawn.max()) <= 99
    again = torch.cat(calibration_batches(stream, samples=10, length=7, seed=1))
    assert torch.equal(drawn, again)
    other = torch.cat(calibration_batches(stream, samples=10, length=7, seed=2))
    assert not torch.equal(drawn, other)
    whole = calibration_batches(stream, samples=2, length=100, seed=0)
    assert torch.equal(whole[0], stream.expand(2, 100))
    with pytest.raises(DataError, match="100 tokens of calibration text; one window has 101"):
        calibration_batches(stream, samples=1, length=101, seed=0)


def test_texts_are_read_plain_or_compressed(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("é", encoding="utf-8")
    (tmp_path / "a.txt.xz").write_bytes(lzma.compress("é".encode()))
    assert read_text(tmp_path / "a.txt") == read_text(tmp_path / "a.txt.xz") == "é"
    for name, content, message in (
        ("b.txt", b"\xff", "not UTF-8 at byte 0"),
        ("b.xz", b"not", "cannot be read"),
        ("b.gz", b"not", "cannot be read"),
        ("c.txt", b" \n", "there is no text in it"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=message):
            read_text(tmp_path / name)
    with pytest.raises(DataError, match=r"none\.txt: cannot be read \(No such file"):
        read_text(tmp_path / "none.txt")


def test_a_checkpoint_is_loaded_with_the_tokenizer_beside_it(tmp_path: Path) -> None:
    path = write_tiny(tmp_path)
    model = load_language_model(str(path))
    tokens = model.encode(TEXT)
    assert tokens[0] == 1
    assert model.context == 32
    assert 1 < perplexity(model, tokens, length=16).value < 1e6
    write_tokenizer(tmp_path / "tok-other.bin")
    with pytest.raises(DataError, match=r"2 files called tok\*.bin beside it"):
        load_language_model(str(path))
    named = load_language_model(str(path), tokenizer=tmp_path / "tok290.bin")
    assert torch.equal(named.encode(TEXT), tokens)


def test_a_model_that_is_none_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(DataError, match="neither a llama2"):
        load_language_model(str(tmp_path / "notes.txt"))
    with pytest.raises(DataError, match="brings its own tokenizer"):
        load_language_model(str(tmp_path), tokenizer=tmp_path / "tok.bin")
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(DataError, match=r"pip install 'fedstrategies\[language\]'"):
        load_language_model(str(tmp_path))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_sparse_file_is_read_back_to_the_bit(tmp_path: Path, dtype: torch.dtype) -> None:
    model = load_language_model(str(write_tiny(tmp_path)))
    layers = prune_module(
        model.module, [], method=parse_method("magnitude"), pattern=SemiStructured()
    )
    model.module.to(dtype)
    state = model.module.state_dict()
    names = [f"{layer.name}.weight" for layer in layers]
    path = tmp_path / "sparse.safetensors"
    save_sparse(state, names, path)
    found = load_sparse(path)
    assert found.keys() == state.keys()
    for name, value in state.items():
        assert found[name].dtype == dtype
        assert torch.equal(found[name], value), name
    dense = tmp_path / "dense.safetensors"
    save_sparse(state, [], dense)
    pruned = sum(state[name].numel() for name in names)
    saved = dense.stat().st_size - path.stat().st_size
    # Half of the values go, and a bitmap comes; names and the frames' heads are the rest.
    assert saved > pruned * (dtype.itemsize / 2 - 1 / 8) - 100 * len(names)


def test_a_layer_of_zeros_and_one_without_zeros(tmp_path: Path) -> None:
    named = {"zeros": torch.zeros(3, 4), "full": torch.ones(2, 5), "ids": torch.arange(3)}
    save_sparse(named, ["zeros", "full"], tmp_path / "s.safetensors")
    found = load_sparse(tmp_path / "s.safetensors")
    assert all(torch.equal(found[name], value) for name, value in named.items())


def test_a_model_gives_the_same_file_every_time(tmp_path: Path) -> None:
    named = {"w": torch.eye(8), "b": torch.ones(8)}
    files = set()
    for _ in range(12):
        save_sparse(named, ["w"], tmp_path / "s.safetensors")
        files.add((tmp_path / "s.safetensors").read_bytes())
    assert len(files) == 1


def test_files_that_are_none_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "s.safetensors"
    with pytest.raises(DataError, match="cannot be read"):
        load_sparse(path)
    path.write_bytes(b"nothing")
    with pytest.raises(DataError, match="damaged"):
        load_sparse(path)
    from safetensors.torch import save_file

    save_file({"w": torch.ones(2)}, path)
    with pytest.raises(DataError, match="not a sparse checkpoint"):
        load_sparse(path)
    for shapes in ('{"w": [2, 3]}', '{"v": [2]}', "[]", "{"):
        about = {"fedstrategies-sparse-1": shapes}
        save_file({"w": torch.zeros(9, dtype=torch.uint8)}, path, metadata=about)
        with pytest.raises(DataError, match="damaged"):
            load_sparse(path)
