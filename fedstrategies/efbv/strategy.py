"""EF-BV as a Flower strategy."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Literal

import torch
from torch import Tensor

from fedstrategies.compressors import Compressor, Constants
from fedstrategies.efbv import downlink_theory as downlink_analysis
from fedstrategies.efbv import theory as analysis
from fedstrategies.efbv.algorithm import (
    ClientRule,
    ServerState,
    Upload,
    robust_estimate,
    server_step,
)
from fedstrategies.efbv.constants import Theory
from fedstrategies.flower import Assignment, BaseStrategy, Delivery, Update
from fedstrategies.objectives import NoProx, Prox, Smoothness
from fedstrategies.stepsize import parse_stepsize

__all__ = ["EFBV"]

logger = logging.getLogger("flwr")


class EFBV(BaseStrategy):
    """EF-BV: error feedback with bias and variance.

    Every client compresses the difference between its gradient and its memory h_i:
    ``d_i = C(grad f_i(x) - h_i)``, ``h_i += lambda d_i``; the server steps along
    ``g = h + nu mean(d_i)`` and keeps ``h = mean(h_i)``. lambda, nu and the step size default
    to the theory for the compressor's (eta, omega), L and L_tilde.

    Parameters
    ----------
    compressor : Compressor
        C, biased or unbiased. Clients get it from the server.
    smoothness : Smoothness or None
        L and ``L_tilde = sqrt(mean L_i^2)``; needed unless ``stepsize`` is a number.
    stepsize : float, str or None
        gamma: a number, ``"theory"`` (None), or ``"theory*4"``.
    lam, nu : float or None
        Overrides of lambda and nu in (0, 1].
    prox : Prox
        The regulariser R, applied by the server; default none.
    shift_init : {"zero", "gradient"}
        h_i^0 = 0, or grad f_i(x^0): a client's first upload is then its dense gradient.
    **base
        See `fedstrategies.flower.BaseStrategy`.

    Raises
    ------
    ValueError
        For settings that are impossible; some are known only when n and d are (first round).

    References
    ----------
    Condat, Yi, Richtarik, "EF-BV" (2022); arXiv 2509.08233.

    Examples
    --------
    After the example of `EFBVClient` (bytes are those of both clients and three rounds):

    >>> from fedstrategies import EFBV
    >>> strategy = EFBV(compressor=TopK(k=1), stepsize=0.5)
    >>> result = strategy.start(CohortGrid(app, num_clients=2), x0, num_rounds=3)
    >>> strategy.x
    tensor([ 0.3381, -0.1250,  0.1250,  0.4575], dtype=torch.float64)
    >>> strategy.bytes.uplink, strategy.bytes.downlink
    (270, 960)
    """

    no_downlink = ""
    no_aggregator = ""
    no_message_privacy = (
        "error feedback puts what clipping took from one message into the next ones, so that no "
        "bound on a client's part remains"
    )

    def __init__(
        self,
        *,
        compressor: Compressor,
        smoothness: Smoothness | None = None,
        stepsize: float | str | None = None,
        lam: float | None = None,
        nu: float | None = None,
        prox: Prox | None = None,
        shift_init: Literal["zero", "gradient"] = "zero",
        **base: Any,
    ) -> None:
        if not isinstance(compressor, Compressor):
            raise ValueError(
                f"compressor = {compressor!r} is no Compressor; write TopK(k=5), or "
                "parse_compressor('top-k:k=5')"
            )
        if not (prox is None or isinstance(prox, Prox)):
            raise ValueError(
                f"prox = {prox!r} is no Prox; write L1(0.01), or parse_prox('l1:0.01')"
            )
        if shift_init not in ("zero", "gradient"):
            raise ValueError(f"shift_init = {shift_init!r} is neither 'zero' nor 'gradient'")
        try:
            self._factor, self._relative = parse_stepsize(stepsize)
        except ValueError as error:
            raise ValueError(f"stepsize: {error}") from None
        if smoothness is None and self._relative:
            raise ValueError(
                "the theory's step size needs smoothness=Smoothness(...) (L and L_tilde of the "
                "f_i); give it, or a number as stepsize"
            )
        super().__init__(**base)
        self.compressor = compressor
        self.smoothness = smoothness
        self.lam = lam
        self.nu = nu
        self.prox = NoProx() if prox is None else prox
        self.shift_init = shift_init
        if self._relative and not self._analysed:
            raise ValueError(downlink_analysis.NO_THEORY_WITH_R)
        self._theory: Theory | None = None

    def analyse(self, operator: Constants, smoothness: Smoothness) -> Theory:
        """The method's constants for this operator, n and cohort size."""
        return analysis.efbv(
            operator,
            smoothness,
            clients=self.clients,
            cohort=self.cohort_size,
            lam=self.lam,
            nu=self.nu,
            regularised=not isinstance(self.prox, NoProx),
        )

    @property
    def theory(self) -> Theory:
        """What the analysis chose; known once the first round begins, RuntimeError before."""
        if self._theory is None:
            raise RuntimeError("the constants are known once the first round begins")
        return self._theory

    @property
    def _analysed(self) -> bool:
        """Whether there is a theory of the step size."""
        return self.downlink is None or isinstance(self.prox, NoProx)

    @property
    def constants(self) -> dict[str, float]:
        """`theory` by name, without what would depend on an L that is not known."""
        known = asdict(self.theory)
        if self.smoothness is None:
            # These were computed for L = L_tilde = 1.
            for name in ("gamma", "theta", "gradient_weight", "model_weight"):
                known.pop(name, None)
        if not self._analysed:
            known.pop("gamma", None)
            known["downlink_scale"] = self.downlink_scale
        return known

    @property
    def h(self) -> Tensor:
        """The server's mean memory h, shape (d,)."""
        return self._h

    def prepare(self, x: Tensor) -> None:
        """Fix lambda, nu and gamma for d = len(x) and n; h = 0."""
        operator = self.compressor.constants(len(x))
        # Without L only lambda and nu come from the theory; they do not depend on it.
        unit = Smoothness(L=1.0, L_tilde=1.0, L_max=1.0, mu=0.0)
        smoothness = self.smoothness or unit
        theory = self.analyse(operator, smoothness)
        if self.downlink is not None:
            constants = self.downlink.constants(len(x))
            self.downlink_scale = downlink_analysis.contraction_scale(constants)
            if self._analysed:
                theory = downlink_analysis.with_downlink(theory, constants, smoothness)
        self._theory = theory
        self.gamma = self._factor * self._theory.gamma if self._relative else self._factor
        if self.aggregator is not None and self._theory.memory_step:
            self._require_copy(x)
        self._h = torch.zeros_like(x)

    def _require_copy(self, x: Tensor) -> None:
        needed = self.clients * x.numel() * x.element_size()
        if needed > self.memory_budget:
            raise ValueError(
                "aggregator: it takes what clients say of their gradients, h_i + nu d_i, and the "
                f"server's copy of the h_i ({needed / 2**30:.3g} GiB) exceeds memory_budget; raise "
                "that, or use GradientDescent, whose clients keep no memory"
            )

    def plan(self, round: int) -> list[Assignment]:
        """Everyone in the cohort compresses; with gradient shifts, newcomers send it dense."""
        cohort = self.cohort(round)
        regular = ClientRule(compressor=self.compressor, memory_step=self.theory.memory_step)
        if self.shift_init == "zero":
            return [self._assign(cohort, regular)]
        first = ClientRule(compressor=self.compressor, memory_step=1.0, uncompressed=True)
        known = torch.from_numpy(self.ledger.has_accepted())[cohort]
        groups = [(cohort[~known], first), (cohort[known], regular)]
        return [self._assign(members, rule) for members, rule in groups if len(members)]

    def _assign(self, members: Tensor, rule: ClientRule) -> Assignment:
        return Assignment(
            partition_ids=members,
            rule=rule,
            constants=(rule.memory_step, float(rule.uncompressed)),
            spec=rule.compressor.spec,
        )

    def server_update(self, x: Tensor, deliveries: Sequence[Delivery]) -> Update:
        """``g = h + nu d``, ``h += lambda d``, ``x <- prox(x - gamma g)``."""
        uploads = [
            Upload(
                partition_ids=delivery.partition_ids,
                payload=delivery.payload,
                memory_step=delivery.assignment.constants[0],
                gradient_step=self.gradient_step(delivery),
            )
            for delivery in deliveries
        ]
        robust = None
        if self.aggregator is not None:
            assert self.memory is not None
            robust = robust_estimate(self.memory.get("h"), uploads, self.aggregator)
        state = server_step(
            ServerState(x=x, h=self._h),
            uploads,
            clients=self.clients,
            gamma=self.gamma,
            prox=self.prox,
            robust=robust,
        )

        def follow() -> None:
            self._h = state.h

        return Update(x=state.x, follow=follow)

    def gradient_step(self, delivery: Delivery) -> float:
        """Factor of the mean of these messages in g."""
        uncompressed = bool(delivery.assignment.constants[1])
        return 1.0 if uncompressed else self.theory.gradient_step

    def method_state(self) -> Mapping[str, object]:
        """h."""
        return {"h": self._h}

    def set_method_state(self, state: Mapping[str, Any]) -> None:
        """h."""
        self._h = state["h"]

    def forget(self) -> None:
        """All h_i are zero again: so is their mean."""
        self._h = torch.zeros_like(self._h)

    def summary(self) -> None:
        """Log what was chosen and from what."""
        down = "dense" if self.downlink is None else self.downlink.spec
        logger.info(
            "\t├──> %s, compressor %s, downlink %s",
            type(self).__name__,
            self.compressor.spec,
            down,
        )
        if self._theory is not None:
            for name, value in {**self.constants, "stepsize": self.gamma}.items():
                logger.info("\t│\t├── %s = %.10g", name, value)
        if self.smoothness is not None:
            logger.info(
                "\t└──> from L = %.10g, L_tilde = %.10g", self.smoothness.L, self.smoothness.L_tilde
            )
