"""Communication-efficient federated learning for Flower.

Names are imported when first used, so that ``fedstrategies --help`` does not wait for torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fedstrategies.compressors import (
        QSGD,
        Cast,
        CompK,
        Composition,
        Identity,
        MixK,
        Natural,
        RandK,
        ScaledRandK,
        TopK,
        parse_compressor,
    )
    from fedstrategies.efbv import DIANA, EF21, EFBV, EFBVClient, GradientDescent
    from fedstrategies.engines import CohortGrid, RayGrid
    from fedstrategies.fedp3 import FedP3, FedP3Client, LDPFedP3
    from fedstrategies.flower import (
        Compressed,
        CompressionMod,
        DirectoryStore,
        as_legacy,
        client_app,
        legacy_client,
    )
    from fedstrategies.objectives import (
        L1,
        Box,
        ExactLocalSolver,
        LocalSGD,
        LogisticRegression,
        Smoothness,
        SquaredL2,
        TorchObjective,
        logistic_smoothness,
    )
    from fedstrategies.robust import GeometricMedian, Krum, Median, TrimmedMean, parse_aggregator
    from fedstrategies.sampling import (
        BlockSampling,
        FullParticipation,
        NiceSampling,
        NonuniformSampling,
        StratifiedSampling,
    )
    from fedstrategies.scafflix import (
        FLIX,
        FedAvg,
        IScaffnew,
        Scafflix,
        ScafflixClient,
        Scaffnew,
    )
    from fedstrategies.server_optimizer import SGD, Adam
    from fedstrategies.sppm import SPPM, FedProx, LocalGD, SPPMClient

__version__ = "0.1.0"

_HOME = {
    "compressors": (
        "QSGD",
        "Cast",
        "CompK",
        "Composition",
        "Identity",
        "MixK",
        "Natural",
        "RandK",
        "ScaledRandK",
        "TopK",
        "parse_compressor",
    ),
    "efbv": ("DIANA", "EF21", "EFBV", "EFBVClient", "GradientDescent"),
    "engines": ("CohortGrid", "RayGrid"),
    "fedp3": ("FedP3", "FedP3Client", "LDPFedP3"),
    "flower": (
        "Compressed",
        "CompressionMod",
        "DirectoryStore",
        "as_legacy",
        "client_app",
        "legacy_client",
    ),
    "objectives": (
        "L1",
        "Box",
        "ExactLocalSolver",
        "LocalSGD",
        "LogisticRegression",
        "Smoothness",
        "SquaredL2",
        "TorchObjective",
        "logistic_smoothness",
    ),
    "robust": ("GeometricMedian", "Krum", "Median", "TrimmedMean", "parse_aggregator"),
    "sampling": (
        "BlockSampling",
        "FullParticipation",
        "NiceSampling",
        "NonuniformSampling",
        "StratifiedSampling",
    ),
    "scafflix": ("FLIX", "FedAvg", "IScaffnew", "Scafflix", "ScafflixClient", "Scaffnew"),
    "server_optimizer": ("SGD", "Adam"),
    "sppm": ("SPPM", "FedProx", "LocalGD", "SPPMClient"),
}
_ROOM_OF = {name: room for room, names in _HOME.items() for name in names}

__all__ = [
    "DIANA",
    "EF21",
    "EFBV",
    "FLIX",
    "L1",
    "QSGD",
    "SGD",
    "SPPM",
    "Adam",
    "BlockSampling",
    "Box",
    "Cast",
    "CohortGrid",
    "CompK",
    "Composition",
    "Compressed",
    "CompressionMod",
    "DirectoryStore",
    "EFBVClient",
    "ExactLocalSolver",
    "FedAvg",
    "FedP3",
    "FedP3Client",
    "FedProx",
    "FullParticipation",
    "GeometricMedian",
    "GradientDescent",
    "IScaffnew",
    "Identity",
    "Krum",
    "LDPFedP3",
    "LocalGD",
    "LocalSGD",
    "LogisticRegression",
    "Median",
    "MixK",
    "Natural",
    "NiceSampling",
    "NonuniformSampling",
    "RandK",
    "RayGrid",
    "SPPMClient",
    "Scafflix",
    "ScafflixClient",
    "Scaffnew",
    "ScaledRandK",
    "Smoothness",
    "SquaredL2",
    "StratifiedSampling",
    "TopK",
    "TorchObjective",
    "TrimmedMean",
    "as_legacy",
    "client_app",
    "legacy_client",
    "logistic_smoothness",
    "parse_aggregator",
    "parse_compressor",
]


def __getattr__(name: str) -> object:
    if name not in _ROOM_OF:
        raise AttributeError(f"module 'fedstrategies' has no attribute {name!r}")
    return getattr(import_module(f"fedstrategies.{_ROOM_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
