"""The tokenizer of llama2.c: pieces with scores, joined pair by pair.

Text becomes single characters (bytes where a character is no piece), behind one space. Then of
all neighbouring pairs that together are a piece, the one with the highest score is joined, the
leftmost first, until there is none. A heap finds it: the same result as looking at all pairs each
time, in time linear in the text but for a logarithm.

Source: A. Karpathy, llama2.c (MIT licence); the scheme is SentencePiece's BPE.
"""

from __future__ import annotations

import heapq
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fedstrategies.data.errors import DataError

__all__ = ["PieceTokenizer"]

_ENTRY = struct.Struct("<fi")
_FIRST_BYTE = 3


@dataclass(frozen=True, kw_only=True)
class PieceTokenizer:
    """Text to numbers of pieces.

    Attributes
    ----------
    pieces : tuple of bytes
        By number; 1 begins a text, and 3 to 258 are single bytes.
    scores : tuple of float
        Of each; the highest is joined first.
    begin : int
        Number of the piece that begins a text.
    """

    pieces: tuple[bytes, ...]
    scores: tuple[float, ...]
    begin: int = 1
    _numbers: dict[bytes, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        numbers: dict[bytes, int] = {}
        for number, piece in enumerate(self.pieces):
            numbers.setdefault(piece, number)
        object.__setattr__(self, "_numbers", numbers)

    @classmethod
    def read(cls, path: Path, *, vocabulary: int) -> PieceTokenizer:
        """The tokenizer in a llama2.c file.

        Parameters
        ----------
        path : Path
            int32 longest piece, then for each piece float32 score, int32 length and its bytes.
        vocabulary : int
            Pieces that the model knows.

        Raises
        ------
        DataError
            If it cannot be read, ends early or late, or has not these 256 byte pieces.
        """
        try:
            content = path.read_bytes()
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror})") from None
        pieces: list[bytes] = []
        scores: list[float] = []
        at = 4
        while at < len(content) and len(pieces) < vocabulary:
            if at + _ENTRY.size > len(content):
                raise DataError(f"{path}: ends within piece {len(pieces)}")
            score, length = _ENTRY.unpack_from(content, at)
            at += _ENTRY.size
            if not 0 <= length <= len(content) - at:
                raise DataError(f"{path}: piece {len(pieces)} has a length of {length}")
            pieces.append(content[at : at + length])
            scores.append(score)
            at += length
        if len(pieces) != vocabulary or at != len(content):
            raise DataError(
                f"{path}: {len(pieces)} pieces and {len(content) - at} bytes more; "
                f"the model's vocabulary has {vocabulary}"
            )
        if vocabulary < _FIRST_BYTE + 256:
            raise DataError(f"{path}: {vocabulary} pieces cannot hold all single bytes")
        return cls(pieces=tuple(pieces), scores=tuple(scores))

    def encode(self, text: str, *, begin: bool = True) -> list[int]:
        """Numbers of the pieces of a text.

        Parameters
        ----------
        text : str
            Any.
        begin : bool
            Put the number that begins a text in front.
        """
        tokens = self._joined(self._characters(" " + text)) if text else []
        return [self.begin, *tokens] if begin else tokens

    def decode(self, tokens: Sequence[int]) -> str:
        """The text; inverse of `encode` for valid Unicode."""
        parts = []
        for token in tokens:
            if token == self.begin:
                continue
            single = _FIRST_BYTE <= token < _FIRST_BYTE + 256
            parts.append(bytes([token - _FIRST_BYTE]) if single else self.pieces[token])
        return b"".join(parts).decode(errors="replace").removeprefix(" ")

    def _characters(self, text: str) -> list[int]:
        found: list[int] = []
        for character in text:
            encoded = character.encode()
            number = self._numbers.get(encoded)
            if number is None:
                found += [byte + _FIRST_BYTE for byte in encoded]
            else:
                found.append(number)
        return found

    def _joined(self, tokens: list[int]) -> list[int]:
        after = [*range(1, len(tokens)), -1]
        before = list(range(-1, len(tokens) - 1))
        heap: list[tuple[float, int, int, int, int]] = []

        def offer(left: int) -> None:
            right = after[left] if left >= 0 else -1
            if right < 0:
                return
            joined = self._numbers.get(self.pieces[tokens[left]] + self.pieces[tokens[right]])
            if joined is not None:
                entry = (-self.scores[joined], left, tokens[left], tokens[right], joined)
                heapq.heappush(heap, entry)

        for left in range(len(tokens)):
            offer(left)
        gone = [False] * len(tokens)
        while heap:
            _, left, first, second, joined = heapq.heappop(heap)
            right = after[left]
            # Either neighbour may have been joined to something else since.
            if gone[left] or right < 0 or (tokens[left], tokens[right]) != (first, second):
                continue
            tokens[left] = joined
            gone[right] = True
            after[left] = after[right]
            if after[left] >= 0:
                before[after[left]] = left
            offer(before[left])
            offer(left)
        return [token for token, dropped in zip(tokens, gone, strict=True) if not dropped]
