"""Characters as small integers."""

from __future__ import annotations

import unicodedata

import numpy as np
import torch
from torch import Tensor

__all__ = ["SHAKESPEARE_ALPHABET", "encode_text", "fold_text"]

_FIRST, _LAST = " ", "~"
_UNKNOWN = "\N{REPLACEMENT CHARACTER}"

SHAKESPEARE_ALPHABET = "\n" + "".join(map(chr, range(ord(_FIRST), ord(_LAST) + 1))) + _UNKNOWN
"""The 97 characters that text is encoded in: index 0 is the end of a line, 1 to 95 are printable
ASCII in its order, 96 stands for whatever is none of these."""

_IN_ASCII = str.maketrans(
    {
        "\N{LEFT SINGLE QUOTATION MARK}": "'",
        "\N{RIGHT SINGLE QUOTATION MARK}": "'",
        "\N{LEFT DOUBLE QUOTATION MARK}": '"',
        "\N{RIGHT DOUBLE QUOTATION MARK}": '"',
        "\N{EN DASH}": "-",
        "\N{EM DASH}": "--",
        "\N{LATIN CAPITAL LETTER AE}": "AE",
        "\N{LATIN SMALL LETTER AE}": "ae",
        "\N{LATIN CAPITAL LIGATURE OE}": "OE",
        "\N{LATIN SMALL LIGATURE OE}": "oe",
    }
)


def fold_text(text: str) -> str:
    """Text in ASCII as far as it goes.

    Typographic quotes and dashes become typewritten ones (an em dash two hyphens), accents are
    taken off their letters, and characters without a width or a shape (a word joiner, a soft
    hyphen) are dropped. What is left and not ASCII stays as it is.

    Parameters
    ----------
    text : str
        Any text.
    """
    if text.isascii():
        return text
    apart = unicodedata.normalize("NFKD", text.translate(_IN_ASCII))
    return "".join(
        character for character in apart if unicodedata.category(character) not in ("Mn", "Cf")
    )


def encode_text(text: str) -> Tensor:
    """Indices into `SHAKESPEARE_ALPHABET`: int64, shape (len(text),).

    Parameters
    ----------
    text : str
        Any text; what the alphabet has not becomes its last entry.
    """
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4").astype(np.int64)
    indices = codes - ord(_FIRST) + 1
    indices[(codes < ord(_FIRST)) | (codes > ord(_LAST))] = len(SHAKESPEARE_ALPHABET) - 1
    indices[codes == ord("\n")] = 0
    return torch.from_numpy(indices)
