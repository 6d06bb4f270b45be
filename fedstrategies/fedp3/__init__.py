"""FedP3: the choice of layers, their aggregation, and what is sent by the formula."""

from fedstrategies.fedp3.aggregation import (
    AGGREGATIONS,
    Aggregation,
    Attention,
    Simple,
    Weighted,
    aggregate,
    parse_aggregation,
)
from fedstrategies.fedp3.capacity import CapacityLayers
from fedstrategies.fedp3.layer_choice import (
    LAYER_CHOICES,
    AllLayers,
    LayerChoice,
    OverlappedLayers,
    RandomLayers,
    parse_layers,
    uncovered,
)
from fedstrategies.fedp3.traffic import ExpectedBytes, expected_bytes, uplink_fraction

__all__ = [
    "AGGREGATIONS",
    "LAYER_CHOICES",
    "Aggregation",
    "AllLayers",
    "Attention",
    "CapacityLayers",
    "ExpectedBytes",
    "LayerChoice",
    "OverlappedLayers",
    "RandomLayers",
    "Simple",
    "Weighted",
    "aggregate",
    "expected_bytes",
    "parse_aggregation",
    "parse_layers",
    "uncovered",
    "uplink_fraction",
]
