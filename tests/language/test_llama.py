"""The Llama against its formulas in numpy, and its checkpoint bit by bit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

from fedstrategies.data.errors import DataError
from fedstrategies.language import Llama, LlamaConfig, read_llama2c
from tests.language.tiny import CONFIG, tiny_llama, write_checkpoint

Numbers = npt.NDArray[np.float64]


def normed(x: Numbers, weight: Numbers) -> Numbers:
    return weight * x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-5)


def turned(x: Numbers, place: int) -> Numbers:
    """One head's vector at one place, pair by pair as complex numbers."""
    width = len(x)
    angles = place * 10_000.0 ** (-np.arange(0, width, 2) / width)
    pairs = (x[0::2] + 1j * x[1::2]) * np.exp(1j * angles)
    return np.stack([pairs.real, pairs.imag], axis=1).reshape(-1)


def by_formula(model: Llama, tokens: list[int]) -> Numbers:
    """Token by token and head by head, as llama2.c does it."""
    config = model.config
    w = {name: value.double().numpy() for name, value in model.state_dict().items()}
    size, share = config.head_width, config.heads // config.key_heads
    keys: list[list[Numbers]] = [[] for _ in range(config.layers)]
    values: list[list[Numbers]] = [[] for _ in range(config.layers)]
    out = []
    for place, token in enumerate(tokens):
        x = w["embedding.weight"][token].copy()
        for layer in range(config.layers):
            p = f"blocks.{layer}."
            h = normed(x, w[p + "attention_norm.weight"])
            query = (w[p + "attention.query.weight"] @ h).reshape(config.heads, size)
            key = (w[p + "attention.key.weight"] @ h).reshape(config.key_heads, size)
            keys[layer].append(np.stack([turned(one, place) for one in key]))
            values[layer].append(
                (w[p + "attention.value.weight"] @ h).reshape(config.key_heads, size)
            )
            mixed = []
            for head in range(config.heads):
                q = turned(query[head], place)
                scores = np.array([q @ k[head // share] for k in keys[layer]]) / np.sqrt(size)
                weights = np.exp(scores - scores.max())
                weights /= weights.sum()
                mixed.append(
                    sum(a * v[head // share] for a, v in zip(weights, values[layer], strict=True))
                )
            x = x + w[p + "attention.out.weight"] @ np.concatenate(mixed)
            h = normed(x, w[p + "feed_forward_norm.weight"])
            gate = w[p + "feed_forward.gate.weight"] @ h
            up = w[p + "feed_forward.up.weight"] @ h
            x = x + w[p + "feed_forward.down.weight"] @ (gate / (1 + np.exp(-gate)) * up)
        out.append(w["head.weight"] @ normed(x, w["norm.weight"]))
    return np.stack(out)


@pytest.mark.parametrize("tied", [True, False])
def test_the_network_is_its_formulas(tied: bool) -> None:
    model = tiny_llama(replace(CONFIG, tied=tied)).double()
    tokens = [1, 260, 5, 280, 33, 260, 270]
    with torch.no_grad():
        found = model(torch.tensor([tokens]))[0].numpy()
    np.testing.assert_allclose(found, by_formula(model, tokens), rtol=1e-9, atol=1e-9)


def test_nothing_is_seen_of_what_comes_later() -> None:
    model = tiny_llama()
    tokens = torch.randint(0, 290, (1, 12), generator=torch.Generator().manual_seed(0))
    other = tokens.clone()
    other[0, 7:] = 3
    with torch.no_grad():
        torch.testing.assert_close(model(tokens)[:, :7], model(other)[:, :7])
        assert not torch.equal(model(tokens)[:, 7:], model(other)[:, 7:])


@pytest.mark.parametrize("tied", [True, False])
def test_a_checkpoint_is_read_to_the_bit(tmp_path: Path, tied: bool) -> None:
    model = tiny_llama(replace(CONFIG, tied=tied))
    write_checkpoint(model, tmp_path / "m.bin")
    read = read_llama2c(tmp_path / "m.bin")
    assert read.config == model.config
    for name, value in model.state_dict().items():
        assert torch.equal(read.state_dict()[name], value), name
    assert (read.head.weight is read.embedding.weight) == tied
    assert not read.training


def test_a_context_and_sizes_are_kept_to() -> None:
    with pytest.raises(ValueError, match="33 tokens; the context is 32"):
        tiny_llama()(torch.zeros(1, 33, dtype=torch.int64))
    for wrong in ({"heads": 3}, {"key_heads": 3}, {"layers": 0}, {"heads": 16}):
        with pytest.raises(ValueError, match=r"heads|layers"):
            replace(CONFIG, **wrong)
    assert LlamaConfig.__doc__


def test_what_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.bin"
    with pytest.raises(DataError, match="cannot be read"):
        read_llama2c(path)
    write_checkpoint(tiny_llama(), path)
    good = path.read_bytes()
    nan = np.float32("nan").tobytes()
    for content, message in (
        (b"ak42", "4 bytes are no llama2.c checkpoint"),
        (b"ak42" + good[4:], "bytes; a version-0 llama2.c checkpoint|no llama2.c checkpoint"),
        (b"\0" * 28 + good[28:], "a size is at least 1"),
        (good[:-4], "bytes; a version-0 llama2.c checkpoint with its header has"),
        (good + b"\0", "bytes; a version-0 llama2.c checkpoint with its header has"),
        (good[:400] + nan + good[404:], "a parameter is not finite"),
    ):
        path.write_bytes(content)
        with pytest.raises(DataError, match=message):
            read_llama2c(path)
