"""The step size of EF-BV with a compressed downlink (EF21-P).

The server keeps w, the model as the clients know it, and sends differences alone:

    w <- w + scale C(x - w)    with E||scale C(y) - y||^2 <= p ||y||^2 and
                                    E||scale C(y)||^2 <= M ||y||^2

while the clients' gradients are taken at w. The rule and its analysis for gradient descent are
those of Gruntkowska, Tyurin, Richtarik, "EF21-P and Friends" (2022). The constants below, for EF-BV
with any lambda and nu, are our own derivation (docs/algorithms/efbv.md) and quoted from nowhere.

With ``G = mean ||grad f_i(w) - h_i||^2``, ``P = ||x - w||^2`` and R = 0, the Lyapunov function

    Phi = f(x) - f* + A G + B P

contracts by ``max(1 - gamma mu, (1+r)/2, (1+p)/2)`` a round under the Polyak-Lojasiewicz
inequality, and ``mean_t E||grad f(x^t)||^2 <= 2 Phi^0/(gamma T)`` without it, for

    gamma = sigma/(1+sigma) / (L + sqrt(M) L_tilde sqrt(r_av/r)/s*),    sigma = sqrt((1+p)/(2p)) - 1

p = 0 and M = 1, a downlink that leaves nothing out, give EF-BV's own step.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import inf, sqrt

from fedstrategies.compressors import Constants
from fedstrategies.efbv.constants import Theory, coupling, memory_factor, optimal, reserve
from fedstrategies.objectives import Smoothness

__all__ = ["NO_THEORY_WITH_R", "BidirectionalTheory", "contraction_scale", "with_downlink"]


@dataclass(frozen=True, kw_only=True)
class BidirectionalTheory(Theory):
    """What the analysis chooses where both directions are compressed.

    Attributes
    ----------
    downlink_scale : float
        Factor of C(x - w) that makes the downlink a contraction.
    downlink_error : float
        p = 1 - b, the squared relative error that one difference leaves.
    downlink_moment : float
        M, how far w moves.
    downlink_s : float
        sigma (infinite if p = 0).
    gradient_weight, model_weight : float
        A and B of the Lyapunov function; B = 0 if p = 0, where x = w.
    """

    downlink_scale: float
    downlink_error: float
    downlink_moment: float
    downlink_s: float
    gradient_weight: float
    model_weight: float

    def rate(self, mu: float, *, regularised: bool = False) -> float:
        """Contraction factor per round of Phi at step gamma, R = 0.

        Raises
        ------
        ValueError
            If ``regularised``: there is no analysis.
        """
        if regularised:
            raise ValueError(NO_THEORY_WITH_R)
        return max(super().rate(mu), (1 + self.downlink_error) / 2)


NO_THEORY_WITH_R = (
    "stepsize: there is no theory for a compressed downlink with a regulariser R; give a number, "
    "or put a smooth R into the f_i"
)


def contraction_scale(operator: Constants) -> float:
    """The factor that makes an operator a contraction: 1 if it is one, else lambda*.

    Raises
    ------
    ValueError
        If no factor does (eta >= 1).
    """
    scale = 1.0 if operator.error < 1 else optimal(operator.eta, operator.omega)
    if not (scale > 0 and memory_factor(operator, scale) < 1):
        raise ValueError(
            f"downlink: with relative bias eta = {operator.eta:.4g} no multiple of this compressor "
            "is a contraction, so that the clients' model would not follow the server's; use "
            "another one"
        )
    return scale


def with_downlink(
    theory: Theory, operator: Constants, smoothness: Smoothness, *, regularised: bool = False
) -> BidirectionalTheory:
    """The constants and the step with this downlink, from those without.

    Parameters
    ----------
    theory : Theory
        With a dense downlink; its lambda, nu, r and r_av are kept.
    operator : Constants
        Of the downlink's compressor.
    smoothness : Smoothness
        L and L_tilde.
    regularised : bool
        Whether R != 0, for which there is no analysis.

    Raises
    ------
    ValueError
        If ``regularised``, or no multiple of the operator is a contraction.
    """
    if regularised:
        raise ValueError(NO_THEORY_WITH_R)
    scale = contraction_scale(operator)
    p = memory_factor(operator, scale)
    moment = min(scale**2 * operator.second_moment, (1 + sqrt(p)) ** 2)
    room = reserve(p)  # sigma sqrt(p)
    shrink = room / (room + sqrt(p))  # sigma/(1 + sigma), 1 at p = 0
    uplink = coupling(theory.r, theory.r_av, smoothness)
    gamma = shrink / (smoothness.L + sqrt(moment) * uplink)
    gradient_weight, model_weight = _weights(
        theory, smoothness, gamma=gamma, p=p, moment=moment, uplink=uplink
    )
    known = {**asdict(theory), "gamma": gamma}
    return BidirectionalTheory(
        **known,
        downlink_scale=scale,
        downlink_error=p,
        downlink_moment=moment,
        downlink_s=room / sqrt(p) if p > 0 else inf,
        gradient_weight=gradient_weight,
        model_weight=model_weight,
    )


def _weights(
    theory: Theory, smoothness: Smoothness, *, gamma: float, p: float, moment: float, uplink: float
) -> tuple[float, float]:
    """A and B, with the split a of the estimate's error that makes gamma largest."""
    plain = gamma / (2 * theory.theta)
    if p == 0:
        return plain, 0.0
    room = reserve(p)
    by_model = smoothness.L * sqrt(p) / room
    by_memory = (1 + sqrt(p) / room) * sqrt(moment) * uplink
    # (1 + a) by_memory^2 + (1 + 1/a) by_model^2 is smallest, their squared sum, at this ratio.
    a = by_model / by_memory if by_memory > 0 else inf
    gradient_weight = (1 + a) * plain if by_memory > 0 else 0.0
    step = reserve(theory.r)
    drift = gradient_weight * (1 + sqrt(theory.r) / step) * smoothness.L_tilde**2 * moment
    wanted = gamma / 2 * (1 + 1 / a) * smoothness.L**2 + drift * (1 + room / sqrt(p))
    return gradient_weight, wanted / (room * (sqrt(p) + room))
