"""How far a client may move: the norm that ``max_update_norm`` bounds, the same on both paths.

The *update* of client i in a round is what its upload adds to what the server knew already:

    u_i = upload_i - o_i

with o_i the model that the client began from where uploads are models (a `MovedRule` says which),
and o_i = 0 where they are gradients or their compressed differences. So u_i is

* d_i, as decoded, for EF-BV, EF21 and DIANA (a first dense upload included), and grad f_i(x) for
  gradient descent and FLIX's ``alpha_i grad f_i(x~_i)``, SPPM-AS's gradients at its solver's point;
* x_i - x for Scafflix and its relatives, FedAvg, LocalGD and FedProx, and with SPPM-AS's
  ``local-gd`` y_i - z, z the point that local steps begin from;
* W_i - x on the layers in L_i, jointly, for FedP3.
"""

from __future__ import annotations

from math import sqrt

import numpy as np
from torch import Tensor

from fedstrategies.compressors import Payload
from fedstrategies.flower.contract import Assignment
from fedstrategies.flower.ledger import Rejected
from fedstrategies.flower.rules import MovedRule

__all__ = ["TooLarge", "origin_of", "too_large", "update_norms"]

_AT_A_TIME = 2**20
"""Numbers whose squares are held at a time."""


class TooLarge(Rejected):
    """An update beyond the bound: its client's own failure."""


def origin_of(assignment: Assignment, sent: Tensor) -> Tensor | None:
    """o_i of an assignment's clients, of the length of an upload; None: zero.

    Parameters
    ----------
    assignment : Assignment
        Whose rule says so.
    sent : Tensor
        What they were sent, shape (d,), or (r, d) for a `GuidedRule`.
    """
    rule = assignment.rule
    return rule.origin(sent) if isinstance(rule, MovedRule) else None


def update_norms(payload: Payload, origin: Tensor | None) -> list[float]:
    """``||u_i||_2`` of C messages, each in float64 and by itself: no matter who else is there.

    Numbers whose squares leave float64 (from 1.3e154) have an infinite norm.
    """
    rows = payload.values.to_tensor().detach().cpu()
    return [_norm(row, origin) for row in rows]


def too_large(norm: float, bound: float) -> str:
    """The line about an update beyond the bound."""
    return (
        f"its update has norm {norm:.6g}, above max_update_norm = {bound:.6g}; it is not used, and "
        "the client rolls back"
    )


def _norm(row: Tensor, origin: Tensor | None) -> float:
    total = 0.0
    with np.errstate(over="ignore"):
        for start in range(0, len(row), _AT_A_TIME):
            part = row[start : start + _AT_A_TIME].double().numpy()
            if origin is not None:
                part = part - origin[start : start + _AT_A_TIME].double().cpu().numpy()
            total += float(np.add.reduce(part * part))
    return sqrt(total)
