"""The tokenizer against the loop that it stands for."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedstrategies.data.errors import DataError
from fedstrategies.language import PieceTokenizer
from tests.language.tiny import CHARACTERS, TEXT, write_tokenizer


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> PieceTokenizer:
    path = tmp_path_factory.mktemp("tokenizer") / "tok.bin"
    write_tokenizer(path)
    return PieceTokenizer.read(path, vocabulary=290)


def by_looking_at_all_pairs(tokenizer: PieceTokenizer, text: str) -> list[int]:
    number = {piece: at for at, piece in reversed(list(enumerate(tokenizer.pieces)))}
    tokens: list[int] = []
    for character in " " + text:
        piece = character.encode()
        tokens += [number[piece]] if piece in number else [byte + 3 for byte in piece]
    while True:
        best, at = -1e10, -1
        for left in range(len(tokens) - 1):
            joined = number.get(tokenizer.pieces[tokens[left]] + tokenizer.pieces[tokens[left + 1]])
            if joined is not None and tokenizer.scores[joined] > best:
                best, at, which = tokenizer.scores[joined], left, joined
        if at < 0:
            return [1, *tokens]
        tokens[at : at + 2] = [which]


@settings(max_examples=200, deadline=None)
@given(text=st.text(alphabet=CHARACTERS + "xé語", min_size=1, max_size=40))
def test_a_heap_joins_what_the_loop_joins(tokenizer: PieceTokenizer, text: str) -> None:
    assert tokenizer.encode(text) == by_looking_at_all_pairs(tokenizer, text)
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_pieces_are_found(tokenizer: PieceTokenizer) -> None:
    pieces = [tokenizer.pieces[token] for token in tokenizer.encode("the and")]
    assert pieces == [b"\n<s>\n", b" the", b" and"]
    assert tokenizer.encode("", begin=False) == []
    assert len(tokenizer.encode(TEXT)) < len(TEXT)


def test_what_is_no_tokenizer_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "tok.bin"
    with pytest.raises(DataError, match="cannot be read"):
        PieceTokenizer.read(path, vocabulary=290)
    write_tokenizer(path)
    good = path.read_bytes()
    for content, vocabulary, message in (
        (good, 291, "290 pieces and 0 bytes more; the model's vocabulary has 291"),
        (good, 280, "280 pieces and .* bytes more"),
        (good[:-1], 290, "piece 289 has a length of"),
        (good[:20], 290, "ends within piece 1"),
        (good[:4] + b"\0\0\0\0\xff\xff\xff\xff" + good[12:], 290, "has a length of -1"),
    ):
        path.write_bytes(content)
        with pytest.raises(DataError, match=message):
            PieceTokenizer.read(path, vocabulary=vocabulary)
