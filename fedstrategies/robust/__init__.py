"""Means that a minority of arbitrary vectors cannot move far: robust aggregators.

Of m vectors with weights w_i, up to a share b < 1/2 of which (by weight) is *faulty*, that is
arbitrary, finite or not to be trusted, an aggregator gives one vector:

==================  ==========================================================  =================
name                value                                                       endures
==================  ==========================================================  =================
median              the weighted median of each coordinate                      b < 1/2
trimmed-mean        of each coordinate, the mean without the share b of the     its ``share``
                    weight at either end
geometric-median    ``argmin_z sum_i w_i ||z - v_i||``, by smoothed Weiszfeld   b < 1/2
krum                the mean of the q vectors nearest to their neighbours       its ``share``,
                                                                                by number
==================  ==========================================================  =================

None of them is the mean where honest clients differ: even without faults they move the fixed point
of a method, by no more than the honest vectors are apart. Where all vectors are the same, all give
that vector. The order of the rows does not matter but for rounding (of sums, and of equal scores).

Everything is in float64 and by coordinate or by row, so that the bits do not depend on threads.

Sources: Yin, Chen, Ramchandran, Bartlett, "Byzantine-Robust Distributed Learning" (2018): median
and trimmed mean; Pillutla, Kakade, Harchaoui, "Robust Aggregation for Federated Learning" (2022):
geometric median by smoothed Weiszfeld; Blanchard, El Mhamdi, Guerraoui, Stainer, "Machine
Learning with Adversaries" (2017): Krum and multi-Krum.
"""

from __future__ import annotations

from fedstrategies.robust.base import Aggregator
from fedstrategies.robust.coordinates import Median, TrimmedMean
from fedstrategies.robust.distances import GeometricMedian, Krum
from fedstrategies.robust.spec import AGGREGATORS, parse_aggregator

__all__ = [
    "AGGREGATORS",
    "Aggregator",
    "GeometricMedian",
    "Krum",
    "Median",
    "TrimmedMean",
    "parse_aggregator",
]
