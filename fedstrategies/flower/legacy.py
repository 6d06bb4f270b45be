"""Strategies and clients of this suite in setups of Flower's older API.

``ServerAppComponents(strategy=as_legacy(strategy, ...))`` on the server and
``ClientApp(client_fn=legacy_client(client_fn))`` on the clients. The strategy is the same object
with the same `configure_train` and `aggregate_train`; the protocol's fields are keys of the
configuration and of the metrics, and a node tells its partition when asked for its properties.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import cast

from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord
from flwr.client import Client
from flwr.common import (
    EvaluateIns,
    EvaluateRes,
    FitIns,
    FitRes,
    Parameters,
    Scalar,
)
from flwr.server import ClientManager
from flwr.server.client_proxy import ClientProxy
from flwr.server.strategy import Strategy
from flwr.serverapp import Grid

from fedstrategies.flower.app import ClientFn
from fedstrategies.flower.errors import AllClientsFailed
from fedstrategies.flower.legacy_nodes import LegacyNodes
from fedstrategies.flower.legacy_translation import (
    evaluate_instructions,
    evaluation_reply,
    fit_instructions,
    parameters_of,
    record_of,
    scalars_of,
    train_reply,
)
from fedstrategies.flower.private import ensure_identity
from fedstrategies.flower.strategy import BaseStrategy

__all__ = ["LegacyStrategy", "as_legacy", "legacy_client"]

logger = logging.getLogger("flwr")

EvaluateFn = Callable[[int, ArrayRecord], MetricRecord | None]
Failures = list[tuple[ClientProxy, FitRes] | BaseException]


def legacy_client(client_fn: ClientFn) -> Callable[[Context], Client]:
    """Clients of this suite for ``ClientApp(client_fn=...)``.

    They keep what must last in ``context.state``, as ever. The nodes need a ``partition-id``.

    Parameters
    ----------
    client_fn : callable
        Context -> client, as `client_app` takes it.

    Examples
    --------
    After the example of `EFBVClient`:

    >>> from flwr.app import Context, RecordDict
    >>> from fedstrategies import legacy_client
    >>> node = {"partition-id": 1, "num-partitions": 2}
    >>> context = Context(run_id=1, node_id=7, node_config=node, state=RecordDict(), run_config={})
    >>> client = legacy_client(client_fn)(context)
    >>> client.numpy_client.get_properties({})
    {'partition-id': 1, 'num-partitions': 2}
    """

    def build(context: Context) -> Client:
        return client_fn(context).to_client()

    return build


def as_legacy(
    strategy: BaseStrategy,
    initial_arrays: ArrayRecord,
    *,
    train_config: ConfigRecord | None = None,
    evaluate_config: ConfigRecord | None = None,
    evaluate_fn: EvaluateFn | None = None,
) -> LegacyStrategy:
    """A strategy of this suite as one of ``flwr.server.strategy``.

    Rounds are the same to the bit as with ``strategy.start``. What the older server loop cannot do
    is in docs/guides/existing-setups.md: stop early, go on from a checkpoint, run callbacks, redo
    a round without counting it, or say which client failed.

    Parameters
    ----------
    strategy : BaseStrategy
        Not started yet. Its state is read from it, as ever: ``strategy.x``, ``strategy.bytes``.
    initial_arrays : ArrayRecord
        x^0 under the user's names.
    train_config, evaluate_config : ConfigRecord or None
        Sent along with every message.
    evaluate_fn : callable or None
        (round, arrays) -> metrics on the server, ``loss`` among them.

    Raises
    ------
    ValueError
        If ``strategy`` is not one of this suite's.

    Examples
    --------
    After the example of `EFBVClient`:

    >>> from flwr.server import ServerAppComponents, ServerConfig
    >>> from fedstrategies import as_legacy
    >>> strategy = as_legacy(EF21(compressor=TopK(k=1), stepsize=0.5), x0)
    >>> parts = ServerAppComponents(strategy=strategy, config=ServerConfig(num_rounds=10))
    >>> type(parts.strategy.strategy).__name__
    'EF21'
    """
    return LegacyStrategy(
        strategy,
        initial_arrays,
        train_config=train_config or ConfigRecord(),
        evaluate_config=evaluate_config or ConfigRecord(),
        evaluate_fn=evaluate_fn,
    )


class LegacyStrategy(Strategy):
    """What `as_legacy` gives. Parameters are those of `as_legacy`.

    Attributes
    ----------
    strategy : BaseStrategy
        The strategy that does the work.

    Raises
    ------
    ValueError
        If ``strategy`` is not one of this suite's.
    """

    def __init__(
        self,
        strategy: BaseStrategy,
        initial_arrays: ArrayRecord,
        *,
        train_config: ConfigRecord,
        evaluate_config: ConfigRecord,
        evaluate_fn: EvaluateFn | None,
    ) -> None:
        if not isinstance(strategy, BaseStrategy):
            raise ValueError(
                f"as_legacy takes a strategy of fedstrategies, not {type(strategy).__name__}; "
                "Flower's own have counterparts in flwr.server.strategy"
            )
        self.strategy = strategy
        self._initial = initial_arrays
        self._train_config = train_config
        self._evaluate_config = evaluate_config
        self._evaluate_fn = evaluate_fn
        self._nodes = LegacyNodes()
        self._sent: dict[int, Message] = {}

    def initialize_parameters(self, client_manager: ClientManager) -> Parameters | None:
        """x^0."""
        return parameters_of(self._initial)

    def configure_fit(
        self, server_round: int, parameters: Parameters, client_manager: ClientManager
    ) -> list[tuple[ClientProxy, FitIns]]:
        """`BaseStrategy.configure_train`."""
        messages = self.strategy.configure_train(
            server_round, self._arrays(parameters), self._train_config, self._grid(client_manager)
        )
        shared: dict[int, Parameters] = {}
        return [
            (proxy, fit_instructions(message, shared)) for proxy, message in self._keep(messages)
        ]

    def aggregate_fit(
        self, server_round: int, results: list[tuple[ClientProxy, FitRes]], failures: Failures
    ) -> tuple[Parameters | None, dict[str, Scalar]]:
        """`BaseStrategy.aggregate_train`.

        Raises
        ------
        AllClientsFailed
            If nobody answered and somebody failed: the older API does not tell who.
        """
        replies = [train_reply(result, self._sent[self._nodes.id(p)]) for p, result in results]
        told = [str(one) for one in failures if isinstance(one, BaseException)]
        replies += [
            train_reply(one[1], self._sent[self._nodes.id(one[0])])
            for one in failures
            if not isinstance(one, BaseException)
        ]
        for line in told:
            logger.warning("round %d: a client failed: %s", server_round, line)
        if told and not replies:
            raise AllClientsFailed(
                f"round {server_round}: all {len(self._sent)} clients failed; one said: {told[0]}"
            )
        arrays, metrics = self.strategy.aggregate_train(server_round, replies)
        return None if arrays is None else parameters_of(arrays), scalars_of(metrics)

    def configure_evaluate(
        self, server_round: int, parameters: Parameters, client_manager: ClientManager
    ) -> list[tuple[ClientProxy, EvaluateIns]]:
        """`BaseStrategy.configure_evaluate`."""
        messages = self.strategy.configure_evaluate(
            server_round,
            self._arrays(parameters),
            self._evaluate_config,
            self._grid(client_manager),
        )
        shared: dict[int, Parameters] = {}
        return [
            (proxy, evaluate_instructions(message, shared))
            for proxy, message in self._keep(messages)
        ]

    def aggregate_evaluate(
        self,
        server_round: int,
        results: list[tuple[ClientProxy, EvaluateRes]],
        failures: list[tuple[ClientProxy, EvaluateRes] | BaseException],
    ) -> tuple[float | None, dict[str, Scalar]]:
        """`BaseStrategy.aggregate_evaluate`; the loss apart, as this API has it."""
        for one in failures:
            logger.warning("round %d: an evaluation failed: %s", server_round, one)
        replies = [evaluation_reply(result, self._sent[self._nodes.id(p)]) for p, result in results]
        metrics = scalars_of(self.strategy.aggregate_evaluate(server_round, replies))
        loss = metrics.pop("loss", None)
        return cast(float | None, loss), metrics

    def evaluate(
        self, server_round: int, parameters: Parameters
    ) -> tuple[float, dict[str, Scalar]] | None:
        """``evaluate_fn`` of the current model.

        Raises
        ------
        ValueError
            If it reports no loss, without which this API cannot report anything.
        """
        if self._evaluate_fn is None:
            return None
        found = self._evaluate_fn(server_round, self._arrays(parameters))
        if found is None:
            return None
        metrics = scalars_of(found)
        if "loss" not in metrics:
            raise ValueError("evaluate_fn reports no 'loss', which Flower's older API asks for")
        return cast(float, metrics.pop("loss")), metrics

    # ---------------------------------------------------------------- internals

    def _arrays(self, parameters: Parameters) -> ArrayRecord:
        return record_of(parameters, list(self._initial))

    def _grid(self, client_manager: ClientManager) -> Grid:
        ensure_identity()
        self._nodes.meet(client_manager.all())
        # The strategy asks a grid for its nodes and their partitions, and for nothing else.
        return cast(Grid, self._nodes)

    def _keep(self, messages: Iterable[Message]) -> list[tuple[ClientProxy, Message]]:
        self._sent = {message.metadata.dst_node_id: message for message in messages}
        return [(self._nodes.proxy(node), message) for node, message in self._sent.items()]
