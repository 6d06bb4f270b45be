"""Causal language models of Hugging Face, through the optional package ``transformers``.

Folders and cached models are loaded from safetensors, never from pickles, and no code that comes
with a model is run.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fedstrategies.data.errors import DataError
from fedstrategies.language.model import LanguageModel

__all__ = ["load_hugging_face"]

_LONGEST = 2048


def load_hugging_face(name: str) -> LanguageModel:
    """A model and its tokenizer.

    Parameters
    ----------
    name : str
        A folder as ``save_pretrained`` writes it, or a name on the hub.

    Raises
    ------
    DataError
        If ``transformers`` is missing, or the model or its tokenizer cannot be loaded.
    """
    try:
        from transformers import AutoModelForCausalLM, AutoTokenizer
    except ImportError:
        raise DataError(
            f"{name}: models of Hugging Face need transformers; "
            "pip install 'fedstrategies[language]'"
        ) from None
    try:
        # Whether its methods have types depends on the version that is installed, if any is.
        module: Any = AutoModelForCausalLM.from_pretrained(
            name, dtype="auto", use_safetensors=True, trust_remote_code=False
        )
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise DataError(f"{name}: cannot be loaded ({' '.join(str(error).split())})") from None
    module.config.use_cache = False
    module.eval()

    def encode(text: str) -> Tensor:
        return torch.tensor(tokenizer(text)["input_ids"], dtype=torch.int64)

    context = getattr(module.config, "max_position_embeddings", None) or _LONGEST
    return LanguageModel(
        name=name, module=module, encode=encode, scores=_scores, context=min(context, _LONGEST)
    )


def _scores(module: nn.Module, tokens: Tensor) -> Tensor:
    out: Any = module(input_ids=tokens)
    scores: Tensor = out.logits
    return scores
