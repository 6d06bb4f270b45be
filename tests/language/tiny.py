"""A llama2.c checkpoint and tokenizer made on the spot."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import torch

from fedstrategies.language import Llama, LlamaConfig

CONFIG = LlamaConfig(
    width=16, hidden=24, layers=2, heads=4, key_heads=2, vocabulary=290, context=32
)
PIECES = (" t", "he", " a", " the", "in", "ing", " s", "an", "nd", " and", "er", " w")
CHARACTERS = " abcdeghinorstw.é"
TEXT = "the rain and the sea are ending in a winding stream. a thing again, and then another. "


def tiny_llama(config: LlamaConfig = CONFIG, *, seed: int = 0) -> Llama:
    model = Llama(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(1 + 0.1 * noise if "norm" in name else 0.4 * noise)
    return model.eval()


def write_checkpoint(model: Llama, path: Path) -> None:
    """Version 0, in the order of llama2.c's ``run.c``."""
    config = model.config
    vocabulary = config.vocabulary if config.tied else -config.vocabulary
    header = (config.width, config.hidden, config.layers, config.heads, config.key_heads)
    parts = [struct.pack("<7i", *header, vocabulary, config.context)]
    state = model.state_dict()

    def put(name: str) -> None:
        parts.append(state[name].numpy().astype("<f4").tobytes())

    put("embedding.weight")
    for part in (
        "attention_norm",
        "attention.query",
        "attention.key",
        "attention.value",
        "attention.out",
        "feed_forward_norm",
        "feed_forward.gate",
        "feed_forward.down",
        "feed_forward.up",
    ):
        for layer in range(config.layers):
            put(f"blocks.{layer}.{part}.weight")
    put("norm.weight")
    parts.append(np.ones(config.context * config.head_width, dtype="<f4").tobytes())
    if not config.tied:
        put("head.weight")
    path.write_bytes(b"".join(parts))


def write_tokenizer(path: Path, *, vocabulary: int = CONFIG.vocabulary) -> None:
    pieces = [b"<unk>", b"\n<s>\n", b"\n</s>\n", *(f"<0x{n:02X}>".encode() for n in range(256))]
    pieces += [piece.encode() for piece in (*PIECES, *CHARACTERS)]
    pieces += [f"<{n}>".encode() for n in range(vocabulary - len(pieces))]
    content = struct.pack("<i", max(map(len, pieces)))
    for number, piece in enumerate(pieces):
        content += struct.pack("<fi", float(259 - number), len(piece)) + piece
    path.write_bytes(content)


def write_tiny(folder: Path) -> Path:
    """Checkpoint, tokenizer and a text in a folder; the checkpoint's path."""
    write_checkpoint(tiny_llama(), folder / "tiny.bin")
    write_tokenizer(folder / "tok290.bin")
    (folder / "text.txt").write_text(TEXT * 8, encoding="utf-8")
    return folder / "tiny.bin"
