"""A language model from its path or name."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from fedstrategies.data.errors import DataError
from fedstrategies.language.hugging_face import load_hugging_face
from fedstrategies.language.llama2c import read_llama2c
from fedstrategies.language.model import LanguageModel
from fedstrategies.language.tokenizer import PieceTokenizer

__all__ = ["load_language_model"]


def load_language_model(name: str, *, tokenizer: Path | None = None) -> LanguageModel:
    """A llama2.c checkpoint (``.bin``), or a model of Hugging Face (a folder or a name).

    Parameters
    ----------
    name : str
        Path or name.
    tokenizer : Path, optional
        Of a llama2.c checkpoint; by default the one ``tok*.bin`` beside it.

    Raises
    ------
    DataError
        If the model or its tokenizer cannot be read.
    """
    path = Path(name)
    if path.suffix != ".bin" or path.is_dir():
        if tokenizer is not None:
            raise DataError(f"{name}: brings its own tokenizer; leave {tokenizer} away")
        if not path.is_dir() and (path.is_absolute() or path.exists() or name.startswith(".")):
            raise DataError(f"{name}: neither a llama2.c checkpoint (.bin) nor a model's folder")
        return load_hugging_face(name)
    module = read_llama2c(path)
    pieces = PieceTokenizer.read(tokenizer or _beside(path), vocabulary=module.config.vocabulary)

    def encode(text: str) -> Tensor:
        return torch.tensor(pieces.encode(text), dtype=torch.int64)

    return LanguageModel(
        name=path.name,
        module=module,
        encode=encode,
        scores=_scores,
        context=module.config.context,
    )


def _scores(module: nn.Module, tokens: Tensor) -> Tensor:
    scores: Tensor = module(tokens)
    return scores


def _beside(path: Path) -> Path:
    found = sorted(path.parent.glob("tok*.bin"))
    if len(found) != 1:
        raise DataError(
            f"{path}: {len(found)} files called tok*.bin beside it; name one with --tokenizer"
        )
    return found[0]
