"""FedP3: its algorithm, the choice of layers, their aggregation, and what is sent by the formula.

Names are imported when first used, so that the mathematics can be had without Flower.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fedstrategies.fedp3.aggregation import (
        AGGREGATIONS,
        Aggregation,
        Attention,
        Simple,
        Weighted,
        aggregate,
        parse_aggregation,
    )
    from fedstrategies.fedp3.algorithm import FedP3Rule, LocalTraining
    from fedstrategies.fedp3.calibration import Calibration
    from fedstrategies.fedp3.capacity import CapacityLayers, parse_layer_choice
    from fedstrategies.fedp3.client import FedP3Client
    from fedstrategies.fedp3.frames import Downlink
    from fedstrategies.fedp3.head import PersonalHead
    from fedstrategies.fedp3.layer_choice import (
        LAYER_CHOICES,
        AllLayers,
        LayerChoice,
        OverlappedLayers,
        RandomLayers,
        parse_layers,
        uncovered,
    )
    from fedstrategies.fedp3.ldp import LDPFedP3
    from fedstrategies.fedp3.model_groups import groups_of
    from fedstrategies.fedp3.strategy import FedP3
    from fedstrategies.fedp3.traffic import ExpectedBytes, expected_bytes, uplink_fraction

__all__ = [
    "AGGREGATIONS",
    "LAYER_CHOICES",
    "Aggregation",
    "AllLayers",
    "Attention",
    "Calibration",
    "CapacityLayers",
    "Downlink",
    "ExpectedBytes",
    "FedP3",
    "FedP3Client",
    "FedP3Rule",
    "LDPFedP3",
    "LayerChoice",
    "LocalTraining",
    "OverlappedLayers",
    "PersonalHead",
    "RandomLayers",
    "Simple",
    "Weighted",
    "aggregate",
    "expected_bytes",
    "groups_of",
    "parse_aggregation",
    "parse_layer_choice",
    "parse_layers",
    "uncovered",
    "uplink_fraction",
]

_HOMES = {
    "aggregation": (
        "AGGREGATIONS",
        "Aggregation",
        "Attention",
        "Simple",
        "Weighted",
        "aggregate",
        "parse_aggregation",
    ),
    "algorithm": ("FedP3Rule", "LocalTraining"),
    "calibration": ("Calibration",),
    "capacity": ("CapacityLayers", "parse_layer_choice"),
    "client": ("FedP3Client",),
    "frames": ("Downlink",),
    "head": ("PersonalHead",),
    "layer_choice": (
        "LAYER_CHOICES",
        "AllLayers",
        "LayerChoice",
        "OverlappedLayers",
        "RandomLayers",
        "parse_layers",
        "uncovered",
    ),
    "model_groups": ("groups_of",),
    "ldp": ("LDPFedP3",),
    "strategy": ("FedP3",),
    "traffic": ("ExpectedBytes", "expected_bytes", "uplink_fraction"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> object:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME_OF[name]}"), name)
