"""Next-character prediction with one natural client per speaking role.

The task of H. B. McMahan et al., "Communication-efficient learning of deep networks from
decentralized data" (2017), on plays marked up as XML.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from fedstrategies.data.archive import xml_documents
from fedstrategies.data.dataset import Dataset
from fedstrategies.data.errors import DataError
from fedstrategies.data.packed import short_name
from fedstrategies.data.plays import read_play
from fedstrategies.data.text import encode_text, fold_text

__all__ = ["DEFAULT_SEQUENCE_LENGTH", "read_shakespeare"]

DEFAULT_SEQUENCE_LENGTH = 80
"""S of `read_shakespeare`."""

_FEWEST_WINDOWS = 2


def read_shakespeare(
    path: str | Path,
    *,
    sequence_length: int = DEFAULT_SEQUENCE_LENGTH,
    name: str | None = None,
) -> Dataset:
    """Read the plays of a tar archive or a folder.

    A role is a (play, speaker) pair. Its lines, in the order of the play, folded to ASCII
    (`fold_text`) and joined by line ends, are cut into windows of S characters that do not
    overlap; the target at each position is the next character. What is left at the end is
    dropped, and so is a role with fewer than two windows.

    Parameters
    ----------
    path : str or Path
        A tar archive, plain or packed by xz, gzip or bzip2, or a folder; every ``*.xml`` in it
        is read (see `read_play` for the elements).
    sequence_length : int
        S, characters of a row.
    name : str, optional
        Name of the data set; by default the file's, without ``.tar.xz`` and the like.

    Returns
    -------
    Dataset
        Features and labels int64, both of shape (N, S): indices into `SHAKESPEARE_ALPHABET`.
        ``groups`` is the role of each row, by play (in the order of file names), then by first
        line; ``group_names`` are ``play/SPEAKER``, such as ``Hamlet/HAM.``

    Raises
    ------
    DataError
        If S is below 1, the path cannot be read or is past a bound of `xml_documents`, a play
        is not well-formed, or no role has two windows.
    """
    path = Path(path)
    if sequence_length < 1:
        raise DataError(f"sequence_length must be at least 1, got {sequence_length}")
    if not path.exists():
        raise DataError(f"{path}: no such file")
    windows, names = [], []
    for file, document in xml_documents(path):
        play = read_play(document, name=f"{path}: {file}")
        for role, lines in play.roles.items():
            text = encode_text("\n".join(map(fold_text, lines)))
            if len(text) > _FEWEST_WINDOWS * sequence_length:
                # A window and the character after it, which is the next window's first.
                windows.append(text.unfold(0, sequence_length + 1, sequence_length))
                names.append(f"{play.title or Path(file).stem}/{role}")
    if not windows:
        raise DataError(
            f"{path}: no speaking role with more than {_FEWEST_WINDOWS * sequence_length} "
            "characters; expected plays in *.xml, <sp><speaker>..</speaker><l>..</l></sp>"
        )
    return _as_dataset(windows, names, name or short_name(path.absolute(), ".tar"))


def _as_dataset(windows: list[Tensor], names: list[str], name: str) -> Dataset:
    rows = torch.cat(windows)
    counts = torch.tensor([len(rows_of_role) for rows_of_role in windows])
    return Dataset(
        features=rows[:, :-1].contiguous(),
        labels=rows[:, 1:].contiguous(),
        name=name,
        groups=torch.arange(len(windows)).repeat_interleave(counts),
        group_names=tuple(names),
    )
