"""Language models to prune: readers, tokenizers, perplexity, sparse checkpoints."""

from fedstrategies.language.llama import Llama, LlamaConfig
from fedstrategies.language.llama2c import read_llama2c
from fedstrategies.language.loading import load_language_model
from fedstrategies.language.model import LanguageModel
from fedstrategies.language.perplexity import Perplexity, perplexity
from fedstrategies.language.sparse_checkpoint import load_sparse, save_sparse
from fedstrategies.language.text import calibration_batches, read_text
from fedstrategies.language.tokenizer import PieceTokenizer

__all__ = [
    "LanguageModel",
    "Llama",
    "LlamaConfig",
    "Perplexity",
    "PieceTokenizer",
    "calibration_batches",
    "load_language_model",
    "load_sparse",
    "perplexity",
    "read_llama2c",
    "read_text",
    "save_sparse",
]
