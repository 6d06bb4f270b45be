"""The client of EF-BV, EF21, DIANA and gradient descent."""

from __future__ import annotations

from flwr.app import Context

from fedstrategies.compressors import Compressor, parse_compressor
from fedstrategies.efbv.algorithm import ClientRule
from fedstrategies.flower import BaseClient
from fedstrategies.objectives import Objective
from fedstrategies.privacy import Privacy

__all__ = ["EFBVClient"]


class EFBVClient(BaseClient):
    """Sends ``C(grad f_i(x) - h_i)`` and keeps h_i.

    Parameters
    ----------
    context : flwr.app.Context
        The node's context, as ``client_fn`` receives it.
    objective : Objective
        The client's f_i.
    compressor : Compressor or None
        None: whatever the server asks for. An operator of your own must be given here and to
        the strategy; both must agree on its ``spec``.
    evaluation : Objective or None
        The same loss on the examples that `evaluate` measures on; None: the training examples.
    privacy : Privacy or None
        See `BaseClient`.

    Raises
    ------
    PrivacyError
        If ``privacy`` is given and the objective has no private gradients.

    References
    ----------
    Condat, Yi, Richtarik, "EF-BV" (2022); arXiv 2509.08233.

    Examples
    --------
    After the example of `LogisticRegression`. Of each gradient one entry arrives and is remembered:

    >>> from flwr.app import ArrayRecord
    >>> from fedstrategies import EF21, CohortGrid, EFBVClient, TopK, client_app
    >>> def client_fn(context):
    ...     return EFBVClient(context, objective=f[context.node_config["partition-id"]])
    >>> app, x0 = client_app(client_fn), ArrayRecord(f[0].initial_arrays())
    >>> strategy = EF21(compressor=TopK(k=1), stepsize=0.5)
    >>> result = strategy.start(CohortGrid(app, num_clients=2), x0, num_rounds=1)
    >>> strategy.memory["h"]
    tensor([[-0.5000,  0.0000,  0.0000,  0.0000],
            [ 0.0000,  0.0000,  0.0000, -0.7500]], dtype=torch.float64)
    """

    def __init__(
        self,
        context: Context,
        *,
        objective: Objective,
        compressor: Compressor | None = None,
        evaluation: Objective | None = None,
        privacy: Privacy | None = None,
    ) -> None:
        super().__init__(context, objective=objective, evaluation=evaluation, privacy=privacy)
        self.compressor = compressor

    def rule(self, constants: tuple[float, ...], spec: str) -> ClientRule:
        """The client half of EF-BV from (memory_step, uncompressed) and the compressor's spec.

        Raises
        ------
        ValueError
            If the constants are not EF-BV's, or the compressor is unknown or not this client's.
        """
        if len(constants) != 2:
            raise ValueError(
                f"EF-BV expects 2 constants, the server sent {len(constants)}; is its strategy "
                "one of EFBV, EF21, DIANA, GradientDescent?"
            )
        if self.compressor is not None and self.compressor.spec != spec:
            raise ValueError(
                f"the server asks for compressor {spec!r}, this client has {self.compressor.spec!r}"
            )
        compressor = parse_compressor(spec) if self.compressor is None else self.compressor
        return ClientRule(
            compressor=compressor, memory_step=constants[0], uncompressed=bool(constants[1])
        )
