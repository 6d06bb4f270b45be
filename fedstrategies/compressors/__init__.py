"""Compression operators C(x) with the constants the theory needs of them."""

from fedstrategies.compressors.base import Compressor, Constants, GroupConstants
from fedstrategies.compressors.cast import Cast
from fedstrategies.compressors.comp import CompK
from fedstrategies.compressors.composition import Composition
from fedstrategies.compressors.identity import Identity
from fedstrategies.compressors.mix import MixK
from fedstrategies.compressors.natural import Natural
from fedstrategies.compressors.payload import Payload
from fedstrategies.compressors.qsgd import QSGD
from fedstrategies.compressors.randk import RandK, ScaledRandK
from fedstrategies.compressors.spec import COMPRESSOR_EXAMPLES, parse_compressor
from fedstrategies.compressors.topk import TopK
from fedstrategies.compressors.values import Floats, Levels, Powers, Rounded, Values

__all__ = [
    "COMPRESSOR_EXAMPLES",
    "QSGD",
    "Cast",
    "CompK",
    "Composition",
    "Compressor",
    "Constants",
    "Floats",
    "GroupConstants",
    "Identity",
    "Levels",
    "MixK",
    "Natural",
    "Payload",
    "Powers",
    "RandK",
    "Rounded",
    "ScaledRandK",
    "TopK",
    "Values",
    "parse_compressor",
]
