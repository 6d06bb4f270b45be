"""The client of SPPM-AS, LocalGD and FedProx."""

from __future__ import annotations

from fedstrategies.flower import BaseClient, ClientRule
from fedstrategies.sppm.algorithm import GradientRule, LocalProxRule

__all__ = ["SPPMClient"]


class SPPMClient(BaseClient):
    """Answers with a gradient, or with a model after local steps, from what the message says.

    It remembers nothing between rounds, but for the receipt that tells a message which came
    twice.

    Parameters
    ----------
    context : flwr.app.Context
        The node's context, as ``client_fn`` receives it.
    objective : Objective
        The client's f_i.
    evaluation : Objective or None
        The same loss on the examples that `evaluate` measures on; None: those of ``objective``.
    privacy : Privacy or None
        See `BaseClient`. Every exchange of gradients is one release, of models H releases.

    Raises
    ------
    PrivacyError
        If ``privacy`` is given and the objective has no private gradients.

    References
    ----------
    Yi, Richtarik et al., "Cohort Squeeze: Beyond a Single Communication Round per Cohort in
    Cross-Device Federated Learning" (2024); arXiv 2509.08233.

    Examples
    --------
    After the example of `LogisticRegression`. One local step each is gradient descent:

    >>> from flwr.app import ArrayRecord
    >>> from fedstrategies import CohortGrid, LocalGD, SPPMClient, client_app
    >>> def client_fn(context):
    ...     return SPPMClient(context, objective=f[context.node_config["partition-id"]])
    >>> app, x0 = client_app(client_fn), ArrayRecord(f[0].initial_arrays())
    >>> strategy = LocalGD(stepsize=0.5)
    >>> result = strategy.start(CohortGrid(app, num_clients=2), x0, num_rounds=1)
    >>> strategy.x
    tensor([ 0.1250, -0.0625,  0.0625,  0.1875], dtype=torch.float64)
    """

    def rule(self, constants: tuple[float, ...], spec: str) -> ClientRule:
        """The client half that ``spec`` names.

        ``gradient`` without constants, ``local-prox`` with (H, eta, rho, number of vectors sent).

        Raises
        ------
        ValueError
            If the server asks for anything else.
        """
        if spec == "gradient" and not constants:
            return GradientRule()
        if spec == "local-prox" and len(constants) == 4 and constants[3] in (1, 2):
            steps, stepsize, curvature, vectors = constants
            return LocalProxRule(
                steps=int(steps), stepsize=stepsize, curvature=curvature, vectors=int(vectors)
            )
        raise ValueError(
            f"the server asks for {spec!r} with {len(constants)} constants; SPPMClient works with "
            "the strategies SPPM, LocalGD and FedProx of this version"
        )
